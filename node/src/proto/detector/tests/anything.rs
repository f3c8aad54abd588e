//! Calls in any order, at any time.

use probe_ebpf::time::{MonoNs, Span};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::super::{Config, Contact, Detector, Finding, Reachability, Transition};

#[derive(Clone, Copy, Debug)]
enum Step {
    Learn(u8, u64, bool),
    Remove(u8),
    Asked(u8),
    Heard(u8, bool),
    Measured(u8, i64),
    Advanced(u8, u64),
    Accused(u8, u8, u64),
    Tick,
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let version = || prop_oneof![0..40u64, any::<u64>()];
    prop_oneof![
        (0..6u8, version(), any::<bool>()).prop_map(|(p, v, d)| Step::Learn(p, v, d)),
        (0..6u8).prop_map(Step::Remove),
        (0..6u8).prop_map(Step::Asked),
        (0..6u8, any::<bool>()).prop_map(|(p, a)| Step::Heard(p, a)),
        (0..6u8, any::<i64>()).prop_map(|(p, t)| Step::Measured(p, t)),
        (0..6u8, version()).prop_map(|(p, v)| Step::Advanced(p, v)),
        (0..6u8, 0..6u8, version()).prop_map(|(p, b, v)| Step::Accused(p, b, v)),
        Just(Step::Tick),
        prop_oneof![0..2_000_000_000i64, -1000..1000i64, any::<i64>()].prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever is called in whatever order, at whatever times: no panic, no endless tick, one timer for each
    /// peer, and findings only about peers.
    #[test]
    fn anything_may_happen(steps in proptest::collection::vec(step(), 0..300), start in any::<i64>()) {
        let mut now = MonoNs::from_nanos(start);
        let mut rng = StdRng::seed_from_u64(7);
        let mut detector = Detector::<u8>::new(Config::new(Span::from_millis(100), 1), now);
        for step in steps {
            match step {
                Step::Learn(p, v, d) => detector.learn(p, v, d, now),
                Step::Remove(p) => detector.remove(p),
                Step::Asked(p) => detector.asked(p, now),
                Step::Heard(p, a) => {
                    detector.heard(p, if a { Contact::Answer } else { Contact::Other }, now);
                    prop_assert!(detector.reachability(p).is_none_or(|r| r == Reachability::Alive));
                }
                Step::Measured(p, t) => detector.measured(p, Span::from_nanos(t)),
                Step::Advanced(p, v) => {
                    detector.advanced(p, v, now);
                }
                Step::Accused(p, b, v) => {
                    detector.accused(p, b, v, now, &mut rng);
                }
                Step::Tick => {
                    let mut out = Vec::new();
                    detector.tick(now, &mut rng, &mut out);
                    prop_assert!(out.len() <= 4 * 6, "{out:?}");
                    for finding in out {
                        let (Finding::Probe(p) | Finding::Accuse { peer: p, .. }
                            | Finding::Changed(Transition { peer: p, .. })) = finding;
                        prop_assert!(detector.reachability(p).is_some());
                    }
                }
                Step::Pass(ns) => now = now + Span::from_nanos(ns),
            }
            let timers: Vec<_> = detector.timers.iter().map(|(at, peer)| (*peer, *at)).collect();
            let mut wakes: Vec<_> = detector.peers.iter().map(|(peer, record)| (*peer, record.wake.unwrap())).collect();
            wakes.sort_by_key(|(peer, at)| (*at, *peer));
            prop_assert_eq!(timers, wakes);
            prop_assert!(detector.health() <= 8 && (0.0..=1.0).contains(&detector.loss()));
        }
    }
}
