//! Traffic that means no good: real nodes at tier 1 count it, log nothing of it, and go on.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use pikoscope::wire::v1::{self, Listed, NodeRef, PacketWriter, Sender, StateSum, Step};
use probe_ebpf::parse::PacketId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::arsenal::refusal;
use support::trio::{Trio, count};
use support::{alone, http, name};
use xtask::rig::{can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams sent between looks at whether they were counted: well below what a receive buffer holds.
const BURST: usize = 50;

type Reasons = BTreeMap<String, u64>;

/// A datagram and the reason for which it is refused; `None` for one that is understood.
type Hostile = (Vec<u8>, Option<&'static str>);

fn rejected(trio: &Trio, node: usize) -> Result<Reasons> {
    Ok(serde_json::from_value(trio.nodes[node].status()?["rejected"].clone())?)
}

/// Sends all these to a node, and expects it to count each under its reason and nothing else.
fn counted(trio: &Trio, to: usize, datagrams: &[Hostile]) -> Result<()> {
    let mut expected = rejected(trio, to)?;
    for burst in datagrams.chunks(BURST) {
        for (datagram, reason) in burst {
            let sent = trio.stranger.send_to(datagram, trio.address(to))?;
            assert_eq!(sent, datagram.len());
            if let Some(reason) = reason {
                *expected.entry((*reason).to_owned()).or_default() += 1;
            }
        }
        wait_for("all to be counted", PATIENCE, || {
            let rejected = rejected(trio, to)?;
            ensure!(rejected == expected, "counted: {rejected:?}; sent: {expected:?}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// What a node answers to a stranger, and a digest such as it sends itself.
fn real_packets(trio: &Trio, of: usize) -> Result<[Vec<u8>; 2]> {
    let request = |node_id: &str| {
        let (mut packet, sender) = (Vec::new(), Sender { node_id, answers: None });
        let (id, sum) = (PacketId::default(), StateSum::default());
        let mut w = PacketWriter::digest(&mut packet, 1400, id, &sender, Step::Request, sum, &[]);
        // A stranger is sent no more than it sent, so it sends something.
        for n in 0..100 {
            w.list(Listed { node: NodeRef::of(&format!("nobody {n}")), version: 0 });
        }
        w.finish();
        packet
    };
    trio.stranger.set_read_timeout(Some(Duration::from_millis(100)))?;
    // Mutants that make sense are answered too, and may have filled the stranger's socket.
    let delta = wait_for("a delta for a stranger", PATIENCE, || {
        trio.stranger.send_to(&request("stranger"), trio.address(of))?;
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = trio.stranger.recv_from(&mut buffer) {
            if from == trio.address(of) && v1::decode(&buffer[..n])?.delta.is_some() {
                return Ok(Some(buffer[..n].to_vec()));
            }
        }
        Ok(None)
    })?;
    Ok([delta, request(&name(of))])
}

/// Datagrams that are wrong in a way of which one can say by hand what it is.
fn crafted(real: &[Vec<u8>; 2], random: &mut StdRng) -> Vec<Hostile> {
    let mut all: Vec<Hostile> = vec![(vec![], Some("truncated")), (vec![0; 65_507], Some("oversize"))];
    for packet in real {
        let with = |at: usize, value: u8| {
            let mut packet = packet.clone();
            packet[at] = value;
            packet
        };
        all.extend((0..packet.len()).map(|len| (packet[..len].to_vec(), Some("truncated"))));
        all.extend([2, 255].map(|version| (with(1, version), Some("wrong_version"))));
        all.push((with(1, 0), Some("malformed")));
        all.extend([0, 3, 255].map(|kind| (with(0, kind), Some("unknown_type"))));
        all.push((with(3, 1), Some("sealed")));
        all.push(([&packet[..], &[0]].concat(), Some("trailing")));
    }
    for len in [2, 12, 64, 512, 1400, 2048] {
        let mut garbage: Vec<u8> = (0..len).map(|_| random.random()).collect();
        garbage[1] = 77;
        all.push((garbage, Some("wrong_version")));
    }
    all
}

/// A real packet with some of its bytes changed. What is wrong with it, if anything is, only the codec knows.
fn mutated(packet: &[u8], to: usize, random: &mut StdRng) -> Hostile {
    let mut bytes = packet.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    let reason = refusal(&bytes, &name(to));
    (bytes, reason)
}

#[test]
fn bad_datagrams_are_counted_by_reason_and_gossip_goes_on() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut trio = Trio::start(|_, spec| spec.probe = "ebpf")?;
    trio.gossip_goes_on("before")?;
    let logged: Vec<String> = trio.nodes.iter_mut().map(|node| node.process().log()).collect();
    let mut random = StdRng::seed_from_u64(7);
    let mut sent = 0;
    for to in 0..3 {
        let real = real_packets(&trio, (to + 1) % 3)?;
        let own = real_packets(&trio, to)?.map(|packet| (packet, Some("own_id")));
        let crafted = crafted(&real, &mut random);
        counted(&trio, to, &crafted)?;
        counted(&trio, to, &own)?;
        let mutants: Vec<Hostile> = (0..1000).map(|i| mutated(&real[i % 2], to, &mut random)).collect();
        let understood = mutants.iter().filter(|(_, reason)| reason.is_none()).count();
        counted(&trio, to, &mutants)?;
        sent += crafted.len() + own.len() + mutants.len();
        println!(
            "to {}: {} by hand, {} mutants of which {understood} make sense",
            name(to),
            crafted.len(),
            mutants.len()
        );
    }
    trio.gossip_goes_on("after")?;
    for (i, before) in logged.iter().enumerate() {
        let now = trio.nodes[i].process().log();
        assert_eq!(now.strip_prefix(before.as_str()), Some(""), "node {} logged", name(i));
        let (metrics, rejected) = (trio.metrics(i)?, rejected(&trio, i)?);
        for (reason, n) in rejected {
            let series = format!("pikoscope_packets_rejected_total{{reason=\"{reason}\"}}");
            assert_eq!(http::sample(&metrics, &series), Some(n as f64), "{series}");
        }
    }
    let reports = trio.finish()?;
    for report in &reports {
        println!("{}: {} {}", report["id"], report["accounting"], report["rejected"]);
        assert_eq!(report["tier"], 1, "{}", report["tier_reason"]);
        let n = |key: &str| count(&report["accounting"][key]);
        assert_eq!((n("without_event"), n("unmatched"), n("late"), n("ring_failed")), (0, 0, 0, 0));
    }
    assert!(reports.iter().map(|r| count(&r["accounting"]["matched"])).sum::<u64>() > sent as u64);
    Ok(())
}

/// Waits until no thread of the process runs any more: a signal takes its time.
fn wait_stopped(pid: u32) -> Result<()> {
    wait_for("all threads to stop", PATIENCE, || {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            ensure!(status.contains("State:\tT"), "{status}");
        }
        Ok(Some(()))
    })
}

#[test]
fn a_full_ring_costs_stamps_and_nothing_else() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut trio = Trio::start(|_, spec| {
        spec.probe = "ebpf";
        spec.extra = ["--ring-bytes", "4096"].map(Into::into).into();
    })?;
    let before = trio.nodes[1].status()?["accounting"].clone();
    trio.nodes[1].process().pause()?;
    wait_stopped(trio.nodes[1].process().pid())?;
    for n in 0..300u32 {
        trio.stranger.send_to(&n.to_be_bytes(), trio.address(1))?;
    }
    trio.nodes[1].process().resume()?;
    let after = wait_for("the full ring to be counted", PATIENCE, || {
        let report = trio.nodes[1].status()?;
        let n = |key: &str| count(&report["accounting"][key]);
        // What found no room in the socket either is known from the next datagram on.
        let handled = n("without_event") + n("rcvbuf_dropped");
        ensure!(n("ring_failed") > 0 && handled >= n("ring_failed"), "{report}");
        Ok(Some(report["accounting"].clone()))
    })?;
    println!("before {before}, after {after}");
    // 4096 bytes hold fewer than 100 events of 40 bytes and a header each.
    assert!(count(&after["ring_failed"]) >= 200, "{after}");
    trio.gossip_goes_on("after")?;
    let full = wait_for("a line about the ring", PATIENCE, || {
        let log = trio.nodes[1].process().log();
        let lines = log.lines().filter(|line| line.contains("ring full")).count();
        ensure!(lines > 0, "{log}");
        Ok(Some(lines))
    })?;
    assert!(full < 20, "one line per processor is enough, not {full}");
    let reports = trio.finish()?;
    let n = |key: &str| count(&reports[1]["accounting"][key]);
    assert!(n("seen") >= 300 && n("matched") > 0, "{}", reports[1]["accounting"]);
    Ok(())
}
