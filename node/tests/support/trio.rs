//! Three hosts with a node each and no time server: for tests of what goes wrong.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xtask::rig::{Hosts, Node, NodeSpec, node, wait_for};

use super::{BINARY, http, name};

const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes `a`, `b` and `c`, and a stranger on the switch whom nobody knows.
pub struct Trio {
    pub nodes: Vec<Node>,
    pub stranger: UdpSocket,
    pub hosts: Hosts,
    pub dir: TempDir,
}

impl Trio {
    /// Starts them; `change` may change what node `i` is started with.
    pub fn start(change: impl Fn(usize, &mut NodeSpec)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // A node may run as another user, and has its files here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777))?;
        let hosts = Hosts::new(3)?;
        let stranger = hosts.switch().within(|| UdpSocket::bind((hosts.switch_v4(), 0)))??;
        let mut nodes = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let mut spec =
                NodeSpec::new(BINARY, name(i), node::gossip(host.v4())).seed(node::gossip(hosts[0].v4()));
            spec.metrics_bind = Some(node::metrics_everywhere());
            change(i, &mut spec);
            nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
        }
        for node in &mut nodes {
            node.wait_ready()?;
            node.wait_members(3, PATIENCE)?;
        }
        Ok(Self { nodes, stranger, hosts, dir })
    }

    /// Where node `i` gossips.
    pub fn address(&self, i: usize) -> SocketAddr {
        node::gossip(self.hosts[i].v4())
    }

    /// What node `i` tells Prometheus.
    pub fn metrics(&self, i: usize) -> Result<String> {
        let address = (self.hosts[i].v4(), 7177).into();
        self.hosts.switch().within(|| http::get(address, "/metrics"))?
    }

    /// Sets an entry at each node, and waits until all have all of them.
    pub fn gossip_goes_on(&self, key: &str) -> Result<()> {
        for node in &self.nodes {
            node.set(key, node.id())?;
        }
        for node in &self.nodes {
            wait_for(&format!("{key} of all at {}", node.id()), PATIENCE, || {
                let held = node.get(key)?;
                let right = |h: &&Value| h["node"] == h["value"];
                ensure!(held.as_array().context("a list")?.iter().filter(right).count() == 3, "{held}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Ends all nodes; their final reports, each of which accounts for every datagram seen.
    pub fn finish(self) -> Result<Vec<Value>> {
        let reports = self.nodes.into_iter().map(Node::stop).collect::<Result<Vec<_>>>()?;
        for report in &reports {
            let n = |key: &str| count(&report["accounting"][key]);
            assert_eq!(
                (n("seen"), n("pending")),
                (n("matched") + n("unmatched") + n("late") + n("ring_failed") + n("dropped"), 0),
                "{}: {}",
                report["id"],
                report["accounting"]
            );
        }
        Ok(reports)
    }
}

/// A count in a report; one that is absent is zero.
pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
