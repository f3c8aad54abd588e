//! What a tracking report is worth: its offset, bound and state.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, RealNs, Span, UtcNs};

use super::Tracking;
use crate::clock::{ClockOffset, ClockSource, ClockState, DRIFT_PPB};

/// After how many update intervals without an update chronyd counts as left alone.
const MISSED_UPDATES: i64 = 8;

/// An update is never missed before this: eight times the two seconds between the packets of an `iburst`.
///
/// Shorter intervals say nothing, since a live chronyd skips updates that would not improve its clock: with a
/// source polled four times a second, gaps of 1.6 s were seen. After an `iburst` the next poll comes only
/// after 64 s, so for most of that first minute the state is free-running and the bound wider than need be:
/// it errs on the safe side.
const FLOOR: Span = Span::from_secs(16);

/// A reference time up to this far in the future is taken as now; beyond it, the clock was stepped.
const FUTURE_SLACK: Span = Span::from_secs(1);

/// The reference id of chronyd's `local` directive, 127.127.1.1: it follows its own clock.
const LOCAL_REFERENCE: u32 = 0x7f7f_0101;

/// Relative resolution of chrony's floats, 2^-23, in parts per billion: 6 ns of 50 ms, but 12 us of 100 s.
const FLOAT_PPB: u32 = 120;

/// What keeps an answering chronyd from being synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It says so itself (leap status 3), or names no reference.
    #[error("is not synchronised to any source")]
    NotSynchronised,
    /// Its `local` directive makes it its own reference: nothing outside has confirmed the clock.
    #[error("follows its own clock (the local reference)")]
    LocalReference,
    /// Its reference has been silent for too long. The leap status stays normal then.
    #[error("has not updated its clock for {age} (it used to every {interval})")]
    Silent {
        /// Since the last update.
        age: Span,
        /// Usual time between two updates.
        interval: Span,
    },
    /// Its last update lies in the future: the clock was stepped back, and chronyd does not know it yet.
    #[error("updated its clock {ahead} in the future: the clock was stepped")]
    Future {
        /// How far.
        ahead: Span,
    },
}

/// How often a chronyd updates its clock: the median of the last few intervals it reported.
///
/// A single one misleads: it is short after a change of source, and long after an outage.
#[derive(Clone, Debug, Default)]
pub struct Cadence {
    last_update: Option<UtcNs>,
    intervals: VecDeque<Span>,
}

impl Cadence {
    const REMEMBERED: usize = 7;

    /// Takes a report; gives the usual interval, zero when none is known yet.
    pub fn observe(&mut self, tracking: &Tracking) -> Span {
        // Zero stands for "no second update yet".
        if self.last_update != Some(tracking.ref_time) && tracking.update_interval > Span::ZERO {
            self.last_update = Some(tracking.ref_time);
            if self.intervals.len() == Self::REMEMBERED {
                self.intervals.pop_front();
            }
            self.intervals.push_back(tracking.update_interval);
        }
        let mut sorted: Vec<Span> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(Span::ZERO)
    }
}

impl Tracking {
    /// Time since the last update, at `now` on the kernel's clock. Reference times are in chronyd's view of
    /// true time, so `now` is corrected first: under `chronyd -x` the two may lie far apart. Negative when the
    /// clock was stepped back since.
    pub fn age(&self, now: RealNs) -> Span {
        let utc = UtcNs::from_nanos(now.as_nanos()) + self.correction;
        utc - self.ref_time
    }

    /// Bound of the correction as chronyd gives it: root delay / 2 + root dispersion (RFC 5905, section 11.2),
    /// the latter aged by chronyd with 1 ppm by default; and what the correction lost by travelling as a float.
    pub fn bound(&self) -> Span {
        self.root_delay.half_up() + self.root_dispersion + self.correction.drift(FLOAT_PPB)
    }

    /// The offset that this report stands for. It was read at `read_at`, when the kernel's clock showed `now`;
    /// `interval` is the usual time between updates ([`Cadence`]).
    ///
    /// A free-running clock's bound grows by [`DRIFT_PPB`] from the last update on, on top of what chronyd
    /// adds. If the clock was stepped under chronyd's feet, by at least the span by which the last update lies
    /// in the future, its correction is off by as much, and so that span is in the bound too. Of an
    /// unsynchronised clock nothing is known.
    pub fn judge(&self, read_at: MonoNs, now: RealNs, interval: Span) -> (ClockOffset, Option<Doubt>) {
        let age = self.age(now);
        let silent_after = Span::from_nanos(interval.as_nanos().saturating_mul(MISSED_UPDATES)).max(FLOOR);
        let doubt = if self.leap == 3 || self.reference_id == 0 {
            Some(Doubt::NotSynchronised)
        } else if self.reference_id == LOCAL_REFERENCE {
            Some(Doubt::LocalReference)
        } else if age < -FUTURE_SLACK {
            Some(Doubt::Future { ahead: -age })
        } else if age > silent_after {
            Some(Doubt::Silent { age, interval })
        } else {
            None
        };
        let (state, bound_at_read) = match doubt {
            None => (ClockState::Synchronised, self.bound()),
            Some(Doubt::Silent { age, .. }) => (ClockState::FreeRunning, self.bound() + age.drift(DRIFT_PPB)),
            Some(Doubt::Future { ahead }) => {
                (ClockState::FreeRunning, self.bound() + ahead + ahead.drift(DRIFT_PPB))
            }
            Some(Doubt::NotSynchronised | Doubt::LocalReference) => (ClockState::Unsynchronised, Span::MAX),
        };
        let offset = ClockOffset {
            theta: -self.correction,
            bound_at_read,
            read_at,
            source: ClockSource::Chrony,
            state,
            rate: None,
        };
        (offset, doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::chrony::tests::good_reply;

    const NOW: i64 = 1_700_000_000_000_000_000;
    const READ: MonoNs = MonoNs::from_nanos(5);

    /// A host whose kernel clock is `theta` fast, `age` after chronyd's last update.
    fn report(theta: Span, age: Span) -> (Tracking, RealNs) {
        let tracking = Tracking::decode(&good_reply(1), 1).expect("good");
        let truth = UtcNs::from_nanos(NOW);
        (Tracking { correction: -theta, ref_time: truth - age, ..tracking }, RealNs::from_nanos(NOW) + theta)
    }
    fn judge(theta: Span, age: Span, interval: Span) -> (ClockOffset, Option<Doubt>) {
        let (tracking, now) = report(theta, age);
        tracking.judge(READ, now, interval)
    }

    #[test]
    fn a_fresh_report_is_synchronised_with_chronys_bound() {
        // "Add 50 ms" means that the clock is 50 ms slow.
        let (offset, doubt) = judge(Span::from_millis(-50), Span::from_secs(30), Span::from_secs(64));
        let bound = offset.bound_at_read - Span::from_millis(2); // 2 ms / 2 + 1 ms, and 6 ns for the float
        assert!((bound - Span::from_nanos(6)).abs() <= Span::from_nanos(1), "{bound}");
        assert_eq!((offset.theta, offset.read_at), (Span::from_millis(-50), READ));
        assert_eq!(
            (offset.source, offset.state, doubt),
            (ClockSource::Chrony, ClockState::Synchronised, None)
        );
    }

    #[test]
    fn skew_does_not_flip_the_state() {
        for theta in [-100_000, -50, 0, 50, 100_000, 1_700_000_000_000].map(Span::from_millis) {
            let state = |age| judge(theta, age, Span::from_secs(64)).0.state;
            assert_eq!(state(Span::from_secs(512)), ClockState::Synchronised, "{theta}");
            assert_eq!(state(Span::from_millis(512_001)), ClockState::FreeRunning, "{theta}");
        }
    }

    #[test]
    fn short_intervals_do_not_count() {
        let state = |age| judge(Span::ZERO, age, Span::from_millis(250)).0.state;
        assert_eq!(state(FLOOR), ClockState::Synchronised);
        assert_eq!(state(FLOOR + Span::from_nanos(1)), ClockState::FreeRunning);
        assert_eq!(judge(Span::ZERO, Span::from_secs(15), Span::ZERO).0.state, ClockState::Synchronised);
    }

    #[test]
    fn a_free_running_bound_grows_from_the_last_update_on() {
        let bound = |age| judge(Span::ZERO, Span::from_secs(age), Span::from_secs(2)).0.bound_at_read;
        let chronys = report(Span::ZERO, Span::ZERO).0.bound();
        assert_eq!(bound(16), chronys);
        assert_eq!(bound(20), chronys + Span::from_millis(1)); // 50 ppm of 20 s
        assert_eq!(bound(2_000), chronys + Span::from_millis(100));
        let (offset, doubt) = judge(Span::ZERO, Span::from_secs(20), Span::from_secs(2));
        assert_eq!(doubt, Some(Doubt::Silent { age: Span::from_secs(20), interval: Span::from_secs(2) }));
        // And goes on between readings.
        assert_eq!(offset.at(READ + Span::from_secs(20)).bound, chronys + Span::from_millis(2));
    }

    #[test]
    fn an_update_in_the_future_is_a_step() {
        let (offset, doubt) = judge(Span::ZERO, Span::from_millis(-900), Span::from_secs(2));
        assert_eq!((offset.state, doubt), (ClockState::Synchronised, None));
        let (offset, doubt) = judge(Span::ZERO, Span::from_secs(-3_600), Span::from_secs(2));
        assert_eq!(doubt, Some(Doubt::Future { ahead: Span::from_secs(3_600) }));
        assert_eq!(offset.state, ClockState::FreeRunning);
        assert!(offset.bound_at_read > Span::from_secs(3_600), "{}", offset.bound_at_read);
    }

    #[test]
    fn without_a_reference_nothing_is_known() {
        let (fresh, now) = report(Span::ZERO, Span::from_secs(1));
        for (tracking, expected) in [
            (Tracking { leap: 3, ..fresh }, Doubt::NotSynchronised),
            (Tracking { reference_id: 0, ..fresh }, Doubt::NotSynchronised),
            (
                Tracking { reference_id: 0, leap: 3, ref_time: UtcNs::from_nanos(0), ..fresh },
                Doubt::NotSynchronised,
            ),
            (Tracking { reference_id: u32::from_be_bytes([127, 127, 1, 1]), ..fresh }, Doubt::LocalReference),
        ] {
            let (offset, doubt) = tracking.judge(READ, now, Span::from_secs(64));
            assert_eq!(doubt, Some(expected));
            assert_eq!((offset.state, offset.bound_at_read), (ClockState::Unsynchronised, Span::MAX));
        }
        for leap in 0..3 {
            assert_eq!(Tracking { leap, ..fresh }.judge(READ, now, Span::from_secs(64)).1, None);
        }
    }

    #[test]
    fn cadence_is_the_usual_interval() {
        let tracking = Tracking::decode(&good_reply(1), 1).expect("good");
        let mut cadence = Cadence::default();
        let mut update = |at, interval| {
            let report = Tracking {
                ref_time: UtcNs::from_nanos(at),
                update_interval: Span::from_secs(interval),
                ..tracking
            };
            cadence.observe(&report).as_nanos() / 1_000_000_000
        };
        assert_eq!(update(1, 0), 0, "no second update yet");
        assert_eq!(update(2, 64), 64);
        assert_eq!(update(3, 64), 64);
        assert_eq!((update(4, 1), update(5, 1)), (64, 64), "a change of source");
        assert_eq!((0..9).map(|_| update(5, 1)).max(), Some(64), "one update read again counts once");
        assert_eq!((update(6, 7_200), update(7, 64)), (64, 64), "an outage");
        assert_eq!((8..12).map(|at| update(at, 2)).last(), Some(2), "a new pace is learnt");
    }
}
