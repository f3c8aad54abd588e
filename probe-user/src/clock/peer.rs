//! What gossip itself tells of a peer's clock, without any NTP.
//!
//! With `theta = C - true time` (positive = fast) and `Delta = theta_peer - theta_local`, a packet whose one-way time
//! is `d` shows, as difference of its two wall stamps (receipt minus sending),
//!
//! ```text
//! outward (local -> peer): raw = d + Delta        so Delta <= raw
//! inward  (peer -> local): raw = d - Delta        so Delta >= -raw
//! ```
//!
//! since no `d` is negative. Nothing is assumed about `d` being the same in both directions. With `Delta` taken at the
//! local host's stamp (sending of an outward packet, receipt of an inward one) this is exact while the peer's clock
//! drifts: its drift over `d` only scales `d`.
//!
//! The samples' bounds hold at other times after ageing: by [`RELATIVE_PPB`], or by the fitted drift with its
//! uncertainty and [`WANDER_PPB`](super::drift::WANDER_PPB) where that is tighter. What this rests on: nobody steps
//! either clock unnoticed ([`PeerEstimate::reset`]) or slews it faster than [`RELATIVE_PPB`].

use probe_ebpf::time::{MonoNs, Span, WallNs};

use super::drift::{self, Drift, Line, RELATIVE_PPB};
pub use super::hull::WINDOW;
use super::hull::{Floor, Point, Rates, horizon};
use super::interval::Interval;

/// Samples may be this far ahead of `now`: different threads' clock reads, kernel stamps across an update.
pub const FUTURE: Span = Span::from_millis(10);
/// Rejected samples of one direction in a row after which it is the old samples that are not believed any more.
pub const STRIKES: u32 = 5;
/// The drift line is fitted anew this often at most.
const REFIT: Span = Span::from_secs(1);
/// The drift line ages samples until so long after the newest; beyond it [`RELATIVE_PPB`] does.
const SILENCE: Span = Span::from_secs(2);
/// Differences beyond this are no clock readings.
const ABSURD: Span = Span::from_nanos(i64::MAX / 2);
/// As fast as clocks may run apart.
const LIMIT: Rates = Rates { low: -RELATIVE_PPB, high: RELATIVE_PPB };

/// One packet's raw difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The local host's stamp of it: when it was sent (outward) or received (inward).
    pub at: MonoNs,
    /// Wall clock of the receiver at receipt minus wall clock of the sender at sending, both uncorrected.
    pub raw: Span,
    /// Errors of both stamps and mappings; not of the clocks.
    pub error: Span,
}

/// The four stamps of a packet and a later one that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Local wall clock when the first packet was sent.
    pub sent: WallNs,
    /// The peer's wall clock when it arrived.
    pub peer_received: WallNs,
    /// The peer's wall clock when it sent the second.
    pub peer_sent: WallNs,
    /// Local wall clock when that arrived.
    pub received: WallNs,
    /// The same moment as `received`.
    pub at: MonoNs,
    /// Errors of one packet's stamps and mappings.
    pub error: Span,
}

impl Exchange {
    /// Time spent on both paths together.
    pub fn delay(&self) -> Span {
        (self.received - self.sent) - (self.peer_sent - self.peer_received)
    }
    /// `Delta` plus half of what the outward path takes longer than the inward one (RFC 5905, section 8).
    pub fn midpoint(&self) -> Span {
        let (outward, inward) = (self.peer_received - self.sent, self.received - self.peer_sent);
        Span::from_nanos(((i128::from(outward.as_nanos()) - i128::from(inward.as_nanos())) / 2) as i64)
    }
}

/// Why a sample was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// A difference of more than 146 years, or an error below zero.
    #[error("the difference is beyond any clock")]
    Absurd,
    /// Taken more than [`FUTURE`] after now.
    #[error("the sample is from the future")]
    Future,
    /// Older than [`WINDOW`].
    #[error("the sample is older than the window")]
    Late,
    /// Together with the other direction's samples it would make a round trip shorter than nothing: a forged or
    /// confused stamp, or a clock was stepped unnoticed.
    #[error("the round trip would be negative")]
    NegativeRoundTrip,
}

/// Samples that were not used, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    /// [`Rejected::Absurd`].
    pub absurd: u64,
    /// [`Rejected::Future`].
    pub future: u64,
    /// [`Rejected::Late`].
    pub late: u64,
    /// [`Rejected::NegativeRoundTrip`].
    pub negative_round_trip: u64,
    /// How often [`STRIKES`] in a row made the old samples void instead.
    pub restarts: u64,
}

/// What is known of a peer's clock at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerDelta {
    /// `Delta` for certain, however asymmetric the paths are.
    pub interval: Interval,
    /// `Delta` if the least delays of both directions are the same: the middle between the two directions' lines.
    pub midpoint: Span,
    /// Sum of both directions' least delays in the window; stamp errors included.
    pub min_round_trip: Span,
    /// How fast `Delta` changes; `None` until there are samples enough, or while the rate changes too fast.
    pub drift: Option<Drift>,
    /// Samples in the window, both directions.
    pub samples: u64,
    /// Age of the newest sample of the direction that has been silent for longer.
    pub age: Span,
}

/// Which way a sample went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

/// The running estimate of one peer's clock against the local one; a few kilobytes at most.
#[derive(Clone, Debug, Default)]
pub struct PeerEstimate {
    out: Floor,
    back: Floor,
    line: Option<Line>,
    fitted: Option<MonoNs>,
    /// Contradictions in a row, outward and inward.
    strikes: [u32; 2],
    rejections: Rejections,
}

impl PeerEstimate {
    /// Takes a packet to the peer, whose receipt the peer has reported.
    pub fn outward(&mut self, sample: Sample, now: MonoNs) -> Result<(), Rejected> {
        self.take(Way::Out, sample, now)
    }

    /// Takes a packet from the peer.
    pub fn inward(&mut self, sample: Sample, now: MonoNs) -> Result<(), Rejected> {
        self.take(Way::In, sample, now)
    }

    /// Takes both packets of an exchange: instead of giving them to `outward` and `inward`, not besides.
    pub fn exchange(&mut self, exchange: &Exchange, now: MonoNs) -> Result<(), Rejected> {
        let Exchange { sent, peer_received, peer_sent, received, at, error } = *exchange;
        let outward = Sample { at: at - (received - sent), raw: peer_received - sent, error };
        self.outward(outward, now)?;
        self.inward(Sample { at, raw: received - peer_sent, error }, now)
    }

    /// Forgets all samples: one of the two clocks was stepped. What was rejected stays counted.
    pub fn reset(&mut self) {
        *self = Self { rejections: self.rejections, ..Self::default() };
    }

    /// What was not used, by reason.
    pub fn rejections(&self) -> Rejections {
        self.rejections
    }

    fn take(&mut self, way: Way, sample: Sample, now: MonoNs) -> Result<(), Rejected> {
        let taken = self.check(way, sample, now);
        match taken {
            Ok(point) => {
                match way {
                    Way::Out => self.out.push(point, now),
                    Way::In => self.back.push(point, now),
                }
                if self.fitted.is_none_or(|fitted| (now - fitted).abs() >= REFIT) {
                    self.line = drift::fit(&self.out, &self.back, now);
                    self.fitted = Some(now);
                }
            }
            Err(Rejected::Absurd) => self.rejections.absurd += 1,
            Err(Rejected::Future) => self.rejections.future += 1,
            Err(Rejected::Late) => self.rejections.late += 1,
            Err(Rejected::NegativeRoundTrip) => self.rejections.negative_round_trip += 1,
        }
        taken.map(drop)
    }

    fn check(&mut self, way: Way, sample: Sample, now: MonoNs) -> Result<Point, Rejected> {
        let Sample { at, raw, error } = sample;
        if raw.abs() > ABSURD || error.is_negative() || error > ABSURD {
            return Err(Rejected::Absurd);
        }
        if at > now + FUTURE {
            return Err(Rejected::Future);
        }
        if at < horizon(now) {
            return Err(Rejected::Late);
        }
        let point = Point { at, y: raw + error };
        let (other, strikes) = match way {
            Way::Out => (&self.back, &mut self.strikes[0]),
            Way::In => (&self.out, &mut self.strikes[1]),
        };
        let against = other.at(at, horizon(now), LIMIT);
        if against.is_some_and(|against| (point.y + against).is_negative()) {
            *strikes += 1;
            if *strikes < STRIKES {
                return Err(Rejected::NegativeRoundTrip);
            }
            self.rejections.restarts += 1;
            self.reset();
        } else {
            *strikes = 0;
        }
        Ok(point)
    }

    /// What is known of the peer's clock at `now`; `None` until both directions have samples in the window.
    pub fn at(&self, now: MonoNs) -> Option<PeerDelta> {
        let oldest = horizon(now);
        let (interval, lines, drift) = match self.along_line(now, oldest) {
            Some((interval, lines, drift)) => (interval, lines, Some(drift)),
            None => {
                let interval = self.interval(now, oldest, LIMIT)?;
                (interval, interval, None)
            }
        };
        Some(PeerDelta {
            interval,
            midpoint: lines.middle(),
            min_round_trip: lines.width(),
            drift,
            samples: self.out.samples(oldest) + self.back.samples(oldest),
            age: now - self.out.newest().min(self.back.newest())?,
        })
    }

    fn interval(&self, now: MonoNs, since: MonoNs, rates: Rates) -> Option<Interval> {
        let high = self.out.at(now, since, rates)?;
        let low = -self.back.at(now, since, rates.negated())?;
        Interval::new(low, high)
    }

    /// The interval, the room between the lines themselves, and the drift; `None` where newer samples contradict it.
    fn along_line(&self, now: MonoNs, oldest: MonoNs) -> Option<(Interval, Interval, Drift)> {
        let line = self.line?;
        let since = line.since.max(oldest);
        let drift = line.drift.ppb;
        // What the rate has become after the newest samples, nobody knows.
        let known = now.min(self.out.newest().min(self.back.newest())? + SILENCE);
        let silent = now - known;
        let interval = self.interval(known, since, line.rates())?.widened(silent.drift(RELATIVE_PPB as u32));
        let lines = self.interval(now, since, Rates { low: drift, high: drift })?;
        Some((interval, lines, line.drift))
    }
}
