//! Whole clusters under virtual time: how soon a killed node is seen, and that nobody else is blamed.
//!
//! Figures of a run (seconds from the kill until the first, the median, the last node has seen it), printed with
//! `--nocapture`.

use super::super::sim::{Running, Sim, at};
use crate::proto::Reachability;

const NOBODY: usize = usize::MAX;

/// What came of a cluster that joined together, and of node 7, killed at `killed_at`.
struct Outcome {
    /// Seconds from the kill until each other node gave it up, rising.
    detection: Vec<f64>,
    false_verdicts: usize,
    false_suspicions: usize,
}

/// All `n` join within a second; a node is killed.
fn joined_then_killed(n: usize, loss: f64, killed_at: f64) -> Outcome {
    let mut sim = Sim::new(n, loss, 1);
    sim.run_until(at(killed_at));
    let rate = sim.packets as f64 / killed_at / n as f64;
    sim.set_running(7, Running::Killed(at(killed_at)));
    let detection = (1..=20).find_map(|seconds| {
        sim.run_until(at(killed_at + f64::from(seconds)));
        sim.detection(7, at(killed_at))
    });
    let detection = detection.expect("all see it within 20 s");
    let (false_verdicts, false_suspicions) = (sim.false_verdicts(7), sim.false_suspicions(7));
    println!(
        "N={n} loss={loss}: seen after {:.1} {:.1} {:.1} s, {false_verdicts} false verdicts, {false_suspicions} \
         false suspicions, {rate:.1} packets/s per node",
        detection[0],
        detection[detection.len() / 2],
        detection[detection.len() - 1]
    );
    Outcome { detection, false_verdicts, false_suspicions }
}

/// The last node sees it within `seconds`, and nobody else is given up.
#[track_caller]
fn assert_seen_within(n: usize, loss: f64, killed_at: f64, seconds: f64) -> Outcome {
    let outcome = joined_then_killed(n, loss, killed_at);
    assert_eq!(outcome.false_verdicts, 0, "N={n} loss={loss}");
    let last = outcome.detection[outcome.detection.len() - 1];
    assert!(last <= seconds, "N={n} loss={loss}: the last saw it after {last} s");
    outcome
}

#[test]
fn trap_6_at_100_nodes_a_killed_one_is_seen_within_4_seconds_and_no_other_is_blamed() {
    for loss in [0.0, 0.01] {
        assert_eq!(assert_seen_within(100, loss, 60.0, 4.0).false_suspicions, 0);
    }
}

#[test]
fn at_100_nodes_ten_percent_loss_makes_it_slower_not_wrong() {
    assert_seen_within(100, 0.1, 60.0, 5.5);
}

#[test]
fn at_100_nodes_even_half_of_all_packets_lost_makes_nobody_unreachable() {
    assert_seen_within(100, 0.5, 60.0, 18.0);
}

#[test]
fn trap_6_at_500_nodes_none_is_blamed_within_a_minute_of_joining_together() {
    assert_eq!(assert_seen_within(500, 0.01, 60.0, 5.5).false_suspicions, 0);
}

#[test]
fn at_500_nodes_without_loss_with_ten_percent_and_with_half_of_all_packets_lost() {
    // So soon after joining most round trips are unknown, and given more time.
    assert_seen_within(500, 0.0, 5.0, 6.0);
    assert_seen_within(500, 0.1, 5.0, 7.5);
    assert_seen_within(500, 0.5, 5.0, 20.0);
}

#[test]
fn small_clusters_wait_for_no_accusers_that_they_do_not_have() {
    for n in [8, 10, 25] {
        assert_seen_within(n, 0.01, 30.0, 3.5);
    }
}

#[test]
fn a_node_killed_while_all_join_is_seen_as_well() {
    assert_seen_within(100, 0.01, 2.0, 8.0);
}

#[test]
fn a_starved_node_doubts_itself_and_is_not_given_up() {
    let mut sim = Sim::new(50, 0.01, 2);
    let (run, period) = ((at(0.03) - at(0.0)), (at(0.8) - at(0.0)));
    sim.set_running(7, Running::Starved { run, period });
    sim.run_until(at(60.0));
    assert!(sim.detector(7).health() >= 4, "{}", sim.detector(7).health());
    assert!(sim.detector(7).counters().late_ticks >= 60);
    assert!((0..50).filter(|i| *i != 7).all(|i| sim.detector(i).health() <= 2));
    let by_starved = sim.changes.iter().filter(|(by, _)| *by == 7).count();
    assert_eq!(by_starved, 0, "it suspects nobody, even for a moment");
    assert_eq!(sim.false_verdicts(NOBODY), 0);
}

#[test]
fn a_node_stopped_for_half_a_minute_blames_nobody_when_it_wakes_and_is_taken_back() {
    let mut sim = Sim::new(100, 0.01, 3);
    sim.set_running(7, Running::Paused(at(20.0), at(50.0)));
    sim.run_until(at(49.9));
    let others = || (0..100).filter(|i| *i != 7);
    assert!(others().all(|i| sim.detector(i).reachability(7) == Some(Reachability::Unreachable)));
    sim.run_until(at(110.0));
    assert_eq!(sim.changes.iter().filter(|(by, _)| *by == 7).count(), 0);
    assert!(others().all(|i| sim.detector(i).reachability(7) == Some(Reachability::Alive)));
    let taken_back =
        sim.changes.iter().map(|(_, change)| (change.at - at(50.0)).as_secs_f64()).fold(0.0, f64::max);
    assert!(taken_back < 3.0, "the last took it back after {taken_back} s");
    assert_eq!(sim.detector(7).health(), 0, "and it trusts itself again");
}

#[test]
fn a_node_cut_off_doubts_itself_long_before_it_gives_all_others_up() {
    let mut sim = Sim::new(100, 0.0, 4);
    sim.cut(7, at(20.0), at(35.0));
    sim.run_until(at(35.0));
    assert!(sim.detector(7).counters().silences >= 5);
    assert_eq!(sim.detector(7).health(), 8);
    assert_eq!(
        sim.false_verdicts(NOBODY) - sim.false_verdicts(7),
        99,
        "given up by each of the others, and no more"
    );
    sim.run_until(at(60.0));
    for (a, b) in (0..100).map(|i| (i, 7)).filter(|(a, b)| a != b) {
        assert_eq!(sim.detector(a).reachability(b), Some(Reachability::Alive), "{a} on {b}");
        assert_eq!(sim.detector(b).reachability(a), Some(Reachability::Alive), "{b} on {a}");
    }
}

#[test]
fn two_that_cannot_talk_to_each_other_do_not_trouble_the_cluster() {
    let mut sim = Sim::new(20, 0.0, 5);
    sim.broken = Some((3, 7));
    sim.run_until(at(300.0));
    assert_eq!(sim.false_verdicts(NOBODY), 0);
    for (a, b) in [(3, 7), (7, 3)] {
        let counters = sim.detector(a).counters();
        assert!((1..=8).contains(&counters.accusations), "{a} accused {b} {} times", counters.accusations);
    }
    let bystanders = (0..20).filter(|i| ![3, 7].contains(i));
    let accusations: u64 = bystanders.map(|i| sim.detector(i).counters().accusations).sum();
    assert_eq!(accusations, 0);
}

#[test]
fn v0_nodes_are_judged_by_what_each_node_sees_itself() {
    let mut sim = Sim::new(100, 0.01, 6);
    for node in 0..30 {
        sim.make_v0(node);
    }
    sim.run_until(at(60.0));
    assert_eq!(sim.false_verdicts(NOBODY), 0);
    sim.set_running(7, Running::Killed(at(60.0)));
    sim.run_until(at(80.0));
    let detection = sim.detection(7, at(60.0)).expect("all of ours see it");
    let last = detection[detection.len() - 1];
    println!("v0 node seen after {:.1} to {last:.1} s", detection[0]);
    assert!(last < 7.0, "{last} s");
    assert_eq!(sim.false_verdicts(7), 0);
}

#[test]
fn the_same_seed_gives_the_same_story() {
    let story = |seed| {
        let mut sim = Sim::new(30, 0.5, seed);
        sim.set_running(7, Running::Killed(at(10.0)));
        sim.run_until(at(30.0));
        (sim.changes, sim.packets)
    };
    assert_eq!(story(8), story(8));
    assert_ne!(story(8), story(9));
}
