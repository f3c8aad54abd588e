use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::spec::Reorder;
use super::*;

const START: MonoNs = MonoNs::from_nanos(1_000_000_000);
const STEP: Span = Span::from_micros(100);

fn link(spec: LinkSpec) -> Link<ChaCha8Rng> {
    Link::new(spec.checked().unwrap(), ChaCha8Rng::seed_from_u64(7))
}

/// Fates of `count` frames of 100 bytes, one every [`STEP`].
fn fates(spec: LinkSpec, count: i64) -> Vec<(MonoNs, Fate)> {
    let mut link = link(spec);
    (0..count)
        .map(|i| {
            let now = START + Span::from_nanos(STEP.as_nanos() * i);
            (now, link.offer(now, 100))
        })
        .collect()
}

fn taken(fates: &[(MonoNs, Fate)]) -> Vec<Span> {
    let span = |(now, fate): &(MonoNs, Fate)| match fate {
        Fate::Deliver { at, .. } => Some(*at - *now),
        Fate::Drop(_) => None,
    };
    fates.iter().filter_map(span).collect()
}

fn share(fates: &[(MonoNs, Fate)], counts: impl Fn(&Fate) -> bool) -> f64 {
    fates.iter().filter(|(_, fate)| counts(fate)).count() as f64 / fates.len() as f64
}

fn is_lost(fate: &Fate) -> bool {
    *fate == Fate::Drop(Cause::Loss)
}

#[test]
fn a_perfect_wire_takes_no_time_and_a_long_one_exactly_its_delay() {
    assert!(taken(&fates(LinkSpec::default(), 100)).iter().all(|taken| *taken == Span::ZERO));
    let delay = Span::from_millis(20);
    let taken = taken(&fates(LinkSpec::delay(delay), 100));
    assert!(taken.len() == 100 && taken.iter().all(|taken| *taken == delay));
}

#[test]
fn independent_loss_has_its_share_and_no_memory() {
    let fates = fates(LinkSpec { loss: Some(Loss::Random { share: 0.05 }), ..LinkSpec::default() }, 100_000);
    assert!((share(&fates, is_lost) - 0.05).abs() < 0.003, "{}", share(&fates, is_lost));
    let bursts = bursts(&fates);
    let mean = bursts.iter().sum::<usize>() as f64 / bursts.len() as f64;
    assert!((mean - 1.0 / 0.95).abs() < 0.02, "mean burst {mean}");
}

#[test]
fn bursty_loss_has_its_share_and_its_burst_length() {
    // Stationary share of the bad state: enter / (enter + leave) = 1/26.
    let loss = Loss::Bursty { enter: 0.01, leave: 0.25, good: 0.0, bad: 1.0 };
    let fates = fates(LinkSpec { loss: Some(loss), ..LinkSpec::default() }, 200_000);
    assert!((share(&fates, is_lost) - 1.0 / 26.0).abs() < 0.004, "{}", share(&fates, is_lost));
    let bursts = bursts(&fates);
    let mean = bursts.iter().sum::<usize>() as f64 / bursts.len() as f64;
    assert!((mean - 4.0).abs() < 0.3, "mean burst {mean}");
}

fn bursts(fates: &[(MonoNs, Fate)]) -> Vec<usize> {
    let lost: Vec<bool> = fates.iter().map(|(_, fate)| is_lost(fate)).collect();
    lost.chunk_by(|a, b| a == b).filter(|run| run[0]).map(<[bool]>::len).collect()
}

/// 1 Mbit/s: 100 bytes take 800 us. Queue of 250 bytes: two such frames.
#[test]
fn a_full_wire_queues_and_then_drops_at_its_tail() {
    let rate = Rate { bits_per_second: 1_000_000, queue_bytes: 250 };
    let mut link = link(LinkSpec { rate: Some(rate), ..LinkSpec::default() });
    let after = |us| Fate::Deliver { at: START + Span::from_micros(us), doubled: false };
    assert_eq!(link.offer(START, 100), after(800));
    assert_eq!(link.offer(START, 100), after(1600));
    assert_eq!(link.offer(START, 100), Fate::Drop(Cause::Queue));
    assert_eq!(link.offer(START, 50), after(2000), "a small one still fits");
    assert_eq!(link.backlog_bytes(START + Span::from_micros(799)), 250);
    assert_eq!(link.backlog_bytes(START + Span::from_micros(800)), 150);
    assert_eq!(link.offer(START + Span::from_micros(800), 100), after(2800));
    let idle = START + Span::from_millis(10);
    let Fate::Deliver { at, .. } = link.offer(idle, 1500) else { panic!("an idle wire takes any frame") };
    assert_eq!(at - idle, Span::from_micros(12_000));
}

#[test]
fn an_overloaded_wire_delivers_at_its_rate() {
    // 100 bytes every 100 us are 8 Mbit/s, four times what fits.
    let rate = Rate { bits_per_second: 2_000_000, queue_bytes: 5_000 };
    let fates = fates(LinkSpec { rate: Some(rate), ..LinkSpec::default() }, 20_000);
    let full = share(&fates, |fate| *fate == Fate::Drop(Cause::Queue));
    assert!((full - 0.75).abs() < 0.005, "{full}");
    // 5000 bytes at 2 Mbit/s.
    assert_eq!(taken(&fates).into_iter().max(), Some(Span::from_millis(20)));
}

#[test]
fn a_changed_rate_leaves_what_is_queued_in_front() {
    let slow = Rate { bits_per_second: 1_000_000, queue_bytes: 10_000 };
    let mut link = link(LinkSpec { rate: Some(slow), ..LinkSpec::default() });
    assert_eq!(link.offer(START, 100), Fate::Deliver { at: START + Span::from_micros(800), doubled: false });
    link.set(LinkSpec::default());
    assert_eq!(link.offer(START, 100), Fate::Deliver { at: START + Span::from_micros(800), doubled: false });
}

#[test]
fn reordered_packets_are_late_and_nobody_waits_for_them() {
    let late = Span::from_millis(5);
    let delay = Span::from_millis(1);
    let spec = LinkSpec { reorder: Some(Reorder { share: 0.1, late }), ..LinkSpec::delay(delay) };
    let taken = taken(&fates(spec, 20_000));
    let held = taken.iter().filter(|taken| **taken == delay + late).count();
    assert_eq!(taken.iter().filter(|taken| **taken == delay).count() + held, 20_000);
    assert!((held as f64 / 20_000.0 - 0.1).abs() < 0.01, "{held}");
}

#[test]
fn duplicates_have_their_share_and_a_cut_wire_delivers_nothing() {
    let doubled = fates(LinkSpec { duplicate: 0.2, ..LinkSpec::default() }, 20_000);
    let share = share(&doubled, |fate| matches!(fate, Fate::Deliver { doubled: true, .. }));
    assert!((share - 0.2).abs() < 0.01, "{share}");
    assert!(fates(LinkSpec::cut(), 10).iter().all(|(_, fate)| *fate == Fate::Drop(Cause::Partition)));
}

/// Far apart, so that no packet waits for the one in front of it.
fn drawn(jitter: Jitter, count: i64) -> Vec<f64> {
    let mut link = link(LinkSpec { jitter: Some(jitter), ..LinkSpec::default() });
    let mut drawn: Vec<f64> = (0..count)
        .map(|i| {
            let now = START + Span::from_secs(i);
            let Fate::Deliver { at, .. } = link.offer(now, 100) else { panic!("dropped") };
            (at - now).as_secs_f64() * 1e3
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    drawn
}

#[test]
fn jitter_is_distributed_as_asked() {
    let ms = Span::from_millis;
    let at = |drawn: &[f64], q: f64| drawn[((drawn.len() - 1) as f64 * q) as usize];
    let uniform = drawn(Jitter::Uniform { max: ms(10) }, 20_000);
    assert!((at(&uniform, 0.5) - 5.0).abs() < 0.2 && (at(&uniform, 0.9) - 9.0).abs() < 0.2);
    let normal = drawn(Jitter::Normal { mean: ms(10), sigma: ms(2) }, 20_000);
    assert!((at(&normal, 0.5) - 10.0).abs() < 0.1 && (at(&normal, 0.8413) - 12.0).abs() < 0.15);
    let pareto = drawn(Jitter::Pareto { scale: ms(1), alpha: 1.5, cap: ms(1000) }, 20_000);
    // Lomax: x(q) = (1-q)^(-1/alpha) - 1.
    assert!((at(&pareto, 0.5) - 0.587).abs() < 0.03, "{}", at(&pareto, 0.5));
    assert!((at(&pareto, 0.99) - 20.5).abs() < 3.0, "{}", at(&pareto, 0.99));
    let capped = drawn(Jitter::Pareto { scale: ms(1), alpha: 0.5, cap: ms(20) }, 20_000);
    assert!(at(&capped, 1.0) <= 20.0 && at(&capped, 0.99) > 15.0, "{}", at(&capped, 1.0));
}

prop_compose! {
    fn any_spec()(
        delay in 0..50_000_000i64,
        jitter in prop_oneof![
            Just(None),
            (0..20_000_000i64).prop_map(|max| Some(Jitter::Uniform { max: Span::from_nanos(max) })),
            (0..9_000_000i64, 0..9_000_000i64).prop_map(|(mean, sigma)| Some(Jitter::Normal {
                mean: Span::from_nanos(mean), sigma: Span::from_nanos(sigma) })),
            (0..9_000_000i64, 0.3..3.0f64).prop_map(|(scale, alpha)| Some(Jitter::Pareto {
                scale: Span::from_nanos(scale), alpha, cap: Span::from_millis(100) })),
        ],
        loss in prop_oneof![
            Just(None),
            (0.0..=1.0f64).prop_map(|share| Some(Loss::Random { share })),
            (0.0..=1.0f64, 0.0..=1.0f64).prop_map(|(enter, leave)| Some(Loss::Bursty { enter, leave, good: 0.0, bad: 1.0 })),
        ],
        reorder in prop::option::of((0.0..=1.0f64).prop_map(|share| Reorder { share, late: Span::from_millis(3) })),
        duplicate in 0.0..=1.0f64,
        rate in prop::option::of((1_000..100_000_000u64, 0..100_000u64)
            .prop_map(|(bits_per_second, queue_bytes)| Rate { bits_per_second, queue_bytes })),
    ) -> LinkSpec {
        LinkSpec { delay: Span::from_nanos(delay), jitter, loss, reorder, duplicate, rate, partition: false, source_port: None }
    }
}

proptest! {
    #[test]
    fn nothing_is_early_the_queue_is_bounded_and_the_seed_decides(
        spec in any_spec(),
        frames in prop::collection::vec((0..2_000_000i64, 14..1514usize), 1..200),
    ) {
        let (mut one, mut same) = (link(spec), link(spec));
        let mut now = START;
        let mut last = START;
        let mut longest = 0;
        for (gap, length) in frames {
            now = now + Span::from_nanos(gap);
            let fate = one.offer(now, length);
            prop_assert_eq!(fate, same.offer(now, length));
            if let Fate::Deliver { at, .. } = fate {
                let wire = spec.rate.map_or(Span::ZERO, |rate| on_the_wire(length as u64, rate.bits_per_second));
                prop_assert!(at >= now + spec.delay + wire, "early by {}", now + spec.delay + wire - at);
                prop_assert!(spec.reorder.is_some() || at >= last, "overtook without being asked to");
                last = at;
            }
            if let Some(rate) = spec.rate {
                longest = longest.max(length as u64);
                prop_assert!(one.backlog_bytes(now) <= rate.queue_bytes.max(longest));
            }
        }
    }
}
