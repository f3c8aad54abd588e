//! Processor time of a node by tier, all at once against the same peers.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::rig::metrics::{get, sample};
use crate::rig::{Namespace, Node, NodeSpec, Stopwatch, sandbox};

/// Peers that begin an exchange once a second only.
const PEERS: u16 = 50;
/// A round each 10 ms with five members, of 55 or so: to each about ten packets a second.
const ROUNDS: &str = "interval_ms = 10\nfanout = 5\n";
/// Nodes that are measured: name, `--probe`, `--tx-stamps`.
const MEASURED: [(&str, &str, &str); 6] = [
    ("off", "off", "false"),
    ("tier_0_no_tx", "timestamping", "false"),
    ("tier_0", "timestamping", "true"),
    ("tier_1_no_tx", "ebpf", "false"),
    ("tier_1", "ebpf", "true"),
    ("tier_2", "hooks", "true"),
];
/// Ratios that matter: name, the dearer, the cheaper.
const RATIOS: [(&str, usize, usize); 5] = [
    ("tx_stamps_at_tier_1", 4, 3),
    ("tx_stamps_at_tier_0", 2, 1),
    ("tier_0_to_off", 2, 0),
    ("tier_1_to_off", 4, 0),
    ("tier_2_to_tier_1", 5, 4),
];
/// How long all may take to find each other.
const JOIN: Duration = Duration::from_secs(120);

pub(super) fn run(binary: &Path, quick: bool) -> Result<Value> {
    let (slices, slice, peers) = if quick { (2, 1, 5) } else { (15, 3, PEERS) };
    let dir = tempfile::Builder::new().prefix("pikoscope-bench-").tempdir_in(sandbox::temp_dir())?;
    let namespace = Namespace::new("bench")?;
    let config = dir.path().join("rounds.toml");
    fs::write(&config, ROUNDS).context("the measured nodes' settings")?;
    let at = |first: u16, number: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + number));
    let spec = |id: String, number: u16| {
        let mut spec = NodeSpec::new(binary, id, at(17_000, number)).seed(at(17_000, 0)).seed(at(17_000, 1));
        spec.metrics_bind = Some(at(18_000, number));
        spec
    };
    let mut nodes = Vec::new();
    for number in 0..peers {
        let mut spec = spec(format!("peer-{number:02}"), number);
        (spec.probe, spec.interval_ms) = ("off", Some(1_000));
        nodes.push(Node::start(&spec, Some(&namespace), dir.path())?);
    }
    let mut measured = Vec::new();
    for (number, (name, probe, tx_stamps)) in (peers..).zip(MEASURED) {
        let mut spec = spec(name.replace('_', "-"), number);
        spec.probe = probe;
        spec.extra =
            ["--config".into(), config.clone().into(), format!("--tx-stamps={tx_stamps}").into()].into();
        measured.push(Node::start(&spec, Some(&namespace), dir.path())?);
    }
    let count = usize::from(peers) + MEASURED.len();
    for node in nodes.iter_mut().chain(&mut measured) {
        node.wait_members(count, JOIN)?;
    }
    let tiers = measured.iter().map(|node| Ok(node.status()?["tier"].clone())).collect::<Result<Vec<_>>>()?;
    ensure!(tiers == [json!(null), json!(0), json!(0), json!(1), json!(1), json!(2)], "tiers: {tiers:?}");
    thread::sleep(Duration::from_secs(if quick { 1 } else { 10 }));

    let pids: Vec<u32> = measured.iter_mut().map(|node| node.process().pid()).collect();
    let metrics: Vec<SocketAddr> = (peers..).take(MEASURED.len()).map(|number| at(18_000, number)).collect();
    let sent_of = |address: &SocketAddr| sample(&get(*address)?, "pikoscope_packets_sent_total");
    let sent = || namespace.within(|| metrics.iter().map(sent_of).collect::<Result<Vec<f64>>>())?;
    let times = || pids.iter().map(|pid| processor_ns(*pid)).collect::<Result<Vec<u64>>>();
    let (sent_before, watch) = (sent()?, Stopwatch::start());
    let mut shares: Vec<Vec<f64>> = vec![Vec::new(); MEASURED.len()];
    for _ in 0..slices {
        let (before, clock) = (times()?, Stopwatch::start());
        thread::sleep(Duration::from_secs(slice));
        let (after, elapsed) = (times()?, clock.elapsed().as_secs_f64());
        for (shares, (before, after)) in shares.iter_mut().zip(before.iter().zip(after)) {
            shares.push((after - before) as f64 / 1e7 / elapsed);
        }
    }
    let elapsed = watch.elapsed().as_secs_f64();
    let rates: Vec<f64> =
        sent_before.iter().zip(sent()?).map(|(before, after)| (after - before) / elapsed).collect();

    println!("nodes with {} peers: share of one processor (median of {slices} times {slice} s)", count - 1);
    let mut report = serde_json::Map::new();
    for (number, (name, ..)) in MEASURED.iter().enumerate() {
        let (percent, rate) = (median(&mut shares[number].clone()), rates[number]);
        println!("{name:<14} {percent:>6.2} %  {rate:>6.0} packets/s sent");
        report.insert((*name).into(), json!({ "percent": percent, "packets_sent_per_s": rate }));
    }
    let mut ratios = serde_json::Map::new();
    for (name, dearer, cheaper) in RATIOS {
        // Per packet: no two nodes send quite as many.
        let load = rates[dearer] / rates[cheaper];
        let mut each: Vec<f64> =
            shares[dearer].iter().zip(&shares[cheaper]).map(|(d, c)| d / c / load).collect();
        let middle = median(&mut each);
        let (low, high) = (each[each.len() / 4], each[each.len() * 3 / 4]);
        println!("{name:<22} {middle:.3}  (half of the slices {low:.3} to {high:.3})");
        ratios.insert(name.into(), json!({ "ratio": middle, "quartiles": [low, high] }));
    }
    Ok(json!({ "peers": count - 1, "nodes": report, "ratios": ratios }))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What all threads of the process ran, in nanoseconds (/proc/PID/task/TID/schedstat).
fn processor_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
    }
    Ok(sum)
}
