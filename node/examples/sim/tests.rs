//! The simulator itself, on small clusters.

use clap::Parser as _;
use probe_ebpf::time::Span;

use crate::host::Host;
use crate::member::{Member, Packets};
use crate::net::Net;
use crate::options::Options;
use crate::ours::Ours;
use crate::piko::Piko;
use crate::queue::{Queue, Way};
use crate::scenario::{changes, join, kill, split};
use crate::world::{START, World};

fn options(line: &str) -> Options {
    Options::try_parse_from(std::iter::once("sim").chain(line.split_whitespace())).unwrap()
}
fn world<M: Member>(line: &str) -> (World<M>, Options) {
    let options = options(line);
    (World::new(options.plan(options.nodes[0] as usize)), options)
}
fn run<M: Member>(line: &str) -> (World<M>, changes::Figures) {
    let (mut world, options) = world(line);
    let figures = changes::run(&mut world, &options).unwrap();
    (world, figures)
}

fn every_change_reaches_all<M: Member>(within_ms: f64) {
    for loss in ["", "--loss 0.1"] {
        let (world, figures) = run::<M>(&format!("--nodes 25 --changes 5 {loss}"));
        assert_eq!((figures.changes, figures.incomplete), (5, 0));
        assert!(world.acquaintance.is_complete());
        let [half, most, all] = [figures.t50_ms, figures.t95_ms, figures.t100_ms].map(Option::unwrap);
        assert!(half > 0.2 && half <= most && most <= all, "a packet takes 0.2 ms: {half} {most} {all}");
        assert!(all < within_ms, "{all} ms");
        assert!(figures.packets_per_s_per_node > 9.0, "{}", figures.packets_per_s_per_node);
        let lost = world.net.traffic.lost as f64 / world.net.traffic.packets as f64;
        let expected = if loss.is_empty() { 0.0 } else { 0.1 };
        assert!((lost - expected).abs() < 0.02, "{lost} of the packets lost");
    }
}

#[test]
fn every_change_reaches_all_by_our_rule() {
    every_change_reaches_all::<Ours>(1000.0);
}
#[test]
fn every_change_reaches_all_by_pikos_rule() {
    every_change_reaches_all::<Piko<false>>(3000.0);
    every_change_reaches_all::<Piko<true>>(3000.0);
}

fn the_same_seed_gives_the_same_packets<M: Member>() {
    const LINE: &str =
        "--nodes 25 --changes 3 --loss 0.05 --duplicate 0.05 --reorder 0.05 --churn 60 --kill 1";
    let history = |seed: u32| {
        let (world, _) = run::<M>(&format!("{LINE} --seed {seed}"));
        (world.net.fingerprint, world.net.traffic, world.events(), world.now)
    };
    let first = history(7);
    assert_eq!(first, history(7));
    let other = history(8);
    assert!(first.0 != other.0 && first.1 != other.1);
    let traffic = first.1;
    assert!(traffic.lost > 0 && traffic.copied > 0 && traffic.held_back > 0, "{traffic:?}");
    assert!(traffic.refused > 0, "packets to the dead: {traffic:?}");
}

#[test]
fn the_same_seed_gives_the_same_packets_by_our_rule() {
    the_same_seed_gives_the_same_packets::<Ours>();
}
#[test]
fn the_same_seed_gives_the_same_packets_by_pikos_rule() {
    the_same_seed_gives_the_same_packets::<Piko<true>>();
}

#[test]
fn each_fault_changes_the_history_and_is_counted() {
    let traffic = |faults: &str| run::<Ours>(&format!("--nodes 10 --changes 1 {faults}")).0.net.traffic;
    let none = traffic("");
    assert_eq!((none.lost, none.copied, none.held_back, none.cut, none.refused), (0, 0, 0, 0, 0));
    assert!(none.stream_bytes > 0, "they joined over TCP");
    let lost = traffic("--loss 0.2");
    assert!(lost.lost > 0 && lost.copied == 0);
    let copied = traffic("--duplicate 0.2");
    assert!(copied.copied > 0 && copied.lost == 0);
    assert!(traffic("--reorder 0.2").held_back > 0);
}

#[test]
fn fixed_delays_belong_to_the_path() {
    let faults = |line: &str| options(line).plan(2).faults;
    let delays = |line: &str| {
        let (mut net, mut packets) = (Net::new(faults(line), 1), Packets::default());
        [(0, 1), (0, 1), (1, 0)].map(|(from, to)| {
            let (slot, mut queue) = (packets.put(b"packet"), Queue::default());
            net.send((Host(from), Host(to)), Way::Datagram, slot, START, &mut packets, &mut queue);
            queue.pop(START + Span::from_millis(5)).unwrap().0 - START
        })
    };
    let [first, again, back] = delays("--delay-ms 1-5 --fixed-delays");
    assert!(first == again && first != back, "{first} {again} {back}");
    let [first, again, _] = delays("--delay-ms 1-5");
    assert_ne!(first, again);
}

#[test]
fn nobody_is_held_for_unreachable_while_all_join() {
    let (mut world, _) = world::<Ours>("--nodes 25 --loss 0.01");
    let figures = join::run(&mut world).unwrap();
    assert_eq!(figures.false_unreachable, 0);
    assert_eq!(world.now - START, Span::from_secs(60));
    assert!(world.acquaintance.is_complete());
}

/// What research/gossip.md tells of Piko's detector, and a check that false alarms are seen at all.
#[test]
fn pikos_detector_raises_false_alarms_while_all_join() {
    let (mut world, _) = world::<Piko<false>>("--nodes 50 --loss 0.01");
    let figures = join::run(&mut world).unwrap();
    assert!((0.1..0.4).contains(&figures.false_share), "{}", figures.false_share);
}

#[test]
fn a_death_is_noticed_by_all() {
    let (mut world, options) = world::<Ours>("--nodes 25 --kill 2 --warm-up-s 10");
    let figures = kill::run(&mut world, &options).unwrap();
    assert_eq!((figures.unnoticed, figures.false_unreachable), (0, 0));
    let longest = figures.longest_ms.unwrap();
    assert!((100.0..5000.0).contains(&longest), "{longest} ms");
}

#[test]
fn a_split_is_noticed_and_heals() {
    let (mut world, options) = world::<Ours>("--nodes 10 --warm-up-s 10 --split-s 20");
    let figures = split::run(&mut world, &options).unwrap();
    assert_eq!(figures.parted, 10 * 9 - 2 * 5 * 4, "all on the one side gave up all on the other");
    assert!(world.net.traffic.cut > 0);
    assert!(figures.change_ms.unwrap() > 0.0 && figures.reunited_ms.unwrap() < 60_000.0);
}

#[test]
fn a_busy_node_delays_what_it_learns() {
    let until = |busy: &str| run::<Ours>(&format!("--nodes 10 --changes 5 {busy}")).1.t100_ms.unwrap();
    assert!(until("--handling-us 3000") > until("") + 2.9);
}

#[test]
fn figures_are_written_under_the_agreed_names() {
    let options = options("--nodes 5 --changes 2");
    let outcome = crate::run::<Ours>(crate::options::Rule::Ours, 5, &options).unwrap();
    let json = serde_json::to_value(&outcome).unwrap();
    for name in [
        "rule",
        "nodes",
        "interval_ms",
        "loss",
        "seed",
        "changes",
        "t50_ms",
        "t95_ms",
        "t100_ms",
        "p95_ms",
        "bytes_per_s_per_node",
        "packets_per_s_per_node",
        "false_unreachable",
        "wall_s",
    ] {
        assert!(json.get(name).is_some_and(|value| !value.is_null()), "{name} in {json:#}");
    }
    let svg = crate::plot::draw(&[outcome]);
    assert!(svg.contains("ours, N = 5") && svg.matches("<path").count() > 20 && svg.ends_with("</svg>\n"));
}
