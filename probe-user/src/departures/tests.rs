use super::*;
use crate::clock::mapping::Injected;
use probe_ebpf::time::RealNs;
use proptest::prelude::*;

const OFFSET: Span = Span::from_secs(1_000_000);
const MAPPING: Mapping = Mapping {
    real_minus_mono: OFFSET,
    error: Span::from_nanos(50),
    epoch: 0,
    injected: Injected { at_boot: Span::ZERO, drift_ppb: 0, step: None },
};

fn mono(us: i64) -> MonoNs {
    MonoNs::from_nanos(0) + Span::from_micros(us)
}

fn at(id: u32, stage: Stage, us: i64) -> TxStamp {
    TxStamp { id, stage, at: RealNs::from_nanos(0) + Span::from_micros(us) + OFFSET }
}

fn sched(id: u32, us: i64) -> TxStamp {
    at(id, Stage::Sched, us)
}

fn software(id: u32, us: i64) -> TxStamp {
    at(id, Stage::Software, us)
}

fn known(us: i64) -> Option<Stamp> {
    Some(Stamp { at: mono(us), error: MAPPING.error })
}

#[test]
fn a_departure_is_complete_with_t3() {
    let mut d = Departures::default();
    assert_eq!(d.push(7, mono(10)), None);
    assert_eq!(d.stamp(sched(0, 12), &MAPPING), None);
    assert_eq!(d.pending(), 1);
    let whole = Departure { cookie: 7, t1: mono(10), t2: known(12), t3: known(15) };
    assert_eq!(d.stamp(software(0, 15), &MAPPING), Some(whole));
    assert_eq!(d.stamp(software(0, 16), &MAPPING), None, "a second device of a stack");
    assert_eq!(d.stamp(software(5, 16), &MAPPING), None);
    let counts = DepartureCounts { complete: 1, repeated: 1, unknown_id: 1, ..Default::default() };
    assert_eq!((d.counts(), d.pending()), (counts, 0));
}

#[test]
fn a_lost_t2_is_seen() {
    let mut d = Departures::default();
    d.push(1, mono(10));
    let half = d.stamp(software(0, 15), &MAPPING);
    assert_eq!(half, Some(Departure { cookie: 1, t1: mono(10), t2: None, t3: known(15) }));
    assert_eq!(d.counts().without_t2, 1);
}

#[test]
fn a_send_without_t3_is_given_up_and_its_stamp_is_late() {
    let mut d = Departures::default();
    d.push(1, mono(0));
    d.push(2, mono(1));
    d.stamp(sched(0, 1), &MAPPING);
    d.stamp(software(1, 9), &MAPPING);
    let end = mono(0) + Departures::PATIENCE;
    assert_eq!(d.expire(end - Span::from_nanos(1)), None);
    assert_eq!(d.expire(end), Some(Departure { cookie: 1, t1: mono(0), t2: known(1), t3: None }));
    assert_eq!(d.expire(end + Span::from_secs(1)), None, "the other one is complete");
    assert_eq!(d.stamp(software(0, 11_000_000), &MAPPING), None);
    let counts = DepartureCounts { complete: 1, given_up: 1, late: 1, ..d.counts() };
    assert_eq!((d.counts(), d.pending()), (counts, 0));
}

#[test]
fn the_oldest_send_is_pushed_out_of_a_full_ring() {
    let mut d = Departures::new(2);
    d.push(1, mono(1));
    d.push(2, mono(2));
    assert_eq!(d.push(3, mono(3)).map(|d| d.cookie), Some(1));
    d.stamp(software(1, 9), &MAPPING);
    assert_eq!(d.push(4, mono(4)), None, "2 is complete");
    assert_eq!(d.stamp(software(0, 9), &MAPPING), None);
    let counts = DepartureCounts { complete: 1, overrun: 1, unknown_id: 1, without_t2: 1, ..d.counts() };
    assert_eq!((d.counts(), d.pending()), (counts, 2));
}

#[test]
fn without_a_failed_send_ids_are_not_doubted() {
    let mut d = Departures::default();
    d.push(1, mono(10));
    d.push(2, mono(20));
    // The clock was stepped back by 5 us: nothing is renumbered, and nothing joined.
    assert_eq!(d.stamp(sched(1, 16), &MAPPING), None);
    assert_eq!((d.counts().before_t1, d.counts().slips), (1, 0));
    d.stamp(sched(1, 21), &MAPPING);
    assert_eq!(d.stamp(software(1, 22), &MAPPING).map(|d| (d.cookie, d.t2)), Some((2, known(21))));
}

#[test]
fn a_stamp_may_seem_early_by_the_error_of_the_mapping() {
    let mut d = Departures::default();
    d.push(1, mono(10));
    let early = |ns| TxStamp { at: sched(0, 10).at - Span::from_nanos(ns), ..sched(0, 10) };
    assert_eq!((d.stamp(early(151), &MAPPING), d.counts().before_t1), (None, 1));
    assert_eq!((d.stamp(early(150), &MAPPING), d.counts().before_t1), (None, 1));
    assert_eq!(
        d.stamp(software(0, 11), &MAPPING).and_then(|d| d.t2).map(|t2| t2.at),
        Some(mono(10) - Span::from_nanos(150))
    );
}

#[test]
fn a_lost_count_is_noticed_and_begun_anew() {
    let mut d = Departures::default();
    for i in 0..MISFITS {
        assert!(!d.is_lost());
        d.push(u64::from(i), mono(i64::from(i)));
        // Somebody else sends on the same socket.
        d.stamp(sched(i + 100, i64::from(i)), &MAPPING);
    }
    assert!(d.is_lost());
    d.restart();
    assert!(!d.is_lost());
    assert_eq!((d.counts().given_up, d.pending()), (u64::from(MISFITS), 0));
    d.push(5, mono(100));
    assert_eq!(d.stamp(sched(3, 50), &MAPPING), None, "of before");
    assert_eq!(d.stamp(software(0, 101), &MAPPING).map(|d| d.cookie), Some(5));
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Sent,
    /// Failed; counted by the kernel or not.
    Failed(bool),
    Read,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![4 => Just(Call::Sent), 1 => any::<bool>().prop_map(Call::Failed), 2 => Just(Call::Read)]
}

proptest! {
    /// Whatever fails, counted or not, and whenever stamps are read: each is joined to its own send.
    #[test]
    fn stamps_are_joined_across_failed_sends(calls in prop::collection::vec(call(), 0..200), first: u32, queue in 0i64..100) {
        let mut d = Departures { next_id: first, ..Departures::default() };
        let (mut id, mut queued, mut sent, mut complete) = (first, Vec::new(), 0u64, 0u64);
        for (i, call) in calls.iter().chain([&Call::Read]).enumerate() {
            // Ten microseconds for each call, and for the last one as long as it takes.
            let now = 10 * i as i64;
            match call {
                Call::Sent => {
                    d.push(i as u64, mono(now));
                    // The queue lets packets out late; its stamps come then.
                    queued.extend([(now + 1, sched(id, now + 1)), (now + 2 + queue, software(id, now + 2 + queue))]);
                    (id, sent) = (id.wrapping_add(1), sent + 1);
                }
                Call::Failed(counted) => {
                    d.push_failed();
                    id = id.wrapping_add(u32::from(*counted));
                }
                Call::Read => {
                    let due = if i == calls.len() { i64::MAX } else { now };
                    queued.sort_by_key(|(at, _)| *at);
                    for (_, stamp) in queued.extract_if(.., |(at, _)| *at <= due) {
                        if let Some(done) = d.stamp(stamp, &MAPPING) {
                            let t1 = 10 * done.cookie as i64;
                            prop_assert_eq!((done.t1, done.t2), (mono(t1), known(t1 + 1)));
                            prop_assert_eq!(done.t3, known(t1 + 2 + queue));
                            complete += 1;
                        }
                    }
                }
            }
        }
        prop_assert_eq!(complete, sent);
        prop_assert_eq!(d.counts(), DepartureCounts { complete, slips: d.counts().slips, ..Default::default() });
    }

    /// Stamps that nobody could have taken change nothing but counts, and these add up.
    #[test]
    fn wild_stamps_never_break_the_accounting(steps in prop::collection::vec((0u8..4, 0u32..12, any::<bool>(), -100i64..100), 0..100), slots in 1usize..5) {
        let mut d = Departures::new(slots);
        let mut pushed = 0;
        for (i, (what, id, software, us)) in steps.into_iter().enumerate() {
            let now = mono(3_000_000 * i as i64);
            match what {
                0 => { d.push(i as u64, now); pushed += 1; }
                1 => d.push_failed(),
                2 => while d.expire(now).is_some() {},
                _ => {
                    let stage = if software { Stage::Software } else { Stage::Sched };
                    d.stamp(at(id, stage, 3_000_000 * i as i64 + us), &MAPPING);
                }
            }
            let c = d.counts();
            prop_assert_eq!(c.complete + c.given_up + c.overrun + d.pending() as u64, pushed);
        }
    }
}
