//! Causes that stand: hysteresis over evaluations.

use probe_ebpf::time::{MonoNs, Span};

use super::{Cause, Confidence};

/// Evaluations in a row that must find a cause before it is said.
const ENTER: u8 = 2;
/// Evaluations in a row that must not find it before it is no more said.
const LEAVE: u8 = 3;

/// A cause as one evaluation finds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) cause: Cause,
    /// What orders causes: excess time per journey, losses after all of that.
    pub(super) weight: Span,
    pub(super) effect: Span,
    pub(super) confidence: Confidence,
    /// Why, as a part of a sentence.
    pub(super) why: String,
}

#[derive(Clone, Debug)]
struct Kept {
    found: Found,
    since: MonoNs,
    seen: u8,
    missed: u8,
    stands: bool,
}

/// The causes of a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Sorted by cause.
    kept: Vec<Kept>,
}

/// Causes that explain the same time: when one of them is found, another one found before does not stay for that reason.
fn same_time(a: Cause, b: Cause) -> bool {
    let crossing =
        |cause| matches!(cause, Cause::Network | Cause::NetworkOrHostSoftirq | Cause::ClockUncertain);
    a != b && crossing(a) && crossing(b)
}

impl Standing {
    /// Takes an evaluation's findings.
    pub(super) fn update(&mut self, now: MonoNs, found: Vec<Found>) {
        let causes: Vec<Cause> = found.iter().map(|found| found.cause).collect();
        for kept in &mut self.kept {
            if !causes.contains(&kept.found.cause) {
                kept.seen = 0;
                kept.missed += 1;
            }
        }
        let mut inherited = None;
        self.kept.retain(|kept| {
            let displaced = kept.missed > 0 && causes.iter().any(|cause| same_time(*cause, kept.found.cause));
            if displaced && kept.stands {
                inherited = Some(kept.since);
            }
            !displaced && kept.missed < LEAVE && (kept.stands || kept.missed == 0)
        });
        for found in found {
            match self.kept.binary_search_by_key(&found.cause, |kept| kept.found.cause) {
                Ok(at) => {
                    let kept = &mut self.kept[at];
                    kept.seen = kept.seen.saturating_add(1);
                    kept.missed = 0;
                    kept.stands |= kept.seen >= ENTER;
                    kept.found = found;
                }
                Err(at) => {
                    // One name of the same trouble for another: it has persisted already.
                    let stands = inherited.is_some()
                        && causes.iter().any(|c| same_time(*c, found.cause) || *c == found.cause);
                    let crossing = same_time(found.cause, Cause::Network)
                        || same_time(found.cause, Cause::ClockUncertain);
                    let since = inherited.filter(|_| crossing).unwrap_or(now);
                    self.kept
                        .insert(at, Kept { found, since, seen: 1, missed: 0, stands: stands && crossing });
                }
            }
        }
    }

    /// The causes that stand, the weightiest first, each with the time since when.
    pub(super) fn causes(&self) -> Vec<(&Found, MonoNs)> {
        let mut all: Vec<&Kept> = self.kept.iter().filter(|kept| kept.stands).collect();
        // What is certain comes first, then what was found just now, then the weight.
        all.sort_by_key(|kept| {
            let found = &kept.found;
            (!found.cause.is_trouble(), kept.missed > 0, std::cmp::Reverse(found.weight), found.cause)
        });
        all.into_iter().map(|kept| (&kept.found, kept.since)).collect()
    }

    /// Is anything found, standing or not?
    pub(super) fn is_quiet(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cause: Cause, weight: i64) -> Found {
        let weight = Span::from_nanos(weight);
        Found { cause, weight, effect: weight, confidence: Confidence::Medium, why: String::new() }
    }
    fn causes(standing: &Standing) -> Vec<Cause> {
        standing.causes().iter().map(|(found, _)| found.cause).collect()
    }

    #[test]
    fn a_cause_enters_after_two_and_leaves_after_three() {
        let mut standing = Standing::default();
        let mut step = |n, cause: &[Cause]| {
            standing.update(MonoNs::from_nanos(n), cause.iter().map(|c| found(*c, 1)).collect());
            (causes(&standing), standing.causes().first().map(|(_, since)| *since))
        };
        let network = [Cause::Network];
        assert_eq!(step(1, &network), (vec![], None));
        assert_eq!(step(2, &[]), (vec![], None));
        assert_eq!(step(3, &network), (vec![], None));
        let stands = (vec![Cause::Network], Some(MonoNs::from_nanos(3)));
        for n in 4..7 {
            assert_eq!(step(n, if n == 4 { &network } else { &[] }), stands);
        }
        assert_eq!(step(7, &[]), (vec![], None));
    }

    #[test]
    fn another_name_for_the_same_time_takes_its_place_at_once() {
        let mut standing = Standing::default();
        for (n, cause) in [(1, Cause::Network), (2, Cause::Network), (3, Cause::ClockUncertain)] {
            standing.update(MonoNs::from_nanos(n), vec![found(cause, 1)]);
        }
        assert_eq!(causes(&standing), [Cause::ClockUncertain]);
        assert_eq!(standing.causes()[0].1, MonoNs::from_nanos(1));
    }

    #[test]
    fn two_causes_are_ordered_by_weight_and_a_clock_comes_last() {
        let mut standing = Standing::default();
        for n in 0..2 {
            let all = [(Cause::ClockUncertain, 99), (Cause::Network, 5), (Cause::ReceiverProcess, 7)];
            standing.update(MonoNs::from_nanos(n), all.map(|(cause, weight)| found(cause, weight)).into());
        }
        assert_eq!(causes(&standing), [Cause::ReceiverProcess, Cause::Network, Cause::ClockUncertain]);
    }
}
