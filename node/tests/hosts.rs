//! The whole thing on three hosts: real packets, real probe, real NTP readings, held against the truth that
//! the hosts' shared CLOCK_MONOTONIC gives.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::{Cluster, Packet, Plan, alone, http, quantile};
use xtask::rig::{can_make_hosts, wait_for};

const US: i64 = 1_000;
const MS: i64 = 1_000_000;

/// Every final report's accounting closes, and next to nothing went unmatched.
fn accounting_closes(reports: &[serde_json::Value]) {
    for report in reports {
        let a = &report["accounting"];
        let n = |key: &str| a[key].as_u64().expect("a number");
        assert_eq!(report["tier"], 1, "{}", report["tier_reason"]);
        assert_eq!(n("pending"), 0);
        assert_eq!(
            n("seen"),
            n("matched") + n("unmatched") + n("late") + n("ring_failed") + n("dropped"),
            "{a}"
        );
        assert!((n("unmatched") + n("late")) * 1000 <= n("seen"), "{a}");
    }
}

fn covered(packets: &[Packet]) -> f64 {
    packets.iter().filter(|p| p.error_ns() <= p.bound_ns).count() as f64 / packets.len() as f64
}

#[test]
fn corrected_network_time_is_the_truth_within_its_bound() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let cluster = Cluster::start(&[Plan::default(), Plan::default(), Plan::default()])?;
    cluster.write_to(&[0, 1, 2], Duration::from_secs(15))?;
    let (reports, packets) = cluster.finish()?;
    accounting_closes(&reports);
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let n = packets.iter().filter(|p| (p.from, p.to) == (from, to)).count();
            assert!(n >= 100, "{n} packets from {from} to {to}");
        }
    }
    let error = |q| quantile(packets.iter().map(Packet::error_ns), q);
    println!(
        "{} packets: error p50 {} ns, p99 {} ns, max {} ns; bound p50 {} ns; covered {:.3} %",
        packets.len(),
        error(0.5),
        error(0.99),
        error(1.0),
        quantile(packets.iter().map(|p| p.bound_ns), 0.5),
        100.0 * covered(&packets)
    );
    assert!(error(0.5) <= 20 * US, "error at p50: {} ns", error(0.5));
    assert!(covered(&packets) >= 0.999, "covered: {}", covered(&packets));
    Ok(())
}

#[test]
fn a_skewed_clock_is_corrected_by_its_ntp_reading() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let slow = Plan { clock_error_ns: -50 * MS, chrony_offset: 0.05, ..Plan::default() };
    let mut cluster = Cluster::start(&[Plan::default(), slow, Plan::default()])?;
    cluster.write_to(&[0, 1, 2], Duration::from_secs(10))?;

    let metrics = cluster
        .hosts
        .get(1)
        .context("host b")?
        .namespace()
        .within(|| http::get(([127, 0, 0, 1], 7177).into(), "/metrics"))??;
    let skew = http::sample(&metrics, "piko_gossip_clock_skew_seconds").context("no skew in the metrics")?;
    assert!((skew + 0.05).abs() < 1e-3, "piko_gossip_clock_skew_seconds is {skew}");

    // Its chronyd's upstream dies: the leap status stays normal, only age tells.
    let before = cluster.nodes[1].status()?["clock"].clone();
    assert_eq!((before["source"].as_str(), before["state"].as_str()), (Some("chrony"), Some("synchronised")));
    cluster.server.process().kill()?;
    let free = wait_for("node b to call its clock free-running", Duration::from_secs(60), || {
        let clock = cluster.nodes[1].status()?["clock"].clone();
        ensure!(clock["state"] == "free_running", "{clock}");
        Ok(Some(clock))
    })?;
    let bound = |clock: &serde_json::Value| clock["bound_ns"].as_i64().expect("a bound");
    let later = wait_for("the bound to grow on", Duration::from_secs(20), || {
        let clock = cluster.nodes[1].status()?["clock"].clone();
        ensure!(bound(&clock) > bound(&free), "{clock}");
        Ok(Some(clock))
    })?;
    println!(
        "bound: {} ns synchronised, {} ns, then {} ns free-running",
        bound(&before),
        bound(&free),
        bound(&later)
    );
    assert!(bound(&free) > bound(&before));
    // Its age, which is in the line, changes with every reading.
    let log = cluster.nodes[1].process().log();
    assert_eq!(log.lines().filter(|line| line.contains("has not updated its clock")).count(), 1, "{log}");

    let (reports, packets) = cluster.finish()?;
    accounting_closes(&reports);
    for (from, to, raw) in [(0, 1, -50 * MS), (1, 0, 50 * MS), (2, 1, -50 * MS), (1, 2, 50 * MS)] {
        let path: Vec<&Packet> = packets.iter().filter(|p| (p.from, p.to) == (from, to)).collect();
        let uncorrected = quantile(path.iter().map(|p| p.uncorrected_ns - p.truth_ns), 0.5);
        let error = quantile(path.iter().map(|p| p.error_ns()), 0.5);
        println!("{from} to {to}: uncorrected off by {uncorrected} ns, corrected by {error} ns at p50");
        assert!((uncorrected - raw).abs() < MS, "uncorrected off by {uncorrected} ns instead of {raw}");
        assert!(error <= 200 * US, "corrected is off by {error} ns at p50");
    }
    assert!(covered(&packets) >= 0.999, "covered: {}", covered(&packets));
    Ok(())
}

#[test]
fn a_stopped_receiver_is_blamed_and_the_network_is_not() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    // Often enough that a stop meets many packets: a p99 of a few dozen would be a matter of luck.
    let busy = Plan { extra: vec!["--interval-ms".into(), "20".into()], ..Plan::default() };
    let run = |stop: bool| -> Result<Vec<Packet>> {
        let mut cluster = Cluster::start(&[busy.clone(), busy.clone(), Plan::default()])?;
        let mut stopped = 0u32;
        if stop {
            let pid = cluster.nodes[2].process().pid();
            let pulses = std::thread::spawn(move || pulse(pid, 12));
            cluster.write_to(&[0, 1], Duration::from_secs(13))?;
            stopped = pulses.join().expect("no panic")?;
        } else {
            cluster.write_to(&[0, 1], Duration::from_secs(8))?;
        }
        assert_eq!(stopped, if stop { 12 } else { 0 });
        let (reports, packets) = cluster.finish()?;
        accounting_closes(&reports);
        Ok(packets)
    };
    let to_c = |packets: &[Packet]| -> (i64, i64, i64) {
        let p: Vec<&Packet> = packets.iter().filter(|p| p.to == 2).collect();
        let network = quantile(p.iter().map(|p| p.network_ns), 0.5);
        let queue = |q| quantile(p.iter().filter_map(|p| p.socket_queue_ns), q);
        (network, queue(0.5), queue(0.99))
    };
    let (quiet, stopped) = (to_c(&run(false)?), to_c(&run(true)?));
    println!(
        "to c, network p50 / socket queue p50 / p99 in ns: undisturbed {quiet:?}, stopped in pulses {stopped:?}"
    );
    assert!((stopped.0 - quiet.0).abs() < MS, "network moved");
    assert!((150 * MS..=260 * MS).contains(&stopped.2), "socket queue at p99: {} ns", stopped.2);
    assert!(quiet.2 < 50 * MS, "socket queue at p99 without any stop: {} ns", quiet.2);
    Ok(())
}

/// Stops a process for 200 ms once a second, `times` times.
fn pulse(pid: u32, times: u32) -> Result<u32> {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    for _ in 0..times {
        kill(pid, Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(200));
        kill(pid, Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(800));
    }
    Ok(times)
}
