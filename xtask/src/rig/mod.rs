//! Hosts, links, time servers and nodes on one machine, for tests and the demo.
//!
//! A host is a network namespace; all hosts share the kernel and so its clocks, which is what makes truth
//! available to tests. Whatever is made here goes away: on drop in the usual case, and with the [`sandbox`]
//! even when the process that made it is killed.

pub mod chrony;
pub mod control;
pub mod interrupt;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod process;
pub mod sandbox;
pub mod wait;

pub use chrony::{ChronyClient, ChronyServer, Tracking};
pub use control::Control;
pub use netns::{Host, Hosts, Namespace};
pub use node::{Node, NodeSpec};
pub use process::Process;
pub use wait::{Stopwatch, wait_for, wait_on};

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};

/// Whether this process may make network and mount namespaces: not without root, and in some containers not
/// even then. It is tried, on a thread that ends with them.
pub fn is_permitted() -> bool {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    thread::spawn(move || unshare(namespaces).is_ok()).join().unwrap_or(false)
}

/// Whether tests may make hosts here. If not they have to be left out: that is said loudly, and in CI it is a
/// failure.
///
/// # Panics
/// In CI, when they may not.
pub fn can_make_hosts() -> bool {
    let permitted = is_permitted();
    if !permitted {
        assert!(!crate::setup::is_ci(), "CI must run the tests as root: they make network namespaces");
        eprintln!("SKIPPED: needs root, to make network namespaces");
    }
    permitted
}

/// An address on `ip` whose port is free now for UDP and for TCP.
///
/// Nothing keeps it free: in a namespace of one's own nobody else takes it, elsewhere that is luck.
pub fn free_address(ip: IpAddr) -> Result<SocketAddr> {
    for _ in 0..100 {
        let udp = UdpSocket::bind((ip, 0)).with_context(|| format!("binding to {ip}"))?;
        let address = udp.local_addr()?;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("found no port of {ip} that is free for both UDP and TCP")
}
