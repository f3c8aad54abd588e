//! Quantiles of signed times.
//!
//! Corrected one-way times can be negative. A histogram that drops or clamps them would shift every quantile
//! upwards, so the negative side is kept as a histogram of magnitudes of its own.
//!
//! A node keeps dozens of these per peer, and each sees a few dozen different values: only buckets that hold
//! something take memory. A dense histogram of the same resolution (hdrhistogram) takes 6 to 30 kB each, which was 30 MB
//! for a node with 100 peers.

use probe_ebpf::time::Span;

/// Quantiles of a stream of spans, in bounded memory; resolution 1 %, less only for values that fill sixteen powers
/// of two.
#[derive(Clone, Debug, Default)]
pub struct SpanHistogram {
    positive: Magnitudes,
    /// Magnitudes of negative values; most streams never need it.
    negative: Option<Box<Magnitudes>>,
}

/// Buckets per power of two, as a power of two: a bucket is at most 1/128 as wide as its values are large.
const FINE: u32 = 7;
/// The most buckets held, 8 kB: eight powers of two full of values. Beyond it the resolution is halved, which leaves
/// the middle of a bucket within 1 % of its values the first time.
const MOST: usize = 1024;

/// Counts of magnitudes in logarithmic buckets.
#[derive(Clone, Debug, Default)]
struct Magnitudes {
    /// Bucket and count, sorted by bucket; no count is zero.
    held: Vec<(u16, u32)>,
    total: u64,
    /// So many times the resolution was halved.
    coarser: u32,
}

/// The bucket of a magnitude, at full resolution: as is below 128, then 128 for every power of two.
fn bucket(magnitude: u64) -> u16 {
    let octave = magnitude.checked_ilog2().unwrap_or(0).saturating_sub(FINE);
    // At most 57 * 128 + 127.
    ((octave as u16) << FINE) + (magnitude >> octave) as u16
}

/// The first magnitude of a bucket; past the last bucket, the largest there is.
fn first_of(bucket: u32) -> u64 {
    let octave = (bucket >> FINE).saturating_sub(1);
    let mantissa = u128::from(bucket) - u128::from(octave << FINE);
    u64::try_from(mantissa << octave).unwrap_or(u64::MAX)
}

impl Magnitudes {
    fn record(&mut self, magnitude: u64) {
        let bucket = bucket(magnitude) >> self.coarser;
        self.total += 1;
        match self.held.binary_search_by_key(&bucket, |(held, _)| *held) {
            Ok(at) => self.held[at].1 = self.held[at].1.saturating_add(1),
            Err(at) => {
                self.held.insert(at, (bucket, 1));
                if self.held.len() > MOST {
                    self.halve();
                }
            }
        }
    }

    /// Puts each two neighbouring buckets into one.
    fn halve(&mut self) {
        self.coarser += 1;
        self.held.iter_mut().for_each(|(bucket, _)| *bucket >>= 1);
        self.held.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
    }

    /// The `rank`-th smallest magnitude, 1-based: the middle of its bucket.
    fn at_rank(&self, rank: u64) -> Span {
        let mut before = 0;
        let found = self.held.iter().find(|(_, count)| {
            before += u64::from(*count);
            before >= rank
        });
        // A saturated count may leave ranks without a bucket: they are in the last one, or near it.
        let bucket = found.or(self.held.last()).map_or(0, |(bucket, _)| u32::from(*bucket));
        let (first, next) = (first_of(bucket << self.coarser), first_of((bucket + 1) << self.coarser));
        let middle = first + (next - first - 1) / 2;
        Span::from_nanos(i64::try_from(middle).unwrap_or(i64::MAX))
    }

    fn clear(&mut self) {
        self.held.clear();
        (self.total, self.coarser) = (0, 0);
    }
}

impl SpanHistogram {
    /// Adds one value.
    pub fn record(&mut self, span: Span) {
        let ns = span.as_nanos();
        let side = if ns < 0 { self.negative.get_or_insert_default() } else { &mut self.positive };
        side.record(ns.unsigned_abs());
    }
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.positive.total + self.negative()
    }
    /// Number of values below zero.
    pub fn negative(&self) -> u64 {
        self.negative.as_ref().map_or(0, |n| n.total)
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
            Some(n) if rank <= negative => -n.at_rank(negative - rank + 1),
            _ => self.positive.at_rank(rank - negative),
        })
    }
    /// Forgets all values, keeps the memory.
    pub fn clear(&mut self) {
        self.positive.clear();
        if let Some(n) = &mut self.negative {
            n.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(
        h: &SpanHistogram,
        mut values: Vec<i64>,
        q: f64,
        share: i64,
        slack: i64,
    ) -> Result<(), TestCaseError> {
        values.sort_unstable();
        let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        let got = h.quantile(q).expect("not empty").as_nanos();
        prop_assert!((got - exact).abs() <= exact.abs() / share + slack, "q {q}: {got} instead of {exact}");
        prop_assert_eq!(h.negative(), values.iter().filter(|v| **v < 0).count() as u64);
        Ok(())
    }

    proptest! {
        #[test]
        fn quantiles_match_a_sorted_list_within_one_percent(values in prop::collection::vec(-5_000_000_000i64..5_000_000_000, 1..300), q in 0.0f64..1.0) {
            let mut h = SpanHistogram::default();
            for v in &values { h.record(Span::from_nanos(*v)); }
            check(&h, values, q, 100, 1)?;
        }

        #[test]
        fn buckets_follow_each_other_without_a_gap(magnitude: u64) {
            let bucket = u32::from(bucket(magnitude));
            prop_assert!(first_of(bucket) <= magnitude);
            prop_assert!(magnitude < first_of(bucket + 1) || first_of(bucket + 1) == u64::MAX);
            prop_assert!(first_of(bucket + 1) - first_of(bucket) <= 1 + magnitude / 128);
        }
    }

    #[test]
    fn values_of_every_size_take_bounded_memory_and_cost_resolution() {
        let mut h = SpanHistogram::default();
        let values: Vec<i64> = (0..40_000).map(|n| (1.001_f64.powi(n).min(4e18)) as i64).collect();
        for v in &values {
            h.record(Span::from_nanos(*v));
        }
        assert!(h.positive.held.len() <= MOST && h.positive.held.capacity() <= 2 * MOST);
        for q in 0..=100 {
            // Below 128 ns a bucket is as wide as there are fine ones in it.
            check(&h, values.clone(), f64::from(q) / 100.0, 25, 4).expect("within 4 %");
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
