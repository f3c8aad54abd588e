//! Two nodes that send each other packets, on one MONOTONIC, with wall clocks that stand apart.

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{Align as _, Correction, PeerClock, SentStamp, TxStage};
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::analysis::journey::{Journey, Leg};
use probe_user::analysis::verdict::Cause;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

use super::{Journeys, Way};
use crate::proto::{NodeId, PacketArrival, Sequence, SourcePorts};
use crate::wire::v1::{self, Kind, Report};

const MS: fn(i64) -> Span = Span::from_millis;
const US: fn(i64) -> Span = Span::from_micros;

struct Side {
    id: NodeId,
    incarnation: u32,
    clock: ClockView,
    journeys: Journeys,
    sent: u32,
    over: Vec<Journey>,
    /// By how much its T4s are off, and how far off it says they may be.
    t4: Bounded,
}

/// How a packet fares.
#[derive(Clone, Copy)]
struct Fare {
    egress: Span,
    qdisc: Span,
    network: Span,
}

const WAY: Fare = Fare {
    egress: Span::from_nanos(10_000),
    qdisc: Span::from_nanos(40_000),
    network: Span::from_nanos(200_000),
};

impl Side {
    fn new(id: &str, theta: Span, bound: Span, state: ClockState) -> Self {
        let mapping = Mapping {
            real_minus_mono: Span::from_secs(1_000_000),
            error: Span::from_nanos(20),
            epoch: 0,
            injected: theta.into(),
        };
        let (source, read_at) = (ClockSource::Chrony, MonoNs::from_nanos(0));
        let offset = ClockOffset { theta, bound_at_read: bound, read_at, source, state, rate: None };
        Self {
            id: NodeId::new(id).unwrap(),
            incarnation: 7,
            clock: ClockView { mapping, offset },
            journeys: Journeys::new(NodeId::new(id).unwrap()),
            sent: 0,
            over: Vec::new(),
            t4: Bounded::default(),
        }
    }

    /// Sends a packet that leaves for `to`; gives what the receiver will find in it.
    fn send(&mut self, to: &Side, answers: Option<PacketId>, at: MonoNs, way: Fare) -> Flying {
        self.sent += 1;
        let id = PacketId { incarnation: self.incarnation, counter: self.sent };
        let mut tail = v1::Tail::default();
        tail.begin(&[0; 100], 1400);
        self.journeys.write_reports(&to.id, answers, at, &mut tail);
        self.journeys.sent(&to.id, id, at, US(2), None, &self.clock);
        let (egress, qdisc) = (Some(way.egress), Some(way.qdisc));
        self.journeys.departed(&to.id, at, v1::Sending { counter: id.counter, egress, qdisc, hooked: false });
        let sent = SentStamp {
            wall: self.clock.mapping.wall(at),
            clock: PeerClock::of(&self.clock, at),
            stage: TxStage::AppTx,
        };
        let arrives = at + way.egress + way.qdisc + way.network;
        Flying { from: self.id.clone(), id, answers, sent, reports: tail.reports(), arrives, lost_before: 0 }
    }

    /// T5 comes 3 us after T4, T6 20 us after that, T7 again 5 us later, which is returned.
    fn receive(&mut self, packet: &Flying) -> MonoNs {
        let received = packet.arrives;
        let stamp = Stamp { at: received + self.t4.value, error: self.t4.bound };
        let receipt = Receipt {
            received: Some(stamp),
            filtered: Some(Stamp::exact(received + US(3))),
            read: received + US(23),
        };
        let applied = received + US(28);
        let one_way = (self.journeys.one_way(packet.from.as_str(), &packet.sent, stamp.at, &self.clock))
            .stamped_to(stamp.error);
        let arrival = PacketArrival {
            from: packet.from.clone(),
            kind: Kind::Digest,
            id: packet.id,
            sent: packet.sent,
            sender_source: None,
            send_queue: US(2),
            answers: packet.answers.map(|id| id.counter),
            one_way: Some(one_way),
            sequence: Some(Sequence { lost_before: packet.lost_before, ..Sequence::default() }),
            ports: SourcePorts::new(),
        };
        self.journeys.received(&arrival, &packet.reports, &receipt, applied, &self.clock);
        let over = self.journeys.over().filter(|(_, way, _)| *way == Way::Incoming);
        self.over.extend(over.map(|(.., journey)| journey));
        applied
    }

    fn count(&self, name: &str) -> u64 {
        self.journeys.counters().labelled().iter().find(|(known, _)| *known == name).unwrap().1
    }
}

struct Flying {
    from: NodeId,
    id: PacketId,
    answers: Option<PacketId>,
    sent: SentStamp,
    reports: Vec<Report>,
    arrives: MonoNs,
    /// Packets that were sent before it and do not come.
    lost_before: u32,
}

/// `a` asks and `b` answers, ten times a second; returns when it ended.
fn exchanges(a: &mut Side, b: &mut Side, n: i64, there: Fare, back: Fare) -> MonoNs {
    let start = MonoNs::from_nanos(0) + MS(1000);
    let mut end = start;
    for round in 0..n {
        let request = a.send(b, None, start + MS(100 * round), there);
        let at = b.receive(&request);
        let answer = b.send(a, Some(request.id), at, back);
        end = a.receive(&answer);
    }
    end
}

fn pair(theta: Span, bound: Span, state: ClockState) -> (Side, Side) {
    (Side::new("a", Span::ZERO, bound, state), Side::new("b", theta, bound, state))
}

#[test]
fn both_ends_parts_make_whole_journeys_whose_legs_are_the_truth() {
    let (mut a, mut b) = pair(MS(50), US(100), ClockState::Synchronised);
    let slow = Fare { qdisc: MS(3), ..WAY };
    exchanges(&mut a, &mut b, 20, slow, WAY);
    assert_eq!(b.over.len(), 19, "all but the last, whose sender has nothing more to say");
    for journey in &b.over {
        assert!(journey.is_whole());
        let leg = |leg| journey.leg(leg).unwrap().value;
        let known = [Leg::SendQueue, Leg::EgressStack, Leg::Qdisc, Leg::IngressStack, Leg::SocketQueue];
        assert_eq!(known.map(leg), [US(2), US(10), MS(3), US(3), US(20)]);
        assert_eq!(leg(Leg::Handling), US(5));
        // The middle of what is possible pulls a little where NTP is not sure.
        assert!((leg(Leg::Network) - US(200)).abs() < US(100), "{}", leg(Leg::Network));
    }
    assert_eq!((b.count("journeys_whole"), b.count("report_implausible")), (19, 0));
    b.journeys.finish(MonoNs::from_nanos(0));
    assert_eq!(b.journeys.over().filter(|(.., journey)| journey.network_has_egress).count(), 1);
}

/// Where NTP says next to nothing, packets bound the clocks' difference by half of the round trip; with NTP they cannot
/// be misled by the way there being longer than the way back.
#[test]
fn packets_narrow_what_ntp_leaves_open_and_ntp_tells_the_directions_apart() {
    let (there, back) = (Fare { network: MS(5), ..WAY }, WAY);
    for (bound, state, correction, error, at_most) in [
        (US(100), ClockState::Synchronised, Correction::Fused, US(150), US(600)),
        (MS(20), ClockState::Synchronised, Correction::Fused, US(3000), US(2750)),
        (Span::MAX, ClockState::Unsynchronised, Correction::PeerOnly, US(2500), US(2750)),
    ] {
        let (mut a, mut b) = pair(MS(-50), bound, state);
        let end = exchanges(&mut a, &mut b, 30, there, back);
        let sent = a.send(&b, None, end + MS(1), there);
        let got = b.journeys.one_way("a", &sent.sent, sent.arrives, &b.clock);
        let truth = sent.arrives - (end + MS(1));
        assert_eq!(got.correction, correction);
        assert!(got.time.covers(truth), "{correction:?}: {} for {truth}", got.time);
        assert!((got.time.value - truth).abs() <= error, "{correction:?}: {} for {truth}", got.time);
        assert!(got.time.bound <= at_most, "{correction:?}: {}", got.time);
    }
}

/// A NIC's stamp is off by more than a short way takes. Both ends allow for it: whoever took it, and whoever is told.
#[test]
fn a_t4_that_is_not_exact_misleads_neither_end() {
    let short = Fare { egress: US(1), qdisc: US(1), network: US(10) };
    for off in [US(-40), US(40)] {
        let (mut a, mut b) = pair(MS(50), Span::MAX, ClockState::Unsynchronised);
        b.t4 = Bounded::new(off, US(45));
        let end = exchanges(&mut a, &mut b, 20, short, short);
        assert_eq!((a.count("report_implausible"), b.count("report_implausible")), (0, 0));
        let told = |mine: &mut Side, peer: &mut Side| {
            let sent = peer.send(mine, None, end + MS(1), short);
            let got = mine.journeys.one_way(peer.id.as_str(), &sent.sent, sent.arrives, &mine.clock);
            assert_eq!(got.correction, Correction::PeerOnly);
            assert!(got.time.covers(US(12)), "{off}, at {}: {}", mine.id, got.time);
        };
        told(&mut a, &mut b);
        told(&mut b, &mut a);
        for journey in &b.over {
            let (network, ingress) =
                (journey.leg(Leg::Network).unwrap(), journey.leg(Leg::IngressStack).unwrap());
            assert!(
                network.covers(US(10)) && ingress.covers(US(3)) && journey.stamps >= US(45),
                "{journey:?}"
            );
        }
        assert!(!b.over.is_empty());
    }
}

#[test]
fn false_reports_are_refused_and_change_nothing() {
    let (mut a, mut b) = pair(MS(50), Span::MAX, ClockState::Unsynchronised);
    let end = exchanges(&mut a, &mut b, 30, WAY, WAY);
    let now = end + MS(1);
    let before = a.journeys.clocks(&a.clock, now).next().unwrap().packets;
    let receipt = |counter, before: Span, handling: Span| {
        let (ingress, queued) = (Some(US(3)), US(20));
        let error = Span::ZERO;
        Report::Receipt(v1::Receipt { counter, received_before: before, ingress, queued, handling, error })
    };
    let known = Some(a.sent);
    let forged = [
        (receipt(Some(9_999), MS(1), US(5)), "report_unknown"),
        (receipt(Some(0), MS(1), US(5)), "report_unknown"),
        (receipt(None, MS(1), US(5)), "report_unknown"),
        (receipt(known, MS(1), US(5)), "report_repeated"),
        (
            Report::Sending(v1::Sending {
                counter: 77,
                egress: Some(US(1)),
                qdisc: Some(US(1)),
                hooked: false,
            }),
            "report_unknown",
        ),
    ];
    for (report, reason) in forged {
        let count = a.count(reason);
        let packet = Flying { reports: vec![report], ..b.send(&a, None, now, WAY) };
        a.receive(&packet);
        assert_eq!(a.count(reason), count + 1, "{report:?}");
    }
    // A packet's own times must fit into what is known of it.
    let request = a.send(&b, None, now + MS(2), WAY);
    let inexact = |error| match receipt(Some(a.sent), MS(1), US(5)) {
        Report::Receipt(receipt) => Report::Receipt(v1::Receipt { error, ..receipt }),
        report => report,
    };
    for impossible in [
        receipt(Some(a.sent), MS(-1), US(5)),
        receipt(Some(a.sent), US(10), US(5)),
        receipt(Some(a.sent), MS(1), MS(-5)),
        inexact(US(-1)),
        inexact(MS(2)),
    ] {
        let packet = Flying { reports: vec![impossible], ..b.send(&a, Some(request.id), now + MS(3), WAY) };
        a.receive(&packet);
    }
    assert_eq!(a.count("report_implausible"), 5);
    let (egress, qdisc) = (Some(MS(9)), Some(US(1)));
    let long = Report::Sending(v1::Sending { counter: b.sent + 1, egress, qdisc, hooked: false });
    let packet = b.send(&a, None, now + MS(4), WAY);
    a.receive(&packet);
    let packet = Flying { reports: vec![long], ..b.send(&a, None, now + MS(5), WAY) };
    a.receive(&packet);
    assert_eq!(a.count("report_implausible"), 6, "longer in the sender's kernel than all the way");
    let after = a.journeys.clocks(&a.clock, now).next().unwrap().packets;
    let (before, after) = (before.unwrap(), after.unwrap());
    assert!((before.interval.width() - after.interval.width()).abs() < US(1), "{after:?}");
    assert!((before.midpoint - after.midpoint).abs() < US(1), "{after:?}");
}

#[test]
fn one_packet_that_says_that_a_peer_is_another_is_not_believed_but_an_answer_is() {
    for (answers, needed) in [(false, 3), (true, 1)] {
        let (mut a, mut b) = pair(MS(50), Span::MAX, ClockState::Unsynchronised);
        let end = exchanges(&mut a, &mut b, 30, WAY, WAY);
        let samples = |a: &Side| a.journeys.clocks(&a.clock, end).next().unwrap().packets.map(|p| p.samples);
        assert_eq!(samples(&a), Some(60));
        b.clock.mapping.epoch = 1;
        b.clock.mapping.real_minus_mono += Span::from_secs(3);
        for packet in 1..=needed {
            assert_eq!(samples(&a), Some(60), "after {packet} packets");
            let answered = PacketId { incarnation: 7, counter: a.sent };
            let news = b.send(&a, answers.then_some(answered), end + MS(packet), WAY);
            // Until it is believed the old clock is not held against the new one.
            let one_way = a.journeys.one_way("b", &news.sent, news.arrives, &a.clock);
            assert_eq!(one_way.correction, Correction::None);
            a.receive(&news);
        }
        assert_eq!(samples(&a), None, "what was known is of another clock");
    }
}

#[test]
fn a_step_of_the_own_clock_voids_what_is_known_and_what_is_under_way() {
    let (mut a, mut b) = pair(MS(50), Span::MAX, ClockState::Unsynchronised);
    let end = exchanges(&mut a, &mut b, 30, WAY, WAY);
    let request = a.send(&b, None, end + MS(1), WAY);
    let at = b.receive(&request);
    a.clock.mapping.epoch = 1;
    a.clock.mapping.real_minus_mono += Span::from_secs(-2);
    let answer = b.send(&a, Some(request.id), at, WAY);
    let one_way = a.journeys.one_way("b", &answer.sent, answer.arrives, &a.clock);
    assert_eq!(one_way.correction, Correction::None, "no sample from before the step is used");
    a.receive(&answer);
    assert_eq!(a.count("report_other_epoch"), 1);
    let packets = a.journeys.clocks(&a.clock, end + MS(2)).next().unwrap().packets;
    assert_eq!(packets, None);
}

#[test]
fn reports_are_bounded_go_oldest_first_and_push_no_data_out() {
    let (mut a, mut b) = pair(MS(50), US(100), ClockState::Synchronised);
    let start = MonoNs::from_nanos(0) + MS(1000);
    // Far more than are kept, and nothing to tell them in.
    const SENT: u32 = 100;
    for n in 0..i64::from(SENT) {
        let packet = a.send(&b, None, start + MS(10 * n), WAY);
        b.receive(&packet);
    }
    let now = start + MS(10 * i64::from(SENT));
    let mut tell = |len: usize, max: usize| -> Vec<u32> {
        let (packet, mut tail) = ([vec![0; len - 2], vec![0xc4, 0]].concat(), v1::Tail::default());
        tail.begin(&packet, max);
        b.journeys.write_reports(&a.id, None, now, &mut tail);
        let whole = tail.split(&packet).concat();
        assert!(whole.len() <= max && whole.len() <= len + v1::REPORTS_MAX, "{} bytes", whole.len());
        assert_eq!(whole[..len - 2], packet[..len - 2], "all that the core wrote is there");
        let counter = |report: &Report| match report {
            Report::Receipt(receipt) => receipt.counter.unwrap(),
            other => panic!("{other:?}"),
        };
        tail.reports().iter().map(counter).collect()
    };
    assert!(tell(1400, 1400).is_empty(), "a full packet has no room");
    let mut told = tell(1370, 1400);
    assert!((1..=3).contains(&told.len()), "{told:?} in 30 bytes");
    for _ in 0..5 {
        told.extend(tell(1000, 1400));
    }
    assert!(told.is_sorted() && *told.last().unwrap() == SENT, "{told:?}");
    assert!((20..60).contains(&told.len()), "some are kept: {told:?}");
    let (sent, dropped) = (b.count("reports_sent"), b.count("reports_dropped"));
    assert_eq!((sent, sent + dropped), (told.len() as u64, u64::from(SENT)), "and all are accounted for");
}

#[test]
fn who_is_no_neighbour_learns_the_receipt_of_its_question_alone() {
    let (mut a, mut b) = pair(MS(0), US(100), ClockState::Synchronised);
    let start = MonoNs::from_nanos(0) + MS(1000);
    let (other, a_id) = (NodeId::new("other").unwrap(), a.id.clone());
    let mut told = |b: &mut Side, n: i64| {
        let at = start + MS(100 * n);
        let request = a.send(b, None, at, WAY);
        b.receive(&request);
        b.send(&a, Some(request.id), at + MS(1), WAY).reports
    };
    told(&mut b, 0);
    let before = told(&mut b, 1);
    assert_eq!(before.len(), 2, "as long as the ring is unknown, its answer's times are told: {before:?}");
    b.journeys.evaluate([&other].into_iter(), &b.clock, start + MS(150));
    let stranger = told(&mut b, 2);
    assert!(matches!(stranger[..], [Report::Receipt(v1::Receipt { counter: None, .. })]), "{stranger:?}");
    assert_eq!(b.count("reports_withheld"), 1);
    b.journeys.evaluate([&other, &a_id].into_iter(), &b.clock, start + MS(250));
    assert_eq!(told(&mut b, 3).len(), 2);
}

#[test]
fn a_neighbour_has_its_verdict_however_many_others_were_there_before() {
    let (mut a, mut b) = pair(MS(0), US(100), ClockState::Synchronised);
    let start = MonoNs::from_nanos(0) + MS(1000);
    for n in 0..2 * crate::stats::MAX_PEERS {
        let mut other = Side::new(&format!("other-{n}"), MS(0), US(100), ClockState::Synchronised);
        let packet = other.send(&b, None, start, WAY);
        b.receive(&packet);
    }
    let mut causes = Vec::new();
    for second in 0..30 {
        let now = start + MS(1000 * second);
        b.journeys.evaluate([&a.id].into_iter(), &b.clock, now);
        for _ in 0..2 {
            let request = a.send(&b, None, now + MS(100), WAY);
            let at = b.receive(&request);
            let answer = b.send(&a, Some(request.id), at, WAY);
            a.receive(&answer);
        }
        causes = b.journeys.judges().verdicts().map(|(_, way, verdict)| (way, verdict.cause)).collect();
    }
    assert_eq!(causes, [(Way::Incoming, Cause::Ok), (Way::Outgoing, Cause::Ok)]);
}

#[test]
fn a_loss_that_only_the_receiver_sees_is_the_senders_verdict_too() {
    let (mut a, mut b) = pair(MS(0), US(100), ClockState::Synchronised);
    let (a_id, b_id) = (a.id.clone(), b.id.clone());
    let start = MonoNs::from_nanos(0) + MS(1000);
    let causes = |side: &Side| {
        side.journeys.judges().verdicts().map(|(_, way, verdict)| (way, verdict.cause)).collect::<Vec<_>>()
    };
    for second in 0..40 {
        let now = start + MS(1000 * second);
        a.journeys.evaluate([&b_id].into_iter(), &a.clock, now);
        b.journeys.evaluate([&a_id].into_iter(), &b.clock, now);
        for n in 0..8 {
            let at = now + MS(10 + 100 * n);
            // From 20 s on the first of eight is lost.
            let lost = second >= 20 && n == 0;
            if lost {
                a.send(&b, None, at - MS(5), WAY);
            }
            let request = Flying { lost_before: lost.into(), ..a.send(&b, None, at, WAY) };
            let at = b.receive(&request);
            let answer = b.send(&a, Some(request.id), at, WAY);
            a.receive(&answer);
        }
        if second == 19 {
            assert!(causes(&a).iter().chain(&causes(&b)).all(|(_, cause)| *cause == Cause::Ok));
        }
    }
    assert_eq!(causes(&b), [(Way::Incoming, Cause::LossNetwork), (Way::Outgoing, Cause::Ok)]);
    assert_eq!(causes(&a), [(Way::Incoming, Cause::Ok), (Way::Outgoing, Cause::LossNetwork)]);
    // What cannot be is refused.
    let wild = Report::Loss(v1::LossReport { here: 0, outside: 1_000_000, received: 0 });
    let before = a.count("report_implausible");
    let packet = Flying { reports: vec![wild], ..b.send(&a, None, start + MS(41_000), WAY) };
    a.receive(&packet);
    assert_eq!(a.count("report_implausible"), before + 1);
}
