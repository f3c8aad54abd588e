//! An interval of spans: what is certain of a value that is known between two bounds.

use probe_ebpf::time::{Bounded, Span};

/// All values from `low` to `high`, both included; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    low: Span,
    high: Span,
}

impl Interval {
    /// `None` when `low` is above `high`: such an interval holds no value.
    pub fn new(low: Span, high: Span) -> Option<Self> {
        (low <= high).then_some(Self { low, high })
    }
    /// The lower end.
    pub fn low(&self) -> Span {
        self.low
    }
    /// The upper end.
    pub fn high(&self) -> Span {
        self.high
    }
    /// Is `value` in it?
    pub fn contains(&self, value: Span) -> bool {
        (self.low..=self.high).contains(&value)
    }
    /// From end to end; saturates.
    pub fn width(&self) -> Span {
        self.high - self.low
    }
    /// Its middle, rounded down.
    pub fn middle(&self) -> Span {
        let sum = i128::from(self.low.as_nanos()) + i128::from(self.high.as_nanos());
        // Between the two ends, which fit.
        Span::from_nanos(sum.div_euclid(2) as i64)
    }
    /// The value of it that is nearest to `value`.
    pub fn nearest(&self, value: Span) -> Span {
        value.clamp(self.low, self.high)
    }
    /// `value`, with the bound that covers the whole interval.
    pub fn around(&self, value: Span) -> Bounded {
        Bounded::new(value, (self.high - value).abs().max((value - self.low).abs()))
    }
    /// Both ends moved outwards.
    pub fn widened(&self, by: Span) -> Self {
        let by = by.abs();
        Self { low: self.low - by, high: self.high + by }
    }
    /// Both ends moved the same way.
    pub fn shifted(&self, by: Span) -> Self {
        Self { low: self.low + by, high: self.high + by }
    }
    /// What both have in common.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::new(self.low.max(other.low), self.high.min(other.high))
    }
    /// The smallest interval that holds both.
    pub fn hull(&self, other: &Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
    /// The distance between two intervals that have nothing in common.
    pub fn gap(&self, other: &Self) -> Option<Span> {
        let gap = self.low.max(other.low) - self.high.min(other.high);
        (gap > Span::ZERO).then_some(gap)
    }
}

impl From<Bounded> for Interval {
    fn from(value: Bounded) -> Self {
        Self { low: value.value - value.bound.abs(), high: value.value + value.bound.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interval(low: i64, high: i64) -> Interval {
        Interval::new(Span::from_nanos(low), Span::from_nanos(high)).expect("in order")
    }

    #[test]
    fn two_intervals_overlap_or_have_a_gap() {
        let (a, b, c) = (interval(-10, 10), interval(5, 30), interval(11, 12));
        assert_eq!(a.intersection(&b), Some(interval(5, 10)));
        assert_eq!((a.gap(&b), a.intersection(&c)), (None, None));
        assert_eq!((a.gap(&c), c.gap(&a)), (Some(Span::from_nanos(1)), Some(Span::from_nanos(1))));
        assert_eq!(a.intersection(&interval(10, 10)), Some(interval(10, 10)), "the ends belong to it");
        assert_eq!(b.around(Span::from_nanos(6)), Bounded::new(Span::from_nanos(6), Span::from_nanos(24)));
        assert_eq!(interval(-4, 1).middle(), Span::from_nanos(-2));
        assert_eq!(Interval::new(Span::ZERO, Span::from_nanos(-1)), None);
    }

    proptest! {
        #[test]
        fn whatever_the_ends_the_bound_covers_them(a: i64, b: i64, at: i64) {
            // A quarter of the range, so that no difference saturates.
            let [a, b, at] = [a, b, at].map(|ns| ns / 4);
            let i = interval(a.min(b), a.max(b));
            prop_assert!(i.contains(i.middle()) && i.contains(i.nearest(Span::from_nanos(at))));
            let around = i.around(Span::from_nanos(at));
            prop_assert!(around.covers(i.low()) && around.covers(i.high()));
            prop_assert_eq!(Interval::from(around).intersection(&i), Some(i));
        }
    }
}
