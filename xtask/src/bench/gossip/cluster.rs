//! The nodes that are measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::traffic::Traffic;
use super::usage::{Load, Memory, Processor};
use crate::rig::{Control, Namespace, Node, NodeSpec, Stopwatch, sandbox, wait_on};

/// How long the nodes may take to find each other, and their keys to reach all.
const JOIN: Duration = Duration::from_secs(180);
/// Between the last key's arrival and the measurement, for what a start leaves behind: answers under way, caches.
const SETTLE: Duration = Duration::from_secs(5);
/// The one key that every node holds.
pub(super) const KEY: &str = "bench";
/// Gossip ports begin here, metrics ports there.
const PORTS: (u16, u16) = (17_000, 18_000);

/// Nodes on the loopback of one namespace; dropping it takes them down.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    metrics: Vec<SocketAddr>,
    namespace: Namespace,
    tier: Option<u64>,
    _dir: TempDir,
}

/// What the nodes cost while nothing changed; one value per node where it says so.
pub(super) struct Idle {
    pub(super) seconds: f64,
    /// Share of one processor, in per cent.
    pub(super) processor: Vec<f64>,
    /// By thread, mean of all nodes, by its name.
    pub(super) threads: Vec<(String, f64)>,
    pub(super) traffic: Traffic,
    pub(super) memory: Vec<Memory>,
    /// What else the machine did.
    pub(super) load: Load,
}

impl Cluster {
    /// Starts them and waits until everybody knows everybody's key.
    pub(super) fn start(binary: &Path, count: u16, interval_ms: u64, probe: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pikoscope-bench-")
            .tempdir_in(sandbox::temp_dir())
            .context("a directory for the nodes' files")?;
        let namespace = Namespace::new("bench")?;
        let at = |first: u16, number: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + number));
        let (mut nodes, mut metrics) = (Vec::new(), Vec::new());
        for number in 0..count {
            let mut spec = NodeSpec::new(binary, format!("node-{number:03}"), at(PORTS.0, number));
            spec.seeds = vec![at(PORTS.0, 0), at(PORTS.0, 1)];
            spec.interval_ms = Some(interval_ms);
            spec.probe = match probe {
                "ebpf" => "ebpf",
                "timestamping" => "timestamping",
                "off" => "off",
                _ => "auto",
            };
            metrics.push(at(PORTS.1, number));
            spec.metrics_bind = metrics.last().copied();
            nodes.push(Node::start(&spec, Some(&namespace), dir.path())?);
        }
        let mut cluster = Self { nodes, metrics, namespace, tier: None, _dir: dir };
        let count = usize::from(count);
        for node in &mut cluster.nodes {
            cluster.tier = node.wait_members(count, JOIN)?["tier"].as_u64();
            node.set(KEY, "0")?;
        }
        for node in &mut cluster.nodes {
            let alive = |node: &mut Node| node.process().ensure_running();
            wait_on(node, "all keys", JOIN, alive, |node| {
                let held = node.get(KEY)?.as_array().map_or(0, Vec::len);
                ensure!(held == count, "{held} of {count} are there");
                Ok(Some(()))
            })?;
        }
        Ok(cluster)
    }

    /// Looks on for so many seconds. Nothing is asked of the nodes meanwhile.
    pub(super) fn watch_idle(&mut self, seconds: u64) -> Result<Idle> {
        thread::sleep(SETTLE);
        let pids: Vec<u32> = self.nodes.iter_mut().map(|node| node.process().pid()).collect();
        let processor = || pids.iter().map(|pid| Processor::of(*pid)).collect::<Result<Vec<_>>>();
        let traffic = Traffic::read(&self.namespace, &self.metrics)?;
        let between = Stopwatch::start();
        let (load, before, started) = (Load::read()?, processor()?, Stopwatch::start());
        thread::sleep(Duration::from_secs(seconds));
        let (elapsed, after) = (started.elapsed().as_secs_f64(), processor()?);
        let load = load.until_now(&before, &after)?;
        let traffic = traffic.until_now(&self.namespace, &self.metrics, between.elapsed())?;
        for node in &mut self.nodes {
            node.process().ensure_running()?;
        }
        Ok(Idle {
            seconds: elapsed,
            processor: before.iter().zip(&after).map(|(b, a)| a.percent_since(b, elapsed)).collect(),
            threads: Processor::threads_since(&before, &after, elapsed),
            traffic,
            memory: pids.iter().map(|pid| Memory::of(*pid)).collect::<Result<_>>()?,
            load,
        })
    }

    /// The tier of the stamps, as the nodes tell it.
    pub(super) fn tier(&self) -> Option<u64> {
        self.tier
    }

    /// The nodes' control sockets.
    pub(super) fn controls(&self) -> Vec<Control> {
        self.nodes.iter().map(|node| node.control().clone()).collect()
    }

    /// Ends all nodes; one that lost sight of another is an error.
    pub(super) fn stop(self) -> Result<()> {
        let count = self.nodes.len();
        for node in &self.nodes {
            let members = node.status()?["members"].as_array().map_or(0, Vec::len);
            ensure!(members == count, "node {} knows {members} of {count} at the end", node.id());
        }
        let stopped = |node: Node| node.stop().map(|_: Value| ());
        thread::scope(|scope| {
            let all: Vec<_> = self.nodes.into_iter().map(|node| scope.spawn(move || stopped(node))).collect();
            all.into_iter().try_for_each(|one| match one.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}
