//! Nodes side by side on one loopback interface, in a namespace of their own.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use pikoscope::control::client;
use pikoscope::control::watch::Change;
use tempfile::TempDir;
use xtask::rig::{Namespace, Node, NodeSpec, Stopwatch};

use super::{BINARY, http};

const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes `n1`, `n2` and so on; `n1` is the seed of the others.
pub struct Local {
    pub nodes: Vec<Node>,
    pub namespace: Namespace,
    pub dir: TempDir,
}

impl Local {
    /// Starts them; `change` may change what node `i` (from 0) is started with. Waits until all know all.
    pub fn start(count: usize, change: impl Fn(usize, &mut NodeSpec)) -> Result<Self> {
        let mut local =
            Self { nodes: Vec::new(), namespace: Namespace::new("local")?, dir: tempfile::tempdir()? };
        for i in 0..count {
            local.add(|spec| change(i, spec))?;
        }
        for node in &mut local.nodes {
            node.wait_members(count, PATIENCE)?;
        }
        Ok(local)
    }

    /// Starts one more; it may know nobody yet.
    pub fn add(&mut self, change: impl FnOnce(&mut NodeSpec)) -> Result<usize> {
        let i = self.nodes.len();
        let mut spec = NodeSpec::new(BINARY, format!("n{}", i + 1), address(i));
        if i > 0 {
            spec = spec.seed(address(0));
        }
        spec.metrics_bind = Some(metrics_address(i));
        spec.probe = "timestamping";
        change(&mut spec);
        self.nodes.push(Node::start(&spec, Some(&self.namespace), self.dir.path())?);
        self.nodes[i].wait_ready()?;
        Ok(i)
    }

    /// What node `i` tells Prometheus.
    pub fn metrics(&self, i: usize) -> Result<String> {
        self.namespace.within(|| http::get(metrics_address(i), "/metrics"))?
    }

    /// One series of it; 0 when there is none.
    pub fn metric(&self, i: usize, series: &str) -> Result<f64> {
        Ok(http::sample(&self.metrics(i)?, series).unwrap_or(0.0))
    }

    /// Begins to watch node `i`.
    pub fn watch(&self, i: usize) -> Result<Watched> {
        let changes = client::watch(self.nodes[i].control().path(), false)?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // Until the test is over, or the node is.
            for change in changes.map_while(Result::ok) {
                if sender.send(change).is_err() {
                    return;
                }
            }
        });
        Ok(Watched(receiver))
    }
}

/// Where node `i` gossips: each on an address of its own, as if on a host of its own.
pub fn address(i: usize) -> SocketAddr {
    ([127, 0, 0, 1 + i as u8], 8001 + i as u16).into()
}

fn metrics_address(i: usize) -> SocketAddr {
    ([127, 0, 0, 1], 9001 + i as u16).into()
}

/// Changes at one node.
pub struct Watched(Receiver<Change>);

impl Watched {
    /// Waits for a change for which `wanted` is true, and skips what comes before it.
    pub fn wait(&self, what: &str, deadline: Duration, wanted: impl Fn(&Change) -> bool) -> Result<Change> {
        let started = Stopwatch::start();
        let mut skipped = Vec::new();
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            let change = self.0.recv_timeout(left);
            let change =
                change.with_context(|| format!("{what} within {deadline:?}; instead: {skipped:?}"))?;
            if wanted(&change) {
                return Ok(change);
            }
            skipped.push(change);
        }
    }
}
