//! How far two stamps of the same thing are apart.

use probe_ebpf::time::Span;
use serde::Serialize;

/// Of many pairs of stamps, in nanoseconds. Exact: all values are sorted, none are put into buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// How many pairs.
    pub pairs: u32,
    /// The smallest, which may be below zero.
    pub min_ns: i64,
    /// Half are below.
    pub p50_ns: i64,
    /// The largest.
    pub max_ns: i64,
    /// 99 of 100 magnitudes are at most this.
    pub p99_magnitude_ns: i64,
    /// The largest magnitude.
    pub max_magnitude_ns: i64,
}

impl Differences {
    /// Of these; all zero when there are none.
    pub fn of(pairs: impl Iterator<Item = Span>) -> Self {
        let mut values: Vec<i64> = pairs.map(Span::as_nanos).collect();
        values.sort_unstable();
        let mut magnitudes: Vec<i64> = values.iter().map(|value| value.saturating_abs()).collect();
        magnitudes.sort_unstable();
        let rank = |sorted: &[i64], percent: usize| {
            sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            pairs: values.len() as u32,
            min_ns: values.first().copied().unwrap_or(0),
            p50_ns: rank(&values, 50),
            max_ns: values.last().copied().unwrap_or(0),
            p99_magnitude_ns: rank(&magnitudes, 99),
            max_magnitude_ns: magnitudes.last().copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_by_nearest_rank() {
        let of = |values: &[i64]| Differences::of(values.iter().map(|value| Span::from_nanos(*value)));
        assert_eq!(of(&[]), Differences::default());
        let all: Vec<i64> = (-100..100).collect();
        let found = of(&all);
        assert_eq!((found.pairs, found.min_ns, found.p50_ns, found.max_ns), (200, -100, -1, 99));
        assert_eq!((found.p99_magnitude_ns, found.max_magnitude_ns), (99, 100));
        assert_eq!(of(&[7]).p99_magnitude_ns, 7);
    }
}
