//! Clocks whose correction changes, or that step, while something else happens.

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, Leg};
use crate::analysis::verdict::{Cause, Circumstances, PathJudge, Verdict};

/// Both directions of a path, with four journeys a second each.
struct Pair {
    judges: [PathJudge; 2],
    second: i64,
    said: [Option<Verdict>; 2],
}

/// How the journeys of a second are.
#[derive(Clone, Copy)]
struct Times {
    network: [Span; 2],
    correction: Correction,
    epochs: u64,
}

impl Times {
    fn same(network: Span, correction: Correction) -> Self {
        Self { network: [network, network], correction, epochs: 1 }
    }
}

impl Pair {
    fn new() -> Self {
        Self { judges: [PathJudge::new("a", "b"), PathJudge::new("b", "a")], second: 0, said: [None, None] }
    }

    /// Goes on for so many seconds; what was said at each of them.
    fn run(&mut self, seconds: i64, times: Times, last_step: Option<MonoNs>) -> Vec<[Cause; 2]> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            for (judge, network) in self.judges.iter_mut().zip(times.network) {
                for part in 0..4 {
                    judge.observe(&journey(self.second, part, network, times));
                }
            }
            self.second += 1;
            let now = MonoNs::from_nanos(self.second * 1_000_000_000);
            let [there, back] = [0, 1].map(|way: usize| self.judges[way].recent_change(now, 20_000));
            for ((judge, opposite), said) in self.judges.iter_mut().zip([back, there]).zip(&mut self.said) {
                let circumstances =
                    Circumstances { opposite, last_step, drift_ppb: 20_000, ..Circumstances::default() };
                *said = Some(judge.evaluate(now, &circumstances));
            }
            all.push([0, 1].map(|way: usize| self.said[way].as_ref().map_or(Cause::Unknown, |v| v.cause)));
        }
        all
    }
}

fn journey(second: i64, part: i64, network: Span, times: Times) -> Journey {
    let mut legs = [Some(Bounded::exact(Span::from_micros(20))); 7];
    legs[Leg::Network.index()] = Some(Bounded::new(network, Span::from_micros(200)));
    let counter = u32::try_from(second * 4 + part).unwrap();
    let at = MonoNs::from_nanos(second * 1_000_000_000 + part * 250_000_000);
    Journey {
        legs,
        correction: times.correction,
        stamps: Span::from_nanos(400),
        epochs: times.epochs,
        ..Journey::unknown(counter, at)
    }
}

const NORMAL: Span = Span::from_micros(100);
const LONG: Span = Span::from_millis(10);

#[test]
fn a_correction_that_changes_during_trouble_does_not_make_the_trouble_normal() {
    let mut pair = Pair::new();
    pair.run(30, Times::same(NORMAL, Correction::Fused), None);
    let said = pair.run(8, Times::same(LONG, Correction::Fused), None);
    assert_eq!(said.last(), Some(&[Cause::Network, Cause::Network]));
    // Another host's clock was found to lie, say: what corrects these times changes with it.
    let said = pair.run(60, Times::same(LONG, Correction::PeerOnly), None);
    assert!(said.iter().all(|both| *both == [Cause::Network; 2]), "{said:?}");
    let said = pair.run(10, Times::same(NORMAL, Correction::PeerOnly), None);
    assert_eq!(said.last(), Some(&[Cause::Ok, Cause::Ok]));
}

#[test]
fn a_correction_that_shifts_both_directions_is_a_clocks_and_normal_after_a_while() {
    let mut pair = Pair::new();
    pair.run(30, Times::same(NORMAL, Correction::Fused), None);
    let shifted = Times {
        network: [NORMAL + Span::from_millis(4), NORMAL - Span::from_millis(4)],
        correction: Correction::Ntp,
        epochs: 1,
    };
    let said = pair.run(60, shifted, None);
    assert!(
        said.iter().flatten().all(|cause| matches!(cause, Cause::ClockUncertain | Cause::Ok)),
        "{said:?}"
    );
    assert!(said.iter().any(|both| both.contains(&Cause::ClockUncertain)), "{said:?}");
    assert_eq!(said.last(), Some(&[Cause::Ok, Cause::Ok]));
}

#[test]
fn a_wall_clock_stepped_within_a_window_is_never_the_path_nor_a_process() {
    for step_ms in [-40, -3, 3, 40] {
        let mut pair = Pair::new();
        pair.run(30, Times::same(NORMAL, Correction::Fused), None);
        let step = Span::from_millis(step_ms);
        let at = MonoNs::from_nanos(30_000_000_000);
        // Before the step is known its journeys are of the old epoch, and wrong by all of it.
        let wrong =
            Times { network: [NORMAL + step, NORMAL - step], correction: Correction::Fused, epochs: 1 };
        let mut said = pair.run(2, wrong, None);
        said.extend(pair.run(2, wrong, Some(at)));
        let anew =
            Times { epochs: 2, correction: Correction::PeerOnly, ..Times::same(NORMAL, Correction::Ntp) };
        said.extend(pair.run(30, anew, Some(at)));
        let fine = |cause: &Cause| matches!(cause, Cause::Ok | Cause::Unknown | Cause::ClockUncertain);
        assert!(said.iter().flatten().all(fine), "{step_ms} ms: {said:?}");
        assert_eq!(said.last(), Some(&[Cause::Ok, Cause::Ok]));
    }
}
