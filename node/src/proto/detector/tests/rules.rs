//! One detector, rule by rule.

use probe_ebpf::time::{MonoNs, Span};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::super::{Config, Contact, Detector, Finding, Reachability, Rumour, Transition};

fn ms(n: i64) -> MonoNs {
    MonoNs::from_nanos(n * 1_000_000)
}

/// A detector with its randomness, driven tick by tick.
struct Bench {
    detector: Detector<u32>,
    rng: StdRng,
    now: i64,
}

impl Bench {
    /// Peers 1 to `peers`, long settled: each was heard just now, at 10 s.
    fn settled(peers: u32) -> Self {
        Self::with(Config::new(Span::from_millis(100), 1), peers)
    }
    fn with(config: Config, peers: u32) -> Self {
        let mut bench =
            Self { detector: Detector::new(config, ms(0)), rng: StdRng::seed_from_u64(1), now: 0 };
        for peer in (1..=peers).chain((peers < 99).then_some(99)) {
            bench.detector.learn(peer, 10, false, ms(0));
        }
        for t in (100..=10_000).step_by(100) {
            for peer in 1..=peers {
                bench.detector.heard(peer, Contact::Other, ms(t));
            }
            bench.run_to(t);
        }
        bench
    }
    /// Ticks every 10 ms up to `end`; findings with their time in ms. Peer 99 keeps talking, if it is there.
    fn run_to(&mut self, end: i64) -> Vec<(i64, Finding<u32>)> {
        let mut all = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + 10);
            self.detector.heard(99, Contact::Other, ms(self.now));
            let mut out = Vec::new();
            self.detector.tick(ms(self.now), &mut self.rng, &mut out);
            all.extend(out.into_iter().map(|finding| (self.now, finding)));
        }
        all
    }
    fn accused(&mut self, peer: u32, by: u32, version: u64) -> Rumour<u32> {
        self.detector.accused(peer, by, version, ms(self.now), &mut self.rng)
    }
    fn state(&self, peer: u32) -> Reachability {
        self.detector.reachability(peer).unwrap()
    }
    /// When a peer becomes unreachable, in ms.
    fn verdict(&mut self, peer: u32) -> i64 {
        let until = self.now + 100_000;
        while self.state(peer) != Reachability::Unreachable && self.now < until {
            self.run_to(self.now + 10);
        }
        assert_eq!(self.state(peer), Reachability::Unreachable);
        self.now
    }
}

fn probes(findings: &[(i64, Finding<u32>)], peer: u32) -> Vec<i64> {
    findings.iter().filter(|(_, finding)| *finding == Finding::Probe(peer)).map(|(at, _)| *at).collect()
}

#[test]
fn an_unanswered_request_is_repeated_quickly_then_the_peer_is_suspected_then_given_up() {
    let mut bench = Bench::settled(20);
    bench.detector.asked(1, ms(10_000));
    bench.detector.heard(1, Contact::Answer, ms(10_001));
    bench.run_to(10_100);
    assert_eq!(bench.detector.rtt(1), Some(Span::from_millis(1)));
    bench.detector.asked(1, ms(10_100));
    let findings = bench.run_to(10_890);
    assert_eq!(probes(&findings, 1), [10_300, 10_500, 10_700], "after the shortest answer timeout each");
    assert_eq!(findings.len(), 3);
    let findings = bench.run_to(10_900);
    let to_suspect =
        Transition { peer: 1, from: Reachability::Alive, to: Reachability::Suspect, at: ms(10_900) };
    assert_eq!(findings[0].1, Finding::Accuse { peer: 1, version: 10 });
    assert_eq!(findings[1].1, Finding::Changed(to_suspect));
    assert_eq!(bench.detector.unreachable_since(1), None);
    let verdict = bench.verdict(1);
    assert_eq!(verdict, 10_900 + 4_500, "one accuser: the longest time");
    assert_eq!(bench.detector.unreachable_since(1), Some(ms(verdict)));
}

#[test]
fn unknown_round_trips_are_given_more_time() {
    let mut bench = Bench::settled(20);
    bench.detector.asked(1, ms(10_000));
    assert_eq!(probes(&bench.run_to(11_000), 1), [10_500, 11_000]);
}

#[test]
fn independent_accusers_bring_the_verdict_forward_and_the_same_one_twice_does_not() {
    let verdict = |accusers: &[u32]| {
        let mut bench = Bench::settled(20);
        bench.run_to(12_000);
        for by in accusers {
            bench.accused(1, *by, 10);
        }
        bench.verdict(1) - 12_000
    };
    let (one, two, three, four) =
        (verdict(&[2]), verdict(&[2, 3]), verdict(&[2, 3, 4]), verdict(&[2, 3, 4, 5]));
    assert!(one > two && two > three && three > four, "{one} {two} {three} {four}");
    assert_eq!(verdict(&[2, 2, 2, 2]), one);
    assert_eq!(verdict(&[2, 3, 4, 5, 6, 7]), four);
    // Nobody is given up unseen: the node looked for itself.
    let mut bench = Bench::settled(200);
    bench.run_to(12_000);
    for by in 2..6 {
        bench.accused(1, by, 10);
    }
    let findings = bench.run_to(20_000);
    let unreachable = findings.iter().position(|(_, f)| {
        matches!(f, Finding::Changed(Transition { peer: 1, to: Reachability::Unreachable, .. }))
    });
    let probe = findings.iter().position(|(_, finding)| *finding == Finding::Probe(1));
    assert!(probe.unwrap() < unreachable.unwrap());
}

#[test]
fn about_ten_nodes_of_a_cluster_check_a_rumour_at_once() {
    let mut checked = 0;
    for seed in 0..400 {
        let mut bench = Bench::settled(99);
        bench.rng = StdRng::seed_from_u64(seed);
        bench.run_to(10_050);
        bench.accused(1, 2, 10);
        checked += usize::from(!probes(&bench.run_to(10_150), 1).is_empty());
    }
    assert!((20..=64).contains(&checked), "{checked} of 400, expected 40");
}

#[test]
fn rumours_are_told_apart() {
    let mut bench = Bench::settled(20);
    bench.run_to(12_000);
    assert_eq!(bench.accused(1, 1, 10), Rumour::Void, "by itself");
    assert_eq!(bench.accused(77, 2, 10), Rumour::Void, "about nobody known");
    assert_eq!(bench.accused(1, 2, 9), Rumour::Stale);
    assert_eq!(bench.accused(1, 2, 11 + (1 << 32)), Rumour::Implausible);
    assert_eq!(bench.state(1), Reachability::Alive);
    assert!(matches!(bench.accused(1, 2, 10), Rumour::Taken(Some(_))));
    assert_eq!(bench.accused(1, 2, 10), Rumour::Known);
    for by in 3..=5 {
        assert_eq!(bench.accused(1, by, 10), Rumour::Taken(None));
    }
    assert_eq!(bench.accused(1, 6, 10), Rumour::Known, "enough say so");
    let counters = bench.detector.counters();
    assert_eq!((counters.rumours_void, counters.rumours_stale, counters.rumours_implausible), (2, 1, 1));
    assert_eq!((counters.rumours_taken, counters.rumours_known, counters.suspected), (4, 2, 1));
    let labelled = |name| counters.labelled().find(|(label, _)| *label == name).unwrap().1;
    assert_eq!((labelled("rumours_stale"), labelled("rumours_taken")), (1, 4));
}

#[test]
fn any_packet_of_its_own_or_a_later_version_clears_a_suspect() {
    let mut bench = Bench::settled(20);
    bench.run_to(12_000);
    let cleared =
        Transition { peer: 1, from: Reachability::Suspect, to: Reachability::Alive, at: ms(12_000) };
    bench.accused(1, 2, 10);
    assert_eq!(bench.detector.heard(1, Contact::Other, ms(12_000)), Some(cleared));
    bench.run_to(14_000);
    bench.accused(1, 2, 12);
    assert_eq!(bench.detector.advanced(1, 12, ms(14_000)), None, "what the accuser knew already");
    let cleared = Transition { at: ms(14_000), ..cleared };
    assert_eq!(bench.detector.advanced(1, 13, ms(14_000)), Some(cleared));
    assert_eq!(bench.accused(1, 3, 12), Rumour::Stale);
    let counters = bench.detector.counters();
    assert_eq!((counters.refuted_directly, counters.refuted_by_version), (1, 1));
}

#[test]
fn a_verdict_is_undone_by_a_packet_or_a_later_version_and_the_lost_one_is_still_asked() {
    let mut bench = Bench::settled(20);
    bench.run_to(12_000);
    bench.accused(1, 2, 10);
    let verdict = bench.verdict(1);
    let asked = probes(&bench.run_to(verdict + 60_000), 1);
    assert!((6..=20).contains(&asked.len()), "{asked:?}");
    let back = bench.detector.heard(1, Contact::Answer, ms(bench.now)).unwrap();
    assert_eq!((back.from, back.to), (Reachability::Unreachable, Reachability::Alive));
    bench.run_to(bench.now + 2_000);
    bench.accused(1, 2, 10);
    bench.verdict(1);
    let back = bench.detector.advanced(1, 11, ms(bench.now)).unwrap();
    assert_eq!((back.from, back.to), (Reachability::Unreachable, Reachability::Alive));
    assert_eq!(bench.detector.counters().recovered, 2);
}

#[test]
fn own_fresh_evidence_puts_a_rumour_off_but_does_not_lose_it() {
    let mut bench = Bench::settled(200);
    bench.run_to(10_100);
    assert_eq!(bench.accused(1, 2, 10), Rumour::Taken(None), "heard 100 ms ago");
    assert_eq!(bench.state(1), Reachability::Alive);
    bench.run_to(10_990);
    assert_eq!(bench.state(1), Reachability::Alive);
    bench.run_to(11_000);
    assert_eq!(bench.state(1), Reachability::Suspect);
    assert_eq!(
        bench.accused(3, 2, 10),
        Rumour::Taken(Some(Transition {
            peer: 3,
            from: Reachability::Alive,
            to: Reachability::Suspect,
            at: ms(11_000)
        }))
    );
}

#[test]
fn a_rumour_about_a_v0_peer_only_makes_this_node_look_for_itself() {
    let mut bench = Bench::settled(20);
    bench.detector.set_direct_only(1, true);
    bench.run_to(12_000);
    for by in 2..8 {
        assert!(!matches!(bench.accused(1, by, 10), Rumour::Taken(Some(_))));
    }
    let looked = bench.run_to(12_200);
    assert_eq!(probes(&looked, 1).len(), 1);
    assert_eq!(bench.state(1), Reachability::Alive);
    bench.detector.heard(1, Contact::Answer, ms(12_210));
    let later = bench.run_to(14_000);
    assert!(later.is_empty(), "{later:?}");
    // If it does not answer, it is suspected and given up like any other.
    bench.accused(1, 2, 10);
    assert!(bench.verdict(1) < 20_000);
}

#[test]
fn nobody_is_suspected_just_after_being_learnt_or_just_after_the_start() {
    let config = Config::new(Span::from_millis(100), 1);
    let mut bench = Bench { detector: Detector::new(config, ms(0)), rng: StdRng::seed_from_u64(1), now: 0 };
    bench.detector.learn(99, 1, false, ms(0));
    for start in [0, 4_000] {
        let peer = 1 + start as u32;
        bench.detector.learn(peer, 1, false, ms(start));
        bench.detector.measured(peer, Span::from_millis(1));
        bench.detector.asked(peer, ms(start));
        let findings = bench.run_to(start + 1_990);
        assert!(probes(&findings, peer).len() > 6, "asked again and again: {findings:?}");
        assert_eq!(bench.state(peer), Reachability::Alive);
        bench.run_to(start + 2_400);
        assert_ne!(bench.state(peer), Reachability::Alive);
        bench.run_to(start + 4_000);
    }
}

#[test]
fn probes_stay_within_their_budget_when_half_of_the_cluster_dies() {
    let mut bench = Bench::settled(99);
    (1..=50).for_each(|peer| bench.detector.asked(peer, ms(10_000)));
    let findings = bench.run_to(20_000);
    let sent: Vec<i64> =
        findings.iter().filter(|(_, f)| matches!(f, Finding::Probe(_))).map(|(at, _)| *at).collect();
    for start in &sent {
        let within = sent.iter().filter(|at| (*start..start + 1_000).contains(*at)).count();
        assert!(
            within <= 48,
            "{within} in the second from {start}: more than two intervals' burst and the rate"
        );
    }
    assert!(sent.len() >= 150, "three each, at least");
    assert!(bench.detector.counters().probes_deferred > 0);
    assert!((1..=50).all(|peer| bench.state(peer) != Reachability::Alive));
}

#[test]
fn silence_alone_leads_to_a_probe_and_at_last_to_suspicion_even_without_any() {
    let mut bench = Bench::settled(99);
    // Expected every 4.95 s; phi reaches 2 after 22.8 s.
    assert!((bench.detector.phi(1, ms(32_800)).unwrap() - 2.0).abs() < 0.01);
    for t in (10_010..=32_700).step_by(10) {
        for peer in 2..99 {
            bench.detector.heard(peer, Contact::Other, ms(t));
        }
        assert_eq!(bench.run_to(t), []);
    }
    assert_eq!(bench.run_to(32_900), [(32_800, Finding::Probe(1))]);

    // 200 silent peers, and one probe a second for all of them.
    let slow = Config { probes_per_interval: 1, ..Config::new(Span::from_millis(1000), 100) };
    let mut bench = Bench::with(slow, 200);
    bench.run_to(10_000 + 55_000);
    let suspects = (1..=200).filter(|peer| bench.state(*peer) == Reachability::Suspect).count();
    assert!(suspects < 20, "{suspects}: of those whose turn for a probe came");
    bench.run_to(10_000 + 57_000);
    assert!((1..=200).filter(|p| *p != 99).all(|peer| bench.state(peer) == Reachability::Suspect));
}

#[test]
fn a_late_tick_is_not_held_against_peers_but_against_oneself() {
    let mut bench = Bench::settled(20);
    (1..=20).for_each(|peer| bench.detector.asked(peer, ms(10_000)));
    bench.accused(5, 6, 10);
    bench.now = 40_000;
    let mut out = Vec::new();
    bench.detector.tick(ms(40_000), &mut bench.rng, &mut out);
    assert_eq!(out, []);
    assert_eq!(bench.detector.health(), 8);
    assert_eq!(bench.detector.counters().late_ticks, 1);
    assert_eq!(bench.detector.counters().unanswered, 0);
    bench.run_to(42_000);
    assert!((1..=20).all(|peer| bench.state(peer) != Reachability::Unreachable));
}

#[test]
fn suspicions_proven_wrong_make_this_node_slower_to_judge() {
    let mut bench = Bench::settled(20);
    let mut first_probe = Vec::new();
    for peer in [1, 2] {
        let start = bench.now;
        bench.detector.asked(peer, ms(start));
        let findings = bench.run_to(start + 5_000);
        first_probe.push(probes(&findings, peer)[0] - start);
        assert_eq!(bench.state(peer), Reachability::Suspect);
        bench.detector.advanced(peer, 11, ms(bench.now));
        assert_eq!(bench.detector.health(), 1);
    }
    assert_eq!(first_probe[0], 500);
    assert!(first_probe[1] > 750, "{first_probe:?}");
    bench.run_to(bench.now + 1_000);
    assert_eq!(bench.detector.health(), 0);
}

#[test]
fn on_a_lossy_network_it_takes_more_failures_and_longer_suspicions() {
    let mut bench = Bench::settled(20);
    for _ in 0..100 {
        // The first request is lost, the second answered.
        bench.detector.asked(2, ms(bench.now));
        bench.run_to(bench.now + 1_020);
        bench.detector.heard(2, Contact::Answer, ms(bench.now));
    }
    let loss = bench.detector.loss();
    assert!(loss > 0.7, "{loss}");
    bench.detector.remove(1);
    bench.detector.learn(1, 10, false, ms(bench.now));
    bench.run_to(bench.now + 3_000);
    assert_eq!(bench.detector.health(), 0);
    let start = bench.now;
    for by in 3..7 {
        bench.accused(1, by, 10);
    }
    let waited = (bench.verdict(1) - start) as f64 / 1_500.0;
    let expected = 0.8 / (1.0 - loss.min(0.8));
    assert!((waited - expected).abs() < 0.05, "{waited} times the shortest, expected {expected}");
    let start = bench.now;
    bench.detector.measured(2, Span::from_millis(1));
    bench.detector.asked(2, ms(start));
    assert!(probes(&bench.run_to(start + 3_500), 2).len() > 10);
    assert_eq!(bench.state(2), Reachability::Alive);
}

#[test]
fn a_removed_peer_leaves_nothing_and_an_unknown_one_makes_nothing() {
    let mut bench = Bench::settled(1);
    bench.detector.asked(1, ms(10_000));
    bench.detector.remove(1);
    bench.detector.remove(1);
    bench.detector.asked(1, ms(10_000));
    assert_eq!(bench.detector.heard(1, Contact::Answer, ms(10_001)), None);
    assert_eq!(bench.detector.advanced(1, 99, ms(10_001)), None);
    bench.detector.measured(1, Span::from_millis(1));
    assert_eq!(bench.run_to(30_000), []);
    assert_eq!((bench.detector.reachability(1), bench.detector.last_heard(1)), (None, None));
    assert_eq!((bench.detector.phi(1, ms(0)), bench.detector.rtt(1)), (None, None));
}
