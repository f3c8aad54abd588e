//! Reads the kernel's clocks and measures how MONOTONIC and REALTIME stand to each other.
//!
//! Both clocks run on one slewed timekeeper (kernel/time/timekeeping.c): `REALTIME - MONOTONIC` is a constant
//! that changes only when REALTIME is stepped, at a leap second, and on resume from suspend. So a change that
//! is larger than the readings' errors is such an event, and starts a new *epoch*.

use probe_ebpf::time::{Bounded, MonoNs, RealNs, Span};

use super::Mapping;

/// How many brackets are read to find a narrow one: an interrupt or a lost time slice widens a few of them.
const BRACKETS: usize = 10;

/// Changes of the mapping up to this much beyond the brackets' own errors are no step: TSCs of different CPUs
/// may disagree by some tens of nanoseconds, and a step this small is below everything that is measured.
pub const STEP_SLACK: Span = Span::from_nanos(100);

/// `CLOCK_MONOTONIC` now. With [`real_now`] the only clock read of this crate.
pub fn mono_now() -> MonoNs {
    MonoNs::from_nanos(now(libc::CLOCK_MONOTONIC))
}

/// `CLOCK_REALTIME` now, as the kernel has it: without any injected error.
pub fn real_now() -> RealNs {
    RealNs::from_nanos(now(libc::CLOCK_REALTIME))
}

fn now(clock: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid, writable timespec that outlives the call.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut t) };
    // It fails for an unknown clock or a bad address only (clock_gettime(2)), and this is neither.
    assert_eq!(rc, 0, "the kernel refused to tell the time of clock {clock}");
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// One reading of REALTIME between two of MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// MONOTONIC just before.
    pub before: MonoNs,
    /// REALTIME.
    pub real: RealNs,
    /// MONOTONIC just after.
    pub after: MonoNs,
}

impl Bracket {
    /// Reads the clocks.
    pub fn read() -> Self {
        Self { before: mono_now(), real: real_now(), after: mono_now() }
    }
    /// Time between the two outer reads.
    pub fn width(&self) -> Span {
        self.after - self.before
    }
    /// `REALTIME - MONOTONIC`: measured from the middle of the bracket, known to half its width.
    pub fn real_minus_mono(&self) -> Bounded {
        let half = self.width().half_up();
        // The larger half is counted from the far end: the middle is never further than `half` from either.
        let middle = self.after - half;
        Bounded::new(Span::from_nanos(self.real.as_nanos()) - Span::from_nanos(middle.as_nanos()), half)
    }
}

/// Notices steps in a sequence of `REALTIME - MONOTONIC` measurements. Pure.
#[derive(Clone, Copy, Debug, Default)]
struct Epochs {
    number: u32,
    /// The narrowest measurement of this epoch. Compared with it, and not with the latest one, many small
    /// steps add up until they are seen.
    anchor: Option<Bounded>,
}

impl Epochs {
    fn is_stepped(&self, measured: Bounded) -> bool {
        self.anchor.is_some_and(|anchor| {
            let apart = anchor - measured;
            apart.value.abs() > apart.bound + STEP_SLACK
        })
    }

    fn begin(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.anchor = None;
    }

    /// Takes the next measurement; gives the number of the epoch it belongs to.
    fn accept(&mut self, measured: Bounded) -> u32 {
        if self.is_stepped(measured) {
            self.number = self.number.wrapping_add(1);
            self.anchor = Some(measured);
        } else if self.anchor.is_none_or(|anchor| measured.bound < anchor.bound) {
            self.anchor = Some(measured);
        }
        self.number
    }
}

/// A wall clock that is wrong on purpose, for tests: by some error, which drifts.
///
/// The error is told as of the boot, when `CLOCK_MONOTONIC` was zero: a node that is started again on the same host
/// has the same clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Error at the boot; positive is fast.
    pub at_boot: Span,
    /// What it gains, in nanoseconds a second.
    pub drift_ppb: i64,
    /// Its step, if it is stepped.
    pub step: Option<InjectedStep>,
}

/// A step of the wall clock, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedStep {
    /// By how much; positive is forward.
    pub by: Span,
    /// When.
    pub at: MonoNs,
    /// The mapping was read after it, and so has it in it.
    pub seen: bool,
}

impl Injected {
    /// The error that a mapping gives the wall clock at this instant: exact, rounded down to the nanosecond, saturating.
    /// As with a true step, a mapping that was read before it knows nothing of it.
    pub fn at(&self, when: MonoNs) -> Span {
        self.drifted(when) + self.seen()
    }

    /// What the kernel's REALTIME stamps have in them at this instant: the step, from its moment on. (They have no
    /// part in the rest, of which nothing in the node may depend.)
    pub(super) fn kernel(&self, when: MonoNs) -> Span {
        self.step.filter(|step| step.at <= when).map_or(Span::ZERO, |step| step.by)
    }

    /// What a mapping has in it of the step.
    pub(super) fn seen(&self) -> Span {
        self.step.filter(|step| step.seen).map_or(Span::ZERO, |step| step.by)
    }

    /// The same, read at `when`.
    fn read(self, when: MonoNs) -> Self {
        Self { step: self.step.map(|step| InjectedStep { seen: step.at <= when, ..step }), ..self }
    }

    fn drifted(&self, when: MonoNs) -> Span {
        // 63 bits each: the product fits into 128.
        let gained = (i128::from(when.as_nanos()) * i128::from(self.drift_ppb)).div_euclid(1_000_000_000);
        let error = i128::from(self.at_boot.as_nanos()) + gained;
        let saturated = if error < 0 { i64::MIN } else { i64::MAX };
        Span::from_nanos(i64::try_from(error).unwrap_or(saturated))
    }
}

impl From<Span> for Injected {
    /// An error that stays as it is.
    fn from(error: Span) -> Self {
        Self { at_boot: error, ..Self::default() }
    }
}

/// Reads the mapping again and again, and counts its steps.
///
/// After a step every clock offset that was read before it is void: read that again too.
#[derive(Clone, Copy, Debug)]
pub struct MappingReader {
    injected: Injected,
    epochs: Epochs,
}

impl MappingReader {
    /// A reader whose mappings carry `injected` as the error of the node's wall clock: zero outside tests.
    pub fn new(injected: impl Into<Injected>) -> Self {
        Self { injected: injected.into(), epochs: Epochs::default() }
    }

    /// What was measured before does not compare with what is measured from now on, whatever the mapping says.
    pub fn begin_epoch(&mut self) {
        self.epochs.begin();
    }

    /// The mapping now, from the narrowest of ten brackets; takes about a microsecond.
    pub fn read(&mut self) -> Mapping {
        let mut best = Bracket::read();
        for _ in 1..BRACKETS {
            let next = Bracket::read();
            if next.width() < best.width() {
                best = next;
            }
        }
        self.accept(&best)
    }

    /// Was REALTIME stepped since the mapping was read? A single bracket, about a tenth of a microsecond: cheap enough
    /// to ask before kernel stamps are moved to MONOTONIC, which the old mapping would move wrongly.
    pub fn is_stepped(&self) -> bool {
        self.differs(&Bracket::read())
    }

    fn differs(&self, bracket: &Bracket) -> bool {
        let measured = bracket.real_minus_mono() + Bounded::exact(self.injected.kernel(bracket.after));
        self.epochs.is_stepped(measured)
    }

    fn accept(&mut self, bracket: &Bracket) -> Mapping {
        let measured = bracket.real_minus_mono();
        let injected = self.injected.read(bracket.after);
        Mapping {
            real_minus_mono: measured.value,
            error: measured.bound,
            epoch: self.epochs.accept(measured + Bounded::exact(injected.seen())),
            injected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::time::WallNs;
    use proptest::prelude::*;

    fn bracket(before: i64, real: i64, after: i64) -> Bracket {
        Bracket {
            before: MonoNs::from_nanos(before),
            real: RealNs::from_nanos(real),
            after: MonoNs::from_nanos(after),
        }
    }

    proptest! {
        /// Wherever in the bracket REALTIME was read, the interval holds the true difference.
        #[test]
        fn a_bracket_covers_the_truth(before in 0i64..1 << 60, width in 0i64..10_000, share in prop_oneof![Just(0.0), Just(1.0), 0.0f64..1.0], truth in 0i64..1 << 61) {
            let at = before + (width as f64 * share) as i64;
            let o = bracket(before, at + truth, before + width).real_minus_mono();
            prop_assert!(o.covers(Span::from_nanos(truth)));
            prop_assert!(o.bound.as_nanos() <= width / 2 + 1);
        }
    }

    #[test]
    fn a_step_starts_an_epoch_and_noise_does_not() {
        let mut reader = MappingReader::new(Span::ZERO);
        let offset = 1_000_000;
        let mut epoch = |real: i64, width: i64| reader.accept(&bracket(0, offset + real, width)).epoch;
        assert_eq!(epoch(20, 40), 0);
        assert_eq!(epoch(40, 40), 0, "within the brackets");
        assert_eq!(epoch(5_000, 10_000), 0, "a wide bracket around the same truth");
        assert_eq!(epoch(20 + 141, 40), 1, "141 ns > 20 + 20 + slack");
        assert_eq!(epoch(20 + 141, 40), 1, "and stays there");
        assert_eq!(epoch(-50_000_000, 40), 2, "backwards too");
    }

    #[test]
    fn small_steps_add_up() {
        let mut reader = MappingReader::new(Span::ZERO);
        let epochs: Vec<u32> = (0..4).map(|i| reader.accept(&bracket(0, 20 + i * 60, 40)).epoch).collect();
        assert_eq!(epochs, [0, 0, 0, 1]);
    }

    #[test]
    fn the_error_is_injected_into_the_wall_clock_only() {
        let injected = Span::from_millis(-50);
        let mapping = MappingReader::new(injected).accept(&bracket(100, 5_000, 120));
        let plain = Mapping { injected: Injected::default(), ..mapping };
        let at = MonoNs::from_nanos(7);
        assert_eq!(mapping.wall(at) - plain.wall(at), injected);
        assert_eq!(plain.wall(at), WallNs::from_nanos(7 + 4_890));
        let real = RealNs::from_nanos(5_000);
        assert_eq!(mapping.mono_of_real(real), plain.mono_of_real(real));
        assert_eq!(mapping.mono_of_real(real), MonoNs::from_nanos(110));
    }

    /// A drifting clock errs by what has passed, wherever the mapping was read; stamps of the kernel follow.
    #[test]
    fn a_drift_is_injected_by_the_instant_that_is_asked_about() {
        let injected = Injected { at_boot: Span::from_millis(3), drift_ppb: -50_000, step: None };
        let mapping = MappingReader::new(injected).accept(&bracket(100, 5_000, 120));
        let plain = Mapping { injected: Injected::default(), ..mapping };
        for (seconds, micros) in [(0, 3_000), (1, 2_950), (100, -2_000)] {
            let at = MonoNs::from_nanos(seconds * 1_000_000_000);
            assert_eq!(mapping.wall(at) - plain.wall(at), Span::from_micros(micros));
        }
        let real = RealNs::from_nanos(5_000);
        assert_eq!(mapping.mono_of_real(real), plain.mono_of_real(real));
    }

    /// As the kernel does it: stamps have the step in them at once, the mapping when it is read again.
    #[test]
    fn a_step_is_injected_as_a_true_one_would_show() {
        let by = Span::from_millis(50);
        let step = InjectedStep { by, at: MonoNs::from_nanos(1_000), seen: false };
        let mut reader = MappingReader::new(Injected { step: Some(step), ..Injected::default() });
        let bracket = |mono: i64| bracket(mono - 20, mono + 5_000, mono + 20);
        let (early, late) = (MonoNs::from_nanos(500), MonoNs::from_nanos(2_000));
        let real = |mono: MonoNs| RealNs::from_nanos(mono.as_nanos() + 5_000);
        let before = reader.accept(&bracket(100));
        assert_eq!((before.epoch, before.wall(late)), (0, WallNs::from_nanos(7_000)));
        assert_eq!(before.mono_of_real(real(early)), early);
        assert_eq!(before.mono_of_real(real(late)), late + by, "stamped after it, seen by the old mapping");
        assert!(!reader.differs(&bracket(900)) && reader.differs(&bracket(1_100)));
        let after = reader.accept(&bracket(3_000));
        assert_eq!((after.epoch, after.wall(late)), (1, WallNs::from_nanos(7_000) + by));
        assert_eq!(after.mono_of_real(real(early)), early - by, "stamped before it, seen by the new mapping");
        assert_eq!(after.mono_of_real(real(late)), late);
        assert!(!reader.differs(&bracket(3_100)));
        assert_eq!(reader.accept(&bracket(4_000)).epoch, 1);
    }

    proptest! {
        /// Against the same in whole seconds; never off by more than the rounding, and nothing overflows.
        #[test]
        fn a_drift_is_exact(at_boot in -1i64 << 50..1 << 50, ppb in -1_000_000i64..=1_000_000, seconds in 0i64..1 << 32) {
            let injected = Injected { at_boot: Span::from_nanos(at_boot), drift_ppb: ppb, step: None };
            let exact = injected.at(MonoNs::from_nanos(seconds * 1_000_000_000));
            prop_assert_eq!(exact, Span::from_nanos(at_boot + ppb * seconds));
            let later = injected.at(MonoNs::from_nanos(seconds * 1_000_000_000 + 999_999_999));
            prop_assert!((later - exact - Span::from_nanos(ppb)).abs() <= Span::from_nanos(1 + ppb.abs() / 1_000_000_000));
        }

        #[test]
        fn any_drift_saturates(at_boot: i64, drift_ppb: i64, when: i64) {
            let injected = Injected { at_boot: Span::from_nanos(at_boot), drift_ppb, step: None };
            let (error, drift) = (injected.at(MonoNs::from_nanos(when)), i128::from(drift_ppb) * i128::from(when));
            prop_assert!(drift < 0 || error.as_nanos() >= at_boot);
            prop_assert!(drift >= 0 || error.as_nanos() <= at_boot);
        }
    }

    /// On the real clocks, which nobody steps during a test run: narrow, and no step where there is none.
    #[test]
    fn real_clocks_give_a_narrow_mapping_in_one_epoch() {
        let mut reader = MappingReader::new(Span::ZERO);
        let (mut narrowest, mut last) = (Span::MAX, 0);
        for _ in 0..20_000 {
            let mapping = reader.read();
            narrowest = narrowest.min(mapping.error);
            last = mapping.epoch;
        }
        assert!(narrowest <= Span::from_micros(5), "{narrowest}");
        assert_eq!(last, 0);
        let (real, mono) = (real_now(), mono_now());
        assert!(mono - reader.read().mono_of_real(real) < Span::from_secs(5));
    }
}
