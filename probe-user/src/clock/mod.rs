//! One bounded clock offset from whatever this host can tell about its clock.
//!
//! Convention (DESIGN section 3): `theta = C - true time`, positive when the clock is fast. NTP daemons that
//! report a correction to add (chrony's "current correction") report `-theta`.
//!
//! The values here are plain and pure; the IO is in the modules below.

pub mod adjtimex;
pub mod chrony;
pub mod mapping;
pub mod reader;

use probe_ebpf::time::{Bounded, MonoNs, RealNs, Span, UtcNs, WallNs};
use serde::{Deserialize, Serialize};

use mapping::Injected;

/// How fast an undisciplined clock may drift, in parts per billion, when its bound is aged: 50 ppm, as
/// ClockBound assumes for commodity oscillators.
pub const DRIFT_PPB: u32 = 50_000;

/// Who told the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// chronyd's tracking report.
    Chrony,
    /// The kernel's own `adjtimex` state: a sanity bound, not a measurement.
    Adjtimex,
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
}

impl ClockOffset {
    /// `theta` at `when`, its bound widened by [`DRIFT_PPB`] for the time in between (either direction).
    pub fn at(&self, when: MonoNs) -> Bounded {
        Bounded::new(self.theta, self.bound_at_read + (when - self.read_at).drift(DRIFT_PPB))
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
        MonoNs::from_nanos((real - RealNs::from_nanos(self.real_minus_mono.as_nanos())).as_nanos())
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
