//! Hosts, links, time servers and nodes on one machine, for tests and the demo.
//!
//! A host is a network namespace; all hosts share the kernel and so its clocks, which is what makes truth
//! available to tests. Whatever is made here goes away: on drop in the usual case, and with the [`sandbox`]
//! even when the process that made it is killed.

pub mod chrony;
pub mod interrupt;
pub mod netns;
pub mod node;
pub mod process;
pub mod sandbox;
pub mod wait;

pub use chrony::{ChronyClient, ChronyServer, Tracking};
pub use netns::{Host, Hosts, Namespace};
pub use node::{Node, NodeSpec};
pub use process::Process;
pub use wait::{Stopwatch, wait_for};

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};

/// Whether tests may make hosts here, which takes root. Without it they have to be left out: that is said
/// loudly, and in CI it is a failure.
///
/// # Panics
/// In CI, when this is not root.
pub fn can_make_hosts() -> bool {
    let root = crate::setup::is_root();
    if !root {
        assert!(!crate::setup::is_ci(), "CI must run the tests as root: they make network namespaces");
        eprintln!("SKIPPED: needs root, to make network namespaces");
    }
    root
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
