//! Three hosts with a node, a real probe and a real chronyd each, and what their nodes recorded.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]

pub mod arsenal;
pub mod capture;
pub mod http;
pub mod local;
pub mod trio;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xtask::rig::chrony::{Following, Served};
use xtask::rig::{ChronyClient, ChronyServer, Hosts, Node, NodeSpec, Stopwatch, node};

/// The node under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_pikoscope");

/// Measurements share two processors: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How one host differs from the others.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Error of the node's wall clock, positive is fast.
    pub clock_error_ns: i64,
    /// What the host's chronyd says the clock lacks, in seconds.
    pub chrony_offset: f64,
    /// More arguments for its node.
    pub extra: Vec<String>,
    /// By which host's node it joins.
    pub seed: usize,
    /// Hosts to which it can send nothing.
    pub cut: Vec<usize>,
}

/// Hosts `a`, `b`, `c` on one bridge; an NTP server beside it.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub clients: Vec<ChronyClient>,
    pub server: ChronyServer,
    pub hosts: Hosts,
    pub dir: TempDir,
}

impl Cluster {
    /// Starts everything and waits until all know all and every chronyd is synchronised.
    pub fn start(plans: &[Plan]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let hosts = Hosts::new(plans.len())?;
        let ntp = (hosts.switch_v4(), 123).into();
        let server =
            ChronyServer::start("ntp-server", Some(hosts.switch()), ntp, Served::default(), dir.path())?;
        let mut clients = Vec::new();
        for (i, (host, plan)) in hosts.iter().zip(plans).enumerate() {
            let following = Following::server(ntp).offset(plan.chrony_offset);
            clients.push(ChronyClient::start(
                &format!("ntp-{}", name(i)),
                Some(host.namespace()),
                following,
                dir.path(),
            )?);
        }
        for client in &mut clients {
            client.wait_synchronised()?;
        }
        let address = |i: usize| Ok::<_, anyhow::Error>(hosts.get(i).context("a host")?.v4());
        let mut nodes = Vec::new();
        for (i, (host, plan)) in hosts.iter().zip(plans).enumerate() {
            for other in &plan.cut {
                host.namespace().batch(&format!("route add unreachable {}/32\n", address(*other)?))?;
            }
            let seed = node::gossip(address(plan.seed)?);
            let mut spec = NodeSpec::new(BINARY, name(i), node::gossip(host.v4())).seed(seed);
            spec.probe = "ebpf";
            spec.metrics_bind = Some(node::metrics_everywhere());
            spec.inject_clock_error_ns = plan.clock_error_ns;
            spec.record = Some(record(dir.path(), i));
            spec.extra = plan.extra.iter().map(Into::into).collect();
            nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
        }
        for node in &mut nodes {
            node.wait_ready()?;
            node.wait_members(plans.len(), Duration::from_secs(20))?;
        }
        Ok(Self { nodes, clients, server, hosts, dir })
    }

    /// Writes ten changes a second at each of these nodes, for so long.
    pub fn write_to(&self, nodes: &[usize], time: Duration) -> Result<()> {
        let started = Stopwatch::start();
        let mut round = 0u32;
        while started.elapsed() < time {
            for i in nodes {
                self.nodes[*i].set(&format!("key{}", round % 7), &round.to_string())?;
            }
            round += 1;
            // The pace of the load, not a wait for anything.
            std::thread::sleep((Duration::from_millis(100) * round).saturating_sub(started.elapsed()));
        }
        Ok(())
    }

    /// Ends all nodes: their final reports, and every packet with both ends' stamps.
    pub fn finish(self) -> Result<(Vec<Value>, Vec<Packet>)> {
        let addresses: Vec<String> = self.hosts.iter().map(|h| node::gossip(h.v4()).to_string()).collect();
        let reports = self.nodes.into_iter().map(Node::stop).collect::<Result<Vec<_>>>()?;
        let mut sent = HashMap::new();
        let records = (0..reports.len())
            .map(|i| read_record(&record(self.dir.path(), i)))
            .collect::<Result<Vec<_>>>()?;
        for (i, lines) in records.iter().enumerate() {
            for line in lines.iter().filter(|l| l["type"] == "tx") {
                sent.insert(
                    (i, line["to"].as_str().unwrap_or("").to_owned(), line["id"].as_u64()),
                    line.clone(),
                );
            }
        }
        let mut packets = Vec::new();
        for (to, lines) in records.iter().enumerate() {
            ensure!(lines.last().is_some_and(|l| l["dropped"] == 0), "the recorder dropped records");
            for line in lines.iter().filter(|l| l["type"] == "rx") {
                let from = index(line["from"].as_str().unwrap_or(""));
                if let Some(tx) = sent.get(&(from, addresses[to].clone(), line["id"].as_u64()))
                    && line["t4_mono_ns"].is_i64()
                {
                    packets.push(Packet::new(from, to, tx, line));
                }
            }
        }
        Ok((reports, packets))
    }
}

/// A packet as both ends recorded it; all stamps are on the one CLOCK_MONOTONIC that the hosts share.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    /// T4 - T1 on the shared clock: what no clock correction touched.
    pub truth_ns: i64,
    pub network_ns: i64,
    pub bound_ns: i64,
    pub uncorrected_ns: i64,
    pub socket_queue_ns: Option<i64>,
}

impl Packet {
    fn new(from: usize, to: usize, tx: &Value, rx: &Value) -> Self {
        let number = |v: &Value, key: &str| v[key].as_i64().unwrap_or(i64::MAX);
        Self {
            from,
            to,
            truth_ns: number(rx, "t4_mono_ns") - number(tx, "t1_mono_ns"),
            network_ns: number(rx, "network_ns"),
            bound_ns: number(rx, "network_bound_ns"),
            uncorrected_ns: number(rx, "uncorrected_ns"),
            socket_queue_ns: rx["t5_mono_ns"].as_i64().map(|t5| number(rx, "t6_mono_ns") - t5),
        }
    }
    pub fn error_ns(&self) -> i64 {
        (self.network_ns - self.truth_ns).abs()
    }
}

/// The value at share `q` of the sorted values.
pub fn quantile(values: impl IntoIterator<Item = i64>, q: f64) -> i64 {
    let mut values: Vec<i64> = values.into_iter().collect();
    values.sort_unstable();
    assert!(!values.is_empty(), "no values");
    values[((values.len() - 1) as f64 * q).round() as usize]
}

pub fn name(i: usize) -> String {
    char::from(b'a' + i as u8).to_string()
}

fn index(name: &str) -> usize {
    name.bytes().next().map_or(usize::MAX, |b| usize::from(b - b'a'))
}

/// Where host `i`'s node records.
pub fn record(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("{}.record", name(i)))
}

/// Every line of a record.
pub fn read_record(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
