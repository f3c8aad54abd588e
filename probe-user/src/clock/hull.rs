//! The floor under one direction's raw differences, in bounded memory.
//!
//! A raw difference is a delay (never negative) plus something that drifts slowly. Only samples of small delay say
//! something about the rest, and which of them matter depends on the drift that is assumed: for any drift they are
//! corners of the lower convex hull of (time, difference) (Zhang, Liu, Xia: Clock Synchronization Algorithms for
//! Network Measurements, INFOCOM 2002). So the hull is all that is kept, in buckets, so that old samples expire.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};
use smallvec::SmallVec;

/// How long a bucket is. Samples expire by whole buckets.
const BUCKET: Span = Span::from_secs(4);
/// Buckets held, the newest one, not yet full, included.
const BUCKETS: i64 = 16;
/// How long a sample counts, at most; at least one bucket less.
pub const WINDOW: Span = Span::from_nanos(BUCKET.as_nanos() * BUCKETS);
/// Corners held in a bucket. The hull of n random points has about ln n of them: 20 samples make three.
const CORNERS: usize = 8;

/// A raw difference plus its error, so that it is above the truth for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: MonoNs,
    pub(super) y: Span,
}

impl Point {
    fn coordinates(&self) -> (i128, i128) {
        (self.at.as_nanos().into(), self.y.as_nanos().into())
    }
    /// Where the point has got to at `now` in units of 1e-9 ns, drifting at `ppb`.
    pub(super) fn moved(&self, ppb: i64, now: MonoNs) -> i128 {
        let (at, y) = self.coordinates();
        y * GIGA + i128::from(ppb) * (i128::from(now.as_nanos()) - at)
    }
}

/// Nanoseconds in a second, and so parts per billion in one.
pub(super) const GIGA: i128 = 1_000_000_000;

/// How high `b` is above the line from `a` to `c`, times the (positive) time from `a` to `c`.
fn above(a: &Point, b: &Point, c: &Point) -> i128 {
    let ((ax, ay), (bx, by), (cx, cy)) = (a.coordinates(), b.coordinates(), c.coordinates());
    (by - ay) * (cx - ax) - (cy - ay) * (bx - ax)
}

/// Corners without an allocation: of one bucket (and the point just added), or of all of them.
type Corners<const N: usize> = SmallVec<[Point; N]>;
const OF_ALL: usize = (BUCKETS as usize + 1) * CORNERS;

/// The lower hull of points in order of time (Andrew's monotone chain).
fn lower_hull<const N: usize>(points: impl IntoIterator<Item = Point>) -> Corners<N>
where
    [Point; N]: smallvec::Array<Item = Point>,
{
    let mut hull = Corners::<N>::new();
    for point in points {
        if let Some(last) = hull.last_mut()
            && last.at == point.at
        {
            if last.y <= point.y {
                continue;
            }
            hull.pop();
        }
        while let [.., a, b] = hull.as_slice()
            && above(a, b, &point) >= 0
        {
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

/// How fast something may drift: anything between two rates, in parts per billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Rates {
    /// As seen with the sign of everything turned.
    pub(super) fn negated(self) -> Self {
        Self { low: -self.high, high: -self.low }
    }
}

#[derive(Clone, Debug)]
struct Bucket {
    index: i64,
    hull: Corners<{ CORNERS + 1 }>,
    samples: u64,
    /// Sum of the samples' times, and of their differences, in ns.
    sums: (i128, i128),
}

/// The lower hull of the last [`WINDOW`] of samples, and their number and means.
#[derive(Clone, Debug, Default)]
pub(super) struct Floor {
    /// In order of time.
    buckets: VecDeque<Bucket>,
    newest: Option<MonoNs>,
}

fn index(at: MonoNs) -> i64 {
    at.as_nanos().div_euclid(BUCKET.as_nanos())
}

/// The first moment whose samples still count at `now`.
pub(super) fn horizon(now: MonoNs) -> MonoNs {
    MonoNs::from_nanos(index(now).saturating_sub(BUCKETS - 1).saturating_mul(BUCKET.as_nanos()))
}

impl Floor {
    /// Takes a sample that is neither older than [`horizon`] nor from the future.
    pub(super) fn push(&mut self, point: Point, now: MonoNs) {
        let first = index(horizon(now));
        self.buckets.retain(|bucket| bucket.index >= first);
        let index = index(point.at);
        let place = self.buckets.partition_point(|bucket| bucket.index < index);
        if self.buckets.get(place).is_none_or(|bucket| bucket.index != index) {
            self.buckets.insert(place, Bucket { index, hull: Corners::new(), samples: 0, sums: (0, 0) });
        }
        self.buckets[place].push(point);
        // One more than in the window: a sample may be slightly ahead of `now`.
        if self.buckets.len() > BUCKETS as usize + 1 {
            self.buckets.pop_front();
        }
        self.newest = self.newest.max(Some(point.at));
    }

    /// When the newest sample was taken.
    pub(super) fn newest(&self) -> Option<MonoNs> {
        self.newest
    }

    fn since(&self, since: MonoNs) -> impl Iterator<Item = &Bucket> {
        let first = index(since);
        self.buckets.iter().filter(move |bucket| bucket.index >= first)
    }

    /// The least upper bound, at `now`, that the samples since `since` allow when they drift at any of `rates`;
    /// rounded up. `None` without samples.
    pub(super) fn at(&self, now: MonoNs, since: MonoNs, rates: Rates) -> Option<Span> {
        let aged = |point: &Point| {
            // Towards the past the other extreme is the worst case.
            let rate = if point.at <= now { rates.high } else { rates.low };
            point.moved(rate, now)
        };
        let least = self.since(since).flat_map(|bucket| &bucket.hull).map(aged).min()?;
        let up = least.div_euclid(GIGA) + i128::from(least.rem_euclid(GIGA) != 0);
        Some(Span::from_nanos(up.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
    }

    /// The number of samples since `since`.
    pub(super) fn samples(&self, since: MonoNs) -> u64 {
        self.since(since).map(|bucket| bucket.samples).sum()
    }

    /// The samples since `since`: their hull, number and sums.
    pub(super) fn cloud(&self, since: MonoNs) -> Cloud {
        let sums = self.since(since).fold((0, 0), |(at, y), b| (at + b.sums.0, y + b.sums.1));
        let hull = lower_hull(self.since(since).flat_map(|bucket| &bucket.hull).copied());
        Cloud { hull, samples: self.samples(since), sums }
    }

    /// The starts of the buckets that count at `now`, the oldest first.
    pub(super) fn starts(&self, now: MonoNs) -> impl Iterator<Item = MonoNs> {
        self.since(horizon(now)).map(|bucket| MonoNs::from_nanos(bucket.index * BUCKET.as_nanos()))
    }
}

impl Bucket {
    fn push(&mut self, point: Point) {
        self.samples += 1;
        let (at, y) = point.coordinates();
        self.sums = (self.sums.0 + at, self.sums.1 + y);
        let place = self.hull.partition_point(|held| held.at < point.at);
        self.hull.insert(place, point);
        self.hull = lower_hull(self.hull.iter().copied());
        // Fewer corners are a higher floor, which is a wider bound, never a wrong one: give up the flattest.
        if self.hull.len() > CORNERS {
            let depth = |at: &usize| above(&self.hull[at - 1], &self.hull[*at], &self.hull[at + 1]).abs();
            if let Some(flattest) = (1..self.hull.len() - 1).min_by_key(depth) {
                self.hull.remove(flattest);
            }
        }
    }
}

/// Samples of one direction, as far as a line under them depends on them.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    hull: Corners<OF_ALL>,
    pub(super) samples: u64,
    pub(super) sums: (i128, i128),
}

impl Cloud {
    /// Where the highest line of this slope that has no sample below it stands at `now`, in 1e-9 ns.
    pub(super) fn line(&self, ppb: i64, now: MonoNs) -> Option<i128> {
        self.hull.iter().map(|point| point.moved(ppb, now)).min()
    }

    /// The sum of all samples' distances from that line, in 1e-9 ns: what the best line has least of (Moon, Skelly,
    /// Towsley: Estimation and Removal of Clock Skew from Network Delay Measurements, INFOCOM 1999).
    pub(super) fn distance(&self, ppb: i64, now: MonoNs) -> Option<i128> {
        let samples = i128::from(self.samples);
        let ages = samples * i128::from(now.as_nanos()) - self.sums.0;
        Some(self.sums.1 * GIGA + i128::from(ppb) * ages - samples * self.line(ppb, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: MonoNs = MonoNs::from_nanos(0);

    fn point(ms: i64, us: i64) -> Point {
        Point { at: MonoNs::from_nanos(ms * 1_000_000), y: Span::from_micros(us) }
    }
    fn exactly(ppb: i64) -> Rates {
        Rates { low: ppb, high: ppb }
    }

    #[test]
    fn samples_expire_and_memory_is_bounded() {
        let mut floor = Floor::default();
        for n in 0..5_000_i64 {
            // A convex curve: every sample is a corner.
            let point = point(n * 20, (n - 2_500) * (n - 2_500));
            floor.push(point, point.at);
            assert!(floor.buckets.len() <= BUCKETS as usize);
            assert!(floor.buckets.iter().all(|bucket| bucket.hull.len() <= CORNERS));
        }
        let now = floor.newest().expect("samples");
        assert!(now - floor.starts(now).next().expect("a bucket") <= WINDOW);
        let mut still = Floor::default();
        still.push(point(0, 5), point(0, 0).at);
        still.push(point(60_000, 9), point(60_000, 0).at);
        assert_eq!(still.at(point(60_000, 0).at, ANY, exactly(0)), Some(Span::from_micros(5)));
        still.push(point(64_000, 9), point(64_000, 0).at);
        assert_eq!(still.at(point(64_000, 0).at, ANY, exactly(0)), Some(Span::from_micros(9)));
    }

    proptest! {
        /// For every rate the hull's answer is that of all samples, whatever their order; with too many corners it
        /// is at most wider.
        #[test]
        fn the_hull_answers_for_all_samples(
            samples in prop::collection::vec((0_i64..20_000, -500_i64..5_000), 1..200),
            ppb in -100_000_i64..100_000,
        ) {
            let now = point(20_000, 0).at;
            let (mut floor, mut cut) = (Floor::default(), false);
            for (ms, us) in &samples {
                floor.push(point(*ms, *us), now);
                // What is cut then may be missed when later samples have taken away corners.
                cut |= floor.buckets.iter().any(|bucket| bucket.hull.len() == CORNERS);
            }
            let brute = samples.iter().map(|(ms, us)| point(*ms, *us).moved(ppb, now)).min().expect("some");
            let got = i128::from(floor.at(now, ANY, exactly(ppb)).expect("some").as_nanos()) * GIGA;
            prop_assert!(got >= brute);
            prop_assert!(cut || got - brute < GIGA, "{got} {brute}");
            let cloud = floor.cloud(ANY);
            prop_assert_eq!(cloud.samples, samples.len() as u64);
            prop_assert_eq!(cloud.line(ppb, now).map(|line| line >= brute), Some(true));
        }
    }
}
