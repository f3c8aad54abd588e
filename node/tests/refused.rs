//! Hosts that do not let the probe do all it could: the node says so in one sentence and does what it can.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::trio::{Trio, count};
use support::{BINARY, alone};
use xtask::rig::{can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// The node under test, for a user without any privilege: a copy that everybody can run, and a script in
/// front of it that becomes that user.
struct Unprivileged {
    dir: tempfile::TempDir,
}

impl Unprivileged {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (binary, script) = (dir.path().join("pikoscope"), dir.path().join("run-as-nobody"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777))?;
        fs::copy(BINARY, &binary)?;
        let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups --pdeathsig KILL";
        fs::write(&script, format!("#!/bin/sh\nexec {nobody} -- {} \"$@\"\n", binary.display()))?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    fn script(&self) -> PathBuf {
        self.dir.path().join("run-as-nobody")
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

/// Waits until node `to` measured these segments on the paths from both others; its report.
fn wait_segments(trio: &Trio, to: usize, segments: &[&str]) -> Result<Value> {
    wait_for(&format!("{segments:?} from both others"), PATIENCE, || {
        let report = trio.nodes[to].status()?;
        let paths = report["paths"].as_array().context("paths")?;
        let measured = |path: &&Value| segments.iter().all(|s| count(&path["segments"][s]["count"]) > 0);
        ensure!(paths.iter().filter(measured).count() == 2, "{report}");
        Ok(Some(report))
    })
}

/// The segments of all paths to a node.
fn segments(report: &Value) -> Vec<&str> {
    let paths = report["paths"].as_array().into_iter().flatten();
    let mut all: Vec<&str> =
        paths.filter_map(|p| p["segments"].as_object()).flatten().map(|(name, _)| name.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The node logged its reason, once, on one line.
fn told_once(trio: &mut Trio, node: usize, reason: &str) {
    let log = trio.nodes[node].process().log();
    assert_eq!(log.lines().filter(|line| line.contains(reason)).count(), 1, "{reason:?} in:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn without_btf_the_receive_stamp_comes_with_the_datagram() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let dir = tempfile::tempdir()?;
    let broken = dir.path().join("btf");
    fs::write(&broken, "no types in here")?;
    let btf = |i: usize| if i == 1 { Path::new("/nonexistent/btf") } else { &broken };
    let mut trio = Trio::start(|i, spec| {
        if i > 0 {
            spec.probe = "ebpf";
            spec.extra = vec!["--btf".into(), btf(i).into()];
        }
    })?;
    for i in 1..3 {
        let report = wait_segments(&trio, i, &["network", "ingress_stack", "socket_queue", "handling"])?;
        let reason = report["tier_reason"].as_str().context("no reason")?.to_owned();
        println!("{reason}");
        assert_eq!(report["tier"], 1);
        assert!(reason.contains("taken from the datagram instead"), "{reason}");
        let why = if i == 1 { "/nonexistent/btf" } else { "malformed" };
        assert!(reason.contains(why) && !reason.contains('\n'), "{reason}");
        told_once(&mut trio, i, &reason);
    }
    trio.gossip_goes_on("after")?;
    for report in trio.finish()? {
        assert_eq!(count(&report["accounting"]["without_event"]), 0, "{}", report["accounting"]);
        assert!(count(&report["accounting"]["matched"]) > 0, "{}", report["accounting"]);
    }
    Ok(())
}

#[test]
fn without_chronyd_a_node_says_what_it_costs() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut trio = Trio::start(|_, _| {})?;
    let report = wait_segments(&trio, 0, &["network"])?;
    let note = report["clock"]["note"].as_str().context("no note")?.to_owned();
    println!("{note}");
    assert!(
        note.contains("does not run") && note.contains("packets alone") && !note.contains('\n'),
        "{note}"
    );
    trio.gossip_goes_on("after")?;
    told_once(&mut trio, 0, &note);
    trio.finish()?;
    Ok(())
}

#[test]
fn without_privileges_a_node_runs_at_tier_0() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let unprivileged = Unprivileged::new()?;
    let mut trio = Trio::start(|i, spec| {
        if i == 1 {
            spec.binary = unprivileged.script();
        }
    })?;
    let uid = fs::read_to_string(format!("/proc/{}/status", trio.nodes[1].process().pid()))?;
    assert!(uid.contains("Uid:\t65534\t65534\t65534"), "{uid}");
    let report =
        wait_segments(&trio, 1, &["network", "ingress_stack_and_socket_queue", "handling", "qdisc"])?;
    assert_eq!(report["tier"], 0);
    // The stamps of what it sends need no privilege.
    let all =
        ["egress_stack", "handling", "ingress_stack_and_socket_queue", "network", "qdisc", "send_queue"];
    assert_eq!(segments(&report), all);
    let reason = report["tier_reason"].as_str().context("no reason")?.to_owned();
    println!("{reason}");
    for part in ["does not permit loading eBPF", "CAP_BPF", "tier 0", "cannot be told apart"] {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
    told_once(&mut trio, 1, &reason);
    trio.gossip_goes_on("after")?;
    trio.finish()?;
    Ok(())
}

#[test]
fn asking_for_ebpf_without_the_permission_is_one_sentence() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    // Also since a program that another test's fork holds open for writing can't be started.
    let _alone = alone();
    let unprivileged = Unprivileged::new()?;
    let report = unprivileged.file("report");
    let output = Command::new(unprivileged.script())
        .args(["run", "--node-id", "n", "--bind", "127.0.0.1:0", "--metrics-bind", "127.0.0.1:0"])
        .args(["--probe", "ebpf", "--control", &unprivileged.file("control"), "--final-report", &report])
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failures: Vec<&str> = said.lines().filter(|line| line.starts_with("pikoscope: ")).collect();
    assert_eq!(failures.len(), 1, "{said}");
    for part in ["probe = \"ebpf\"", "does not permit loading eBPF", "run as root or grant CAP_BPF"] {
        assert!(failures[0].contains(part), "{part:?} is not in {said:?}");
    }
    assert!(!said.contains("panicked") && !Path::new(&report).exists(), "{said}");
    Ok(())
}
