//! One peer: the packets to and from it, and its clock.

use std::collections::VecDeque;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{Correction, PeerClock, SentStamp};
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::analysis::journey::{Journey, Leg};
use probe_user::analysis::verdict::{HostEvidence, Loss};
use probe_user::clock::ClockView;
use probe_user::clock::fusion::Fused;
use probe_user::clock::peer::{PeerDelta, PeerEstimate, Sample};

use super::arrivals::{Arrivals, PATIENCE};
use super::loss::Told;
use super::sent::{Sent, SentPacket};
use super::tally::Tally;
use super::{Counters, ReportRefused, SLACK};
use crate::proto::{PacketArrival, place, source_port};
use crate::wire::v1;

/// So many packets in a row that say that the peer is another run of itself, or its clock was stepped, are believed.
const DOUBTED: u8 = 3;
/// Reports that wait for a packet to ride on, at most; the oldest make room.
const PENDING: usize = 32;
/// Both hosts' mappings from MONOTONIC to wall clock; tens of nanoseconds each, as a rule.
const MAPPING: Span = Span::from_nanos(200);

/// A T4 that is told is known better than this.
const MOST_ERROR: Span = Span::from_millis(1);

/// What is known of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    /// The peer's run and the two clocks' epochs that all below is of.
    series: Option<Series>,
    /// Packets of another series in a row.
    doubted: u8,
    sent: Sent,
    pending: VecDeque<Pending>,
    pub(super) arrivals: Arrivals,
    estimate: PeerEstimate,
    /// The peer's last clock reading and when it came.
    pub(super) reading: Option<(PeerClock, MonoNs)>,
    /// What the peer last said of its host, and when.
    pub(super) host: Option<(HostEvidence, MonoNs)>,
    /// When the peer was last told of this host.
    pub(super) host_told: Option<MonoNs>,
    /// The last step of either clock.
    pub(super) stepped: Option<MonoNs>,
    pub(super) tally: Tally,
    /// What was lost on the way from it since the start.
    pub(super) lost: Loss,
    /// What the two tell each other of that.
    pub(super) told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Series {
    incarnation: u32,
    peer_epoch: u8,
    local_epoch: u32,
}

/// What is yet to be reported.
#[derive(Clone, Copy, Debug)]
enum Pending {
    /// A received packet, and when it was received.
    Receipt(MonoNs, v1::Receipt),
    /// A sent packet, and when it was sent.
    Sending(MonoNs, v1::Sending),
}

impl Path {
    pub(super) fn sent(&mut self, packet: SentPacket) {
        self.sent.push(packet);
        self.told.sent();
    }

    /// A packet came from the peer: counts it for its clock, and remembers to report it. `applied` is T7. Journeys that
    /// are over with it go to `over`.
    pub(super) fn received(
        &mut self,
        packet: &PacketArrival,
        receipt: &Receipt,
        applied: MonoNs,
        clock: &ClockView,
        counters: &mut Counters,
        over: &mut impl FnMut(Journey),
    ) {
        let id = packet.id;
        let series = Series {
            incarnation: id.incarnation,
            peer_epoch: packet.sent.clock.epoch,
            local_epoch: clock.mapping.epoch,
        };
        if !self.enter(series, packet.answers.is_some(), applied, over) {
            counters.other_series += 1;
            return;
        }
        self.reading = Some((packet.sent.clock, receipt.read));
        if id.counter > 0
            && let Some(out) = self.arrivals.push(self.journey(packet, receipt, applied))
        {
            over(out);
        }
        let Some(stamp) = receipt.received else { return };
        let raw = clock.mapping.wall(stamp.at) - packet.sent.wall;
        let sample = Sample { at: stamp.at, raw, error: stamp.error + MAPPING };
        counters.sample(self.estimate.inward(sample, applied));
        if id.counter == 0 {
            return;
        }
        let filtered = receipt.filtered.map(|filtered| filtered.at);
        let report = v1::Receipt {
            counter: Some(id.counter),
            received_before: Span::ZERO,
            ingress: filtered.map(|filtered| filtered - stamp.at),
            queued: receipt.read - filtered.unwrap_or(stamp.at),
            handling: applied - receipt.read,
            error: if stamp.error > MAPPING { stamp.error } else { Span::ZERO },
        };
        self.wait(Pending::Receipt(stamp.at, report), counters);
    }

    fn wait(&mut self, pending: Pending, counters: &mut Counters) {
        if self.pending.len() == PENDING {
            self.pending.pop_front();
            counters.reports_dropped += 1;
        }
        self.pending.push_back(pending);
    }

    /// A packet to the peer, sent at `sent` (T1), left this host.
    pub(super) fn departed(&mut self, sent: MonoNs, report: v1::Sending, counters: &mut Counters) {
        if let Some(packet) = self.sent.find(report.counter) {
            packet.left = report.egress.zip(report.qdisc);
        }
        self.wait(Pending::Sending(sent, report), counters);
    }

    /// The series that values are of now, in one word.
    pub(super) fn epochs(&self) -> u64 {
        self.series.map_or(0, |series| {
            u64::from(series.local_epoch) << 40
                | u64::from(series.peer_epoch) << 32
                | u64::from(series.incarnation)
        })
    }

    /// The journey of a packet as far as it is known on its arrival.
    fn journey(&self, packet: &PacketArrival, receipt: &Receipt, applied: MonoNs) -> Journey {
        let mut legs = [None; 7];
        let mut set = |leg: Leg, time: Bounded| legs[leg.index()] = Some(time);
        set(Leg::SendQueue, Bounded::exact(packet.send_queue));
        if let Some(one_way) = &packet.one_way {
            set(Leg::Network, one_way.time);
        }
        let read = Stamp::exact(receipt.read);
        match (receipt.received, receipt.filtered) {
            (received, Some(filtered)) => {
                if let Some(received) = received {
                    set(Leg::IngressStack, filtered.since(received));
                }
                set(Leg::SocketQueue, read.since(filtered));
            }
            (Some(received), None) => set(Leg::SocketQueue, read.since(received)),
            (None, None) => {}
        }
        set(Leg::Handling, Stamp::exact(applied).since(read));
        Journey {
            counter: packet.id.counter,
            at: receipt.received.map_or(receipt.read, |stamp| stamp.at),
            legs,
            network_has_egress: packet.one_way.is_some(),
            departed_by_hooks: false,
            queue_has_ingress: receipt.filtered.is_none() && receipt.received.is_some(),
            correction: packet.one_way.map_or(Correction::None, |one_way| one_way.correction),
            stamps: receipt.received.map_or(Span::ZERO, |stamp| stamp.error + MAPPING),
            epochs: self.epochs(),
            source: source_port(&packet.ports, place(packet.id.counter, packet.ports.len())),
        }
    }

    /// All that was learnt is void when the peer started anew or one of the clocks was stepped. A single packet that
    /// says so may be forged or late: it takes one that answers, or a few. Is this packet of the series that holds now?
    fn enter(&mut self, series: Series, answers: bool, now: MonoNs, over: &mut impl FnMut(Journey)) -> bool {
        let Some(before) = self.series.filter(|before| *before != series) else {
            self.series = Some(series);
            self.doubted = 0;
            return true;
        };
        // This host's own clock is not a matter of belief.
        let own = Series { local_epoch: series.local_epoch, ..before } == series;
        self.doubted += 1;
        if !answers && !own && self.doubted < DOUBTED {
            return false;
        }
        self.doubted = 0;
        self.series = Some(series);
        self.estimate.reset();
        self.arrivals.drain().for_each(over);
        if before.incarnation != series.incarnation {
            self.pending.clear();
            self.told.forget_waiting();
        }
        if (before.peer_epoch, before.local_epoch) != (series.peer_epoch, series.local_epoch) {
            self.stepped = Some(now);
        }
        true
    }

    /// The peer tells when it received a packet of this node's: the way out, to be set against the way in. Gives the
    /// packet, and what its wall stamps differ by: T4 there less T1 here.
    pub(super) fn reported(
        &mut self,
        report: &v1::Receipt,
        answers: Option<u32>,
        sent: &SentStamp,
        clock: &ClockView,
        now: MonoNs,
        counters: &mut Counters,
    ) -> Result<(SentPacket, Span), ReportRefused> {
        let counter = report.counter.or(answers).ok_or(ReportRefused::Unknown)?;
        let packet = self.sent.find(counter).ok_or(ReportRefused::Unknown)?;
        if packet.reported {
            return Err(ReportRefused::Repeated);
        }
        let spans = [report.received_before, report.queued, report.handling];
        let spans = spans.into_iter().chain(report.ingress);
        let slack = SLACK + report.error;
        if report.error.is_negative()
            || report.error > MOST_ERROR
            || report.received_before < report.ingress.unwrap_or_default() + report.queued - slack
            || spans.into_iter().any(|span| span < -slack)
        {
            return Err(ReportRefused::Implausible);
        }
        packet.reported = true;
        let packet = *packet;
        if packet.epoch != clock.mapping.epoch {
            return Err(ReportRefused::OtherEpoch);
        }
        let received = sent.wall - report.received_before;
        let raw = received - clock.mapping.wall(packet.sent);
        let sample = Sample { at: packet.sent, raw, error: MAPPING + report.error };
        let taken = self.estimate.outward(sample, now);
        counters.sample(taken);
        if taken.is_err() { Err(ReportRefused::Implausible) } else { Ok((packet, raw)) }
    }

    /// The journey of a packet to the peer, whose network time is `raw` less the clocks' difference.
    pub(super) fn journey_out(
        &self,
        packet: &SentPacket,
        report: &v1::Receipt,
        raw: Span,
        fused: &Fused,
    ) -> Journey {
        let mut legs = [None; 7];
        let mut set = |leg: Leg, time: Bounded| legs[leg.index()] = Some(time);
        let (egress, qdisc) = packet.left.unwrap_or_default();
        set(Leg::SendQueue, Bounded::exact(packet.queued));
        if packet.left.is_some() {
            set(Leg::EgressStack, Bounded::exact(egress));
            set(Leg::Qdisc, Bounded::exact(qdisc));
        }
        let way = Bounded::new(raw - egress - qdisc, MAPPING + report.error);
        set(Leg::Network, if fused.kind == Correction::None { way } else { way - fused.delta });
        if let Some(ingress) = report.ingress {
            set(Leg::IngressStack, Bounded::new(ingress, report.error));
        }
        let queue_error = if report.ingress.is_none() { report.error } else { Span::ZERO };
        set(Leg::SocketQueue, Bounded::new(report.queued, queue_error));
        set(Leg::Handling, Bounded::exact(report.handling));
        Journey {
            counter: packet.counter,
            at: packet.sent,
            legs,
            network_has_egress: packet.left.is_none(),
            departed_by_hooks: false,
            queue_has_ingress: report.ingress.is_none(),
            correction: fused.kind,
            stamps: MAPPING + report.error,
            epochs: self.epochs(),
            source: packet.source,
        }
    }

    /// Puts what waits into the end of a packet that is sent at `sent`, oldest first. A peer that is no `neighbour` learns
    /// the receipt of what this packet answers, for its clock, and no more: the rest would make journeys whole that
    /// nobody judges, at a tenth of all bytes in a large cluster.
    pub(super) fn report(
        &mut self,
        answers: Option<u32>,
        sent: MonoNs,
        neighbour: bool,
        tail: &mut v1::Tail,
        counters: &mut Counters,
    ) {
        while let Some(pending) = self.pending.front() {
            let (at, report, wanted) = match *pending {
                Pending::Receipt(at, receipt) => {
                    let counter = receipt.counter.filter(|counter| answers != Some(*counter));
                    let report = v1::Receipt { counter, received_before: sent - at, ..receipt };
                    (at, v1::Report::Receipt(report), neighbour || counter.is_none())
                }
                Pending::Sending(at, sending) => (at, v1::Report::Sending(sending), neighbour),
            };
            if !wanted {
                counters.reports_withheld += 1;
            } else if sent - at > PATIENCE {
                counters.reports_dropped += 1;
            } else if tail.push(&report) {
                counters.reports_sent += 1;
            } else {
                break;
            }
            self.pending.pop_front();
        }
    }

    /// What its packets tell of the peer's clock, if it is still the one that `clock` and the local one are in.
    pub(super) fn delta(&self, peer_epoch: u8, clock: &ClockView, at: MonoNs) -> Option<PeerDelta> {
        let series = self.series?;
        let same = series.peer_epoch == peer_epoch && series.local_epoch == clock.mapping.epoch;
        same.then(|| self.estimate.at(at)).flatten()
    }

    /// The same for the last reading's epoch.
    pub(super) fn latest_delta(&self, clock: &ClockView, now: MonoNs) -> Option<PeerDelta> {
        self.delta(self.series?.peer_epoch, clock, now)
    }
}
