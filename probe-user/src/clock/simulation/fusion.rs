use super::*;
use crate::analysis::align::Correction;
use crate::clock::fusion::{Fused, fuse, ntp_delta};
use proptest::prelude::*;

const LAN: SimPath = SimPath::LAN;

/// Runs a link whose hosts have NTP with this bound each; gives all fused results after 20 s, with the truth.
fn fused(link: &Link, bound: Span, rng: &mut Dice) -> Vec<(Fused, Span)> {
    let ntp = [SimNtp::new(bound, rng), SimNtp::new(bound, rng)];
    let mut all = Vec::new();
    link.run(120, 5, rng, |estimate, t, _| {
        let claimed = ntp_delta(ntp[1].read(&link.peer, t), ntp[0].read(&link.local, t));
        let peer = estimate.at(link.local.mono(t));
        if t > 20 * SECOND {
            all.push((fuse(claimed, peer.as_ref()), link.delta(t)));
        }
    });
    all
}

fn wandering(out: SimPath, back: SimPath, rng: &mut Dice) -> Link {
    let mut clock = || SimClock::wandering(rng, 200, 50.0, 8.0);
    Link { local: clock(), peer: clock(), out, back }
}

/// Issue D, must show 2: with a root delay of 0.5 to 20 ms the bound is the peers' round trip's.
#[test]
fn the_bound_is_half_a_round_trip_and_a_little() {
    for root_delay_us in [500, 1_000, 5_000, 20_000] {
        let (mut beyond, mut inside, mut asked) = (Vec::new(), 0, 0);
        for seed in 0..5 {
            let rng = &mut Dice(seed);
            let link = wandering(LAN, LAN, rng);
            for (fused, truth) in fused(&link, Span::from_micros(root_delay_us / 2), rng) {
                asked += 1;
                inside += usize::from(fused.delta.covers(truth));
                beyond.push(fused.delta.bound.as_nanos() as f64 / 1e3 - LAN.base / 1e3);
                assert_eq!(fused.disagreement, None);
            }
        }
        let [p50, p95, most] = [0.5, 0.95, 1.0].map(|share| quantile(&mut beyond, share));
        println!(
            "fused, root delay {root_delay_us} us: bound beyond RTT/2 p50 {p50:.1}, p95 {p95:.1}, at most {most:.1} us; truth \
             inside {inside}/{asked}"
        );
        assert!(most <= 100.0, "{most} us");
        assert!(inside as f64 >= 0.999 * asked as f64, "{inside}/{asked}");
    }
}

/// Where NTP is good its value stays, however asymmetric the path is: 5 ms more in one direction are seen there, to
/// within NTP's own error, which here is most of its bound.
#[test]
fn good_ntp_stays_and_shows_where_the_delay_is() {
    let slow = SimPath { base: LAN.base + 5e6, ..LAN };
    let short = SimPath { base: 15e3, jitter: 10e3, tail: 1e6 };
    for (name, out, back) in [
        ("symmetric", LAN, LAN),
        ("+5 ms out", slow, LAN),
        ("+5 ms back", LAN, slow),
        ("15 us", short, short),
    ] {
        for bound in [5, 25, 50].map(Span::from_micros) {
            let (mut errors, mut bounds, mut inside) = (Vec::new(), Vec::new(), 0);
            for seed in 0..4 {
                let dice = &mut Dice(seed);
                let link = wandering(out, back, dice);
                for (fused, truth) in fused(&link, bound, dice) {
                    inside += usize::from(fused.delta.covers(truth));
                    errors.push((fused.delta.value - truth).abs().as_nanos() as f64 / 1e3);
                    bounds.push(fused.delta.bound.as_nanos() as f64 / 1e3);
                    assert!(matches!(fused.kind, Correction::Ntp | Correction::Fused), "{fused:?}");
                    assert!(fused.delta.bound <= bound + bound + Span::from_nanos(4), "{fused:?}");
                }
            }
            let [p50, most] = [0.5, 1.0].map(|share| quantile(&mut errors, share));
            println!(
                "fused, {name}, NTP bound {bound} each: error p50 {p50:.1}, at most {most:.1} us; bound p50 {:.1} us; \
                 inside {inside}/{}",
                quantile(&mut bounds, 0.5),
                errors.len()
            );
            assert!(most <= 100.0, "{name}: {most} us");
            assert_eq!(inside, errors.len());
        }
    }
}

/// NTP's exact value is not moved by the peers' interval, which the 5 ms more in one direction stretch to one side.
#[test]
fn an_exact_ntp_value_is_not_pulled_by_an_asymmetric_path() {
    let short = SimPath { base: 15e3, jitter: 10e3, tail: 1e6 };
    let slow = SimPath { base: 5e6, ..short };
    let (mut errors, mut narrowed) = (Vec::new(), 0);
    let dice = &mut Dice(5);
    let link = wandering(slow, short, dice);
    link.run(120, 5, dice, |estimate, t, _| {
        let exact = Bounded::new(link.delta(t), Span::from_micros(150));
        let fused = fuse(Some(exact), estimate.at(link.local.mono(t)).as_ref());
        narrowed += usize::from(fused.kind == Correction::Fused);
        errors.push((fused.delta.value - exact.value).abs().as_nanos() as f64 / 1e3);
    });
    let most = quantile(&mut errors, 1.0);
    println!(
        "fused, exact NTP +-150 us, +5 ms out, {narrowed} times narrowed: pulled by at most {most:.1} us"
    );
    assert!(most <= 10.0 && narrowed > 500, "{most} us, {narrowed}");
}

/// Without NTP the same 5 ms are shared out between the directions; the bound covers it, and the kind says it.
#[test]
fn without_ntp_asymmetry_is_covered_but_not_seen() {
    let slow = SimPath { base: LAN.base + 5e6, ..LAN };
    let rng = &mut Dice(6);
    let link = wandering(slow, LAN, rng);
    link.run(60, 5, rng, |estimate, t, _| {
        let fused = fuse(None, estimate.at(link.local.mono(t)).as_ref());
        let error = (fused.delta.value - link.delta(t)).abs();
        assert_eq!((fused.kind, fused.disagreement), (Correction::PeerOnly, None));
        assert!(fused.delta.covers(link.delta(t)));
        if t > 30 * SECOND {
            assert!((error - Span::from_micros(2_500)).abs() < Span::from_micros(100), "{error}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_fused_bound_holds_whatever_the_paths(
        seed: u64,
        base in (0.0..8e6, 0.0..8e6),
        jitter in (1e3..3e6, 1e3..3e6),
        bound_us in 1_i64..20_000,
    ) {
        let rng = &mut Dice(seed);
        let path = |base, jitter| SimPath { base, jitter, tail: 10.0 * jitter };
        let link = wandering(path(base.0, jitter.0), path(base.1, jitter.1), rng);
        let all = fused(&link, Span::from_micros(bound_us), rng);
        let inside = all.iter().filter(|(fused, truth)| fused.delta.covers(*truth)).count();
        prop_assert!(inside as f64 >= 0.999 * all.len() as f64, "{inside} of {}", all.len());
        prop_assert!(all.iter().all(|(fused, _)| fused.disagreement.is_none()));
    }
}
