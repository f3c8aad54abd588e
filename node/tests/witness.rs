//! The ends of a packet's journey, held against what others saw of the same packet: strace of both gossip threads
//! for T0, T1, T6 and T7, and packet sockets at both hosts' edges for T3 and T4. And the probe's count against the
//! kernel's own.
//!
//! strace stops the thread before it looks at the clock, at a call's entry and at its exit, and lets it go on after:
//! what the node stamps before a call is earlier than strace's stamp of the entry, what it stamps after a call is
//! later than that of the exit, however slow the machine.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use probe_ebpf::time::RealNs;
use serde_json::Value;
use support::{BINARY, Cluster, Plan, alone, name, quantile, read_record, record};
use xtask::lab::switch::clock::Mapping;
use xtask::lab::switch::{Capture, Direction, Key, Port};
use xtask::rig::{Hosts, Node, NodeSpec, Process, Stopwatch, can_make_hosts, node, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// What a test of so many packets must have seen of them.
const LEAST: usize = 200;
/// How far a stamp of the node may be before that of a packet socket beside it at the median: both are the kernel's.
const NEAR: i64 = 20_000;

/// One call of a traced thread, by CLOCK_MONOTONIC in nanoseconds.
#[derive(Debug)]
struct Call {
    name: String,
    /// No earlier than the call.
    entry: i64,
    /// No later than its return; `None` when strace left before that.
    exit: Option<i64>,
    /// First bytes of what was sent or received, of each message.
    heads: Vec<Vec<u8>>,
    /// Of the error queue.
    errors: bool,
}

/// The lines of `strace -xx -s 12 -T` with nanoseconds; a packet's first 12 bytes are its prelude, with its id.
fn calls(text: &str, mono: impl Fn(i64) -> i64) -> Vec<Call> {
    text.lines().filter_map(|line| call(line, &mono)).collect()
}

fn call(line: &str, mono: &impl Fn(i64) -> i64) -> Option<Call> {
    let (at, rest) = line.split_once(' ')?;
    let (s, ns) = at.split_once('.')?;
    let entry = s.parse::<i64>().ok()? * 1_000_000_000 + ns.parse::<i64>().ok()?;
    let name = rest.trim_start().split_once('(')?.0.to_owned();
    let took = rest.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>'));
    // Counted from a little after `entry`, so the sum is early if anything.
    let exit = took.and_then(|took| took.parse::<f64>().ok()).map(|took| entry + (took * 1e9) as i64);
    let quoted = rest.split("\"\\x").skip(1).filter_map(|text| text.split_once('"'));
    let bytes = |text: &str| -> Vec<u8> {
        text.split("\\x").filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
    };
    let heads = quoted.map(|(text, _)| bytes(text)).filter(|head| head.len() == 12).collect();
    let errors = rest.contains("MSG_ERRQUEUE,") || rest.contains("MSG_ERRQUEUE|");
    Some(Call { name, entry: mono(entry), exit: exit.map(mono), heads, errors })
}

/// The id in a v1 packet's prelude.
fn id(head: &[u8]) -> Option<u64> {
    let (prelude, id) = head.split_at_checked(4)?;
    (prelude.get(1) == Some(&1)).then(|| Some(u64::from_be_bytes(id.try_into().ok()?))).flatten()
}

/// What is certain of two stamps: the first and the second, each no earlier and no later than this.
#[derive(Clone, Copy, Debug)]
struct Brackets([(i64, i64); 2]);

/// T0 and T1 of every packet sent. The core hands over packets after the thread has waited or received; what it sends
/// of one go has one T0.
fn sent(calls: &[Call]) -> HashMap<u64, Brackets> {
    let mut since = None;
    let mut seen = HashMap::new();
    for call in calls {
        match call.name.as_str() {
            "ppoll" | "recvmmsg" => since = call.exit,
            "sendto" | "sendmsg" => {
                if let (Some(since), Some(id)) = (since, call.heads.first().and_then(|head| id(head))) {
                    seen.insert(id, Brackets([(since, call.entry); 2]));
                }
            }
            _ => {}
        }
    }
    seen
}

/// T6 and T7 of every packet received by itself: its message is applied before the thread's next call.
fn received(calls: &[Call]) -> HashMap<u64, Brackets> {
    let one = |pair: &[Call]| {
        let [call, next] = pair else { return None };
        let ([head], false) = (&call.heads[..], call.errors) else { return None };
        let is_receipt = call.name == "recvmmsg";
        let bracket = (call.exit?, next.entry);
        is_receipt.then(|| Some((id(head)?, Brackets([bracket; 2])))).flatten()
    };
    calls.windows(2).filter_map(one).collect()
}

/// How far outside of a bracket, 0 within.
fn outside(stamp: i64, (least, most): (i64, i64), error: i64) -> i64 {
    (least - error - stamp).max(stamp - most - error).max(0)
}

fn number(line: &Value, key: &str) -> Result<i64> {
    line[key].as_i64().with_context(|| format!("no {key} in {line}"))
}

fn trace(node: &mut Node, dir: &Path, label: &str) -> Result<Process> {
    let pid = node.process().pid();
    let task = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(Result::ok)
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|n| n.trim() == "pikoscope-net"))
        .context("no gossip thread")?;
    let mut strace = Command::new("strace");
    strace.args(["--absolute-timestamps=format:unix,precision:ns", "--syscall-times=ns", "-xx", "-s", "12"]);
    strace.args(["-e", "trace=!clock_gettime", "-o"]).arg(dir.join(label)).arg("-p").arg(task.file_name());
    let strace = Process::spawn(label, strace, dir)?;
    wait_for("strace to attach", PATIENCE, || Ok(strace.log().contains("attached").then_some(())))?;
    Ok(strace)
}

#[test]
fn both_ends_of_a_journey_and_the_sum_of_its_parts_are_what_others_saw() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut cluster = Cluster::start(&[Plan::default(), Plan::default()])?;
    let dir = tempfile::tempdir()?;
    let mapping = Mapping::read();
    let capture = Capture::start(&cluster.hosts, 100_000)?;
    let mut traces = Vec::new();
    for i in 0..2 {
        traces.push(trace(&mut cluster.nodes[i], dir.path(), &format!("calls-{i}"))?);
    }
    cluster.write_to(&[0, 1], Duration::from_secs(12))?;
    for mut strace in traces {
        strace.signal(Signal::SIGINT)?;
        strace.wait(PATIENCE)?;
    }
    let captured = capture.stop()?;
    ensure!(captured.omitted + captured.missed + captured.unstamped == 0, "{captured:?}");
    let after = Mapping::read();
    let error = (mapping.error() + after.error() + after.moved(&mapping) + captured.error).as_nanos();
    for node in std::mem::take(&mut cluster.nodes) {
        node.stop()?;
    }

    let mono = |real: i64| mapping.mono_of(RealNs::from_nanos(real)).as_nanos();
    let mut edges: HashMap<(Port, u64), [Option<i64>; 2]> = HashMap::new();
    for stamp in &captured.stamps {
        let Some(id) = Key::packet_id(stamp.key).map(|id| id.to_u64()) else { continue };
        let [left, came] = edges.entry((stamp.from, id)).or_default();
        let at = stamp.at.as_nanos();
        // The switch sees it too, in between.
        match stamp.direction {
            Direction::Sent => *left = Some(left.map_or(at, |first| first.min(at))),
            Direction::Received => *came = Some(came.map_or(at, |last| last.max(at))),
        }
    }
    let (mut seen, mut records) = (Vec::new(), Vec::new());
    for i in 0..2 {
        let text = fs::read_to_string(dir.path().join(format!("calls-{i}")))?;
        seen.push(calls(&text, mono));
        records.push(read_record(&record(cluster.dir.path(), i))?);
    }
    for from in 0..2 {
        let to = 1 - from;
        path(
            from,
            [&records[from], &records[to]],
            [&sent(&seen[from]), &received(&seen[to])],
            &edges,
            error,
        )?;
    }
    Ok(())
}

/// Holds the stamps of one path against the witnesses'.
fn path(
    from: usize,
    [there, here]: [&[Value]; 2],
    [sent, received]: [&HashMap<u64, Brackets>; 2],
    edges: &HashMap<(Port, u64), [Option<i64>; 2]>,
    error: i64,
) -> Result<()> {
    let of = |lines: &[Value], kind: &str| -> HashMap<u64, Value> {
        let lines = lines.iter().filter(|line| line["type"] == kind);
        lines.filter_map(|line| Some((line["id"].as_u64()?, line.clone()))).collect()
    };
    let (tx, rx) = (of(there, "tx"), of(here, "rx"));
    let journeys: HashMap<u64, &Value> = here
        .iter()
        .filter(|line| line["type"] == "journey" && line["from"] == name(from))
        .filter_map(|line| Some((line["counter"].as_u64()?, line)))
        .collect();
    let mut ends = [0usize; 2];
    let (mut whole, mut widths, mut off_edge, mut networks) = (0usize, Vec::new(), Vec::new(), Vec::new());
    for (id, line) in &tx {
        if let Some(Brackets([t0, t1])) = sent.get(id) {
            ends[0] += 1;
            for (key, bracket) in [("t0_mono_ns", *t0), ("t1_mono_ns", *t1)] {
                let by = outside(number(line, key)?, bracket, error);
                assert_eq!(by, 0, "{key} of {id:x} is outside {bracket:?}: {line}");
            }
        }
    }
    for (id, line) in &rx {
        let Some(Brackets([t6, t7])) = received.get(id) else { continue };
        ends[1] += 1;
        for (key, bracket) in [("t6_mono_ns", *t6), ("t7_mono_ns", *t7)] {
            let by = outside(number(line, key)?, bracket, error);
            assert_eq!(by, 0, "{key} of {id:x} is outside {bracket:?}: {line}");
        }
        let (Some(Brackets([t0, _])), Some(journey)) =
            (sent.get(id), journeys.get(&(id & u64::from(u32::MAX))))
        else {
            continue;
        };
        let legs = journey["segments_ns"].as_object().context("no segments")?;
        if legs.len() < 7 || !legs.contains_key("network") {
            continue;
        }
        let sum: i64 = legs.values().filter_map(Value::as_i64).sum();
        let bound = number(journey, "network_bound_ns")? + error;
        // From handing over to applied, at least and at most: of nobody's stamps but strace's.
        let bracket = (t7.0 - t0.1, t7.1 - t0.0);
        assert_eq!(outside(sum, bracket, bound), 0, "the parts' sum {sum} is outside {bracket:?}: {journey}");
        whole += 1;
        widths.push(bracket.1 - bracket.0);
        if let Some([Some(left), Some(came)]) = edges.get(&(Port::host(from), *id)) {
            let leg = |name: &str| legs[name].as_i64().context("a leg");
            let t3 =
                number(&tx[id], "t0_mono_ns")? + leg("send_queue")? + leg("egress_stack")? + leg("qdisc")?;
            off_edge.push((t3 - left).abs().max((number(line, "t4_mono_ns")? - came).abs()));
            networks.push(((leg("network")? - (came - left)).abs(), bound));
        }
    }
    assert!(
        ends.iter().all(|n| *n >= LEAST) && whole >= LEAST,
        "{} sent and {} received packets seen by strace, {whole} whole journeys of {}; strace saw {} and {}",
        ends[0],
        ends[1],
        journeys.len(),
        sent.len(),
        received.len()
    );
    let within = networks.iter().filter(|(off, bound)| *off <= bound + NEAR).count();
    println!(
        "{} to {}: T0 and T1 of {} packets, T6 and T7 of {} are where strace saw them; the sum of all seven parts of {whole} \
         is within strace's bracket, {} ns wide at p50; T3 and T4 are {} ns from the packet sockets' at p50, {} at p99; \
         network is off by {} ns at p50, within its bound for {within} of {}",
        name(from),
        name(1 - from),
        ends[0],
        ends[1],
        quantile(widths.iter().copied(), 0.5),
        quantile(off_edge.iter().copied(), 0.5),
        quantile(off_edge.iter().copied(), 0.99),
        quantile(networks.iter().map(|(off, _)| *off), 0.5),
        networks.len(),
    );
    assert!(quantile(off_edge, 0.5) <= NEAR && within * 100 >= networks.len() * 99);
    Ok(())
}

/// UDP datagrams of a namespace since its beginning, as the kernel counts them: read by somebody, and dropped because
/// a receive buffer was full.
fn counted(hosts: &Hosts, host: usize) -> Result<[u64; 2]> {
    let host = hosts.get(host).context("a host")?;
    let text = host.namespace().within(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().context("no UDP")?, lines.next().context("no UDP")?);
    let of = |name: &str| -> Result<u64> {
        let place = names.split(' ').position(|n| n == name).with_context(|| format!("no {name}"))?;
        Ok(values.split(' ').nth(place).context("too few")?.parse()?)
    };
    Ok([of("InDatagrams")?, of("RcvbufErrors")?])
}

#[test]
fn the_probe_saw_what_the_kernel_counted_and_all_of_it_is_accounted_for() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let (dir, hosts) = (tempfile::tempdir()?, Hosts::new(2)?);
    let seed = node::gossip(hosts.get(0).context("a host")?.v4());
    let mut nodes = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let mut spec = NodeSpec::new(BINARY, name(i), node::gossip(host.v4())).seed(seed);
        spec.probe = "ebpf";
        // Nothing else on these hosts may use UDP: no time daemon, and a buffer that a stop fills.
        spec.extra = ["--clock-source", "adjtimex", "--rcvbuf-bytes", "2304", "--interval-ms", "20"]
            .map(Into::into)
            .into();
        nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
    }
    for node in &mut nodes {
        node.wait_ready()?;
        node.wait_members(2, PATIENCE)?;
    }
    let seen =
        |node: &Node| Ok::<_, anyhow::Error>(node.status()?["accounting"]["seen"].as_u64().unwrap_or(0));
    let stop = Stopwatch::start();
    wait_for("some packets", PATIENCE, || {
        nodes[0].set("key", &format!("{:?}", stop.elapsed()))?;
        Ok((seen(&nodes[0])? >= 100 && seen(&nodes[1])? >= 100).then_some(()))
    })?;
    nodes[1].process().signal(Signal::SIGSTOP)?;
    wait_for("the stopped node's buffer to overflow", PATIENCE, || {
        nodes[0].set("key", &format!("{:?}", stop.elapsed()))?;
        let [_, dropped] = counted(&hosts, 1)?;
        ensure!(dropped >= 5, "{dropped}");
        Ok(Some(()))
    })?;
    nodes[1].process().signal(Signal::SIGCONT)?;
    nodes[1].status()?;
    let reports = nodes.into_iter().map(Node::stop).collect::<Result<Vec<_>>>()?;
    for (i, report) in reports.iter().enumerate() {
        let a = &report["accounting"];
        let of = |key: &str| a[key].as_u64().with_context(|| format!("no {key}"));
        let [read, dropped] = counted(&hosts, i)?;
        println!("{}: {a}, the kernel: {read} read, {dropped} dropped", name(i));
        // What comes after the filter was taken off is nobody's.
        let seen = of("seen")?;
        assert!(seen <= read + dropped && seen + 5 >= read + dropped, "{seen} of {read} + {dropped}: {a}");
        let parts = ["matched", "unmatched", "late", "ring_failed", "dropped"];
        assert_eq!(seen, parts.iter().map(|part| of(part)).sum::<Result<u64>>()?, "{a}");
        assert_eq!(of("pending")?, 0);
        assert!(of("dropped")? + of("unmatched")? <= dropped && (i == 0 || of("dropped")? >= 5), "{a}");
    }
    Ok(())
}
