//! Time, typed by the clock it was read from.
//!
//! Five clocks meet in this project, and most mistakes in the field come from subtracting one from another.
//! Here each has a type of its own, in integer nanoseconds, and only readings of the same clock subtract:
//!
//! | type | clock |
//! |---|---|
//! | [`MonoNs`] | `CLOCK_MONOTONIC` of this host (`bpf_ktime_get_ns`) |
//! | [`RealNs`] | `CLOCK_REALTIME` as the kernel itself reads it (`skb->tstamp`) |
//! | [`WallNs`] | the node's wall clock: what its single MONO-to-REAL mapping says |
//! | [`UtcNs`]  | best estimate of true time: a wall reading after its NTP correction |
//! | [`PhcNs`]  | the clock of a NIC (PTP hardware clock), of which the kernel knows nothing |
//!
//! ```compile_fail
//! use probe_ebpf::time::{MonoNs, WallNs};
//! let _ = WallNs::from_nanos(2) - MonoNs::from_nanos(1); // unlike clocks: does not compile
//! ```
//! ```compile_fail
//! use probe_ebpf::time::{UtcNs, WallNs};
//! let _ = UtcNs::from_nanos(2) - WallNs::from_nanos(1); // corrected minus uncorrected: does not compile
//! ```
//! ```compile_fail
//! use probe_ebpf::time::{PhcNs, RealNs};
//! let _ = RealNs::from_nanos(2) - PhcNs::from_nanos(1); // the NIC's minus the kernel's: does not compile
//! ```
//! ```
//! use probe_ebpf::time::{MonoNs, Span};
//! assert_eq!(MonoNs::from_nanos(2) - MonoNs::from_nanos(5), Span::from_nanos(-3)); // negatives are kept
//! ```

use core::fmt;
use core::ops::{Add, AddAssign, Neg, Sub};

/// A signed length of time in nanoseconds, on no particular clock.
///
/// Arithmetic saturates: a span beyond 292 years is a broken input, and must neither wrap nor panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest span; as a bound it means "nothing is known".
    pub const MAX: Self = Self(i64::MAX);

    /// From nanoseconds.
    pub const fn from_nanos(ns: i64) -> Self {
        Self(ns)
    }
    /// From microseconds, saturating.
    pub const fn from_micros(us: i64) -> Self {
        Self(us.saturating_mul(1_000))
    }
    /// From milliseconds, saturating.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
    /// From whole seconds, saturating.
    pub const fn from_secs(s: i64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }
    /// From seconds as a float, as NTP daemons report them; rounds to the nearest nanosecond and saturates.
    /// NaN becomes [`Span::MAX`], so that it can never pass for a small value.
    pub fn from_secs_f64(s: f64) -> Self {
        if s.is_nan() {
            return Self::MAX;
        }
        let ns = s * 1e9;
        // `as` saturates; adding half of the sign's unit rounds without needing std's `round`.
        Self(if ns >= 0.0 { (ns + 0.5) as i64 } else { (ns - 0.5) as i64 })
    }
    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }
    /// In seconds, as Prometheus wants them.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
    /// The size without the sign.
    pub const fn abs(self) -> Self {
        Self(self.0.saturating_abs())
    }
    /// Below zero?
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
    /// How far a clock that is off by at most `ppb` parts per billion can drift over this span, rounded up:
    /// a bound may only err on the wide side.
    pub const fn drift(self, ppb: u32) -> Self {
        let ns = (self.0 as i128).unsigned_abs() * ppb as u128;
        let up = ns.div_ceil(1_000_000_000);
        Self(if up > i64::MAX as u128 { i64::MAX } else { up as i64 })
    }
    /// Half of the span, rounded away from zero (for bounds).
    pub const fn half_up(self) -> Self {
        Self(self.0 / 2 + self.0 % 2)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl AddAssign for Span {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for Span {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Neg for Span {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}
impl fmt::Display for Span {
    /// Human-sized: `-3 ns`, `12.3 us`, `4.5 ms`, `2.00 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        match self.0.unsigned_abs() {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.1} us", ns / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} ms", ns / 1e6),
            _ => write!(f, "{:.2} s", ns / 1e9),
        }
    }
}

macro_rules! instant {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(i64);

        impl $name {
            /// From nanoseconds since the clock's own zero.
            pub const fn from_nanos(ns: i64) -> Self {
                Self(ns)
            }
            /// Nanoseconds since the clock's own zero.
            pub const fn as_nanos(self) -> i64 {
                self.0
            }
        }
        impl Sub for $name {
            type Output = Span;
            fn sub(self, earlier: Self) -> Span {
                Span(self.0.saturating_sub(earlier.0))
            }
        }
        impl Add<Span> for $name {
            type Output = Self;
            fn add(self, span: Span) -> Self {
                Self(self.0.saturating_add(span.0))
            }
        }
        impl Sub<Span> for $name {
            type Output = Self;
            fn sub(self, span: Span) -> Self {
                Self(self.0.saturating_sub(span.0))
            }
        }
    };
}

instant! {
    /// A reading of this host's `CLOCK_MONOTONIC`: nanoseconds since boot, suspend not counted.
    ///
    /// `bpf_ktime_get_ns` is the same clock, but may step back by a few nanoseconds across a timekeeper
    /// update (kernel/time/timekeeping.c, `ktime_get_mono_fast_ns`): tiny negative spans are normal.
    MonoNs
}
instant! {
    /// A reading of this host's `CLOCK_REALTIME` that the kernel took itself, nanoseconds since 1970.
    ///
    /// Kept apart from [`WallNs`] because the node's wall clock may carry an injected error (tests), which
    /// the kernel's does not.
    RealNs
}
instant! {
    /// A node's wall clock, nanoseconds since 1970, as its one MONO-to-REAL mapping gives it; uncorrected.
    WallNs
}
instant! {
    /// True time as well as it is known: a wall reading plus the NTP correction, nanoseconds since 1970.
    UtcNs
}
instant! {
    /// A reading of a NIC's own clock, nanoseconds since a zero of its own: often TAI's, or when the NIC was started.
    /// Another NIC's is another clock.
    PhcNs
}

/// A value and how far off it can be: the truth lies in `value - bound ..= value + bound`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounded {
    /// The best estimate.
    pub value: Span,
    /// Never negative; [`Span::MAX`] means that nothing is known.
    pub bound: Span,
}

impl Bounded {
    /// A value with its bound; a negative bound makes no sense and is taken as its size.
    pub const fn new(value: Span, bound: Span) -> Self {
        Self { value, bound: bound.abs() }
    }
    /// A value without error.
    pub const fn exact(value: Span) -> Self {
        Self { value, bound: Span::ZERO }
    }
    /// Does the interval contain `truth`?
    pub fn covers(self, truth: Span) -> bool {
        (truth - self.value).abs() <= self.bound
    }
}
impl Add for Bounded {
    type Output = Self;
    /// Values add, and so do bounds (worst case, not a root of squares).
    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, bound: self.bound + other.bound }
    }
}
impl Sub for Bounded {
    type Output = Self;
    /// Values subtract, bounds still add.
    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, bound: self.bound + other.bound }
    }
}
impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} +- {}", self.value, self.bound)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn drift_rounds_up_and_never_overflows() {
        assert_eq!(Span::from_nanos(1).drift(50_000), Span::from_nanos(1));
        assert_eq!(Span::from_secs(1).drift(50_000), Span::from_micros(50));
        assert_eq!(Span::from_secs(-1).drift(50_000), Span::from_micros(50));
        assert_eq!(Span::MAX.drift(u32::MAX), Span::MAX);
    }

    #[test]
    fn seconds_as_float_round_saturate_and_refuse_nan() {
        assert_eq!(Span::from_secs_f64(0.05), Span::from_millis(50));
        assert_eq!(Span::from_secs_f64(-0.05), Span::from_millis(-50));
        assert_eq!(Span::from_secs_f64(1e300), Span::MAX);
        assert_eq!(Span::from_secs_f64(f64::NAN), Span::MAX);
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(MonoNs::from_nanos(i64::MIN) - MonoNs::from_nanos(1), Span::from_nanos(i64::MIN));
        assert_eq!(Span::from_nanos(i64::MIN).abs(), Span::MAX);
        assert_eq!(WallNs::from_nanos(i64::MAX) + Span::from_nanos(1), WallNs::from_nanos(i64::MAX));
    }

    #[test]
    fn bounds_add_for_sums_and_differences() {
        let a = Bounded::new(Span::from_nanos(10), Span::from_nanos(2));
        let b = Bounded::new(Span::from_nanos(4), Span::from_nanos(3));
        assert_eq!(a + b, Bounded::new(Span::from_nanos(14), Span::from_nanos(5)));
        assert_eq!(a - b, Bounded::new(Span::from_nanos(6), Span::from_nanos(5)));
        assert!(a.covers(Span::from_nanos(12)) && !a.covers(Span::from_nanos(13)));
    }

    #[test]
    fn spans_print_in_human_units() {
        assert_eq!(Span::from_nanos(-3).to_string(), "-3 ns");
        assert_eq!(Span::from_micros(12).to_string(), "12.0 us");
        assert_eq!(Span::from_millis(-50).to_string(), "-50.00 ms");
        assert_eq!(Span::from_secs(2).to_string(), "2.00 s");
    }
}
