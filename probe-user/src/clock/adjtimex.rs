//! The kernel's own idea of its clock: `adjtimex(2)`, which anybody may read.
//!
//! What it says depends on the daemon that feeds it, and the kernel does not tell which one that is. ntpd and
//! chronyd (with `rtcsync`) store root delay / 2 + root dispersion as `maxerror`; systemd-timesyncd and
//! phc2sys set it to zero at every update, which bounds nothing; chronyd and ntpd-rs always leave `offset` at
//! zero. The kernel adds 500 ppm to `maxerror` and declares the clock unsynchronised at 16 s
//! (kernel/time/ntp.c). So this is a last resort: never better than free-running.

use std::io;

use probe_ebpf::time::{MonoNs, Span};

use super::mapping::mono_now;
use super::source::{OffsetSource, Opinion, SourceError};
use super::{ClockOffset, ClockSource, ClockState};

/// The smallest bound that is believed. A daemon that resets `maxerror` follows a server whose answers may be
/// off by half a round trip, and this is half of a long one (200 ms).
pub const LEAST_BOUND: Span = Span::from_millis(100);

/// The part of `struct timex` that matters here, in the kernel's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClock {
    /// What the kernel has still to *add* to the clock, little by little: ns with `STA_NANO`, else us.
    pub offset: i64,
    /// Microseconds.
    pub max_error_us: i64,
    /// `STA_*` flags.
    pub status: i32,
    /// The call returned `TIME_ERROR`.
    pub time_error: bool,
}

impl KernelClock {
    /// Asks the kernel, and changes nothing. Fails only where a sandbox forbids the call.
    pub fn read() -> io::Result<(Self, MonoNs)> {
        // SAFETY: `timex` is a C struct of integers; all zeros is a valid value, and `modes == 0` means "read".
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: `timex` is valid, writable and outlives the call.
        let rc = unsafe { libc::adjtimex(&raw mut timex) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        let clock = Self {
            offset: timex.offset,
            max_error_us: timex.maxerror,
            status: timex.status,
            time_error: rc == libc::TIME_ERROR,
        };
        Ok((clock, mono_now()))
    }

    /// The offset that this stands for.
    ///
    /// Unsynchronised when the kernel says so: `maxerror` is capped at 16 s then, so nothing is known. Else
    /// some daemon did compare the clock within the last nine hours (16 s at 500 ppm), but how recently cannot
    /// be told: free-running, with a bound of `maxerror` or [`LEAST_BOUND`].
    pub fn judge(&self, read_at: MonoNs) -> ClockOffset {
        let pending = if self.status & libc::STA_NANO != 0 {
            Span::from_nanos(self.offset)
        } else {
            Span::from_micros(self.offset)
        };
        let (state, bound_at_read) = if self.time_error || self.status & libc::STA_UNSYNC != 0 {
            (ClockState::Unsynchronised, Span::MAX)
        } else {
            (ClockState::FreeRunning, Span::from_micros(self.max_error_us).max(LEAST_BOUND))
        };
        // A clock to which something is still to be added is slow.
        ClockOffset {
            theta: -pending,
            bound_at_read,
            read_at,
            source: ClockSource::Adjtimex,
            state,
            rate: None,
        }
    }
}

/// The kernel as a source.
#[derive(Clone, Copy, Debug)]
pub struct Adjtimex;

impl OffsetSource for Adjtimex {
    fn name(&self) -> String {
        "the kernel (adjtimex)".to_owned()
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (clock, read_at) = KernelClock::read().map_err(SourceError::Adjtimex)?;
        let offset = clock.judge(read_at);
        let doubt = match offset.state {
            ClockState::Unsynchronised => "the kernel's clock is not synchronised",
            _ => "the kernel does not tell when its clock was last synchronised",
        };
        // It does keep a leap status, but one that outlives the daemon that set it.
        Ok(Opinion { offset, doubt: Some(doubt.to_owned()), leap: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: MonoNs = MonoNs::from_nanos(9);
    const SLEWING: KernelClock =
        KernelClock { offset: 3_000, max_error_us: 250_000, status: libc::STA_PLL, time_error: false };

    #[test]
    fn units_follow_the_flag_and_the_sign_is_ours() {
        let offset = SLEWING.judge(READ);
        assert_eq!(offset.theta, Span::from_millis(-3));
        assert_eq!((offset.bound_at_read, offset.read_at), (Span::from_millis(250), READ));
        assert_eq!((offset.source, offset.state), (ClockSource::Adjtimex, ClockState::FreeRunning));
        let nano = KernelClock { status: libc::STA_PLL | libc::STA_NANO, ..SLEWING };
        assert_eq!(nano.judge(READ).theta, Span::from_micros(-3));
    }

    #[test]
    fn a_reset_maxerror_is_not_believed() {
        let reset = KernelClock { max_error_us: 0, ..SLEWING };
        assert_eq!(reset.judge(READ).bound_at_read, LEAST_BOUND);
    }

    #[test]
    fn unsynchronised_means_that_nothing_is_known() {
        let flag = KernelClock { status: libc::STA_UNSYNC, max_error_us: 16_000_000, ..SLEWING };
        for clock in [flag, KernelClock { time_error: true, ..SLEWING }] {
            let offset = clock.judge(READ);
            assert_eq!((offset.state, offset.bound_at_read), (ClockState::Unsynchronised, Span::MAX));
        }
    }

    #[test]
    fn extremes_do_not_panic() {
        for value in [i64::MIN, i64::MAX] {
            let offset = KernelClock { offset: value, max_error_us: value, ..SLEWING }.judge(READ);
            assert!(offset.bound_at_read >= LEAST_BOUND);
        }
    }

    /// Whatever this machine's state: the call works without privilege, and its two ways of saying
    /// "unsynchronised" agree with the judgement.
    #[test]
    fn the_real_kernel_answers() {
        let before = mono_now();
        let (clock, read_at) = KernelClock::read().expect("adjtimex");
        assert!(before <= read_at && read_at <= mono_now());
        assert!((0..=16_000_000).contains(&clock.max_error_us), "{clock:?}");
        let unsynchronised = clock.time_error || clock.status & libc::STA_UNSYNC != 0;
        assert_eq!(clock.judge(read_at).state == ClockState::Unsynchronised, unsynchronised);
    }
}
