use probe_ebpf::time::Span;
use proptest::prelude::*;

use super::super::frame::tests::udp_frame;
use super::super::spec::{Loss, Rate};
use super::*;

const A: u8 = 0;

fn port(index: u8) -> Port {
    Port::host(usize::from(index))
}

fn at(us: i64) -> MonoNs {
    MonoNs::from_nanos(us * 1_000)
}

fn fabric(ports: u8, spec: LinkSpec) -> Fabric {
    let ports: Vec<Port> = (0..ports).map(port).collect();
    Fabric::new(&ports, spec, 1, Log::new(100_000))
}

/// Everything that is due at `now`, delivered.
fn deliver(fabric: &mut Fabric, now: MonoNs) -> Vec<(Port, Vec<u8>)> {
    let mut delivered = Vec::new();
    while let Some(departure) = fabric.depart(now) {
        delivered.push((departure.to, departure.frame.clone()));
        fabric.settle(departure, now, false);
    }
    delivered
}

#[test]
fn a_frame_goes_to_its_port_after_the_links_delay() {
    let mut fabric = fabric(3, LinkSpec::delay(Span::from_micros(500)));
    let frame = udp_frame(port(A), port(2), b"hello");
    fabric.arrive(at(0), port(A), &frame);
    assert_eq!(fabric.next(), Some(at(500)));
    assert_eq!(deliver(&mut fabric, at(499)), []);
    assert_eq!(deliver(&mut fabric, at(503)), [(port(2), frame)]);
    let (totals, log) = fabric.close(at(600));
    assert_eq!(totals.link(port(A), port(2)).delivered, 1);
    assert_eq!(log.records()[0].error(), Span::from_micros(3));
}

#[test]
fn a_broadcast_goes_to_all_others_and_a_stranger_to_nobody() {
    let mut fabric = fabric(4, LinkSpec::default());
    let mut frame = udp_frame(port(A), port(1), b"all");
    frame[..6].fill(0xff);
    fabric.arrive(at(0), port(A), &frame);
    let to: Vec<Port> = deliver(&mut fabric, at(0)).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [port(1), port(2), port(3)]);
    fabric.arrive(at(0), port(A), &udp_frame(port(A), port(9), b"unplugged"));
    fabric.arrive(at(0), port(A), &udp_frame(port(A), port(A), b"itself"));
    fabric.arrive(at(0), port(A), b"runt");
    let totals = fabric.totals();
    assert_eq!((totals.unroutable, totals.all.arrived, totals.all.delivered), (3, 3, 3));
}

#[test]
fn a_cut_link_drops_what_is_under_way_and_leaves_the_other_direction_alone() {
    let delay = LinkSpec::delay(Span::from_millis(1));
    let mut fabric = fabric(2, delay);
    fabric.arrive(at(0), port(A), &udp_frame(port(A), port(1), b"x"));
    fabric.arrive(at(0), port(1), &udp_frame(port(1), port(A), b"y"));
    assert!(fabric.set(port(A), port(1), LinkSpec { partition: true, ..delay }));
    fabric.arrive(at(1), port(A), &udp_frame(port(A), port(1), b"z"));
    assert_eq!(deliver(&mut fabric, at(2_000)).len(), 1);
    assert!(fabric.set(port(A), port(1), delay));
    fabric.arrive(at(2_000), port(A), &udp_frame(port(A), port(1), b"healed"));
    assert_eq!(deliver(&mut fabric, at(3_000)).len(), 1);
    let cut = fabric.totals().link(port(A), port(1));
    assert_eq!((cut.dropped(Cause::Partition), cut.delivered), (2, 1));
    assert!(!fabric.set(port(A), port(7), delay), "there is no such link");
}

#[test]
fn one_of_several_parallel_wires_takes_the_packets_of_its_source_port() {
    let spec = LinkSpec { source_port: Some(7), ..LinkSpec::delay(Span::from_millis(1)) };
    let mut fabric = fabric(2, spec);
    let frame = |source: u16| {
        let mut frame = udp_frame(port(A), port(1), b"x");
        frame[34..36].copy_from_slice(&source.to_be_bytes());
        frame
    };
    for source in [7, 8] {
        fabric.arrive(at(0), port(A), &frame(source));
    }
    let mut other = frame(7);
    other[23] = 6; // TCP
    fabric.arrive(at(0), port(A), &other);
    assert_eq!(deliver(&mut fabric, at(0)).len(), 2);
    assert_eq!(deliver(&mut fabric, at(2_000)).len(), 1);
}

#[test]
fn links_have_random_numbers_of_their_own() {
    let spec = LinkSpec { loss: Some(Loss::Random { share: 0.5 }), ..LinkSpec::default() };
    let lost = |from: u8, to: u8| -> Vec<bool> {
        let mut fabric = fabric(3, spec);
        (0..64)
            .map(|i| {
                fabric.arrive(at(i), port(from), &udp_frame(port(from), port(to), b"x"));
                deliver(&mut fabric, at(i)).is_empty()
            })
            .collect()
    };
    assert_eq!(lost(0, 1), lost(0, 1));
    assert_ne!(lost(0, 1), lost(1, 0));
    assert_ne!(lost(0, 1), lost(0, 2));
    assert_ne!(lost(0, 1), lost(2, 1));
}

#[test]
fn more_than_may_be_under_way_is_dropped_and_told_as_not_asked_for() {
    let mut fabric = fabric(2, LinkSpec::delay(Span::from_secs(1)));
    let frame = udp_frame(port(A), port(1), b"x");
    for _ in 0..MAX_UNDER_WAY + 3 {
        fabric.arrive(at(0), port(A), &frame);
    }
    let counts = fabric.totals().all;
    assert_eq!((counts.unasked(), counts.queued, counts.closes()), (3, MAX_UNDER_WAY as u64, true));
}

proptest! {
    /// Whatever happens, every packet has exactly one end, and log and counters agree about it.
    #[test]
    fn the_account_closes(
        events in prop::collection::vec((0..2_000i64, 0..3u8, 0..5u8, 0..8u8), 1..300),
        loss in 0.0..=1.0f64,
        duplicate in 0.0..=1.0f64,
        queue_bytes in 0..2_000u64,
    ) {
        let spec = LinkSpec {
            delay: Span::from_micros(700),
            loss: Some(Loss::Random { share: loss }),
            duplicate,
            rate: Some(Rate { bits_per_second: 10_000_000, queue_bytes }),
            ..LinkSpec::default()
        };
        let cut = LinkSpec { partition: true, ..spec };
        let mut fabric = fabric(3, spec);
        let mut now = at(0);
        for (gap, from, to, act) in events {
            now = now + Span::from_micros(gap);
            match act {
                0 => prop_assert!(fabric.set(port(from), port((from + 1) % 3), cut)),
                1 => prop_assert!(fabric.set(port(from), port((from + 1) % 3), spec)),
                2 => while let Some(departure) = fabric.depart(now) {
                    fabric.settle(departure, now, to == 0);
                },
                _ => {
                    let mut frame = udp_frame(port(from), port(to), &[act; 30]);
                    if to == 4 {
                        frame[..6].fill(0xff);
                    }
                    fabric.arrive(now, port(from), &frame);
                }
            }
            prop_assert!(fabric.totals().all.closes(), "{:?}", fabric.totals());
        }
        let (totals, log) = fabric.close(now);
        let count = |which: &dyn Fn(&Record) -> bool| log.records().iter().filter(|r| which(r)).count() as u64;
        prop_assert_eq!(count(&|r| r.outcome == Outcome::Delivered), totals.all.delivered);
        prop_assert_eq!(count(&|r| r.outcome == Outcome::Queued), totals.all.queued);
        prop_assert_eq!(count(&|r| !r.copy), totals.all.arrived);
        for cause in Cause::ALL {
            prop_assert_eq!(count(&|r| r.outcome == Outcome::Dropped(cause)), totals.all.dropped(cause));
        }
        prop_assert!(log.records().iter().all(|r| r.outcome != Outcome::Delivered || r.departure >= r.arrival + spec.delay));
    }
}
