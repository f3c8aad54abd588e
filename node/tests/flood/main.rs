//! Hostile traffic at a running node, without end: nothing of it changes the state, takes memory, or slows good peers
//! down, and no stranger is sent more than it sent.
//!
//! 100,000 datagrams are fired, or as many as the environment variable `PIKOSCOPE_FLOOD` says:
//!
//! ```text
//! PIKOSCOPE_FLOOD=1000000 cargo test --release -p pikoscope --test flood -- --nocapture
//! ```
//!
//! The rate is chosen by what a datagram costs the node here (a debug build is many times slower), so that it has
//! half of a processor left: whoever fills a whole processor, or the link, slows any node down.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod real;
mod strangers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pikoscope::control::watch::Change;
use probe_user::clock::mapping::mono_now;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use real::real_packets;
use serde_json::Value;
use strangers::{Strangers, goodbye_is_answered, hostile_connections};
use support::arsenal::Arsenal;
use support::trio::{Trio, count};
use support::{alone, name, quantile};
use xtask::rig::{Control, Stopwatch, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams, if nothing else is asked for.
const DATAGRAMS: u64 = 100_000;
/// The node under fire.
const TARGET: usize = 1;
/// Share of a processor that the flood may take from the node.
const SHARE: f64 = 0.4;
/// Datagrams per second, at most.
const RATE_MAX: f64 = 15_000.0;
/// The flood comes in waves, so that undisturbed gossip is measured in the same run.
const WAVE: Duration = Duration::from_millis(400);
const CALM: Duration = Duration::from_millis(300);
/// Good peers set a key this often.
const PACE: Duration = Duration::from_millis(25);
/// Growth of resident memory that is allowed.
const GROWTH_KB: u64 = 5_000;

/// What a node told of its changes.
struct Watch {
    changes: Arc<Mutex<Vec<Change>>>,
}

impl Watch {
    fn begin(control: &Control) -> Result<Self> {
        let mut stream = UnixStream::connect(control.path())?;
        stream.write_all(b"{\"cmd\":\"watch\"}\n")?;
        let mut lines = BufReader::new(stream).lines();
        lines.next().context("no answer")??;
        let changes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&changes);
        thread::spawn(move || {
            // It ends with the node.
            for line in lines.map_while(Result::ok) {
                if let Ok(change) = serde_json::from_str(&line) {
                    told.lock().unwrap().push(change);
                }
            }
        });
        Ok(Self { changes })
    }

    /// When each change of a key came, by whose and version; and everything else.
    fn told(&self) -> (BTreeMap<(String, u64), i64>, Vec<Change>) {
        let (mut upserts, mut others) = (BTreeMap::new(), Vec::new());
        for change in self.changes.lock().unwrap().iter() {
            match change {
                Change::Upsert { node, key, version, at_mono_ns, .. } if key.starts_with("good") => {
                    upserts.insert((node.clone(), *version), *at_mono_ns);
                }
                other => others.push(other.clone()),
            }
        }
        (upserts, others)
    }
}

/// Sets keys at all nodes in turn until told to stop; returns what each holds then.
fn good_peers(controls: &[Control], stop: &AtomicBool) -> Result<Vec<BTreeMap<String, String>>> {
    let mut held = vec![BTreeMap::new(); controls.len()];
    let started = Stopwatch::start();
    for n in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let i = n as usize % controls.len();
        let (key, value) = (format!("good {}", n / 3 % 5), n.to_string());
        controls[i].set(&key, &value)?;
        held[i].insert(key, value);
        thread::sleep((PACE * (n + 1)).saturating_sub(started.elapsed()));
    }
    Ok(held)
}

fn resident_kb(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time of all its threads so far, in nanoseconds.
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().context("no schedstat")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Rejected datagrams by reason, and how many never reached the node's hands.
fn accounts(trio: &Trio) -> Result<(BTreeMap<String, u64>, u64)> {
    let report = trio.nodes[TARGET].status()?;
    Ok((serde_json::from_value(report["rejected"].clone())?, count(&report["accounting"]["rcvbuf_dropped"])))
}

/// All three nodes know the same versions and numbers of entries of each other.
fn agreed(trio: &Trio) -> Result<Vec<Value>> {
    wait_for("all to agree", PATIENCE, || {
        let views = (trio.nodes.iter())
            .map(|node| {
                let mut members = node.status()?["members"].as_array().context("members")?.clone();
                members.sort_by_key(|member| member["id"].to_string());
                for member in members.iter_mut().filter_map(Value::as_object_mut) {
                    ensure!(member["status"] == "alive", "{member:?}");
                    // What each measures for itself.
                    member.remove("round_trip_ns");
                }
                Ok(members)
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(views.iter().all(|view| *view == views[0]), "{views:?}");
        Ok(Some(views[0].clone()))
    })
}

fn version(members: &[Value], i: usize) -> u64 {
    count(&members[i]["version"])
}

#[test]
fn a_flood_changes_nothing_and_slows_nobody() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let total = match std::env::var("PIKOSCOPE_FLOOD") {
        Ok(number) => number.parse().context("PIKOSCOPE_FLOOD")?,
        Err(_) => DATAGRAMS,
    };
    let mut trio = Trio::start(|_, spec| spec.probe = "ebpf")?;
    trio.gossip_goes_on("before")?;
    let real = real_packets(&trio)?;
    // Whoever sees a packet may answer it in its receiver's name for a moment. By then what was seen here is too old.
    for n in 0..20 {
        trio.gossip_goes_on(&format!("later {n}"))?;
    }
    let members = (0..3).map(|i| (name(i), trio.address(i))).collect();
    let mut arsenal = Arsenal::new(&name(TARGET), trio.address(TARGET), members, real);
    let mut strangers = Strangers::new(&trio)?;
    let mut random = StdRng::seed_from_u64(11);
    let pid = trio.nodes[TARGET].process().pid();

    // What one costs; and the node's memory gets its usual size.
    let (mut expected, dropped_before) = accounts(&trio)?;
    let mut fire = |strangers: &mut Strangers, arsenal: &mut Arsenal| -> Result<()> {
        let shot = arsenal.shot(&mut random);
        if let Some(reason) = arsenal.refusal(&shot) {
            *expected.entry(reason.to_owned()).or_default() += 1;
        }
        strangers.fire(&shot)
    };
    let cpu = cpu_ns(pid)?;
    let warm_up = 2000.min(total);
    for n in 0..warm_up {
        fire(&mut strangers, &mut arsenal)?;
        if n % 10 == 0 {
            thread::sleep(Duration::from_millis(2));
            strangers.drain();
        }
    }
    thread::sleep(Duration::from_millis(200));
    let each_ns = (cpu_ns(pid)? - cpu) / warm_up;
    let rate = (SHARE * 1e9 / each_ns as f64).min(RATE_MAX);
    let before = (agreed(&trio)?, resident_kb(pid)?, trio.nodes[TARGET].process().log());
    println!("a datagram costs the node {each_ns} ns: {rate:.0} a second");

    let controls: Vec<Control> = trio.nodes.iter().map(|node| node.control().clone()).collect();
    let watches = controls.iter().map(Watch::begin).collect::<Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let started = Stopwatch::start();
    let cpu = cpu_ns(pid)?;
    let (mut waves, mut fired_for) = (Vec::new(), Duration::ZERO);
    let (switch, to) = (trio.hosts.switch(), trio.address(TARGET));
    let (held, connections) = thread::scope(|scope| -> Result<_> {
        let writer = scope.spawn(|| good_peers(&controls, &stop));
        let caller = scope.spawn(|| hostile_connections(switch, to, &stop));
        let mut left = total - warm_up;
        let result = (|| -> Result<()> {
            while left > 0 {
                let (wave, from) = (Stopwatch::start(), mono_now());
                let mut fired = 0;
                while left > 0 && wave.elapsed() < WAVE {
                    let due = (wave.elapsed().as_secs_f64() * rate) as u64;
                    // Who was kept waiting does not make up for it at once.
                    for _ in 0..due.saturating_sub(fired).min(left).min(40) {
                        fire(&mut strangers, &mut arsenal)?;
                        left -= 1;
                    }
                    fired = due.max(fired);
                    strangers.drain();
                    thread::sleep(Duration::from_micros(300));
                }
                fired_for += wave.elapsed();
                waves.push((from.as_nanos(), mono_now().as_nanos()));
                thread::sleep(CALM);
            }
            goodbye_is_answered(&trio)
        })();
        stop.store(true, Ordering::Relaxed);
        let held = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        let connections = caller.join().map_err(|_| anyhow::anyhow!("the caller panicked"))??;
        result?;
        Ok((held, connections))
    })?;
    let cpu = (cpu_ns(pid)? - cpu) as f64 / 1e9;
    println!(
        "{total} datagrams and {connections} connections in {:.1} s, {:.1} s of them under fire, {cpu:.1} s of processor time",
        started.elapsed().as_secs_f64(),
        fired_for.as_secs_f64()
    );
    println!("{:#?}", arsenal.made);

    // The process.
    trio.nodes[TARGET].process().ensure_running()?;
    strangers.drain();
    let after = agreed(&trio)?;
    thread::sleep(Duration::from_secs(1));
    let (rss_before, rss_after) = (before.1, resident_kb(pid)?);
    println!("resident: {rss_before} kB before, {rss_after} kB after");
    let log = trio.nodes[TARGET].process().log();
    let logged = log.strip_prefix(before.2.as_str()).context("another log")?;
    println!("logged: {logged}");

    // The state: what good peers wrote, and nothing else.
    for (i, held) in held.iter().enumerate() {
        for (key, value) in held {
            for node in &trio.nodes {
                let found = node.get(key)?;
                let of = found.as_array().context("a list")?.iter().find(|h| h["node"] == name(i));
                assert_eq!(
                    of.map(|h| &h["value"]),
                    Some(&Value::from(value.as_str())),
                    "{key} of {}",
                    name(i)
                );
            }
        }
    }
    assert_eq!(after.len(), 3, "{after:?}");
    let mut arrivals = BTreeMap::<(bool, &str), Vec<i64>>::new();
    let told: Vec<_> = watches.iter().map(Watch::told).collect();
    for (i, (upserts, others)) in told.iter().enumerate() {
        assert_eq!(others, &[], "{} was told of", name(i));
        let own = told[i].0.iter().filter(|((node, _), _)| *node == name(i));
        let mut sets = 0;
        for (key, set_at) in own {
            sets += 1;
            let Some(in_flood) = phase(&waves, *set_at) else { continue };
            for (j, (theirs, _)) in told.iter().enumerate().filter(|(j, _)| *j != i) {
                // A key set again before it was sent is seen by its later version only.
                let Some(arrived) = theirs.get(key) else { continue };
                let way = if j == TARGET {
                    "to the node under fire"
                } else if i == TARGET {
                    "from it"
                } else {
                    "between others"
                };
                arrivals.entry((in_flood, way)).or_default().push(arrived - set_at);
            }
        }
        // Beside what was set: beacons, and nothing written anew or refuted.
        let more = version(&after, i) - version(&before.0, i) - sets;
        let beacons = started.elapsed().as_secs_f64() / 4.5 + 2.0;
        assert!((more as f64) < beacons, "{}: {more} other changes", name(i));
        assert!(upserts.len() > 10, "{}", upserts.len());
    }

    // Every datagram is accounted for.
    let (rejected, dropped) = accounts(&trio)?;
    let dropped = dropped - dropped_before;
    let lacking: u64 = expected.iter().map(|(r, n)| n - rejected.get(r).copied().unwrap_or(0).min(*n)).sum();
    println!("rejected: {rejected:?}; dropped by the kernel: {dropped}");
    assert!(
        rejected.iter().all(|(reason, n)| expected.get(reason) >= Some(n)),
        "{rejected:?}, sent {expected:?}"
    );
    assert!(lacking <= dropped, "{lacking} of those to be rejected are missing, {dropped} were dropped");
    assert!(dropped * 100 <= total, "{dropped} of {total}: faster than the node can read");

    // Strangers.
    let (sent, received, worst) = strangers.totals();
    println!(
        "strangers sent {sent} bytes and were sent {received}; the most for one: {worst:.3} of what it sent"
    );
    assert!(received > 0 && worst <= 1.0, "{worst}");

    // Good peers.
    let mut slower = Vec::new();
    for way in ["to the node under fire", "from it", "between others"] {
        let [calm, flood] = [false, true].map(|phase| &arrivals[&(phase, way)]);
        let [[c50, c95], [f50, f95]] =
            [calm, flood].map(|list| [0.5, 0.95].map(|q| quantile(list.iter().copied(), q) / 1000));
        println!(
            "{way}: median {c50} us calm ({}), {f50} us under fire ({}); p95 {c95}, {f95}",
            calm.len(),
            flood.len()
        );
        slower.push((way, f50 as f64 / c50 as f64));
    }
    trio.gossip_goes_on("after")?;
    let reports = trio.finish()?;
    println!("{}", reports[TARGET]["accounting"]);
    assert!(slower.iter().all(|(_, factor)| *factor <= 2.0), "{slower:?}");
    assert!(rss_after < rss_before + GROWTH_KB, "{rss_before} kB, {rss_after} kB");
    assert!(logged.lines().count() < 20, "{logged}");
    Ok(())
}

/// Was it under fire then? `None` near the change from one to the other.
fn phase(waves: &[(i64, i64)], at: i64) -> Option<bool> {
    const MARGIN: i64 = 30_000_000;
    let last = waves.iter().rfind(|(from, _)| *from <= at)?;
    if at > last.0 + MARGIN && at < last.1 - MARGIN {
        return Some(true);
    }
    let next = waves.iter().find(|(from, _)| *from > at).map_or(i64::MAX, |(from, _)| *from);
    (at > last.1 + MARGIN && at < next - MARGIN).then_some(false)
}
