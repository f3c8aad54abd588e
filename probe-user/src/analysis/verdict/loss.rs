//! Packets of a path that never arrived, by where they were lost, over the last half minute.

use std::collections::{BTreeMap, VecDeque};

use probe_ebpf::time::{MonoNs, Span};
use serde::{Deserialize, Serialize};

use super::{Cause, Confidence, LostByPort};

/// How long a loss is remembered.
pub(super) const WINDOW: Span = Span::from_secs(30);
/// The fewest lost packets that make a verdict.
pub const LEAST_LOST: u64 = 3;
/// ... and their least share of all packets, per mille.
pub(super) const LEAST_PERMILLE: u64 = 5;
/// Nothing lost for so long is the end of it, though it is still counted.
const OVER: Span = Span::from_secs(15);
/// Reasons told apart; more are counted as [`OTHER`].
const REASONS: usize = 8;
/// The name of the rest of the reasons.
pub(super) const OTHER: &str = "other";

/// What was counted on a path since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Dropped by the reporting host's kernel, by the reason's name (`kfree_skb`'s, or `receive buffer`).
    pub lost_here: BTreeMap<String, u64>,
    /// Missing, and not dropped by the reporting host.
    pub lost_outside: u64,
    /// All that is missing, by source port.
    #[serde(skip_serializing_if = "LostByPort::is_empty")]
    pub by_port: LostByPort,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Arrived.
    pub received: u64,
}

impl Loss {
    /// Packets lost at the reporting host.
    pub fn here(&self) -> u64 {
        self.lost_here.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Adds what was counted in another time; reasons beyond the first few are counted as `other`.
    pub fn add(&mut self, other: &Self) {
        for (reason, count) in &other.lost_here {
            let known = self.lost_here.contains_key(reason) || self.lost_here.len() < REASONS;
            let reason = if known { reason.clone() } else { OTHER.to_owned() };
            let sum = self.lost_here.entry(reason).or_default();
            *sum = sum.saturating_add(*count);
        }
        for (mine, more) in [
            (&mut self.lost_outside, other.lost_outside),
            (&mut self.reordered, other.reordered),
            (&mut self.duplicated, other.duplicated),
            (&mut self.received, other.received),
        ] {
            *mine = mine.saturating_add(more);
        }
        self.by_port.add(&other.by_port);
    }
}

/// A loss that is a verdict.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) cause: Cause,
    pub(super) lost: u64,
    pub(super) packets: u64,
    pub(super) confidence: Confidence,
}

/// The last half minute, second by second.
#[derive(Clone, Debug, Default)]
pub(super) struct LossWindow {
    seconds: VecDeque<(i64, Loss)>,
}

fn second(at: MonoNs) -> i64 {
    at.as_nanos().div_euclid(1_000_000_000)
}
/// Seconds held at most.
const SECONDS: i64 = WINDOW.as_nanos() / 1_000_000_000;

impl LossWindow {
    pub(super) fn observe(&mut self, at: MonoNs, loss: &Loss) {
        let second = second(at);
        let newest = self.seconds.back().map_or(second, |(newest, _)| second.max(*newest));
        if second <= newest.saturating_sub(SECONDS) {
            return;
        }
        self.seconds.retain(|(held, _)| *held > newest.saturating_sub(SECONDS));
        let place = self.seconds.partition_point(|(held, _)| *held < second);
        if self.seconds.get(place).is_none_or(|(held, _)| *held != second) {
            self.seconds.insert(place, (second, Loss::default()));
        }
        self.seconds[place].1.add(loss);
    }

    fn recent(&self, now: MonoNs) -> impl Iterator<Item = &Loss> {
        let after = second(now).saturating_sub(SECONDS);
        self.seconds.iter().filter(move |(held, _)| *held > after).map(|(_, loss)| loss)
    }

    /// All of the window.
    pub(super) fn sum(&self, now: MonoNs) -> Loss {
        self.recent(now).fold(Loss::default(), |mut sum, loss| {
            sum.add(loss);
            sum
        })
    }

    pub(super) fn findings(&self, now: MonoNs) -> Vec<Finding> {
        let sum = self.sum(now);
        let packets = sum.received.saturating_add(sum.here()).saturating_add(sum.lost_outside);
        let mut found = Vec::new();
        let mut judge = |cause, of: fn(&Loss) -> u64| {
            let lost = of(&sum);
            // One burst is one event, not a lossy path.
            let times = self.recent(now).filter(|loss| of(loss) > 0).count();
            let share = u128::from(lost) * 1000 >= u128::from(packets) * u128::from(LEAST_PERMILLE);
            let after = second(now - OVER);
            let lasts = self.seconds.iter().any(|(held, loss)| *held > after && of(loss) > 0);
            if lost >= LEAST_LOST && times >= 2 && share && lasts {
                let confidence = match lost {
                    ..5 => Confidence::Low,
                    5..10 => Confidence::Medium,
                    _ => Confidence::High,
                };
                found.push(Finding { cause, lost, packets, confidence });
            }
        };
        judge(Cause::LossHere, Loss::here);
        judge(Cause::LossNetwork, |loss| loss.lost_outside);
        found.sort_by_key(|finding| std::cmp::Reverse(finding.lost));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(seconds * 1_000_000_000)
    }
    fn outside(lost: u64, received: u64) -> Loss {
        Loss { lost_outside: lost, received, ..Loss::default() }
    }

    #[test]
    fn one_lost_packet_and_one_burst_are_no_verdict_but_three_losses_are() {
        let mut window = LossWindow::default();
        window.observe(at(1), &outside(1, 100));
        assert_eq!(window.findings(at(1)), []);
        let mut burst = LossWindow::default();
        burst.observe(at(1), &outside(20, 100));
        assert_eq!(burst.findings(at(1)), []);
        window.observe(at(2), &outside(2, 100));
        let found = window.findings(at(2));
        assert_eq!(
            (found[0].cause, found[0].lost, found[0].packets, found[0].confidence),
            (Cause::LossNetwork, 3, 203, Confidence::Low)
        );
        assert_eq!(window.findings(at(32)), [], "forgotten after half a minute");
    }

    #[test]
    fn a_path_that_lost_nothing_for_15_s_is_not_lossy_any_more() {
        let mut window = LossWindow::default();
        for n in 0..5 {
            window.observe(at(n), &outside(1, 20));
        }
        (5..25).for_each(|n| window.observe(at(n), &outside(0, 20)));
        assert_eq!(window.findings(at(18))[0].lost, 5);
        assert_eq!((window.findings(at(19)), window.sum(at(19)).lost_outside), (vec![], 5));
    }

    #[test]
    fn losses_here_are_told_by_reason_and_the_reasons_are_bounded() {
        let mut window = LossWindow::default();
        for n in 0..40 {
            let lost_here = BTreeMap::from([(format!("REASON_{n}"), 1)]);
            window.observe(at(n % 2), &Loss { lost_here, received: 1, ..Loss::default() });
        }
        let sum = window.sum(at(2));
        assert_eq!((sum.here(), sum.lost_here.len()), (40, REASONS + 1));
        assert_eq!(window.findings(at(2))[0].cause, Cause::LossHere);
    }

    #[test]
    fn a_share_below_the_limit_is_none_and_old_or_wild_times_do_not_panic() {
        let mut window = LossWindow::default();
        window.observe(at(1), &outside(2, 1_000_000));
        window.observe(at(2), &outside(2, 1_000_000));
        assert_eq!(window.findings(at(2)), []);
        for wild in [i64::MIN, -1, 0, i64::MAX] {
            window.observe(MonoNs::from_nanos(wild), &outside(u64::MAX, u64::MAX));
            let _ = window.findings(MonoNs::from_nanos(wild));
        }
        assert!(window.seconds.len() <= SECONDS as usize);
    }
}
