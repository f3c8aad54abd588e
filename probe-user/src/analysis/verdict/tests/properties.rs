//! What must hold for any input.

use proptest::prelude::*;

use probe_ebpf::time::{Bounded, MonoNs, Span};

use super::rng::Rng;
use super::world::{Case, Trouble, run};
use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, SourcePort};
use crate::analysis::verdict::record::{Replay, replay};
use crate::analysis::verdict::{Cause, Change, Circumstances, HostEvidence, Loss, PathJudge};

fn wild() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => 0i64..100_000_000,
        2 => -1_000_000_000_000i64..1_000_000_000_000,
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), Just(-1)],
    ]
}

prop_compose! {
    fn any_journey()(
        counter: u32, at in wild(), legs in prop::array::uniform7(prop::option::of((wild(), wild()))),
        network_has_egress: bool, queue_has_ingress: bool, correction in 0..4, stamps in wild(), epochs in 0u64..3,
        source in prop::option::of((any::<u16>(), any::<u8>())),
    ) -> Journey {
        let bounded = |(value, bound)| Bounded::new(Span::from_nanos(value), Span::from_nanos(bound));
        let corrections = [Correction::Ntp, Correction::Fused, Correction::PeerOnly, Correction::None];
        Journey {
            counter,
            at: MonoNs::from_nanos(at),
            legs: legs.map(|leg| leg.map(bounded)),
            network_has_egress,
            departed_by_hooks: false,
            queue_has_ingress,
            correction: corrections[correction as usize],
            stamps: Span::from_nanos(stamps),
            epochs,
            source: source.map(|(port, of)| SourcePort { port, of }),
        }
    }
}

/// On the heap: the tree of a whole case is large for a test's stack.
fn any_host() -> BoxedStrategy<HostEvidence> {
    (wild(), prop::array::uniform7(prop::option::of(any::<u16>())))
        .prop_map(|(age, [cpu_some, cpu_full, steal, softirq, receive_buffer, dropped, late])| HostEvidence {
            age: Span::from_nanos(age),
            softnet_dropped: dropped.map(u32::from),
            time_squeeze: None,
            cpu_some,
            cpu_full,
            steal,
            softirq,
            receive_buffer,
            late,
        })
        .boxed()
}

prop_compose! {
    fn any_circumstances()(
        change in prop::option::of((wild(), wild(), wild(), wild(), wild())), flag: bool,
        drift_ppb: u32, step in prop::option::of(wild()), host in any_host(),
    ) -> Circumstances {
        Circumstances {
            sender: Some(host),
            receiver: Some(host),
            clock_uncertain: flag,
            drift_ppb,
            opposite: change.map(|(at, value, bound, mean, stamps)| Change {
                at: MonoNs::from_nanos(at),
                network: Bounded::new(Span::from_nanos(value), Span::from_nanos(bound)),
                mean: Span::from_nanos(mean),
                stamps: Span::from_nanos(stamps),
            }),
            last_step: step.map(MonoNs::from_nanos),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_panics(
        journeys in prop::collection::vec(any_journey().boxed(), 0..200),
        told in prop::collection::vec((wild(), any_circumstances()), 1..20),
        lost: u64,
    ) {
        let mut judge = PathJudge::new("a", "b");
        for chunk in journeys.chunks(20) {
            chunk.iter().for_each(|journey| judge.observe(journey));
            for (now, circumstances) in &told {
                let now = MonoNs::from_nanos(*now);
                judge.observe_loss(now, &Loss { lost_outside: lost, received: lost, ..Loss::default() });
                let _ = judge.recent_change(now, circumstances.drift_ppb);
                let verdict = judge.evaluate(now, circumstances);
                prop_assert!(verdict.evidence.starts_with("a to b: "));
            }
        }
    }

    /// Journeys with the same time, in another order.
    #[test]
    fn the_order_of_arrival_is_of_no_matter(
        journeys in prop::collection::vec(any_journey().boxed(), 1..100), seed: u64, circumstances in any_circumstances().boxed(),
    ) {
        let judge = |journeys: &[Journey]| {
            let mut judge = PathJudge::new("a", "b");
            (1..12).map(|second| {
                for journey in journeys {
                    judge.observe(&Journey { at: MonoNs::from_nanos(second * 1_000_000_000), ..*journey });
                }
                judge.evaluate(MonoNs::from_nanos(second * 1_000_000_000 + 1), &circumstances)
            }).collect::<Vec<_>>()
        };
        let mut shuffled = journeys.clone();
        let mut rng = Rng(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, (rng.next() % (i as u64 + 1)) as usize);
        }
        prop_assert_eq!(judge(&journeys), judge(&shuffled));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_constant_clock_offset_changes_no_verdict(seed: u64, offset in -100.0f64..100.0, kind in 0..5) {
        let trouble = [
            Trouble::Delay(0.003, 0.0),
            Trouble::Stopped(0.2),
            Trouble::RateLimited(0.02),
            Trouble::Slew(0.01),
            Trouble::Delay(0.0011, 0.0011),
        ][kind as usize];
        let case = Case { quiet: 10.0, lasts: 12.0, ..Case::new(seed, &[trouble]) };
        let causes = |case: &Case| {
            let outcome = run(case);
            let cause = |(_, verdict): &(f64, crate::analysis::verdict::Verdict)| (verdict.cause, verdict.also);
            outcome.there.iter().chain(&outcome.back).map(cause).collect::<Vec<_>>()
        };
        prop_assert_eq!(causes(&case), causes(&Case { offset, ..case.clone() }));
    }
}

#[test]
fn a_file_replays_to_the_same_verdicts() {
    for (seed, trouble) in [(1, Trouble::Stopped(0.2)), (2, Trouble::Lost(0.08)), (3, Trouble::Lie(0.02))] {
        let case = Case { quiet: 12.0, lasts: 10.0, ..Case::new(seed, &[trouble]) };
        let outcome = run(&case);
        let replayed = replay(&outcome.file).unwrap();
        assert_eq!(replayed.len(), outcome.there.len() + outcome.back.len());
        for evaluation in &replayed {
            assert!(evaluation.is_same(), "{evaluation:?}");
        }
        // A file of other verdicts is not the same.
        let other = outcome.file.replace("\"cause\":\"ok\"", "\"cause\":\"network\"");
        assert!(replay(&other).unwrap().iter().any(|evaluation| !evaluation.is_same()));
    }
}

#[test]
fn a_file_that_is_none_is_refused_with_its_line() {
    let text = |result: Result<Vec<_>, crate::analysis::verdict::record::RecordError>| {
        result.unwrap_err().to_string()
    };
    assert!(text(replay("hello\n")).contains("begins with hello"));
    let head = "{\"line\":\"head\",\"version\":1,\"host\":\"h\"}";
    assert!(text(replay(&format!("{head}\n\n{{}}\n"))).starts_with("line 3 is not a record"));
    assert!(text(replay(&head.replace('1', "9"))).contains("version 1"));
    let mut lines = Replay::default();
    assert!(lines.line(head).unwrap().is_none() && lines.line("").unwrap().is_none());
}

#[test]
fn too_few_journeys_are_unknown_and_the_sentence_says_how_many() {
    let case = Case { rate: 0.3, quiet: 30.0, ..Case::new(1, &[]) };
    let outcome = run(&case);
    let (_, last) = outcome.there.last().unwrap();
    assert_eq!(last.cause, Cause::Unknown);
    assert!(last.evidence.contains("of 8 journeys in 15 s"), "{}", last.evidence);
}

#[test]
fn memory_is_bounded_at_any_rate() {
    let case = Case { rate: 500.0, quiet: 15.0, lasts: 15.0, ..Case::new(1, &[Trouble::Stopped(0.2)]) };
    let outcome = run(&case);
    let (_, last) = outcome.there.last().unwrap();
    assert_eq!(last.cause, Cause::ReceiverProcess, "{last:?}");
    assert!(last.samples <= 128);
}
