//! One bounded clock offset from whatever this host can tell about its clock.
//!
//! Convention (DESIGN section 3): `theta = C - true time`, positive when the clock is fast. NTP daemons that
//! report a correction to add (chrony's "current correction") report `-theta`.
//!
//! The values here are plain and pure; the IO is in the modules below.

//!
//! # Sources
//!
//! [`reader::ClockReader`] asks the sources of a list in order: chronyd, ClockBound, ntpd-rs, ntpd, plain NTP servers, the kernel.
//! One of them is used at a time, and never an average of several; the others are compared with it. Every bound is
//! made of what RFC 5905 calls the root distance: half the round trip to the primary clock, plus dispersion.
//!
//! # Leap seconds
//!
//! A leap second that is announced ([`Leap`]) is passed on and changes nothing by itself. When it comes, the kernel
//! steps REALTIME by a second, or the daemon slews it. A step is an epoch of its own: history and samples start
//! anew, and nothing is compared across it. A slew shows as a rate beyond what an oscillator can have: it is not
//! extrapolated, and the bound holds it ([`history`]). In the second itself a daemon's offset may be off by that
//! second: hosts that handle it differently contradict each other until their daemons have caught up.
//!
//! # Smeared time
//!
//! A server that smears spreads the second over hours, and in the middle of it tells a time that is up to half a
//! second (or a whole one) from UTC, with a small bound. Nothing in NTP says so, and so nothing here can take it
//! out. All hosts of a cluster, and all sources of a host, must follow the same policy: smearing servers must not be
//! mixed with others. Within the list of one host a mixture is seen as sources that contradict each other
//! ([`source::Disagreement`]); between hosts, as one-way times that contradict the round trip.

pub mod adjtimex;
mod ask;
pub mod baseline;
pub mod chrony;
pub mod clockbound;
pub mod drift;
pub mod fusion;
pub mod history;
pub mod honesty;
mod hull;
pub mod interval;
pub mod mapping;
pub mod ntpd;
pub mod ntpd_rs;
pub mod peer;
pub mod reader;
#[cfg(test)]
mod simulation;
pub mod sntp;
pub mod source;
pub mod spec;
pub mod watch;

use probe_ebpf::time::{Bounded, MonoNs, RealNs, Span, UtcNs, WallNs};
use serde::{Deserialize, Serialize};

use mapping::Injected;

/// How fast an undisciplined clock may drift, in parts per billion, when its bound is aged: 50 ppm, as
/// ClockBound assumes for commodity oscillators. Where its rate has been learnt, how far it may move from that.
pub const DRIFT_PPB: u32 = 50_000;

/// Who told the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// chronyd's tracking report.
    Chrony,
    /// ClockBound, by its shared memory: a bound around zero.
    ClockBound,
    /// ntpd-rs, by its observation socket.
    NtpdRs,
    /// ntpd or ntpsec, by its control protocol (mode 6).
    Ntpd,
    /// An NTP server that was asked directly.
    Sntp,
    /// The kernel's own `adjtimex` state: a sanity bound, not a measurement.
    Adjtimex,
}

/// The leap second at the end of this UTC day or month, as a source announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leap {
    /// None to come.
    None,
    /// The last minute will have 61 seconds.
    Insert,
    /// The last minute will have 59 seconds.
    Delete,
}

impl Leap {
    /// From the leap indicator of NTP (RFC 5905, figure 9), which chrony uses too; 3, "not synchronised", is none.
    pub fn from_code(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Insert),
            2 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// How far the source can be trusted at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// Recently compared with its reference.
    Synchronised,
    /// Was compared once; the reference has been silent for too long, so the bound only grows.
    FreeRunning,
    /// Never compared, or the source says so itself.
    Unsynchronised,
}

/// How fast a clock gains on true time, by its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds a second; positive when `theta` grows.
    pub ppb: i32,
    /// How far off that can be.
    pub bound_ppb: u32,
}

impl Rate {
    /// What is gained over `span`, rounded to the nanosecond below; saturates.
    pub fn over(self, span: Span) -> Span {
        let gained = (i128::from(span.as_nanos()) * i128::from(self.ppb)).div_euclid(1_000_000_000);
        Span::from_nanos(i64::try_from(gained).unwrap_or(if gained < 0 { i64::MIN } else { i64::MAX }))
    }
}

/// One reading of the local clock's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// `theta`: local wall clock minus true time.
    pub theta: Span,
    /// Bound of `theta` when it was read: root delay / 2 + root dispersion, and more when free-running;
    /// [`Span::MAX`] when unsynchronised.
    pub bound_at_read: Span,
    /// When it was read.
    pub read_at: MonoNs,
    /// Who told it.
    pub source: ClockSource,
    /// How far it can be trusted.
    pub state: ClockState,
    /// How fast `theta` changes, once several readings tell ([`history`]).
    pub rate: Option<Rate>,
}

impl ClockOffset {
    /// `theta` at `when`, moved on by the rate; its bound is widened for the time in between (either direction) by
    /// [`DRIFT_PPB`] and by what the rate may be off.
    pub fn at(&self, when: MonoNs) -> Bounded {
        let age = when - self.read_at;
        let (gained, unsure) = match self.rate {
            // One nanosecond for rounding.
            Some(rate) => (rate.over(age), age.drift(rate.bound_ppb) + Span::from_nanos(1)),
            None => (Span::ZERO, Span::ZERO),
        };
        Bounded::new(self.theta + gained, self.bound_at_read + age.drift(DRIFT_PPB) + unsure)
    }

    /// What is left of a reading when the clock was stepped after it: nothing, until the next one.
    pub fn voided(self) -> Self {
        Self { bound_at_read: Span::MAX, state: ClockState::Unsynchronised, ..self }
    }
}

/// Where this host's MONOTONIC and REALTIME clocks stand to each other, and how exactly that is known.
///
/// The single place where monotonic stamps become wall-clock stamps, and so the single place where tests
/// inject a clock error: the kernel's own stamps follow, since they pass through MONOTONIC first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `CLOCK_REALTIME - CLOCK_MONOTONIC`.
    pub real_minus_mono: Span,
    /// Half the width of the bracket in which the two were read.
    pub error: Span,
    /// Counts the steps of REALTIME that were seen: stamps of different epochs do not compare.
    pub epoch: u32,
    /// Error added on purpose to the node's wall clock (tests only; zero otherwise).
    pub injected: Injected,
}

impl Mapping {
    /// A kernel REALTIME stamp on this host's MONOTONIC.
    pub fn mono_of_real(&self, real: RealNs) -> MonoNs {
        let mono =
            MonoNs::from_nanos((real - RealNs::from_nanos(self.real_minus_mono.as_nanos())).as_nanos());
        mono + self.injected.kernel(mono) - self.injected.seen()
    }
    /// What the node's wall clock shows at a monotonic instant.
    pub fn wall(&self, at: MonoNs) -> WallNs {
        WallNs::from_nanos(at.as_nanos()) + self.real_minus_mono + self.injected.at(at)
    }
}

/// All that is known of the local clock at one moment: a plain value, handed to the pure core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockView {
    /// MONOTONIC to wall clock.
    pub mapping: Mapping,
    /// The wall clock's offset from true time.
    pub offset: ClockOffset,
}

impl ClockView {
    /// Best estimate of true time at `when`, and its bound (mapping error included).
    pub fn utc(&self, when: MonoNs) -> (UtcNs, Span) {
        let theta = self.offset.at(when);
        (correct(self.mapping.wall(when), theta.value), theta.bound + self.mapping.error)
    }
}

/// A wall reading of a clock that is `theta` fast, on the true timeline.
pub fn correct(wall: WallNs, theta: Span) -> UtcNs {
    UtcNs::from_nanos(wall.as_nanos()) - theta
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: MonoNs = MonoNs::from_nanos(1_000);

    fn offset(theta: Span) -> ClockOffset {
        ClockOffset {
            theta,
            bound_at_read: Span::from_millis(1),
            read_at: READ,
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
            rate: None,
        }
    }

    #[test]
    fn a_bound_ages_both_ways_and_a_step_voids_it() {
        let offset = offset(Span::from_millis(-50));
        let (second, aged) = (Span::from_secs(1), Span::from_micros(1_050));
        assert_eq!(offset.at(READ).bound, Span::from_millis(1));
        assert_eq!(offset.at(READ + second), Bounded::new(Span::from_millis(-50), aged));
        assert_eq!(offset.at(READ - second).bound, aged);
        assert_eq!(offset.voided().at(READ + second).bound, Span::MAX);
        assert_eq!(offset.voided().state, ClockState::Unsynchronised);
    }

    #[test]
    fn a_rate_moves_the_offset_and_its_doubt_the_bound() {
        let rate = Rate { ppb: -20_000, bound_ppb: 1_000 };
        let offset = ClockOffset { rate: Some(rate), ..offset(Span::from_millis(3)) };
        let at = |seconds| offset.at(READ + Span::from_secs(seconds));
        assert_eq!(at(2).value, Span::from_micros(2_960));
        assert_eq!(at(-2).value, Span::from_micros(3_040));
        assert_eq!(at(2).bound, Span::from_micros(1_000 + 102) + Span::from_nanos(1));
        assert_eq!(
            rate.over(Span::MAX),
            -Rate { ppb: 20_000, bound_ppb: 0 }.over(Span::MAX) - Span::from_nanos(1)
        );
        assert_eq!(Rate { ppb: i32::MAX, bound_ppb: 0 }.over(Span::MAX), Span::MAX);
    }

    /// An error put into the wall clock is taken out again by a reading that reports it.
    #[test]
    fn the_correction_undoes_the_injected_error() {
        let error = Span::from_nanos(20);
        for injected in [-50, 50].map(Span::from_millis) {
            let mapping =
                Mapping { real_minus_mono: Span::from_secs(100), error, epoch: 0, injected: injected.into() };
            let (utc, bound) = ClockView { mapping, offset: offset(injected) }.utc(READ);
            assert_eq!(utc, UtcNs::from_nanos(100_000_001_000));
            assert_eq!(bound, Span::from_millis(1) + error);
        }
    }
}
