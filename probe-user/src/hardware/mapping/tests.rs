//! Against a NIC's clock that is simulated, and whose truth is known.

use super::*;
use proptest::prelude::*;

const SECOND: Span = Span::from_secs(1);

/// Both clocks at one moment, and how fast the NIC's gains on REALTIME.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    phc: i64,
    real: i64,
    ppb: i64,
}

impl Clocks {
    fn new(ppb: i64) -> Self {
        Self { phc: 37_000_000_000, real: 1_700_000_000_000_000_000, ppb }
    }

    /// `passed` later on REALTIME.
    fn after(self, passed: Span) -> Self {
        let passed = passed.as_nanos();
        let gained = (i128::from(passed) * i128::from(self.ppb)).div_euclid(1_000_000_000) as i64;
        Self { phc: self.phc + passed + gained, real: self.real + passed, ..self }
    }

    fn phc(self) -> PhcNs {
        PhcNs::from_nanos(self.phc)
    }

    fn real(self) -> RealNs {
        RealNs::from_nanos(self.real)
    }

    /// The NIC's clock is read at this share of the bracket.
    fn read(self, width: Span, share: f64) -> PhcReading {
        let at = self.after(Span::from_nanos((width.as_nanos() as f64 * share) as i64));
        PhcReading::between(self.real(), at.phc(), self.real() + width).expect("time goes on")
    }

    fn usual(self) -> PhcReading {
        self.read(Span::from_micros(2), 0.5)
    }
}

/// How far off a stamp of this moment is mapped, and its bound.
fn off(mapping: &PhcMapping, now: Clocks) -> Option<(Span, Span)> {
    mapping.real_of(now.phc()).map(|(real, error)| (real - now.real(), error))
}

/// A mapping that is in use, and the clocks at its last reading.
fn settled(ppb: i64) -> (PhcMapping, Clocks) {
    let (mut mapping, mut now) = (PhcMapping::default(), Clocks::new(ppb));
    for expected in [Taken::Begins, Taken::Begins, Taken::Agrees] {
        now = now.after(SECOND);
        assert_eq!(mapping.accept(now.usual()), expected);
    }
    (mapping, now)
}

fn assert_true(mapping: &PhcMapping, now: Clocks, most: Span) {
    let (off, error) = off(mapping, now).expect("it is in use");
    assert!(off.abs() <= error && error <= most, "off by {off}, said to be {error} at most");
}

#[test]
fn nothing_is_believed_before_a_reading_came_true() {
    let (mut mapping, mut now) = (PhcMapping::default(), Clocks::new(20_000));
    assert_eq!(off(&mapping, now), None);
    for _ in 0..2 {
        assert_eq!(mapping.accept(now.usual()), Taken::Begins);
        assert_eq!(off(&mapping, now), None);
        now = now.after(SECOND);
    }
    assert_eq!(mapping.accept(now.usual()), Taken::Agrees);
    assert_true(&mapping, now, Span::from_micros(2));
}

#[test]
fn drift_is_followed_and_the_bound_grows_with_age_until_it_is_of_no_use() {
    let (mapping, now) = settled(-90_000);
    assert_true(&mapping, now, Span::from_nanos(1_100));
    assert_true(&mapping, now.after(SECOND), Span::from_micros(54));
    let (off, _) = off(&mapping, now.after(SECOND)).expect("it is in use");
    assert!(off.abs() <= Span::from_micros(2), "a rate that stays is foretold: {off}");
    assert_true(&mapping, now.after(Span::from_secs(4)), MOST_ERROR);
    assert_eq!(mapping.real_of(now.after(Span::from_secs(6)).phc()), None, "readings have ceased");
    assert!(mapping.real_of(now.after(Span::from_secs(-1)).phc()).is_some(), "stamped before the reading");
}

#[test]
fn readings_that_are_too_near_change_nothing() {
    let (mut mapping, now) = settled(0);
    let before = mapping.real_of(now.phc());
    assert_eq!(mapping.accept(now.after(Span::from_millis(99)).usual()), Taken::TooSoon);
    assert_eq!(mapping.real_of(now.phc()), before);
}

#[test]
fn a_clock_of_the_nic_that_is_set_breaks_the_line() {
    for step in [-40_000_000_000, -50_000_000, -1_000_000, 1_000_000, 50_000_000, 40_000_000_000] {
        let (mut mapping, now) = settled(10_000);
        let now = now.after(SECOND);
        let mut now = Clocks { phc: now.phc + step, ..now };
        assert!(matches!(mapping.accept(now.usual()), Taken::Breaks(_)), "{step}");
        assert_eq!(off(&mapping, now), None, "{step}");
        for _ in 0..2 {
            now = now.after(SECOND);
            mapping.accept(now.usual());
        }
        assert_true(&mapping, now, Span::from_micros(2));
    }
}

#[test]
fn a_step_of_realtime_breaks_the_line_and_voiding_it_beforehand_is_as_good() {
    for step in [-37_000_000_000, -1_000_000, 1_000_000, 3_600_000_000_000] {
        let (mut mapping, now) = settled(10_000);
        let now = now.after(SECOND);
        let now = Clocks { real: now.real + step, ..now };
        assert!(matches!(mapping.accept(now.usual()), Taken::Breaks(_)), "{step}");
        assert_eq!(off(&mapping, now), None, "{step}");
        let mut mapping = PhcMapping::default();
        assert_eq!(mapping.accept(now.usual()), Taken::Begins);
    }
}

#[test]
fn a_clock_that_stands_still_gives_no_mapping() {
    let (mut mapping, now) = settled(0);
    let mut stalled = now;
    for _ in 0..5 {
        stalled.real += 1_000_000_000;
        assert_eq!(mapping.accept(stalled.usual_of_stalled()), Taken::Breaks(Break::Stands));
        assert_eq!(off(&mapping, stalled), None);
    }
}

impl Clocks {
    fn usual_of_stalled(self) -> PhcReading {
        let width = Span::from_micros(2);
        PhcReading::between(self.real(), self.phc(), self.real() + width).expect("time goes on")
    }
}

#[test]
fn a_slew_is_noticed_and_the_new_rate_learnt() {
    let (mut mapping, now) = settled(0);
    let mut now = Clocks { ppb: 400_000, ..now }.after(SECOND);
    let Taken::Breaks(Break::Off(by)) = mapping.accept(now.usual()) else { panic!("not noticed") };
    assert!((by + Span::from_micros(400)).abs() < Span::from_micros(3), "{by}");
    for _ in 0..2 {
        now = now.after(SECOND);
        mapping.accept(now.usual());
    }
    assert_true(&mapping, now.after(SECOND), Span::from_micros(54));
}

#[test]
fn a_rate_that_no_clock_has_is_refused_from_the_first() {
    let (mut mapping, now) = (PhcMapping::default(), Clocks::new(2_000_000));
    mapping.accept(now.usual());
    let taken = mapping.accept(now.after(SECOND).usual());
    assert!(matches!(taken, Taken::Breaks(Break::Rate(-1_996))), "{taken:?}");
}

#[test]
fn a_wide_bracket_is_compared_but_not_used() {
    let (mut mapping, now) = settled(5_000);
    let now = now.after(SECOND);
    assert_eq!(mapping.accept(now.read(Span::from_millis(8), 1.0)), Taken::Agrees);
    assert_true(&mapping, now, Span::from_micros(54));
    // It was not the line's, and so the next narrow one does not suffer from it.
    let now = now.after(SECOND);
    assert_eq!(mapping.accept(now.usual()), Taken::Agrees);
    assert_true(&mapping, now, Span::from_micros(2));
    let taken = mapping.accept(PhcReading { error: Span::MAX, ..now.after(SECOND).usual() });
    assert_eq!(taken, Taken::Agrees);
}

#[test]
fn the_narrowest_bracket_is_taken_and_a_step_inside_makes_none() {
    let real = RealNs::from_nanos;
    let brackets = [(0, 5, 3_000), (9_000, 6, 8_000), (10_000, 7, 10_801), (20_000, 8, 29_000)];
    let brackets = brackets.map(|(before, phc, after)| (real(before), PhcNs::from_nanos(phc), real(after)));
    let best = PhcReading::narrowest(brackets.into_iter()).expect("there is one");
    let expected = PhcReading { phc: PhcNs::from_nanos(7), real: real(10_400), error: Span::from_nanos(401) };
    assert_eq!(best, expected);
    assert_eq!(PhcReading::narrowest(brackets[1..2].iter().copied()), None);
}

proptest! {
    /// Whatever the brackets and wherever in them the clock was read, while its rate wanders as much as is allowed for:
    /// the truth is within the bound, of stamps since the reading and of those from before it.
    #[test]
    fn the_bound_holds(
        base in -150_000i64..150_000,
        turns in prop::collection::vec((-25_000i64..=25_000, 200i64..2_500, 0i64..200_000, 0.0f64..=1.0), 4..40),
        when in -500i64..3_000,
    ) {
        let (mut mapping, mut now) = (PhcMapping::default(), Clocks::new(base));
        // Since when each rate holds, in ms.
        let (mut past, mut elapsed) = (vec![(0, now)], 0);
        for (wander, millis, width, share) in turns {
            let reading = now.read(Span::from_nanos(width), share);
            let taken = mapping.accept(reading);
            prop_assert!(!matches!(taken, Taken::Breaks(_)), "{taken:?}");
            now.ppb = base + wander;
            past.push((elapsed, now));
            let asked = (elapsed + when).max(0);
            let (since, then) = past[past.partition_point(|(since, _)| *since <= asked) - 1];
            if let Some((off, error)) = off(&mapping, then.after(Span::from_millis(asked - since))) {
                prop_assert!(off.abs() <= error, "off by {off}, said to be {error}");
            }
            now = now.after(Span::from_millis(millis));
            elapsed += millis;
        }
    }

    /// From the reading after a step on, nothing that the step has made wrong is told.
    #[test]
    fn no_step_survives_its_reading(
        ppb in -150_000i64..150_000,
        step in prop_oneof![-60_000_000_000i64..-1_000_000, 1_000_000i64..60_000_000_000],
        of_real: bool,
        before in 0i64..8,
    ) {
        let (mut mapping, mut now) = (PhcMapping::default(), Clocks::new(ppb));
        for _ in 0..before {
            mapping.accept(now.usual());
            now = now.after(SECOND);
        }
        if of_real { now.real += step } else { now.phc += step }
        for _ in 0..6 {
            mapping.accept(now.usual());
            if let Some((off, error)) = off(&mapping, now.after(Span::from_millis(700))) {
                prop_assert!(off.abs() <= error, "off by {off}, said to be {error}");
            }
            now = now.after(SECOND);
        }
        prop_assert!(off(&mapping, now).is_some(), "it comes back");
    }

    #[test]
    fn nothing_overflows(readings in prop::collection::vec((any::<i64>(), any::<i64>(), 0..=i64::MAX), 1..8), at: i64) {
        let mut mapping = PhcMapping::default();
        for (phc, real, error) in readings {
            let (phc, real) = (PhcNs::from_nanos(phc), RealNs::from_nanos(real));
            mapping.accept(PhcReading { phc, real, error: Span::from_nanos(error) });
            if let Some((_, error)) = mapping.real_of(PhcNs::from_nanos(at)) {
                prop_assert!(error <= MOST_ERROR);
            }
        }
    }
}
