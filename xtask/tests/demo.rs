//! The demo as its users meet it: what it leaves behind, and how it ends.

#![allow(clippy::unwrap_used, reason = "tests, helpers included, fail by panicking")]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::exec;
use xtask::rig::{can_make_hosts, sandbox, wait_for};

/// The demo builds the node first.
const BUILD: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(30);

/// A demo in a process group of its own, as a shell would start it, marked by an environment variable that
/// everything it starts inherits.
struct Demo {
    child: Child,
    marker: String,
}

impl Demo {
    fn start(arguments: &[&str], dir: &Path) -> Self {
        let marker = format!("DEMO_TEST_MARKER={}", dir.display());
        let (key, value) = marker.split_once('=').unwrap();
        let log = fs::File::create(dir.join("demo.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("demo")
            .args(arguments)
            .env(key, value)
            // This test may itself be in a sandbox; the demo is to make one of its own.
            .env_remove(sandbox::SANDBOX_ENV)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, marker }
    }

    /// Waits until its three nodes run in namespaces, and returns these.
    fn namespaces(&mut self) -> Vec<String> {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("three nodes in namespaces", BUILD, || {
            assert_eq!(self.child.try_wait()?, None, "the demo ended early");
            let nodes: Vec<String> = processes(&self.marker)
                .iter()
                .filter(|pid| {
                    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "pikoscope\n")
                })
                .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
                .filter(|namespace| *namespace != own)
                .map(|namespace| namespace.to_string_lossy().into_owned())
                .collect();
            Ok((nodes.len() == 3).then_some(nodes))
        })
        .unwrap()
    }

    fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

#[test]
fn a_killed_demo_leaves_no_process_namespace_or_bridge() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let before = visible();
    let mut demo = Demo::start(&[], dir.path());
    let namespaces = demo.namespaces();
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    wait_for("everything to be gone", PATIENCE, || {
        let left = processes(&demo.marker);
        ensure!(left.is_empty(), "processes {left:?} are left");
        ensure!(!in_use(&namespaces), "a process is left in a namespace");
        Ok(Some(()))
    })
    .unwrap();
    assert_eq!(visible(), before, "namespaces, links or files that were not there before");
}

#[test]
fn ctrl_c_ends_the_demo_in_good_order() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("demo.json");
    let mut demo = Demo::start(&["--json", json.to_str().unwrap()], dir.path());
    demo.namespaces();
    // As a terminal does it: to the whole group.
    demo.signal_group(Signal::SIGINT);
    let status = wait_for("the demo to end", PATIENCE, || Ok(demo.child.try_wait()?)).unwrap();
    let log = fs::read_to_string(dir.path().join("demo.log")).unwrap();
    assert!(status.success(), "{status}\n{log}");
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    for node in report["nodes"].as_array().unwrap() {
        assert_eq!(node["accounting"]["pending"], 0, "{log}");
    }
    assert!(processes(&demo.marker).is_empty());
}

/// Killing a node from outside must end the demo with a sentence that names it.
#[test]
fn a_node_that_dies_ends_the_demo_with_its_name() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(&["--once", "--seconds", "60"], dir.path());
    demo.namespaces();
    let victim = processes(&demo.marker)
        .into_iter()
        .find(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("\0run\0") && line.contains("--node-id\0b\0")
        })
        .unwrap();
    nix::sys::signal::kill(Pid::from_raw(victim.parse().unwrap()), Signal::SIGKILL).unwrap();
    let status = wait_for("the demo to end", PATIENCE, || Ok(demo.child.try_wait()?)).unwrap();
    let log = fs::read_to_string(dir.path().join("demo.log")).unwrap();
    assert!(!status.success() && log.contains("node-b has ended"), "{status}\n{log}");
    assert!(processes(&demo.marker).is_empty());
}

/// Pids of processes that have the variable `marker` in their environment.
fn processes(marker: &str) -> Vec<String> {
    support::processes(|environ| environ.split(|byte| *byte == 0).any(|one| one == marker.as_bytes()))
}

fn in_use(namespaces: &[String]) -> bool {
    fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
        fs::read_link(entry.path().join("ns/net"))
            .is_ok_and(|link| namespaces.iter().any(|namespace| link.to_string_lossy() == *namespace))
    })
}

/// What other commands on this machine would see of a demo.
fn visible() -> (String, Vec<String>) {
    let links = exec::output(Command::new("ip").args(["-o", "-br", "link"])).unwrap();
    let demos = [sandbox::temp_dir(), std::env::temp_dir()]
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("pikoscope-demo"))
        .collect();
    (links, demos)
}
