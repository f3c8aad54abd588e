//! Quantiles of signed times.
//!
//! Corrected one-way times can be negative. A histogram that drops or clamps them would shift every quantile
//! upwards, so the negative side is kept as a histogram of magnitudes of its own.

use hdrhistogram::Histogram;
use probe_ebpf::time::Span;

/// Quantiles of a stream of spans, in bounded memory; resolution 1 %.
#[derive(Clone, Debug)]
pub struct SpanHistogram {
    positive: Histogram<u32>,
    /// Magnitudes of negative values; most streams never need it.
    negative: Option<Box<Histogram<u32>>>,
}

/// Two significant digits: a relative error of at most 1 %.
const DIGITS: u8 = 2;

fn empty() -> Histogram<u32> {
    // Auto-resizing from a small start: most paths see microseconds to milliseconds only.
    Histogram::new(DIGITS).expect("two significant digits are always valid")
}

/// The `rank`-th smallest value, 1-based. Half a rank below the exact quantile, so that rounding in floating
/// point cannot reach the next one.
fn value_at_rank(h: &Histogram<u32>, rank: u64) -> Span {
    let magnitude = h.value_at_quantile((rank as f64 - 0.5) / h.len() as f64);
    Span::from_nanos(i64::try_from(magnitude).unwrap_or(i64::MAX))
}

impl Default for SpanHistogram {
    fn default() -> Self {
        Self { positive: empty(), negative: None }
    }
}

impl SpanHistogram {
    /// Adds one value.
    pub fn record(&mut self, span: Span) {
        let ns = span.as_nanos();
        let side =
            if ns < 0 { self.negative.get_or_insert_with(|| Box::new(empty())) } else { &mut self.positive };
        let magnitude = ns.unsigned_abs();
        if side.record(magnitude).is_err() {
            // Only when it cannot grow any more: then the largest bucket is the truth as far as it goes.
            side.saturating_record(magnitude);
        }
    }
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.positive.len() + self.negative()
    }
    /// Number of values below zero.
    pub fn negative(&self) -> u64 {
        self.negative.as_ref().map_or(0, |n| n.len())
    }
    /// The value below which a share `q` (0..=1) of all values lies; `None` when there are none.
    pub fn quantile(&self, q: f64) -> Option<Span> {
        let (count, negative) = (self.count(), self.negative());
        if count == 0 {
            return None;
        }
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);
        Some(match &self.negative {
            // The most negative value is the largest magnitude: rank r from below is rank n-r+1 among magnitudes.
            Some(n) if rank <= negative => -value_at_rank(n, negative - rank + 1),
            _ => value_at_rank(&self.positive, rank - negative),
        })
    }
    /// Forgets all values, keeps the memory.
    pub fn clear(&mut self) {
        self.positive.reset();
        if let Some(n) = &mut self.negative {
            n.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_match_a_sorted_list_within_one_percent(mut values in prop::collection::vec(-5_000_000_000i64..5_000_000_000, 1..300), q in 0.0f64..1.0) {
            let mut h = SpanHistogram::default();
            for v in &values { h.record(Span::from_nanos(*v)); }
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let got = h.quantile(q).expect("not empty").as_nanos();
            prop_assert!((got - exact).abs() <= exact.abs() / 100 + 1, "q {q}: {got} instead of {exact}");
            prop_assert_eq!(h.negative(), values.iter().filter(|v| **v < 0).count() as u64);
        }
    }

    #[test]
    fn empty_has_no_quantile_and_extremes_do_not_panic() {
        let mut h = SpanHistogram::default();
        assert_eq!(h.quantile(0.5), None);
        h.record(Span::MAX);
        h.record(Span::from_nanos(i64::MIN));
        assert_eq!(h.count(), 2);
        assert!(h.quantile(0.1).is_some_and(Span::is_negative));
        h.clear();
        assert_eq!(h.count(), 0);
    }
}
