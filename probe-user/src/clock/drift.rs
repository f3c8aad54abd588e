//! How fast a peer's clock runs away from the local one: a line under the delays of both directions.

use probe_ebpf::time::MonoNs;

use super::DRIFT_PPB;
use super::hull::{Cloud, Floor, GIGA, Rates};

/// The fastest that two clocks may run apart: each may be off by [`DRIFT_PPB`], in opposite directions.
pub const RELATIVE_PPB: i64 = 2 * DRIFT_PPB as i64;

/// How much faster or slower than the fitted line the clocks may run at any one moment, in parts per billion. Clocks
/// are steered (chronyd corrects some hundred microseconds at a few ppm) and warm up; the line is an average.
pub const WANDER_PPB: i64 = 12_000;

/// The fewest samples of each direction that a line is fitted to.
const LEAST_SAMPLES: u64 = 8;

/// Slopes that fit the samples worse than the best one by this factor of likelihood, as a natural logarithm, are
/// ruled out: e^7 is one in a thousand.
const CONFIDENCE: f64 = 7.0;

/// Mean excess delay that a direction is taken to have at least, in 1e-9 ns: 100 ns, nobody's stamps are better.
const LEAST_EXCESS: i128 = 100 * GIGA;
/// How many times as much as the other one a direction's samples may weigh.
const MOST_WEIGHT: i128 = 1_000;

/// The rate of `theta_peer - theta_local`: positive when the peer's clock runs faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Parts per billion, nanoseconds per second.
    pub ppb: i64,
    /// How far off that may be, with 99.9 % confidence, if the rate was constant and the paths' least delays were.
    pub uncertainty_ppb: i64,
}

impl Drift {
    fn agrees(self, other: Self) -> bool {
        (self.ppb - other.ppb).abs() <= self.uncertainty_ppb + other.uncertainty_ppb
    }
}

/// A drift, and since when the samples agree with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) drift: Drift,
    pub(super) since: MonoNs,
}

impl Line {
    /// How fast the clocks may have run apart at any moment since `since`.
    pub(super) fn rates(&self) -> Rates {
        let slack = self.drift.uncertainty_ppb + WANDER_PPB;
        Rates {
            low: (self.drift.ppb - slack).max(-RELATIVE_PPB),
            high: (self.drift.ppb + slack).min(RELATIVE_PPB),
        }
    }
}

/// Both directions' samples since some moment.
struct Corridor {
    out: Cloud,
    back: Cloud,
    now: MonoNs,
    /// What a sample of each direction weighs.
    weights: [i128; 2],
}

impl Corridor {
    /// The room between the two directions' lines of slope `ppb`, in 1e-9 ns: negative where no such line fits
    /// between the samples.
    fn room(&self, ppb: i64) -> i128 {
        self.out.line(ppb, self.now).zip(self.back.line(-ppb, self.now)).map_or(0, |(out, back)| out + back)
    }
    /// Each direction's sum of excess delays if the slope is `ppb`, in 1e-9 ns.
    fn excesses(&self, ppb: i64) -> [i128; 2] {
        let (out, back) = (self.out.distance(ppb, self.now), self.back.distance(-ppb, self.now));
        [out.unwrap_or(0), back.unwrap_or(0)]
    }
    /// Their weighted sum.
    fn excess(&self, ppb: i64) -> i128 {
        self.weighted(self.excesses(ppb))
    }
    fn weighted(&self, [out, back]: [i128; 2]) -> i128 {
        // 62 bits of difference, 30 of unit, 10 of samples, 17 of weight: it fits.
        out * self.weights[0] + back * self.weights[1]
    }
    /// Lets each direction weigh as much as its delays are short, if the slope is `ppb`: a congested direction tells
    /// little of the clock, and must not spoil what the other one tells.
    fn weigh(&mut self, ppb: i64) {
        let [out, back] = self.excesses(ppb);
        let mean = |sum: i128, samples: u64| (sum / i128::from(samples.max(1))).max(LEAST_EXCESS);
        let (out, back) = (mean(out, self.out.samples), mean(back, self.back.samples));
        let weight = |own: i128| (out.max(back) * 100 / own).min(MOST_WEIGHT * 100);
        self.weights = [weight(out), weight(back)];
    }
    /// All slopes of lines that stay above every inward and below every outward sample: certain, if the rate was
    /// constant. `None` if there is none: it was not.
    fn possible(&self) -> Option<Rates> {
        let best = lowest(-RELATIVE_PPB, RELATIVE_PPB, |ppb| -self.room(ppb));
        let fits = |ppb| self.room(ppb) >= 0;
        fits(best).then(|| Rates {
            low: -last(-best, RELATIVE_PPB, |ppb| fits(-ppb)),
            high: last(best, RELATIVE_PPB, fits),
        })
    }

    /// The slope that leaves the least excess delay, by each direction's own measure. For exponentially distributed
    /// delays that is the likeliest one, and its likelihood against another slope's is
    /// `(excess / least excess) ^ -samples`, less the parameters of the two lines; heavier tails make the excess, and so
    /// the uncertainty, larger.
    fn fit(mut self) -> Option<Drift> {
        if self.out.samples.min(self.back.samples) < LEAST_SAMPLES {
            return None;
        }
        let possible = self.possible()?;
        let best = |this: &Self| lowest(possible.low, possible.high, |ppb| this.excess(ppb));
        self.weigh(best(&self));
        let ppb = best(&self);
        let least = self.excess(ppb);
        let floor = [self.out.samples, self.back.samples].map(|samples| i128::from(samples) * LEAST_EXCESS);
        let samples = (self.out.samples + self.back.samples) as f64;
        // `as` saturates.
        let worse =
            (least.max(self.weighted(floor)) as f64 * (CONFIDENCE / (samples - 5.0)).exp_m1()) as i128;
        let likely = |ppb: i64| self.excess(ppb) - least <= worse;
        let high = last(ppb, possible.high, likely);
        let low = -last(-ppb, -possible.low, |ppb| likely(-ppb));
        Some(Drift { ppb, uncertainty_ppb: (high - ppb).max(ppb - low).max(1) })
    }
}

/// Fits the line to the longest part of the window, up to its end, in which the rate may have been constant: a line
/// fits between the two directions' samples, and the rate of its later half does not contradict that of all.
pub(super) fn fit(out: &Floor, back: &Floor, now: MonoNs) -> Option<Line> {
    let from =
        |since| Corridor { out: out.cloud(since), back: back.cloud(since), now, weights: [1, 1] }.fit();
    let starts = || out.starts(now);
    let count = starts().count();
    starts().enumerate().find_map(|(nth, since)| {
        let drift = from(since)?;
        let later = starts().nth(nth + (count - nth) / 2).and_then(from);
        later.is_none_or(|later| later.agrees(drift)).then_some(Line { drift, since })
    })
}

/// Where a convex function of `low..=high` is lowest; of several such places the middle one.
fn lowest(low: i64, high: i64, f: impl Fn(i64) -> i128) -> i64 {
    let first = first_from(low, high, |x| f(x + 1) >= f(x));
    if first == high || f(first + 1) > f(first) {
        return first;
    }
    let end = first_from(first, high, |x| f(x + 1) > f(x));
    first + (end - first) / 2
}

/// The first of `low..high` from which on `holds` is true; else `high`.
fn first_from(mut low: i64, mut high: i64, holds: impl Fn(i64) -> bool) -> i64 {
    while low < high {
        let middle = low + (high - low).div_euclid(2);
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// The last of `from..=to` up to which `holds` is true, given that it is at `from`.
fn last(from: i64, to: i64, holds: impl Fn(i64) -> bool) -> i64 {
    first_from(from, to, |x| !holds(x + 1))
}
