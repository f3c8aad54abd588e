//! How much a directed path's one-way time has *changed*, which is known better than the time itself (DESIGN section 3).
//!
//! Within one epoch of both clocks their constant error cancels between two values of the same series. What is left is
//! how fast the error of the correction can change, times the window, and the stamps' errors.

use std::collections::VecDeque;

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::align::Correction;

/// How long a bucket of the baseline is.
const BUCKET: Span = Span::from_secs(10);
/// Buckets held: a path whose delay rises for good has a new baseline after two minutes.
const BUCKETS: i64 = 12;
/// The fewest values that make a baseline.
const LEAST_VALUES: u64 = 8;

/// What values must have in common to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Epoch of the local host's wall clock.
    pub local_epoch: u32,
    /// Epoch of the peer's.
    pub peer_epoch: u32,
    /// How the values were corrected: another correction may stand off by a constant.
    pub correction: Correction,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    index: i64,
    first: MonoNs,
    least: Span,
    values: u64,
}

/// The least one-way time of a directed path over the last two minutes of one series.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    series: Option<Series>,
    buckets: VecDeque<Bucket>,
    /// Largest stamp error of the series' values.
    error: Span,
}

fn index(at: MonoNs) -> i64 {
    at.as_nanos().div_euclid(BUCKET.as_nanos())
}

impl Baseline {
    /// Takes a one-way time, measured at `at`, with the errors of its stamps. A value of another series makes all
    /// before void; one older than the window is not used, and `false` says so.
    pub fn observe(&mut self, series: Series, at: MonoNs, time: Span, stamps: Span) -> bool {
        if self.series != Some(series) {
            *self = Self { series: Some(series), ..Self::default() };
        }
        let index = index(at);
        let oldest = self.buckets.back().map_or(index, |newest| newest.index.max(index)) - BUCKETS;
        if index <= oldest {
            return false;
        }
        self.buckets.retain(|bucket| bucket.index > oldest);
        self.error = self.error.max(stamps.abs());
        let place = self.buckets.partition_point(|bucket| bucket.index < index);
        match self.buckets.get_mut(place) {
            Some(bucket) if bucket.index == index => {
                bucket.first = bucket.first.min(at);
                bucket.least = bucket.least.min(time);
                bucket.values += 1;
            }
            _ => self.buckets.insert(place, Bucket { index, first: at, least: time, values: 1 }),
        }
        true
    }

    /// By how much a one-way time exceeds the path's least one; `None` for another series, and until there are values
    /// enough.
    ///
    /// `drift_ppb` is how fast the error of the correction may change: the fitted drift's uncertainty for values
    /// corrected along its line, the sum of both clocks' frequency errors for NTP's ([`super::DRIFT_PPB`] each when
    /// nothing better is known).
    pub fn change(
        &self,
        series: Series,
        at: MonoNs,
        time: Span,
        stamps: Span,
        drift_ppb: u32,
    ) -> Option<Bounded> {
        let counted =
            || self.buckets.iter().filter(|bucket| bucket.index > index(at).saturating_sub(BUCKETS));
        if self.series != Some(series) || counted().map(|bucket| bucket.values).sum::<u64>() < LEAST_VALUES {
            return None;
        }
        let least = counted().map(|bucket| bucket.least).min()?;
        // Which value was truly the least is not known for certain, but it is not older than the oldest one.
        let since = counted().map(|bucket| bucket.first).min()?;
        Some(Bounded::new(time - least, (at - since).drift(drift_ppb) + stamps.abs() + self.error))
    }
}

/// By how much a round trip exceeds the paths' least ones: the clocks cancel in the sum of both directions.
pub fn round_trip_change(outward: Bounded, inward: Bounded) -> Bounded {
    outward + inward
}

/// What a simultaneous change in both directions of a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Neither direction changed by more than its bound.
    Nothing,
    /// One direction is longer and the other shorter by the same: a clock moved, the path did not.
    Clock,
    /// The sum of both directions, which knows no clocks, changed.
    Path,
    /// There is a change, and the bounds are too wide to tell.
    Unclear,
}

/// Tells a clock's change from a path's, given both directions' changes at the same time.
pub fn classify(outward: Bounded, inward: Bounded) -> Cause {
    let significant = |change: Bounded| change.value.abs() > change.bound;
    let opposite = outward.value.is_negative() != inward.value.is_negative();
    match (significant(outward), significant(inward)) {
        _ if significant(round_trip_change(outward, inward)) => Cause::Path,
        (false, false) => Cause::Nothing,
        (true, true) if opposite => Cause::Clock,
        _ => Cause::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERIES: Series = Series { local_epoch: 0, peer_epoch: 3, correction: Correction::Ntp };
    const STAMPS: Span = Span::from_nanos(200);

    fn at(ms: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_millis(ms)
    }
    fn us(us: i64) -> Span {
        Span::from_micros(us)
    }
    /// Ten values, one a second, the least of 300 us.
    fn learnt() -> Baseline {
        let mut baseline = Baseline::default();
        for n in 0..10 {
            assert!(baseline.observe(SERIES, at(n * 1_000), us(300 + n * 7 % 10), STAMPS));
        }
        baseline
    }

    #[test]
    fn a_constant_offset_cancels_and_the_window_drifts() {
        let baseline = learnt();
        let change = baseline.change(SERIES, at(10_000), us(1_300), STAMPS, 1_000);
        // 1 ppm for ten seconds, and two stamp errors.
        assert_eq!(change, Some(Bounded::new(us(1_000), us(10) + STAMPS + STAMPS)));
    }

    #[test]
    fn another_series_knows_nothing_of_this_one() {
        let mut baseline = learnt();
        let stepped = Series { peer_epoch: 4, ..SERIES };
        for other in [stepped, Series { correction: Correction::PeerOnly, ..SERIES }] {
            assert_eq!(baseline.change(other, at(10_000), us(300), STAMPS, 0), None);
        }
        for n in 0..7 {
            baseline.observe(stepped, at(10_000 + n), us(50_000), STAMPS);
            assert_eq!(
                baseline.change(stepped, at(10_000 + n), us(50_000), STAMPS, 0),
                None,
                "too few values"
            );
        }
        baseline.observe(stepped, at(10_008), us(50_000), STAMPS);
        let change = baseline.change(stepped, at(10_008), us(50_000), STAMPS, 0).expect("eight values");
        assert_eq!(change.value, Span::ZERO, "nothing of before is left");
    }

    #[test]
    fn a_lasting_rise_becomes_the_baseline_and_late_values_are_refused() {
        let mut baseline = learnt();
        let change = |baseline: &Baseline, ms| {
            baseline.change(SERIES, at(ms), us(5_300), STAMPS, 0).map(|change| change.value)
        };
        for second in 10..130 {
            assert!(baseline.observe(SERIES, at(second * 1_000), us(5_300), STAMPS));
            let wanted = if second < 120 { us(5_000) } else { Span::ZERO };
            assert_eq!(change(&baseline, second * 1_000), Some(wanted), "{second}");
            assert!(baseline.buckets.len() <= BUCKETS as usize);
        }
        assert!(!baseline.observe(SERIES, at(9_000), us(300), STAMPS));
        assert_eq!(change(&baseline, 129_000), Some(Span::ZERO));
    }

    #[test]
    fn a_clocks_change_is_told_from_a_paths() {
        let change =
            |out: i64, back: i64| classify(Bounded::new(us(out), us(90)), Bounded::new(us(back), us(90)));
        assert_eq!(change(80, -80), Cause::Nothing);
        assert_eq!(change(5_000, -4_900), Cause::Clock);
        assert_eq!(change(-5_000, 4_900), Cause::Clock);
        assert_eq!(change(5_000, 10), Cause::Path);
        assert_eq!(change(5_000, 5_000), Cause::Path);
        assert_eq!(change(5_000, -4_000), Cause::Path, "whatever the clock did, the sum knows nothing of it");
        assert_eq!(change(100, -80), Cause::Unclear);
        let sum = round_trip_change(Bounded::new(us(5_000), us(90)), Bounded::new(us(-4_000), us(90)));
        assert_eq!(sum, Bounded::new(us(1_000), us(180)));
    }

    proptest! {
        /// Any constant offset, and an error of the correction that wanders at no more than the stated rate: the true
        /// change against the true least time is within the bound.
        #[test]
        fn the_true_change_is_within_the_bound(
            offset in -1_000_000_000_000_i64..1_000_000_000_000,
            delays in prop::collection::vec((1_i64..2_000, 0_i64..5_000_000, -2_000_i64..=2_000), 8..200),
        ) {
            let (mut baseline, mut now, mut error, mut least) = (Baseline::default(), at(0), 0, Span::MAX);
            for (nth, (wait_ms, delay, ppb)) in delays.into_iter().enumerate() {
                now = now + Span::from_millis(wait_ms.min(500));
                error += ppb * wait_ms.min(500) / 1_000;
                let (time, shown) = (Span::from_nanos(delay), Span::from_nanos(offset + delay + error));
                baseline.observe(SERIES, now, shown, Span::ZERO);
                least = least.min(time);
                if nth >= 8 {
                    let change = baseline.change(SERIES, now, shown, Span::ZERO, 2_000).expect("values enough");
                    prop_assert!(change.covers(time - least), "{change} {}", time - least);
                }
            }
        }
    }
}
