//! Four hosts in a row, each of which only reaches the next: what an entry is said to have met on its way over three
//! hops, held against what packet sockets at the hosts' edges and the hosts' one CLOCK_MONOTONIC say.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::{Cluster, Plan, alone, name, quantile, read_record, record};
use xtask::lab::switch::clock::mono_now;
use xtask::lab::switch::{Capture, Direction, Port};
use xtask::rig::{Stopwatch, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const CHANGES: usize = 120;
/// Between two changes.
const PACE: Duration = Duration::from_millis(100);
/// A packet socket sees a packet a little before the driver takes it and T3 is stamped, on each of three hosts.
const SOONER: i64 = 3 * 2_000;

/// What is known of one packet from outside of the nodes: when it passed its sender's and its receiver's edge.
type Edges = HashMap<(usize, usize, u64), [Option<i64>; 2]>;

fn number(line: &Value, key: &str) -> Result<i64> {
    line[key].as_i64().with_context(|| format!("no {key} in {line}"))
}

/// Lines of one kind by a key made of them.
fn by<K: std::hash::Hash + Eq>(
    lines: &[Value],
    kind: &str,
    key: impl Fn(&Value) -> Option<K>,
) -> HashMap<K, Value> {
    let lines = lines.iter().filter(|line| line["type"] == kind);
    lines.filter_map(|line| Some((key(line)?, line.clone()))).collect()
}

#[test]
fn what_an_entry_met_on_three_hops_is_the_sum_of_what_its_packets_met() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let plan = |i: usize| Plan {
        seed: i.saturating_sub(1),
        cut: (0..4).filter(|other| i.abs_diff(*other) > 1).collect(),
        ..Plan::default()
    };
    let mut cluster = Cluster::start(&[plan(0), plan(1), plan(2), plan(3)])?;
    let capture = Capture::start(&cluster.hosts, 200_000)?;
    let started = Stopwatch::start();
    // By key: CLOCK_MONOTONIC before the node was told to set it and after it had.
    let mut made: HashMap<String, (i64, i64)> = HashMap::new();
    for n in 0..CHANGES {
        let (key, before) = (format!("change {n}"), mono_now().as_nanos());
        cluster.nodes[0].set(&key, "value")?;
        made.insert(key, (before, mono_now().as_nanos()));
        // The pace of the load, not a wait for anything.
        std::thread::sleep((PACE * (n as u32 + 1)).saturating_sub(started.elapsed()));
    }
    let last = format!("change {}", CHANGES - 1);
    wait_for("the last change to come to the other end", PATIENCE, || {
        let held = cluster.nodes[3].get(&last)?;
        Ok(held.as_array().is_some_and(|held| !held.is_empty()).then_some(()))
    })?;
    let captured = capture.stop()?;
    ensure!(captured.omitted + captured.missed + captured.unstamped == 0, "{captured:?}");
    for node in std::mem::take(&mut cluster.nodes) {
        node.stop()?;
    }

    let mut edges = Edges::new();
    for stamp in &captured.stamps {
        let id = stamp.key.packet_id().map(|id| id.to_u64());
        let (Some(from), Some(to), Some(id)) = (stamp.from.index(), stamp.to.index(), id) else { continue };
        let [left, came] = edges.entry((from, to, id)).or_default();
        let at = stamp.at.as_nanos();
        // The switch sees it too, in between.
        match stamp.direction {
            Direction::Sent => *left = Some(left.map_or(at, |first| first.min(at))),
            Direction::Received => *came = Some(came.map_or(at, |last| last.max(at))),
        }
    }
    let records =
        (0..4).map(|i| read_record(&record(cluster.dir.path(), i))).collect::<Result<Vec<Vec<Value>>>>()?;
    let of_a = |line: &Value| {
        let key = line["key"].as_str().filter(|_| line["origin"] == "a")?;
        Some(key.to_owned())
    };
    let entries: Vec<HashMap<String, Value>> = records.iter().map(|lines| by(lines, "entry", of_a)).collect();
    let sent: Vec<HashMap<(String, u64), Value>> = records
        .iter()
        .map(|lines| by(lines, "tx", |line| Some((line["to"].as_str()?.to_owned(), line["id"].as_u64()?))))
        .collect();
    let received: Vec<HashMap<(String, u64), Value>> = records
        .iter()
        .map(|lines| by(lines, "rx", |line| Some((line["from"].as_str()?.to_owned(), line["id"].as_u64()?))))
        .collect();

    let error = captured.error.as_nanos();
    let mut estimated = 0;
    let (mut offs, mut bounds, mut kernels, mut totals, mut shares) =
        (vec![], vec![], vec![], vec![], vec![]);
    for (key, entry) in entries[3].iter().filter(|(key, _)| made.contains_key(*key)) {
        assert_eq!(entry["hops"], 3, "{entry}");
        // No relay knows yet when this very packet left its sender, and says so.
        estimated += usize::from(entry["egress_estimated"] == true);
        let mut truth = Some([0, 0]);
        let mut arrival = None;
        for to in 1..4 {
            let hop = entries[to].get(key);
            let packet = hop.and_then(|hop| {
                assert_eq!(hop["from"], name(to - 1), "{hop}");
                hop["id"].as_u64()
            });
            let seen = packet.and_then(|id| {
                let [left, came] = *edges.get(&(to - 1, to, id))?;
                let tx = sent[to - 1].get(&(format!("{}:7176", Port::host(to).v4()), id))?;
                let rx = received[to].get(&(name(to - 1), id))?;
                arrival = rx["t7_mono_ns"].as_i64();
                let ingress = rx["t5_mono_ns"].as_i64()? - rx["t4_mono_ns"].as_i64()?;
                let egress = left? - tx["t1_mono_ns"].as_i64()?;
                Some([came? - left?, ingress + egress])
            });
            truth = truth.zip(seen).map(|(sum, hop)| [sum[0] + hop[0], sum[1] + hop[1]]);
        }
        let (Some([network, kernel]), Some(arrival)) = (truth, arrival) else { continue };
        let [said, bound] = [number(entry, "network_ns")?, number(entry, "network_bound_ns")?];
        offs.push((said - network).abs());
        bounds.push((bound, (said - network).abs() <= bound + error + SOONER));
        let kernel_bound = number(entry, "kernel_bound_ns")?;
        kernels.push(((number(entry, "kernel_ns")? - kernel).abs(), kernel_bound));
        let total = number(entry, "total_ns")?;
        let parts =
            number(entry, "network_ns")? + number(entry, "kernel_ns")? + number(entry, "application_ns")?;
        assert_eq!(parts, total, "{entry}");
        // From being told to set it until it was applied at the other end, by the clock that both hosts share.
        let (before, after) = made[key];
        let slack = number(entry, "total_bound_ns")? + error;
        assert!(total <= arrival - before + slack, "{total} in total, {} at most", arrival - before);
        assert!(total >= arrival - after - slack, "{total} in total, {} at least", arrival - after);
        totals.push(total);
        shares.push(number(entry, "application_ns")?);
    }
    let within = bounds.iter().filter(|(_, within)| *within).count();
    let p = |values: &[i64], q| quantile(values.iter().copied(), q);
    println!(
        "{} of {CHANGES} changes followed over 3 hops: network off by {} ns at p50 and {} at p99 with a bound of {} at p50, \
         within it for {within}; kernel off by {} ns at p50 with a bound of {}; total {} ns at p50, application {}",
        offs.len(),
        p(&offs, 0.5),
        p(&offs, 0.99),
        quantile(bounds.iter().map(|(bound, _)| *bound), 0.5),
        quantile(kernels.iter().map(|(off, _)| *off), 0.5),
        quantile(kernels.iter().map(|(_, bound)| *bound), 0.5),
        p(&totals, 0.5),
        p(&shares, 0.5),
    );
    assert!(
        estimated * 10 >= CHANGES * 9,
        "the senders' parts are estimates in only {estimated} of {CHANGES}"
    );
    assert!(offs.len() * 10 >= CHANGES * 8, "only {} of {CHANGES} could be followed", offs.len());
    assert!(within * 100 >= offs.len() * 95, "{within} of {}", offs.len());
    Ok(())
}
