use super::*;
use proptest::prelude::*;

const EPOCH: u32 = 3;

fn at(millis: i64) -> MonoNs {
    MonoNs::from_nanos(millis * 1_000_000)
}
fn reading(millis: i64, theta: Span) -> ClockOffset {
    ClockOffset {
        theta,
        bound_at_read: Span::from_micros(20),
        read_at: at(millis),
        source: ClockSource::Chrony,
        state: ClockState::Synchronised,
        rate: None,
    }
}
/// `count` readings of a clock that gains `ppb`, two a second.
fn steady(history: &mut ClockHistory, ppb: i64, count: i64) -> ClockOffset {
    let mut last = None;
    for i in 0..count {
        last = Some(history.push(EPOCH, 0, reading(i * 500, Span::from_nanos(i * ppb / 2))));
    }
    last.expect("at least one")
}

/// Small, seeded, good enough for jitter: splitmix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    /// Evenly in `-most..=most`.
    fn within(&mut self, most: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).rem_euclid(2 * most as u64 + 1) as i64 - most
    }
}

/// The goal of the history: drift of 50 ppm and readings every half second with jitter of 5 us, asked about up to a
/// second and a half after the newest of them.
#[test]
fn a_drifting_clock_is_followed_to_microseconds_and_its_bound_holds() {
    for (seed, ppb) in [-50_000i64, 50_000, 0, 20_000].into_iter().enumerate() {
        let truth = |when: MonoNs| {
            let gained = i128::from(when.as_nanos()) * i128::from(ppb) / 1_000_000_000;
            Span::from_millis(-50) + Span::from_nanos(gained as i64)
        };
        let (mut history, mut random) = (ClockHistory::default(), Random(seed as u64));
        let (mut errors, mut bounds) = (Vec::new(), Vec::new());
        for i in 0..2_000 {
            let jitter = Span::from_nanos(random.within(5_000));
            let offset = history.push(EPOCH, 0, reading(i * 500, truth(at(i * 500)) + jitter));
            for _ in 0..if i < 8 { 0 } else { 10 } {
                let when = offset.read_at + Span::from_nanos((random.within(1 << 40).abs()) % 1_500_000_000);
                let told = offset.at(when);
                assert!(told.covers(truth(when)), "{told} is not {} at reading {i}", truth(when));
                assert_eq!(history.at(when).expect("readings").theta, told);
                errors.push((told.value - truth(when)).abs());
                bounds.push(told.bound);
            }
        }
        errors.sort_unstable();
        bounds.sort_unstable();
        let share = |of: &[Span], per_mille: usize| of[of.len() * per_mille / 1_000];
        let (p50, p99, bound) = (share(&errors, 500), share(&errors, 990), share(&bounds, 500));
        println!("{} ppm: error p50 {p50} p99 {p99}, median bound {bound}", ppb / 1_000);
        assert!(p50 <= Span::from_micros(5) && p99 <= Span::from_micros(50), "p50 {p50}, p99 {p99}");
        assert!(bound <= Span::from_micros(100), "a huge bound is no achievement: {bound}");
        let rate = history.rate().expect("a rate");
        assert!((i64::from(rate.ppb) - ppb).abs() <= i64::from(rate.bound_ppb), "{rate:?}");
        assert!(rate.bound_ppb < 3_000, "{rate:?}");
    }
}

#[test]
fn a_rate_takes_two_seconds_and_three_readings() {
    let mut history = ClockHistory::default();
    assert_eq!((history.at(at(0)), history.rate()), (None, None));
    assert_eq!(steady(&mut history, 20_000, 4).rate, None, "1.5 s");
    assert_eq!(steady(&mut history, 20_000, 5).rate, Some(Rate { ppb: 20_000, bound_ppb: 0 }));
    let mut lone = ClockHistory::default();
    lone.push(EPOCH, 0, reading(0, Span::ZERO));
    assert_eq!(lone.push(EPOCH, 0, reading(5_000, Span::from_micros(5))).rate, None, "a single pair");
}

#[test]
fn a_step_another_source_and_a_lost_one_start_anew() {
    let fresh = || {
        let mut history = ClockHistory::default();
        steady(&mut history, 20_000, 20);
        history
    };
    let next = reading(10_000, Span::from_secs(1));
    assert!(fresh().push(EPOCH, 0, next).rate.is_some());
    assert_eq!(fresh().push(EPOCH + 1, 0, next).rate, None, "stepped");
    assert_eq!(fresh().push(EPOCH, 1, next).rate, None, "another server of the same kind");
    assert_eq!(fresh().push(EPOCH, 0, ClockOffset { source: ClockSource::Adjtimex, ..next }).rate, None);
    let mut lost = fresh();
    lost.push(EPOCH, 0, ClockOffset { state: ClockState::Unsynchronised, ..next });
    assert_eq!((lost.at(next.read_at), lost.rate()), (None, None));
    let free = ClockOffset { state: ClockState::FreeRunning, ..reading(10_000, Span::from_micros(200)) };
    assert_eq!(fresh().push(EPOCH, 0, free).rate.map(|rate| rate.ppb), Some(20_000), "the same clock still");
}

#[test]
fn a_slewed_clock_is_not_extrapolated_but_bounded() {
    let mut history = ClockHistory::default();
    // chronyd may slew by 8 %.
    let offset = steady(&mut history, 80_000_000, 20);
    assert_eq!(offset.rate, Some(Rate { ppb: 0, bound_ppb: 80_000_000 }));
    let half = offset.read_at + Span::from_millis(500);
    assert!(offset.at(half).covers(offset.theta + Span::from_millis(40)), "it goes on");
    assert!(offset.at(half).covers(offset.theta), "it stops");
}

#[test]
fn a_change_of_rate_shows_in_the_bound_until_it_is_learnt() {
    let mut history = ClockHistory::default();
    steady(&mut history, 0, 60);
    let mut theta = Span::ZERO;
    for i in 60..140 {
        theta += Span::from_micros(100); // 200 ppm
        let rate = history.push(EPOCH, 0, reading(i * 500, theta)).rate.expect("a rate");
        assert!((rate.ppb - 200_000).unsigned_abs() <= rate.bound_ppb || i < 61, "{i}: {rate:?}");
        assert!(i < 60 + FITTED as i64 || rate.bound_ppb == 0, "{i}: {rate:?}");
    }
}

#[test]
fn outliers_do_not_turn_the_rate() {
    let mut history = ClockHistory::default();
    for i in 0..32 {
        let wild = if i % 8 == 3 { Span::from_millis(2) } else { Span::ZERO };
        history.push(EPOCH, 0, reading(i * 500, Span::from_nanos(i * 10_000) + wild));
    }
    let rate = history.rate().expect("a rate");
    assert!((rate.ppb - 20_000).abs() < 100 && rate.bound_ppb > 100_000, "{rate:?}");
}

#[test]
fn scatter_that_the_readings_admit_is_no_rate() {
    let mut history = ClockHistory::default();
    // Over a longer time even these would tell a rate to better than 50 ppm.
    for i in 0..10 {
        let offset = ClockOffset {
            bound_at_read: Span::from_millis(3),
            ..reading(i * 16_000, Span::from_micros(if i % 2 == 0 { 2_500 } else { -2_500 }))
        };
        assert_eq!(history.push(EPOCH, 0, offset).rate, None, "reading {i}");
    }
}

#[test]
fn a_hurried_reader_learns_the_rate_too() {
    let mut history = ClockHistory::default();
    for i in 0..2_000 {
        history.push(EPOCH, 0, reading(i * 10, Span::from_nanos(i * 200)));
    }
    // Rounded up: the slopes are floats.
    let rate = history.rate().expect("a rate");
    assert!(rate.ppb == 20_000 && rate.bound_ppb <= 1, "{rate:?}");
    let kept = &history.readings;
    assert!(kept[kept.len() - 1].read_at - kept[0].read_at > Span::from_secs(7), "{} readings", kept.len());
}

/// Up at 50 ppm and down again, between two perfect readings: the furthest that the truth can bend.
#[test]
fn between_readings_the_truth_may_bend() {
    let mut history = ClockHistory::default();
    for millis in [0, 1_000] {
        let perfect = ClockOffset { bound_at_read: Span::ZERO, ..reading(millis, Span::ZERO) };
        history.push(EPOCH, 0, perfect);
    }
    for (millis, micros) in [(250, 18_750), (500, 25_000), (750, 18_750)] {
        let told = history.at(at(millis)).expect("readings").theta;
        assert_eq!(told, Bounded::new(Span::ZERO, Span::from_nanos(micros)), "{millis}");
    }
}

#[test]
fn one_reading_told_again_is_one_reading() {
    let mut history = ClockHistory::default();
    for _ in 0..200 {
        history.push(EPOCH, 0, reading(0, Span::ZERO));
    }
    assert_eq!(history.readings.len(), 1);
    steady(&mut history, 1_000, 200);
    assert_eq!(history.readings.len(), KEPT);
    history.push(EPOCH, 0, reading(2_000_000, Span::ZERO));
    assert_eq!(history.readings.len(), 1, "ten minutes are over");
}

proptest! {
    /// A clock whose rate wanders, never by more than [`DRIFT_PPB`] from one moment to another, read with errors of up
    /// to half of the readings' bounds: wherever one asks, between readings or beyond them, the truth is inside.
    ///
    /// That is as much as can be promised. Errors of half a bound turn a slope over a second by 20 ppm, so beyond the
    /// newest reading the learnt rate may be off by 70: 35 us in half a second, and the reading's own 10.
    #[test]
    fn the_truth_is_inside(
        base in -25_000i64..=25_000,
        wander in prop::collection::vec((prop_oneof![Just(-25_000i64), Just(25_000), -25_000i64..25_000], 1usize..9), 3..8),
        seed: u64,
        ask in prop::collection::vec(0.0f64..1.0, 1..20),
    ) {
        // The last rate is so new that no reading has seen it.
        let last = wander.len() - 1;
        let rates: Vec<i64> = wander
            .iter()
            .enumerate()
            .flat_map(|(i, (ppb, lasts))| std::iter::repeat_n(base + ppb, if i == last { 1 } else { *lasts }))
            .collect();
        // Truth: straight within each half second.
        let mut truth = vec![Span::ZERO];
        for ppb in &rates {
            truth.push(truth[truth.len() - 1] + Span::from_nanos(ppb / 2));
        }
        let (mut history, mut random) = (ClockHistory::default(), Random(seed));
        for (i, theta) in truth.iter().enumerate().take(truth.len() - 1) {
            let error = Span::from_nanos(random.within(10_000));
            history.push(EPOCH, 0, reading(i as i64 * 500, *theta + error));
        }
        for share in ask.into_iter().chain([0.999_999]) {
            let nanos = (share * rates.len() as f64 * 5e8) as i64;
            let (piece, rest) = ((nanos / 500_000_000) as usize, nanos % 500_000_000);
            let exact = truth[piece] + Span::from_nanos(rest * rates[piece] / 1_000_000_000);
            let told = history.at(MonoNs::from_nanos(nanos)).expect("readings");
            prop_assert!(told.theta.covers(exact), "{} at {nanos} is not {exact}", told.theta);
            prop_assert!((told.read_at - MonoNs::from_nanos(nanos)).abs() <= Span::from_millis(500));
        }
    }

    #[test]
    fn no_readings_panic(readings in prop::collection::vec((any::<i64>(), any::<i64>(), any::<i64>()), 0..80), when: i64) {
        let mut history = ClockHistory::default();
        for (at, theta, bound) in readings {
            history.push(EPOCH, 0, ClockOffset {
                bound_at_read: Span::from_nanos(bound).abs(),
                read_at: MonoNs::from_nanos(at),
                ..reading(0, Span::from_nanos(theta))
            });
            prop_assert!(history.readings.len() <= KEPT);
        }
        if let Some(told) = history.at(MonoNs::from_nanos(when)) {
            prop_assert!(!told.theta.bound.is_negative());
        }
    }
}
