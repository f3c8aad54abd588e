use super::*;
use crate::clock::sntp::tests::{NONCE, reply};

fn sample(at: i64, theta: i64, bound: i64) -> Sample {
    Sample {
        theta: Span::from_micros(theta),
        bound: Span::from_micros(bound),
        at: MonoNs::from_nanos(at * 1_000_000_000),
        leap: Leap::None,
    }
}
fn second(at: i64) -> MonoNs {
    MonoNs::from_nanos(at * 1_000_000_000)
}
const SILENT: Span = Span::from_secs(128);

#[test]
fn the_smallest_bound_wins_until_it_has_aged() {
    let mut filter = Filter::default();
    assert_eq!(filter.best(second(0), SILENT), None);
    filter.push(sample(0, 1, 1_000));
    filter.push(sample(16, 2, 9_000));
    let theta = |filter: &Filter, at| filter.best(second(at), SILENT).expect("samples").0.theta;
    assert_eq!(theta(&filter, 20), Span::from_micros(1));
    filter.push(sample(32, 3, 2_500));
    // 32 s are worth 1.6 ms of drift: 2.6 ms beside 2.5 ms.
    assert_eq!(theta(&filter, 32), Span::from_micros(3));
    for at in 3..12 {
        filter.push(sample(at * 16, 7, 50_000));
    }
    assert_eq!(filter.samples.len(), 8);
    assert_eq!(theta(&filter, 200), Span::from_micros(7), "only the last eight");
    filter.clear();
    assert_eq!(filter.best(second(200), SILENT), None);
}

#[test]
fn a_silent_server_leaves_the_clock_free_running() {
    let mut filter = Filter::default();
    filter.push(sample(0, 1, 1_000));
    filter.push(Sample { leap: Leap::Insert, ..sample(1, 1, 2_000) });
    let (offset, age, leap) = filter.best(second(129), SILENT).expect("samples");
    assert_eq!((offset.state, age, leap), (ClockState::Synchronised, SILENT, Leap::Insert));
    let (offset, ..) = filter.best(second(130), SILENT).expect("samples");
    assert_eq!(offset.state, ClockState::FreeRunning);
    assert_eq!(offset.at(second(130)).bound, Span::from_micros(1_000 + 130 * 50));
}

/// 2 ms of root delay, 1 ms of dispersion (in 1/65536 s, rounded up), precision 2^-23 s.
#[test]
fn a_bound_holds_all_that_may_be_wrong() {
    let now = RealNs::from_nanos(1_700_000_000_000_000_000);
    let server = super::super::timestamp(now + Span::from_millis(2));
    let reply = Reply::decode(&reply(NONCE, server, server), NONCE).expect("good");
    let (sent, later) = ((second(1), now), Span::from_millis(4));
    let sample = Sample::new(&reply, sent, (sent.0 + later, sent.1 + later)).expect("good");
    assert!(sample.theta.abs() <= Span::from_nanos(1), "{}", sample.theta);
    // 2 ms + 0.99945 ms + 1.00708 ms + 120 ns + 1 us + 50 ppm of 4 ms.
    let wanted = Span::from_nanos(2_000_000 + 999_451 + 1_007_081 + 120 + 1_000 + 200);
    assert!((sample.bound - wanted).abs() <= Span::from_nanos(2), "{} nanoseconds", sample.bound.as_nanos());
    assert_eq!(sample.at, sent.0 + later);
}

#[test]
fn impossible_exchanges_are_refused() {
    let now = RealNs::from_nanos(1_700_000_000_000_000_000);
    let exchange = |served: i64, mono: i64, real: i64| {
        let server = |late: i64| super::super::timestamp(now + Span::from_micros(late));
        let reply = Reply::decode(&reply(NONCE, server(0), server(served)), NONCE).expect("good");
        let at = |us: i64| second(1) + Span::from_micros(us);
        Sample::new(&reply, (at(0), now), (at(mono), now + Span::from_micros(real)))
    };
    assert!(exchange(100, 300, 300).is_ok());
    assert!(exchange(305, 300, 300).is_ok(), "within what clocks may differ");
    let held = Err(SntpError::Absurd("it kept the request for longer than the answer took"));
    assert_eq!(exchange(320, 300, 300), held);
    assert_eq!(exchange(i64::MAX / 10_000, 300, 300), held);
    let stepped = Err(SntpError::Absurd("the local clock was stepped meanwhile"));
    assert_eq!(exchange(100, 300, 1_000_000), stepped);
    assert_eq!(exchange(100, 300, -1_000_000), stepped);
}
