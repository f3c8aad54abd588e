//! What the probe costs in system calls: none. The gossip thread makes as many per received packet with it as
//! without; stamps of what is sent cost one read of the error queue a wake-up. strace counts them.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pikoscope::wire::v1::{Listed, NodeRef, PacketWriter, Sender, StateSum, Step};
use probe_ebpf::parse::PacketId;
use support::{BINARY, alone, http};
use xtask::rig::{Namespace, Node, NodeSpec, Process, can_make_hosts, node, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const PACKETS: u32 = 4000;
/// What the node answers to a stranger: a delta with what it knows, and a digest.
const ANSWERS: usize = 1;
/// Share of a call per packet by which two runs may differ: what happens once a second, whatever comes.
const TOLERANCE: f64 = 0.02;

/// Calls by name.
type Calls = BTreeMap<String, u32>;

/// The thread of a process with this name.
fn thread(pid: u32, name: &str) -> Result<String> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim() == name {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("process {pid} has no thread {name}")
}

/// The table that `strace -c` writes: share, seconds, microseconds a call, calls, errors if any, name.
fn table(text: &str) -> Calls {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (calls, name) = (columns.get(3)?.parse().ok()?, *columns.last()?);
        (name != "total").then(|| (name.to_owned(), calls))
    };
    text.lines().filter_map(row).collect()
}

/// Calls of the gossip thread while it receives and answers [`PACKETS`] requests.
fn calls((probe, tx_stamps): (&'static str, bool)) -> Result<Calls> {
    let (dir, namespace) = (tempfile::tempdir()?, Namespace::new("syscalls")?);
    let metrics = SocketAddr::from(([127, 0, 0, 1], 7177));
    let mut spec = NodeSpec::new(BINARY, "n", node::gossip([127, 0, 0, 1]));
    spec.probe = probe;
    spec.extra = ["--tx-stamps".into(), tx_stamps.to_string().into()].into();
    spec.metrics_bind = Some(metrics);
    // Its own rounds would take calls that no packet asked for.
    spec.interval_ms = Some(60_000);
    let mut node = Node::start(&spec, Some(&namespace), dir.path())?;
    node.wait_ready()?;
    let received = || -> Result<f64> {
        let metrics = namespace.within(|| http::get(metrics, "/metrics"))??;
        http::sample(&metrics, "pikoscope_packets_received_total").context("no such metric")
    };
    assert_eq!(received()?, 0.0);

    let output = dir.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-p", &thread(node.process().pid(), "pikoscope-net")?, "-o"]).arg(&output);
    let mut strace = Process::spawn("strace", strace, dir.path())?;
    wait_for("strace to attach", PATIENCE, || Ok(strace.log().contains("attached").then_some(())))?;

    let socket = namespace.within(|| UdpSocket::bind("127.0.0.1:0"))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let sender = Sender { node_id: "stranger", answers: None };
    for counter in 1..=PACKETS {
        let mut request = Vec::new();
        let id = PacketId { incarnation: 1, counter };
        let sum = StateSum::default();
        let mut w = PacketWriter::digest(&mut request, 1400, id, &sender, Step::Request, sum, &[]);
        // A stranger is sent no more than it sent, so it sends something.
        for n in 0..40 {
            w.list(Listed { node: NodeRef::of(&format!("nobody {n}")), version: 0 });
        }
        w.finish();
        socket.send_to(&request, spec.bind)?;
        // One at a time, so that each is a batch of its own in every run.
        for _ in 0..ANSWERS {
            socket.recv(&mut [0; 2048]).context("no answer")?;
        }
    }
    // Asked of another thread: the one that is watched is left alone.
    wait_for("all packets to be received", PATIENCE, || {
        let received = received()?;
        ensure!(received == f64::from(PACKETS), "{received}");
        Ok(Some(()))
    })?;
    strace.signal(Signal::SIGINT)?;
    strace.wait(PATIENCE)?;
    node.stop()?;
    Ok(table(&fs::read_to_string(output)?))
}

/// Calls per packet: of the packet path, and the probe's own, made once a second and at no packet.
fn per_packet(calls: &Calls) -> (f64, f64) {
    let sum =
        |bpf: bool| calls.iter().filter(|(name, _)| (*name == "bpf") == bpf).map(|(_, n)| n).sum::<u32>();
    (f64::from(sum(false)) / f64::from(PACKETS), f64::from(sum(true)) / f64::from(PACKETS))
}

#[test]
fn the_probe_adds_no_call_per_packet() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let modes = [("off", false), ("timestamping", false), ("ebpf", false), ("ebpf", true)];
    let counted = modes.map(calls).into_iter().collect::<Result<Vec<Calls>>>()?;
    println!("calls of the gossip thread for {PACKETS} packets, each answered with one:");
    for ((mode, tx_stamps), calls) in modes.iter().zip(&counted) {
        let (path, bpf) = per_packet(calls);
        println!(
            "  {mode:<12} stamps of what is sent: {tx_stamps:<5} {path:.3} per packet, and {bpf:.3} bpf: {calls:?}"
        );
    }
    let (off, _) = per_packet(&counted[0]);
    for ((mode, tx_stamps), calls) in modes.iter().zip(&counted) {
        let (path, bpf) = per_packet(calls);
        // The error queue is read once a wake-up, however many stamps are in it. Here each packet is a wake-up.
        let errors = if *tx_stamps { 1.0 } else { 0.0 };
        let off = off + errors;
        assert!((path - off).abs() < TOLERANCE, "{mode}: {path} calls per packet, {off} without stamps");
        assert!(bpf < TOLERANCE, "{mode}: {bpf} calls of bpf per packet");
        for (name, expected) in [("ppoll", 1.0), ("recvmmsg", 1.0 + errors), ("sendto", ANSWERS as f64)] {
            let n = f64::from(calls.get(name).copied().unwrap_or(0)) / f64::from(PACKETS);
            assert!((n - expected).abs() < TOLERANCE, "{mode}: {n} calls of {name} per packet");
        }
    }
    Ok(())
}
