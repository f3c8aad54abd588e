//! What is normal for a leg, learnt from its own quiet past.
//!
//! The past is cut into buckets of five seconds. A bucket that looks like trouble is not learnt, so that the trouble of
//! an hour ago is not today's normal; only when nothing else was seen for ten minutes is it accepted as how things
//! are now. A leg that became shorter is believed at once if it crosses no clocks, and after 15 s if it does.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};

use crate::analysis::journey::Leg;

use super::leg::{Limits, Shape, Timed};

/// How long a bucket is at least.
pub(super) const BUCKET: Span = Span::from_secs(5);
/// The fewest journeys of a bucket; it lasts until it has them.
pub(super) const BUCKET_SAMPLES: usize = 5;
/// Buckets held: two quiet minutes.
const BUCKETS: usize = 24;
/// So many buckets of trouble in a row are the new normal: ten minutes.
const TROUBLE_STAYS: u16 = 120;
/// So many in a row of a clock that moved: 30 s.
const CLOCK_STAYS: u16 = 6;
/// So many in a row of shorter times: 15 s.
const SHORTER_STAYS: u16 = 3;

/// What was seen in one quiet bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    from: MonoNs,
    median: Span,
    spread: Span,
    tail: Span,
    stamps: Span,
}

/// What is normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Normal {
    /// The usual median.
    pub(super) median: Span,
    /// The usual way from the median to the 90th percentile.
    pub(super) spread: Span,
    /// The usual time per journey that exceeds the limit.
    pub(super) tail: Span,
    /// Start of the oldest bucket that it rests on.
    pub(super) oldest: MonoNs,
    /// Largest stamp error of its values.
    pub(super) stamps: Span,
}

/// A leg's quiet past.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    buckets: VecDeque<Bucket>,
    /// Buckets in a row that were not learnt.
    odd: u16,
    /// Nothing was added yet to what came from another one.
    inherited: bool,
}

/// The value below which a share of `part / of` lies.
fn quantile(mut values: Vec<Span>, part: usize, of: usize) -> Span {
    values.sort_unstable();
    let rank = (values.len() * part).div_ceil(of).max(1) - 1;
    values.get(rank).copied().unwrap_or_default()
}

/// The middle; of an even number the mean of both middle ones, so that it is the same time's value in both directions
/// when a clock drifts. Rounded down, below zero too: a clock's offset must move it by that offset and no more.
fn middle(mut values: Vec<Span>) -> Span {
    values.sort_unstable();
    let n = values.len();
    let at = |i: usize| values.get(i).copied().unwrap_or_default().as_nanos();
    let (low, high) = (at(n.saturating_sub(1) / 2), at(n / 2));
    // Half of a distance up to 2^64 fits, and so does what lies between the two.
    Span::from_nanos(low.wrapping_add((low.abs_diff(high) / 2) as i64))
}

impl History {
    /// The same past under another correction of the clocks.
    pub(super) fn inherited(&self) -> Self {
        Self { inherited: true, odd: 0, ..self.clone() }
    }

    /// Is all of it another one's?
    pub(super) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// What is normal, once one bucket was seen.
    pub(super) fn normal(&self, leg: Leg) -> Option<Normal> {
        let oldest = self.buckets.iter().map(|bucket| bucket.from).min()?;
        let all = |of: fn(&Bucket) -> Span| self.buckets.iter().map(of).collect::<Vec<Span>>();
        let medians = all(|bucket| bucket.median);
        Some(Normal {
            median: if leg == Leg::Network { middle(medians) } else { quantile(medians, 1, 4) },
            spread: quantile(all(|bucket| bucket.spread), 1, 2),
            tail: quantile(all(|bucket| bucket.tail), 1, 2),
            oldest,
            stamps: all(|bucket| bucket.stamps).into_iter().max().unwrap_or_default(),
        })
    }

    /// Takes a bucket's values, unless they are not normal. `clock` says that the path's both directions are known to
    /// have changed by opposite amounts.
    pub(super) fn learn(&mut self, leg: Leg, from: MonoNs, values: &[Timed], stamps: Span, clock: bool) {
        let normal = self.normal(leg);
        let Some(limits) = Limits::of(leg, normal.as_ref()).or_else(|| Limits::first(leg, values)) else {
            return;
        };
        let Some(shape) = Shape::of(values, &limits) else { return };
        if normal.is_some() {
            let longer = shape.is_typical() || shape.is_heavy();
            let shorter = leg == Leg::Network && limits.base - shape.median >= limits.hit;
            let stays = match (longer || shorter, clock) {
                (true, true) => CLOCK_STAYS,
                (true, false) if longer => TROUBLE_STAYS,
                (true, false) => SHORTER_STAYS,
                (false, _) => 0,
            };
            if stays > 0 {
                self.odd = self.odd.saturating_add(1);
                if self.odd < stays {
                    return;
                }
                self.buckets.clear();
            }
        }
        (self.odd, self.inherited) = (0, false);
        if self.buckets.len() == BUCKETS {
            self.buckets.pop_front();
        }
        let Shape { median, spread, mean: tail, .. } = shape;
        self.buckets.push_back(Bucket { from, median, spread, tail, stamps });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(seconds * 1_000_000_000)
    }
    fn us(us: i64) -> Span {
        Span::from_micros(us)
    }
    /// Feeds buckets that all hold one value.
    fn feed(history: &mut History, leg: Leg, value: Span, buckets: std::ops::Range<i64>, clock: bool) {
        for n in buckets {
            let timed = |i: i64| Timed { at: at(5 * n) + us(i * 400_000), time: value, source: None };
            let values: Vec<_> = (0..10).map(timed).collect();
            history.learn(leg, at(5 * n), &values, Span::ZERO, clock);
        }
    }

    #[test]
    fn the_middle_moves_with_its_values() {
        let of = |values: &[i64]| middle(values.iter().copied().map(Span::from_nanos).collect()).as_nanos();
        assert_eq!((of(&[2, 1]), of(&[-1, -2]), of(&[-2, 1, 1]), of(&[])), (1, -2, 1, 0));
        assert_eq!((of(&[i64::MIN, i64::MAX]), of(&[i64::MAX; 2])), (-1, i64::MAX));
    }

    #[test]
    fn trouble_is_not_learnt_until_it_is_all_there_is_for_ten_minutes() {
        let mut history = History::default();
        feed(&mut history, Leg::Network, us(50), 0..4, false);
        feed(&mut history, Leg::Network, us(5_000), 4..123, false);
        assert_eq!(history.normal(Leg::Network).unwrap().median, us(50));
        feed(&mut history, Leg::Network, us(5_000), 123..124, false);
        assert_eq!(history.normal(Leg::Network).unwrap().median, us(5_000));
    }

    #[test]
    fn a_shorter_way_is_normal_after_15_s_and_after_30_s_when_a_clock_moved() {
        for (clock, buckets) in [(false, 3), (true, 6)] {
            let mut history = History::default();
            feed(&mut history, Leg::Network, us(8_000), 0..10, false);
            feed(&mut history, Leg::Network, us(3_000), 10..10 + buckets - 1, clock);
            assert_eq!(history.normal(Leg::Network).unwrap().median, us(8_000));
            feed(&mut history, Leg::Network, us(3_000), 9 + buckets..10 + buckets, clock);
            assert_eq!(history.normal(Leg::Network).unwrap().median, us(3_000));
        }
    }

    #[test]
    fn a_steady_drift_cancels_between_both_directions() {
        let (mut there, mut back) = (History::default(), History::default());
        for n in 0..30 {
            feed(&mut there, Leg::Network, us(50 + n * 37), n..n + 1, false);
            feed(&mut back, Leg::Network, us(50 - n * 37), n..n + 1, false);
        }
        let normal = |h: &History| h.normal(Leg::Network).unwrap().median;
        assert_eq!(normal(&there) + normal(&back), us(100));
    }
}
