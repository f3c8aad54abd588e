use super::*;
use crate::clock::peer::{PeerDelta, Rejected, STRIKES, Sample};
use proptest::prelude::*;

/// How often the truth is inside, out of how often asked; half widths beyond half of the paths' least round trip, in us.
#[derive(Default)]
struct Coverage {
    asked: usize,
    inside: usize,
    /// Misses by how long after the last sample it was asked.
    missed: [usize; 4],
    beyond: Vec<f64>,
}

impl Coverage {
    /// Asks at several moments after the last sample: the bound must have aged.
    fn ask(&mut self, link: &Link, estimate: &PeerEstimate, t: i64) {
        for (nth, later) in [0, SECOND / 10, SECOND, 20 * SECOND].into_iter().enumerate() {
            let Some(peer) = estimate.at(link.local.mono(t + later)) else { continue };
            self.asked += 1;
            let inside = usize::from(peer.interval.contains(link.delta(t + later)));
            self.inside += inside;
            self.missed[nth] += 1 - inside;
            if later == 0 && t > 20 * SECOND {
                let half = peer.interval.width().as_nanos() as f64 / 2.0;
                self.beyond.push((half - (link.out.base + link.back.base) / 2.0) / 1e3);
            }
        }
    }
    fn share(&self) -> f64 {
        self.inside as f64 / self.asked as f64
    }
}

/// Rates that change by up to 8 ppm (and, harder, 15 ppm) every two minutes or so, on fast and on slow paths.
#[test]
fn the_truth_is_inside_the_hard_interval_while_clocks_change_their_rates() {
    let fast = SimPath { base: 20e3, jitter: 10e3, tail: 1e6 };
    let none = SimPath { base: 0.0, jitter: 30e3, tail: 0.0 };
    let wan = SimPath { base: 10e6, jitter: 500e3, tail: 10e6 };
    for (name, out, back) in [
        ("0.25 ms", SimPath::LAN, SimPath::LAN),
        ("20 us", fast, fast),
        ("no delay out, 20 us back", none, fast),
        ("10 ms out, 20 us back", wan, fast),
    ] {
        for change in [8.0, 15.0] {
            let mut coverage = Coverage::default();
            for seed in 0..2 {
                let rng = &mut Dice(seed);
                let mut clock = || SimClock::wandering(rng, 900, 50.0, change);
                let (local, peer) = (clock(), clock());
                let link = Link { local, peer, out, back };
                link.run(600, 5, rng, |estimate, t, _| coverage.ask(&link, estimate, t));
            }
            let share = coverage.share();
            let [p50, p99] = [0.5, 0.99].map(|share| quantile(&mut coverage.beyond, share));
            println!(
                "hard interval, {name}, rates change by {change} ppm: truth inside {:.4} % of {} (misses {:?}); half width beyond \
                 RTT/2: p50 {p50:.1} us, p99 {p99:.1} us",
                100.0 * share,
                coverage.asked,
                coverage.missed
            );
            assert!(share >= 0.999, "{name}, {change} ppm: {share}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_truth_is_inside_whatever_the_drift_jitter_and_asymmetry(
        seed: u64,
        ppm in (-50.0..50.0, -50.0..50.0),
        base in (0.0..5e6, 0.0..5e6),
        jitter in (1e3..5e6, 1e3..5e6),
        hz in 1_i64..6,
    ) {
        let rng = &mut Dice(seed);
        let path = |base, jitter| SimPath { base, jitter, tail: 10.0 * jitter };
        let link = Link {
            local: SimClock::constant(Span::from_millis(50), ppm.0 * 1e3),
            peer: SimClock::constant(Span::from_millis(-50), ppm.1 * 1e3),
            out: path(base.0, jitter.0),
            back: path(base.1, jitter.1),
        };
        let mut coverage = Coverage::default();
        link.run(90, hz, rng, |estimate, t, _| coverage.ask(&link, estimate, t));
        prop_assert!(coverage.share() >= 0.999, "{}", coverage.share());
    }
}

fn lan() -> Link {
    let clock = |ms, ppb| SimClock::constant(Span::from_millis(ms), ppb);
    Link { local: clock(5, 9_000.0), peer: clock(-40, -20_000.0), out: SimPath::LAN, back: SimPath::LAN }
}

fn settled(link: &Link) -> (PeerEstimate, MonoNs, PeerDelta) {
    let (mut last, mut now) = (PeerEstimate::default(), MonoNs::default());
    link.run(70, 5, &mut Dice(1), |estimate, t, _| (last, now) = (estimate.clone(), link.local.mono(t)));
    let peer = last.at(now).expect("both directions");
    (last, now, peer)
}

#[test]
fn what_is_known_when_it_has_settled() {
    let link = lan();
    let (_, now, peer) = settled(&link);
    let truth = link.delta(now.as_nanos() - link.local.theta(70 * SECOND).as_nanos());
    assert!((peer.midpoint - truth).abs() < Span::from_micros(20), "{peer:?} {truth}");
    let rtt = peer.min_round_trip - Span::from_micros(500);
    assert!(Span::ZERO < rtt && rtt < Span::from_micros(20), "{peer:?}");
    assert!((600..=640).contains(&peer.samples) && peer.age < Span::from_millis(20), "{peer:?}");
}

/// The delay out rises by 20 ms for good: it is the round trip after a window, and the interval stays true.
#[test]
fn a_path_that_gets_longer_for_good_is_followed() {
    let link = lan();
    let (mut estimate, rng) = (PeerEstimate::default(), &mut Dice(3));
    for n in 0..5 * 140 {
        let t = n * SECOND / 5;
        let more = if t > 70 * SECOND { 20_000_000 } else { 0 };
        let (exchange, end) = link.exchange(t, [more, 0], rng);
        let now = link.local.mono(end);
        estimate.exchange(&exchange, now).expect("taken");
        let peer = estimate.at(now).expect("both directions");
        assert!(peer.interval.contains(link.delta(end)), "{t} {peer:?} {}", link.delta(end));
        if t > 136 * SECOND {
            assert!(
                (peer.min_round_trip - Span::from_micros(20_500)).abs() < Span::from_micros(100),
                "{peer:?}"
            );
        }
    }
}

#[test]
fn broken_samples_are_refused_by_reason_and_change_nothing() {
    let (mut estimate, now, before) = settled(&lan());
    let good = Sample { at: now, raw: Span::from_millis(-44), error: STAMPS };
    let huge = Span::from_nanos(i64::MIN);
    for (sample, reason) in [
        (Sample { raw: huge, ..good }, Rejected::Absurd),
        (Sample { error: Span::from_nanos(-1), ..good }, Rejected::Absurd),
        (Sample { error: Span::MAX, ..good }, Rejected::Absurd),
        (Sample { at: now + Span::from_millis(11), ..good }, Rejected::Future),
        (Sample { at: MonoNs::from_nanos(i64::MAX), ..good }, Rejected::Future),
        (Sample { at: now - Span::from_secs(64), ..good }, Rejected::Late),
        (Sample { at: MonoNs::from_nanos(i64::MIN), ..good }, Rejected::Late),
        (Sample { raw: Span::from_millis(-49), ..good }, Rejected::NegativeRoundTrip),
    ] {
        assert_eq!(estimate.outward(sample, now), Err(reason), "{sample:?}");
    }
    let counted = estimate.rejections();
    assert_eq!((counted.absurd, counted.future, counted.late), (3, 2, 2));
    assert_eq!((counted.negative_round_trip, counted.restarts), (1, 0));
    assert_eq!(estimate.at(now), Some(before));
}

/// A step of the peer's clock that nobody told: the samples after it contradict those before, which are given up.
#[test]
fn an_unnoticed_step_is_found_out() {
    for step in [-30, 30] {
        let mut link = lan();
        let (mut estimate, _, _) = settled(&link);
        let rng = &mut Dice(2);
        link.peer.0[0].theta += f64::from(step) * 1e6;
        let mut refused = 0;
        for n in 0..10 {
            let (exchange, end) = link.exchange(71 * SECOND + n * SECOND / 5, [0, 0], rng);
            refused += u32::from(estimate.exchange(&exchange, link.local.mono(end)).is_err());
        }
        assert_eq!((refused, estimate.rejections().restarts), (STRIKES - 1, 1));
        let t = 74 * SECOND;
        let peer = estimate.at(link.local.mono(t)).expect("both directions again");
        assert!(peer.interval.contains(link.delta(t)), "{peer:?} {}", link.delta(t));
    }
}

/// A told step: nothing of before is left, and what was counted is.
#[test]
fn a_reset_leaves_nothing() {
    let (mut estimate, now, _) = settled(&lan());
    let absurd = Sample { at: now, raw: Span::MAX, error: STAMPS };
    assert_eq!(estimate.inward(absurd, now), Err(Rejected::Absurd));
    estimate.reset();
    assert_eq!((estimate.at(now), estimate.rejections().absurd), (None, 1));
    let far = Sample { at: now, raw: Span::from_secs(5), error: STAMPS };
    assert_eq!(estimate.outward(far, now), Ok(()));
    assert_eq!(estimate.at(now), None, "one direction alone bounds nothing");
    assert_eq!(estimate.inward(Sample { raw: Span::from_secs(-4), ..far }, now), Ok(()));
    let interval = estimate.at(now).expect("both").interval;
    let error = STAMPS;
    assert_eq!((interval.low(), interval.high()), (Span::from_secs(4) - error, Span::from_secs(5) + error));
    // A sample says less the longer it is ago: 100 ppm.
    let aged = estimate.at(now + Span::from_secs(2)).expect("both").interval;
    assert_eq!(aged, interval.widened(Span::from_micros(200)));
    assert_eq!(estimate.at(now + Span::from_secs(70)), None, "expired");
}

proptest! {
    /// Whatever comes in: no panic, an interval or none.
    #[test]
    fn any_samples(samples in prop::collection::vec((any::<bool>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()), 1..60)) {
        let mut estimate = PeerEstimate::default();
        for (out, at, raw, error, now) in samples {
            let sample = Sample { at: MonoNs::from_nanos(at), raw: Span::from_nanos(raw), error: Span::from_nanos(error) };
            let now = MonoNs::from_nanos(now);
            let _ = if out { estimate.outward(sample, now) } else { estimate.inward(sample, now) };
            let near = Sample { at: now, raw: Span::from_nanos(raw / 4), error: STAMPS };
            let _ = if out { estimate.inward(near, now) } else { estimate.outward(near, now) };
            estimate.at(now);
        }
    }
}
