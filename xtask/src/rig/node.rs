//! A pikoscope node as a process.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Control, Namespace, Process, wait_on};

/// How long a node may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a node is to be run. [`NodeSpec::new`] leaves everything else to the node's defaults.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The binary.
    pub binary: PathBuf,
    /// `--node-id`, also the name of its files.
    pub id: String,
    /// `--bind`.
    pub bind: SocketAddr,
    /// `--seed`s.
    pub seeds: Vec<SocketAddr>,
    /// `--interval-ms`.
    pub interval_ms: Option<u64>,
    /// `--metrics-bind`. Inside a namespace the default port is free.
    pub metrics_bind: Option<SocketAddr>,
    /// `--probe`: `auto`, `ebpf`, `timestamping` or `off`.
    pub probe: &'static str,
    /// `--probe-stats`.
    pub probe_stats: bool,
    /// `--chrony`.
    pub chrony: Option<SocketAddr>,
    /// `--record`: file for every packet's stamps.
    pub record: Option<PathBuf>,
    /// `--inject-clock-error-ns`, as of the boot: positive is fast.
    pub inject_clock_error_ns: i64,
    /// `--inject-clock-drift-ppb`, since the boot: positive is ever faster.
    pub inject_clock_drift_ppb: i64,
    /// `--inject-clock-step-ns`: positive is forward.
    pub inject_clock_step_ns: i64,
    /// `--inject-clock-step-at-ns`, by CLOCK_MONOTONIC.
    pub inject_clock_step_at_ns: i64,
    /// `--log`.
    pub log: &'static str,
    /// Anything else.
    pub extra: Vec<OsString>,
}

impl NodeSpec {
    /// A node of this name on this address.
    pub fn new(binary: impl Into<PathBuf>, id: impl Into<String>, bind: SocketAddr) -> Self {
        Self {
            binary: binary.into(),
            id: id.into(),
            bind,
            seeds: Vec::new(),
            interval_ms: None,
            metrics_bind: None,
            probe: "auto",
            probe_stats: false,
            chrony: None,
            record: None,
            inject_clock_error_ns: 0,
            inject_clock_drift_ppb: 0,
            inject_clock_step_ns: 0,
            inject_clock_step_at_ns: 0,
            log: "info",
            extra: Vec::new(),
        }
    }

    /// Joins by this member.
    pub fn seed(mut self, seed: SocketAddr) -> Self {
        self.seeds.push(seed);
        self
    }

    /// The command line, with the node's files in `dir`.
    pub fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("run")
            .args(["--node-id", &self.id])
            .args(["--bind", &self.bind.to_string()])
            .args(["--probe", self.probe])
            .args(["--log", self.log])
            .arg("--control")
            .arg(control(dir, &self.id))
            .arg("--final-report")
            .arg(final_report(dir, &self.id));
        for seed in &self.seeds {
            command.args(["--seed", &seed.to_string()]);
        }
        if let Some(interval) = self.interval_ms {
            command.args(["--interval-ms", &interval.to_string()]);
        }
        if let Some(metrics) = self.metrics_bind {
            command.args(["--metrics-bind", &metrics.to_string()]);
        }
        if self.probe_stats {
            command.arg("--probe-stats");
        }
        if let Some(chrony) = self.chrony {
            command.args(["--chrony", &chrony.to_string()]);
        }
        if let Some(record) = &self.record {
            command.arg("--record").arg(record);
        }
        if self.inject_clock_error_ns != 0 {
            command.args(["--inject-clock-error-ns", &self.inject_clock_error_ns.to_string()]);
        }
        if self.inject_clock_drift_ppb != 0 {
            command.args(["--inject-clock-drift-ppb", &self.inject_clock_drift_ppb.to_string()]);
        }
        if self.inject_clock_step_ns != 0 {
            command.args(["--inject-clock-step-ns", &self.inject_clock_step_ns.to_string()]);
            command.args(["--inject-clock-step-at-ns", &self.inject_clock_step_at_ns.to_string()]);
        }
        command.args(&self.extra);
        command
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    id: String,
    process: Process,
    control: Control,
    final_report: PathBuf,
}

impl Node {
    /// Starts a node in `namespace` or here, with its files in `dir`; it may not answer yet.
    pub fn start(spec: &NodeSpec, namespace: Option<&Namespace>, dir: &Path) -> Result<Self> {
        let final_report = final_report(dir, &spec.id);
        // One of an earlier run with this name must not be taken for this run's.
        match fs::remove_file(&final_report) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let command = spec.command(dir);
        let command = match namespace {
            Some(namespace) => namespace.wrap(&command),
            None => command,
        };
        Ok(Self {
            id: spec.id.clone(),
            process: Process::spawn(&format!("node-{}", spec.id), command, dir)?,
            control: Control::new(&spec.id, control(dir, &spec.id)),
            final_report,
        })
    }

    /// Its node id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its control socket.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its process: pid, log, SIGSTOP and SIGCONT, kill.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it answers on its control socket; that it ended instead is told at once, with its log.
    pub fn wait_ready(&mut self) -> Result<Value> {
        let what = format!("node {} to answer", self.id);
        let alive = |node: &mut Self| node.process.ensure_running();
        wait_on(self, &what, PATIENCE, alive, |node| node.status().map(Some))
    }

    /// Waits until it knows `count` members, itself included.
    pub fn wait_members(&mut self, count: usize, deadline: Duration) -> Result<Value> {
        let what = format!("node {} to know {count} members", self.id);
        let alive = |node: &mut Self| node.process.ensure_running();
        wait_on(self, &what, deadline, alive, |node| {
            let report = node.status()?;
            let known = report["members"].as_array().map_or(0, Vec::len);
            ensure!(known == count, "it knows {known}");
            Ok(Some(report))
        })
    }

    /// Its report.
    pub fn status(&self) -> Result<Value> {
        self.control.status()
    }

    /// Sets an entry of this node.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.control.set(key, value)
    }

    /// Deletes an entry of this node.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.control.delete(key)
    }

    /// Who holds `key`: see [`Control::get`].
    pub fn get(&self, key: &str) -> Result<Value> {
        self.control.get(key)
    }

    /// Asks it to end and returns its final report, in which every packet is accounted for.
    pub fn stop(mut self) -> Result<Value> {
        self.process.stop(PATIENCE)?;
        let text = fs::read_to_string(&self.final_report).with_context(|| {
            format!("node {} left no final report; {}", self.id, self.process.log_tail(20))
        })?;
        serde_json::from_str(&text).with_context(|| format!("final report of node {}", self.id))
    }
}

/// Address of the gossip port of a host in a namespace, where every port is free.
pub fn gossip(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 7176)
}

/// `/metrics` on every address of a host in a namespace.
pub fn metrics_everywhere() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7177)
}

fn control(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.sock"))
}

fn final_report(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.report.json"))
}
