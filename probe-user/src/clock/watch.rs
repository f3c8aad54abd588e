//! What else happens to the clocks: REALTIME is set, its rate is changed, the host sleeps.
//!
//! A step also shows in the mapping ([`mapping`](super::mapping)), but only when that is next read. The kernel tells it
//! at once through a timer that it cancels when REALTIME is set (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
//!
//! A slew does not show in the mapping at all: REALTIME and MONOTONIC run on one timekeeper. It shows as its rate
//! (adjtimex(2): `freq` and `tick`; chronyd slews by up to 83,333 ppm), and stretches all that is measured meanwhile.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use probe_ebpf::time::Span;

/// Rates that differ by up to this much are one: disciplining an oscillator takes less, and it is what every bound
/// allows for anyway.
pub const SLEW_PPB: i64 = super::DRIFT_PPB as i64;

/// Becomes readable when somebody sets the wall clock.
#[derive(Debug)]
pub struct StepWatch(OwnedFd);

impl StepWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// No descriptor is left, or a sandbox forbids the calls.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so `fd` is open and nobody else's.
        let watch = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        watch.arm()?;
        Ok(watch)
    }

    /// A timer that never fires, but is cancelled when the clock is set.
    fn arm(&self) -> io::Result<()> {
        let never = libc::timespec { tv_sec: libc::time_t::MAX / 2_000_000_000, tv_nsec: 0 };
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the descriptor is open, `spec` outlives the call, and the old value is not asked for.
        let rc = unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const spec, std::ptr::null_mut())
        };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Was the clock set since the last call?
    pub fn was_set(&self) -> bool {
        let mut count = [0_u8; 8];
        // SAFETY: the descriptor is open, and the buffer has the eight bytes that are asked for.
        let n = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        // A cancelled timer stays so until it is set again (fs/timerfd.c).
        let set = n >= 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ECANCELED);
        if set {
            // Should it fail, the mapping tells of the next step, a second later.
            let _ = self.arm();
        }
        set
    }
}

impl AsFd for StepWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How fast the kernel makes its clocks run beyond the oscillator, in parts per billion; `None` where it does not tell.
pub fn rate_ppb() -> Option<i64> {
    // SAFETY: `timex` is a C struct of integers; all zeros is a valid value, and `modes == 0` means "read".
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is valid, writable and outlives the call.
    let rc = unsafe { libc::adjtimex(&raw mut timex) };
    (rc >= 0).then(|| rate_of(timex.freq, timex.tick))
}

/// `freq` is in ppm with a 16-bit fraction, `tick` in microseconds per tick of nominally 1/USER_HZ second.
fn rate_of(freq: i64, tick: i64) -> i64 {
    const NOMINAL_TICK: i64 = 10_000;
    let freq = i128::from(freq) * 1000 / 65_536;
    let tick = i128::from(tick - NOMINAL_TICK) * 100_000;
    i64::try_from(freq + tick).unwrap_or(i64::MAX)
}

/// How long the host has slept since its boot: what BOOTTIME counts and MONOTONIC does not.
pub fn slept() -> Span {
    let now = |clock| {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is a valid, writable timespec that outlives the call.
        let rc = unsafe { libc::clock_gettime(clock, &raw mut t) };
        (rc == 0).then(|| t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec))
    };
    let pair = now(libc::CLOCK_MONOTONIC).zip(now(libc::CLOCK_BOOTTIME));
    pair.map_or(Span::ZERO, |(mono, boot)| Span::from_nanos(boot - mono))
}

/// Faster than a discipline may be (`MAXFREQ`, include/linux/timex.h): the clock is being slewed now.
pub const SLEWING_PPB: i64 = 500_000;

/// Counts changes of rate that are slews, and sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Disturbances {
    rate: Option<i64>,
    slept: Span,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// The clocks' rate was changed by so many parts per billion: what was measured before does not compare with what
    /// is measured from now on.
    Slew {
        /// By how much.
        ppb: i64,
    },
    /// The host slept for so long.
    Slept {
        /// How long.
        time: Span,
    },
}

/// Sleeps shorter than this are a different order of reading two clocks.
const LEAST_SLEEP: Span = Span::from_millis(1);

impl Disturbances {
    /// From the host's present state on.
    pub fn of_this_host() -> Self {
        Self::new(rate_ppb(), slept())
    }

    /// What has happened to this host's clocks since the last call.
    pub fn look(&mut self) -> Option<Disturbance> {
        self.observe(rate_ppb(), slept())
    }

    /// Is the clock being slewed?
    pub fn is_slewing(&self) -> bool {
        self.rate.is_some_and(|ppb| ppb.abs() > SLEWING_PPB)
    }

    /// From this state on.
    pub const fn new(rate: Option<i64>, slept: Span) -> Self {
        Self { rate, slept }
    }

    /// The state as it is now: what happened since the last one?
    pub fn observe(&mut self, rate: Option<i64>, slept: Span) -> Option<Disturbance> {
        let time = slept - self.slept;
        if time > LEAST_SLEEP {
            self.slept = slept;
            return Some(Disturbance::Slept { time });
        }
        let (Some(before), Some(now)) = (self.rate, rate) else {
            self.rate = self.rate.or(rate);
            return None;
        };
        let ppb = now - before;
        if ppb.abs() > SLEW_PPB {
            self.rate = Some(now);
            return Some(Disturbance::Slew { ppb });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sets_the_clock_here() {
        let watch = StepWatch::new().expect("a timer");
        assert!(!watch.was_set() && !watch.was_set());
    }

    #[test]
    fn rates_are_told_in_parts_per_billion() {
        assert_eq!(rate_of(0, 10_000), 0);
        assert_eq!(rate_of(65_536, 10_000), 1_000);
        assert_eq!(rate_of(-32_768_000, 9_000), -500_000 - 100_000_000);
        assert!(rate_ppb().is_some());
    }

    #[test]
    fn slews_and_sleeps_are_told_once_and_discipline_is_not() {
        let mut seen = Disturbances::new(Some(12_000), Span::ZERO);
        assert_eq!(seen.observe(Some(-20_000), Span::from_nanos(300)), None);
        assert_eq!(seen.observe(None, Span::ZERO), None);
        let fast = Some(83_333_000);
        assert_eq!(seen.observe(fast, Span::ZERO), Some(Disturbance::Slew { ppb: 83_321_000 }));
        assert_eq!(seen.observe(fast, Span::ZERO), None);
        assert_eq!(seen.observe(Some(0), Span::ZERO), Some(Disturbance::Slew { ppb: -83_333_000 }));
        let time = Span::from_secs(5);
        assert_eq!(seen.observe(Some(0), time), Some(Disturbance::Slept { time }));
        assert_eq!(seen.observe(Some(0), time), None);
    }
}
