//! The only clock readings of the switch.

use nix::time::{ClockId, clock_gettime};
use probe_ebpf::time::{MonoNs, RealNs, Span};

/// CLOCK_MONOTONIC, which all hosts share, now.
pub fn mono_now() -> MonoNs {
    MonoNs::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// CLOCK_REALTIME, of which the kernel's stamps of packets are, now.
pub fn real_now() -> RealNs {
    RealNs::from_nanos(read(ClockId::CLOCK_REALTIME))
}

/// Where the kernel's CLOCK_REALTIME stands against CLOCK_MONOTONIC: what turns stamps of packets into
/// readings of the shared clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    real_minus_mono: Span,
    error: Span,
}

impl Mapping {
    /// Reads one clock between two readings of the other, ten times, and keeps the narrowest.
    pub fn read() -> Self {
        let once = || {
            let before = read(ClockId::CLOCK_MONOTONIC);
            let real = read(ClockId::CLOCK_REALTIME);
            let after = read(ClockId::CLOCK_MONOTONIC);
            let width = after - before;
            Self {
                real_minus_mono: Span::from_nanos(real - before - width / 2),
                error: Span::from_nanos(width).half_up(),
            }
        };
        (1..10).map(|_| once()).fold(once(), |best, next| if next.error < best.error { next } else { best })
    }

    /// When on CLOCK_MONOTONIC a stamp of CLOCK_REALTIME was taken.
    pub fn mono_of(&self, real: RealNs) -> MonoNs {
        MonoNs::from_nanos((real - RealNs::from_nanos(self.real_minus_mono.as_nanos())).as_nanos())
    }

    /// How far [`mono_of`](Self::mono_of) may be off.
    pub fn error(&self) -> Span {
        self.error
    }

    /// How far CLOCK_REALTIME was moved between the two.
    pub fn moved(&self, since: &Self) -> Span {
        (self.real_minus_mono - since.real_minus_mono).abs()
    }
}

fn read(clock: ClockId) -> i64 {
    let now = clock_gettime(clock).expect("Linux has had both clocks since 2.6");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_holds_between_readings() {
        let (one, two) = (Mapping::read(), Mapping::read());
        assert!(one.error() < Span::from_micros(100), "{}", one.error());
        assert!(two.moved(&one) <= one.error() + two.error() + Span::from_micros(1), "{}", two.moved(&one));
        let off = (two.mono_of(real_now()) - mono_now()).abs();
        assert!(off < Span::from_millis(10), "{off}");
    }
}
