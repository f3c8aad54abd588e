//! The rim: sockets, clocks and time-outs around the sans-IO core. The only place of this crate that reads a
//! clock.
//!
//! One thread owns the packet path ([`run`]): it receives in batches, drains the probe's ring, feeds the
//! core, and sends what the core wants sent. It waits in one `ppoll` and not in an async runtime, which would make
//! up a quarter of what a node costs while nothing changes. Others talk to it by values: channels that ring its
//! [`bell`](crate::bell), the latest clock reading, and metric handles that are atomics.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use probe_user::load::LoadError;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::control::Inbox;
use crate::metrics::Metrics;
use crate::proto;

mod clock;
mod departing;
mod driver;
mod further;
mod hardware;
mod loads;
mod observe;
mod record;
mod socket;
mod stamping;
mod stream;
mod wait;

use driver::Driver;

/// Why the gossip thread could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The gossip port.
    #[error("cannot gossip on {address}: {source}{}", hint(.source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The same port for TCP.
    #[error("cannot listen on {address} (TCP): {source}{}", hint(.source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// `probe = "ebpf"` was asked for.
    #[error("probe = \"ebpf\" was asked for, but {0}")]
    Probe(LoadError),
    /// The kernel has no `SO_TIMESTAMPING`.
    #[error("this kernel gives no receive stamps (SO_TIMESTAMPING): {0}; use probe = \"off\"")]
    Timestamping(io::Error),
    /// The core refused its settings.
    #[error(transparent)]
    Core(#[from] proto::ConfigError),
    /// The record file.
    #[error("cannot write the record to {path}: {source}")]
    Record {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The final report.
    #[error("cannot write the final report to {path}: {source}")]
    Report {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Threads, timers, the socket itself.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another node running? choose another port with --bind)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        _ => "",
    }
}

/// Runs the packet path on the calling thread until it is told to stop; then drains what is queued and writes the
/// final report.
///
/// What need not be prompt runs on `helper` meanwhile, which must drive IO and time: TCP, and looking up names.
///
/// `ready` is told the bound gossip address once the node gossips.
///
/// # Errors
/// Anything that keeps the node from starting, or its final report from being written. Bad traffic is none.
pub fn run(
    config: Config,
    metrics: Arc<Metrics>,
    inbox: Inbox,
    helper: Handle,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), NetError> {
    let driver = Driver::start(config, metrics, &helper, &inbox.bell)?;
    probe_user::memory::give_back();
    ready(driver.bound());
    driver.run(inbox, &helper)
}
