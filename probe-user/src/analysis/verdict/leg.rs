//! One leg's times of a window against what is normal for it.

use probe_ebpf::time::{MonoNs, Span};

use crate::analysis::journey::{Leg, SourcePort};

use super::learn::Normal;
use super::ports::{self, Gathered};

/// A leg on one host whose normal time is above this is not believed to be normal, however long it lasts.
const HIGHEST_NORMAL: Span = Span::from_millis(20);
/// The fewest journeys that exceed the limit.
const LEAST_HITS: usize = 3;
/// ... as a share of all: one of so many.
const HIT_SHARE: usize = 16;
/// A tail of less than one of so many journeys is one when it weighs ...
const RARE: usize = 3;
/// ... so many times as much, without its longest: a busy host is late now and then, by what its scheduler makes of it.
const RARE_WEIGHT: i64 = 4;
/// ... and the least time from the first of them to the last: one stall of a host is no verdict.
const LEAST_SPREAD: Span = Span::from_millis(800);

/// The least excess of a journey that counts, by leg.
const fn floor(leg: Leg) -> Span {
    match leg {
        Leg::EgressStack | Leg::IngressStack => Span::from_micros(500),
        _ => Span::from_millis(1),
    }
}

/// One journey's time in a leg.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    pub(super) at: MonoNs,
    pub(super) time: Span,
    /// Of a leg whose time may depend on it.
    pub(super) source: Option<SourcePort>,
}

/// From where on a leg is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The normal time.
    pub(super) base: Span,
    /// A journey counts when it exceeds `base` by this.
    pub(super) hit: Span,
    /// The time by which such journeys exceed `base`, divided by the number of all journeys, may be up to this.
    pub(super) mean: Span,
    /// The same where such journeys are those of some source ports. No host's stalls do that, so
    /// less of it is enough.
    pub(super) mean_of_some_ports: Span,
}

fn times(span: Span, n: i64) -> Span {
    Span::from_nanos(span.as_nanos().saturating_mul(n))
}

impl Limits {
    /// Without anything learnt, a leg on one host still has absolute limits; the network, which is as long as it is, has none.
    pub(super) fn of(leg: Leg, normal: Option<&Normal>) -> Option<Self> {
        let floor = floor(leg);
        let network = leg == Leg::Network;
        let limits = match normal {
            Some(normal) => Self {
                base: normal.median,
                hit: floor.max(times(normal.spread, 3)),
                mean: floor.half_up() + times(normal.tail, 3),
                mean_of_some_ports: floor.half_up() + times(normal.tail, 2),
            },
            None if network => return None,
            None => {
                let mean = HIGHEST_NORMAL.half_up();
                Self { base: Span::ZERO, hit: HIGHEST_NORMAL, mean, mean_of_some_ports: mean }
            }
        };
        Some(if network {
            limits
        } else {
            Self {
                base: limits.base.min(HIGHEST_NORMAL),
                hit: limits.hit.min(HIGHEST_NORMAL),
                mean: limits.mean.min(HIGHEST_NORMAL),
                ..limits
            }
        })
    }

    fn is_hit(&self, value: Span) -> bool {
        value - self.base >= self.hit
    }

    /// Of a first bucket: against its own median.
    pub(super) fn first(leg: Leg, values: &[Timed]) -> Option<Self> {
        let mut sorted: Vec<Span> = values.iter().map(|value| value.time).collect();
        sorted.sort_unstable();
        let base = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
        let (hit, mean) = (floor(leg), floor(leg).half_up());
        Some(Self { base, hit, mean, mean_of_some_ports: mean })
    }
}

/// Where the journeys that count come from, if it is some of several source ports.
pub(super) fn slow_ports(values: &[Timed], limits: &Limits) -> Option<Gathered> {
    ports::slow(values.iter().filter_map(|value| Some((value.source?, limits.is_hit(value.time)))))
}

/// A leg's times in a window, compared with its limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) limits: Limits,
    pub(super) samples: usize,
    pub(super) median: Span,
    pub(super) p99: Span,
    /// From the median to the 90th percentile.
    pub(super) spread: Span,
    /// Journeys that count.
    pub(super) hits: usize,
    /// From the first of them to the last.
    pub(super) hit_span: Span,
    /// Their excess, divided by the number of all journeys.
    pub(super) mean: Span,
    /// The same without the longest of them.
    mean_rest: Span,
    /// Those that count are of one way among several, or in one queue of several: no host's lateness chooses so.
    pub(super) of_some_ports: bool,
    /// Mean of all values but the twentieth at either end, less `base`, of either sign: what a few stalls do not move.
    pub(super) mean_change: Span,
}

impl Shape {
    /// `None` when there are no values.
    pub(super) fn of(values: &[Timed], limits: &Limits) -> Option<Self> {
        let mut sorted: Vec<Span> = values.iter().map(|value| value.time).collect();
        sorted.sort_unstable();
        let at = |part: usize, of: usize| sorted.get((sorted.len() * part).div_ceil(of).max(1) - 1).copied();
        let (median, p90, p99) = (at(1, 2)?, at(9, 10)?, at(99, 100)?);
        let excess = |value: Span| value - limits.base;
        let counted = || values.iter().filter(|value| limits.is_hit(value.time));
        let times = || counted().map(|value| value.at);
        let hit_span = times().max().zip(times().min()).map_or(Span::ZERO, |(last, first)| last - first);
        let mean = |sum: i128, of: usize| {
            let mean = sum / of.max(1) as i128;
            Span::from_nanos(i64::try_from(mean).unwrap_or(if mean < 0 { i64::MIN } else { i64::MAX }))
        };
        let ns = |value: Span| i128::from(excess(value).as_nanos());
        let sum: i128 = counted().map(|value| ns(value.time)).sum();
        let longest = counted().map(|value| ns(value.time)).max().unwrap_or(0);
        let most = &sorted[sorted.len() / 20..sorted.len() - sorted.len() / 20];
        Some(Self {
            limits: *limits,
            samples: values.len(),
            median,
            p99,
            spread: p90 - median,
            hits: counted().count(),
            of_some_ports: slow_ports(values, limits).is_some(),
            hit_span,
            mean: mean(sum, values.len()),
            mean_rest: mean(sum - longest, values.len()),
            mean_change: mean(most.iter().map(|value| ns(*value)).sum(), most.len()),
        })
    }

    /// By how much the median exceeds the normal one.
    pub(super) fn change(&self) -> Span {
        self.median - self.limits.base
    }
    /// Is the usual journey too long?
    pub(super) fn is_typical(&self) -> bool {
        self.change() >= self.limits.hit
    }
    /// Do nearly all journeys count?
    pub(super) fn is_of_all(&self) -> bool {
        self.hits * 10 >= self.samples * 9
    }
    /// In tenths of a percent of the time, how long packets that count are longer on the way than usual, all together, where
    /// nearly all of them count; `None` where they do not: what lacks at times delays some only.
    pub(super) fn steady_share(&self) -> Option<i64> {
        let steady = self.samples >= super::window::ENOUGH && self.is_of_all();
        let (each, n) = (self.change().as_nanos().max(0), i64::try_from(self.samples).unwrap_or(i64::MAX));
        let of = self.hit_span.as_nanos().max(1);
        // (The sum of two that overlap is still no more than all of the time.)
        steady.then(|| (i128::from(each) * i128::from(n) * 1000 / i128::from(of)).min(1000) as i64)
    }
    /// Do the journeys that count weigh more than it takes for a bucket to be learnt as normal?
    pub(super) fn is_heavy(&self) -> bool {
        self.mean > self.limits.mean || self.of_some_ports && self.mean > self.limits.mean_of_some_ports
    }
    /// Is the leg in trouble, by its median or by its tail?
    pub(super) fn is_long(&self) -> bool {
        let enough = self.hits >= LEAST_HITS.max(self.samples.div_ceil(HIT_SHARE));
        enough && self.hit_span >= LEAST_SPREAD && (self.is_typical() || self.has_tail(1))
    }
    /// Do the journeys that count weigh so many times what it takes?
    fn has_tail(&self, n: i64) -> bool {
        let rare = self.hits * RARE < self.samples;
        if self.of_some_ports {
            self.mean > times(self.limits.mean_of_some_ports, n)
        } else if rare {
            self.mean_rest > times(self.limits.mean, RARE_WEIGHT * n)
        } else {
            self.mean > times(self.limits.mean, n)
        }
    }
    /// ... by twice what it takes, and seen in enough journeys?
    pub(super) fn is_clear(&self) -> bool {
        let typical = self.change() >= times(self.limits.hit, 2);
        let tail = self.hits >= 2 * LEAST_HITS && self.has_tail(2);
        self.samples >= super::window::ENOUGH && (typical || tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Span {
        Span::from_millis(ms)
    }
    fn shape(values: &[i64], limits: &Limits) -> Shape {
        let values: Vec<_> = (0..)
            .zip(values)
            .map(|(n, v)| {
                let at = MonoNs::from_nanos(n * 100_000_000);
                Timed { at, time: Span::from_micros(*v), source: None }
            })
            .collect();
        Shape::of(&values, limits).unwrap()
    }
    const QUIET: Normal = Normal {
        median: Span::from_micros(50),
        spread: Span::from_micros(20),
        tail: Span::ZERO,
        oldest: MonoNs::from_nanos(0),
        stamps: Span::ZERO,
    };

    #[test]
    fn both_a_higher_median_and_a_heavy_tail_are_long_and_a_single_stall_is_not() {
        let limits = Limits::of(Leg::SocketQueue, Some(&QUIET)).unwrap();
        assert!(!shape(&[50; 50], &limits).is_long());
        assert!(shape(&[2_050; 50], &limits).is_long());
        let pulses: Vec<i64> = (0..50).map(|n| if n % 10 < 2 { 100_000 } else { 50 }).collect();
        let pulses = shape(&pulses, &limits);
        assert!(pulses.is_long() && !pulses.is_typical() && pulses.is_clear());
        let noise: Vec<i64> = (0..50).map(|n| if n % 12 == 0 { 12_000 } else { 50 }).collect();
        assert!(!shape(&noise, &limits).is_long());
        let often: Vec<i64> = (0..50).map(|n| if n % 2 == 0 { 3_000 } else { 50 }).collect();
        assert!(shape(&often, &limits).is_long());
        let stall: Vec<i64> = (0..50).map(|n| if (20..25).contains(&n) { 400_000 } else { 50 }).collect();
        assert!(!shape(&stall, &limits).is_long());
    }

    #[test]
    fn without_anything_learnt_only_local_legs_have_limits() {
        assert_eq!(Limits::of(Leg::Network, None), None);
        let limits = Limits::of(Leg::Handling, None).unwrap();
        assert!(shape(&[25_000; 30], &limits).is_long() && !shape(&[15_000; 30], &limits).is_long());
    }

    #[test]
    fn what_lasts_too_long_on_a_host_is_never_normal() {
        let used_to = Normal { median: ms(300), spread: ms(100), tail: ms(100), ..QUIET };
        let limits = Limits::of(Leg::SocketQueue, Some(&used_to)).unwrap();
        assert_eq!((limits.base, limits.hit, limits.mean), (ms(20), ms(20), ms(20)));
        assert_eq!(Limits::of(Leg::Network, Some(&used_to)).unwrap().base, ms(300));
    }

    #[test]
    fn extremes_do_not_panic() {
        let (base, max) = (Span::from_nanos(i64::MIN), Span::MAX);
        let limits = Limits { base, hit: max, mean: max, mean_of_some_ports: max };
        let values =
            [i64::MIN, i64::MAX].map(|at| Timed { at: MonoNs::from_nanos(at), time: max, source: None });
        assert!(Shape::of(&values, &limits).is_some());
        assert_eq!(Shape::of(&[], &limits), None);
    }
}
