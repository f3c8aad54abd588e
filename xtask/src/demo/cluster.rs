//! The demo's hosts, clocks and nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use super::report::{NodeReport, Report};
use crate::rig::chrony::{Following, NTP_PORT, Served};
use crate::rig::{
    ChronyClient, ChronyServer, Control, Hosts, Node, NodeSpec, chrony, free_address, node, sandbox, wait_on,
};

/// Node ids.
const IDS: [&str; 3] = ["a", "b", "c"];
/// How long the nodes may take to find each other.
const JOIN: Duration = Duration::from_secs(20);

/// Three nodes and what they need. Dropping it takes everything down; the order of the fields is the order.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    clients: Vec<ChronyClient>,
    server: Option<ChronyServer>,
    hosts: Option<Hosts>,
    _dir: TempDir,
}

impl Cluster {
    /// Three hosts as namespaces on a bridge, with a time server beside them and a client on each.
    pub(super) fn on_hosts(binary: &Path) -> Result<Self> {
        let dir = temp_dir()?;
        let hosts = Hosts::new(IDS.len())?;
        let (server, clients) = if chrony::is_available() {
            let address = SocketAddr::new(hosts.switch_v4().into(), NTP_PORT);
            let (server, clients) = time(&hosts, address, dir.path())?;
            (Some(server), clients)
        } else {
            eprintln!("demo: no chronyd, so the nodes have no NTP reading and say so");
            (None, Vec::new())
        };
        let seed = node::gossip(hosts[0].v4());
        let mut nodes = Vec::new();
        for (id, host) in IDS.iter().zip(hosts.iter()) {
            let mut spec = NodeSpec::new(binary, *id, node::gossip(host.v4())).seed(seed);
            spec.probe_stats = true;
            spec.metrics_bind = Some(node::metrics_everywhere());
            nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
        }
        Self { nodes, clients, server, hosts: Some(hosts), _dir: dir }.joined()
    }

    /// Three nodes on loopback; needs no privilege.
    pub(super) fn on_loopback(binary: &Path) -> Result<Self> {
        let dir = temp_dir()?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut seed = None;
        let mut nodes = Vec::new();
        for id in IDS {
            let address = free_address(loopback)?;
            let mut spec = NodeSpec::new(binary, id, address).seed(*seed.get_or_insert(address));
            spec.metrics_bind = Some(free_address(loopback)?);
            nodes.push(Node::start(&spec, None, dir.path())?);
        }
        Self { nodes, clients: Vec::new(), server: None, hosts: None, _dir: dir }.joined()
    }

    /// Waits until all nodes know each other.
    fn joined(mut self) -> Result<Self> {
        wait_on(&mut self, "the nodes to know each other", JOIN, Self::ensure_running, |cluster| {
            for node in &cluster.nodes {
                let known = node.status()?["members"].as_array().map_or(0, Vec::len);
                ensure!(known == IDS.len(), "node {} knows {known}", node.id());
            }
            Ok(Some(()))
        })?;
        Ok(self)
    }

    /// What it runs on, in words.
    pub(super) fn place(&self) -> &'static str {
        match self.hosts {
            Some(_) => "three hosts (network namespaces) on a bridge",
            None => "three nodes on loopback",
        }
    }

    /// The nodes' control sockets.
    pub(super) fn controls(&self) -> Vec<Control> {
        self.nodes.iter().map(|node| node.control().clone()).collect()
    }

    /// An error that names the first process that has ended, with what it said.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.process().ensure_running()?;
        }
        for client in &mut self.clients {
            client.process().ensure_running()?;
        }
        self.server.as_mut().map_or(Ok(()), |server| server.process().ensure_running())
    }

    /// All nodes' reports now.
    pub(super) fn report(&mut self) -> Result<Report> {
        let reports: Result<Vec<NodeReport>> =
            self.nodes.iter().map(|node| NodeReport::parse(node.status()?)).collect();
        // A node that died is the better explanation of a request that failed.
        if reports.is_err() {
            self.ensure_running()?;
        }
        Ok(Report::merge(reports?))
    }

    /// Ends all nodes at the same time and returns their final reports.
    pub(super) fn stop(mut self) -> Result<Report> {
        self.ensure_running()?;
        let nodes = std::mem::take(&mut self.nodes);
        let reports: Result<Vec<NodeReport>> = thread::scope(|scope| {
            let stopping: Vec<_> =
                nodes.into_iter().map(|node| scope.spawn(|| NodeReport::parse(node.stop()?))).collect();
            stopping
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("stopping a node panicked"))))
                .collect()
        });
        Ok(Report::merge(reports?))
    }
}

/// A time server in the switch's namespace and a synchronised client on every host.
fn time(hosts: &Hosts, address: SocketAddr, dir: &Path) -> Result<(ChronyServer, Vec<ChronyClient>)> {
    let server = ChronyServer::start("ntp-server", Some(hosts.switch()), address, Served::default(), dir)?;
    let mut clients = Vec::new();
    for (id, host) in IDS.iter().zip(hosts.iter()) {
        let following = Following::server(address);
        clients.push(ChronyClient::start(&format!("ntp-{id}"), Some(host.namespace()), following, dir)?);
    }
    for client in &mut clients {
        client.wait_synchronised()?;
    }
    Ok((server, clients))
}

fn temp_dir() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("pikoscope-demo-")
        .tempdir_in(sandbox::temp_dir())
        .context("a directory for the demo's files")
}
