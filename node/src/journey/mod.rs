//! What the packets between this node and each peer tell of the way between them: pure, like the core it stands
//! beside. The driver tells it of every packet that it sends and receives, and it
//!
//! - writes timing reports into what is sent ([`write_reports`](Journeys::write_reports)) and reads the peers';
//! - keeps each peer's clock against the local one ([`PeerEstimate`](probe_user::clock::peer::PeerEstimate)), puts that
//!   together with NTP's word, and so corrects one-way times ([`Align`]);
//! - finds clocks that lie ([`Honesty`]);
//! - counts what is lost, and tells the sender of it.
//!
//! Reports are claims (DESIGN section 1): one of a packet that was never sent, sent too long ago or reported before, or
//! with times that contradict each other, is refused and counted. A plausible lie cannot be told from the truth.

mod arrivals;
mod counters;
mod drops;
mod judges;
mod loss;
mod path;
mod second;
mod sent;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{Align, Correction, OneWay, PeerClock, SentStamp};
use probe_user::analysis::breakdown::Receipt;
use probe_user::analysis::journey::{Journey, SourcePort};
use probe_user::analysis::verdict::{HostEvidence, Loss};
use probe_user::clock::fusion::{Fused, fuse, ntp_delta};
use probe_user::clock::honesty::{Finding, Honesty, Transition, Verdict, Who};
use probe_user::clock::peer::PeerDelta;
use probe_user::clock::{ClockState, ClockView};

use crate::proto::{NodeId, PacketArrival};
use crate::stats::{MAX_PEERS, Peers};
use crate::wire::v1::{self, Report};
pub use counters::Counters;
use counters::ReportRefused;
use drops::Drops;
pub use judges::{Judges, Way};
use path::Path;
use sent::SentPacket;

/// `bpf_ktime_get_ns` may step back a little (kernel/time/timekeeping.c), and mappings have errors: spans may be
/// negative by this much.
const SLACK: Span = Span::from_micros(10);
/// A peer's clock reading that is older than this says nothing any more.
const READING_MAX_AGE: Span = Span::from_secs(30);

/// Changes of the verdict that are remembered.
const CHANGES: usize = 16;

/// The ways to and from all peers.
#[derive(Debug)]
pub struct Journeys {
    paths: Peers<Path>,
    honesty: Honesty<NodeId>,
    finding: Option<Finding<NodeId>>,
    /// The last changes of the verdict.
    changes: VecDeque<Transition<NodeId>>,
    counters: Counters,
    /// Journeys that are over, by the peer; drained by the driver.
    over: Vec<(NodeId, Way, Journey)>,
    judges: Judges,
    /// This host's loads, and when they were read.
    host: Option<(HostEvidence, MonoNs)>,
    /// What this host's kernel dropped at the socket.
    drops: Drops,
    /// What was lost on all paths to here since the start.
    lost: Loss,
}

/// A peer's clock as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerClockView<'a> {
    /// The peer.
    pub peer: &'a str,
    /// Its clock minus the local one, and what that rests on.
    pub fused: Fused,
    /// What packets alone tell; `None` until there were some in both directions.
    pub packets: Option<PeerDelta>,
}

impl Journeys {
    /// Nothing is known yet, at this node.
    pub fn new(own: NodeId) -> Self {
        Self {
            paths: Peers::new(MAX_PEERS),
            honesty: Honesty::default(),
            finding: None,
            changes: VecDeque::new(),
            counters: Counters::default(),
            over: Vec::new(),
            judges: Judges::new(own),
            host: None,
            drops: Drops::default(),
            lost: Loss::default(),
        }
    }

    /// The verdicts.
    pub fn judges(&self) -> &Judges {
        &self.judges
    }

    /// The verdicts, to be recorded.
    pub fn judges_mut(&mut self) -> &mut Judges {
        &mut self.judges
    }

    /// How loaded this host was when looked at, which was at `at`.
    pub fn set_host(&mut self, evidence: HostEvidence, at: MonoNs) {
        self.host = Some((evidence, at));
    }

    /// This host's kernel dropped so many datagrams more at the socket for this reason; nobody knows whose.
    pub fn dropped(&mut self, reason: &Arc<str>, count: u64, now: MonoNs) {
        self.drops.number(reason, count, now);
    }

    /// This host's kernel dropped a datagram at the socket that begins like this.
    pub fn dropped_packet(&mut self, head: &[u8], reason: &Arc<str>, now: MonoNs) {
        self.drops.packet(head, reason, now);
    }

    /// What was lost on all paths to here since the start, as far as it is settled: a late packet takes one back.
    pub fn lost(&self) -> &Loss {
        &self.lost
    }

    /// The same on the path from one peer.
    pub fn lost_from(&self, peer: &str) -> Option<&Loss> {
        self.paths.peek(peer).map(|path| &path.lost)
    }

    /// A packet was sent to a member at `sent` (T1), `queued` after the core handed it over (T0).
    pub fn sent(
        &mut self,
        to: &NodeId,
        id: PacketId,
        sent: MonoNs,
        queued: Span,
        source: Option<SourcePort>,
        clock: &ClockView,
    ) {
        if id.counter > 0
            && let Some(path) = self.paths.get(to.as_str(), sent)
        {
            let (counter, epoch) = (id.counter, clock.mapping.epoch);
            path.sent(SentPacket { counter, sent, queued, left: None, epoch, source, reported: false });
        }
    }

    /// Fills the end of a packet that is sent to a member at `sent`; `answers`: the packet that it answers.
    pub fn write_reports(
        &mut self,
        to: &NodeId,
        answers: Option<PacketId>,
        sent: MonoNs,
        tail: &mut v1::Tail,
    ) {
        let Some(path) = self.paths.find(to.as_str()) else { return };
        let answers = answers.map(|id| id.counter);
        path.report(answers, sent, self.judges.may_be_neighbour(to.as_str()), tail, &mut self.counters);
        // Every neighbour is told of this host, once for each reading.
        if let Some((evidence, at)) = self.host
            && self.judges.is_neighbour(to.as_str())
            && path.host_told.is_none_or(|told| told < at)
        {
            let report = Report::Host(HostEvidence { age: sent - at, ..evidence });
            if tail.push(&report) {
                path.host_told = Some(at);
                self.counters.reports_sent += 1;
            }
        }
        if let Some(loss) = path.told.waiting().filter(|_| self.judges.is_neighbour(to.as_str()))
            && tail.push(&Report::Loss(*loss))
        {
            path.told.told();
            self.counters.reports_sent += 1;
        }
    }

    /// A packet with these reports came and was applied at `applied` (T7).
    pub fn received(
        &mut self,
        packet: &PacketArrival,
        reports: &[Report],
        receipt: &Receipt,
        applied: MonoNs,
        clock: &ClockView,
    ) {
        let Some(path) = self.paths.get(packet.from.as_str(), applied) else { return };
        path.tally.note(packet.sequence, packet.id.counter, &packet.ports);
        if let Some(missing) = packet.sequence.map(|sequence| sequence.lost_before) {
            let tally = &mut path.tally;
            self.drops.missed(packet.id, missing, |reason| tally.dropped_here(reason));
        }
        if packet.sequence.is_some_and(|sequence| sequence.duplicate) {
            return;
        }
        let (counters, over) = (&mut self.counters, &mut self.over);
        let mut end = |journey| over.push((packet.from.clone(), Way::Incoming, journey));
        path.received(packet, receipt, applied, clock, counters, &mut end);
        let neighbour = self.judges.may_be_neighbour(packet.from.as_str());
        for report in reports {
            let done = match report {
                Report::Receipt(report) => path
                    .reported(report, packet.answers, &packet.sent, clock, applied, counters)
                    .map(|(out, raw)| {
                        let fused = compare(path, &packet.sent.clock, clock, out.sent);
                        let journey = path.journey_out(&out, report, raw, &fused);
                        over.push((packet.from.clone(), Way::Outgoing, journey));
                    }),
                Report::Sending(report) => path.arrivals.complete(report).map(|journey| {
                    over.push((packet.from.clone(), Way::Incoming, journey));
                }),
                Report::Loss(report) if neighbour => path.told.heard(report),
                // Of no use to who judges no path there.
                Report::Loss(_) => Ok(()),
                Report::Host(evidence) => {
                    path.host = Some((*evidence, applied));
                    Ok(())
                }
            };
            match done {
                Ok(()) => counters.reports_used += 1,
                Err(why) => counters.refused(why),
            }
        }
    }

    /// A packet to a member left this host: it was sent at `sent` (T1).
    pub fn departed(&mut self, to: &NodeId, sent: MonoNs, report: v1::Sending) {
        if let Some(path) = self.paths.find(to.as_str()) {
            path.departed(sent, report, &mut self.counters);
        }
    }

    /// The journeys that ended since the last call, each with the peer and the way.
    pub fn over(&mut self) -> impl Iterator<Item = (NodeId, Way, Journey)> + '_ {
        let (counters, judges) = (&mut self.counters, &mut self.judges);
        self.over.drain(..).inspect(|(peer, way, journey)| {
            judges.observe(peer, *way, journey);
            match (way, journey.is_whole()) {
                (Way::Incoming, true) => counters.journeys_whole += 1,
                (Way::Incoming, false) => counters.journeys_half += 1,
                (Way::Outgoing, true) => counters.journeys_out_whole += 1,
                (Way::Outgoing, false) => counters.journeys_out_half += 1,
            }
        })
    }

    /// Who lies, if somebody does.
    pub fn honesty(&self) -> &Honesty<NodeId> {
        &self.honesty
    }

    /// The last changes of the verdict, the oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Transition<NodeId>> {
        self.changes.iter()
    }

    /// The last evaluation by itself.
    pub fn finding(&self) -> Option<&Finding<NodeId>> {
        self.finding.as_ref()
    }

    /// Every peer's clock against the local one, by id.
    pub fn clocks(&self, clock: &ClockView, now: MonoNs) -> impl Iterator<Item = PeerClockView<'_>> {
        self.paths.sorted().into_iter().filter_map(move |(peer, path)| {
            let (reading, at) = path.reading?;
            let packets = path.latest_delta(clock, now);
            let claimed = trusted(reading.state, reading.at(now - at));
            let ntp = both(claimed, trusted(clock.offset.state, own_theta(clock, now)));
            Some(PeerClockView { peer, fused: fuse(ntp, packets.as_ref()), packets })
        })
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Align for Journeys {
    fn one_way(&self, peer: &str, sent: &SentStamp, received: MonoNs, local: &ClockView) -> OneWay {
        let path = self.paths.peek(peer);
        let fused = path.map_or_else(
            || fuse(ntp(&sent.clock, local, received), None),
            |path| compare(path, &sent.clock, local, received),
        );
        // raw = d - Delta.
        let uncorrected = local.mapping.wall(received) - sent.wall;
        let time = match fused.kind {
            Correction::None => Bounded::new(uncorrected, Span::MAX),
            _ => Bounded::exact(uncorrected) + fused.delta,
        };
        let egress = path.and_then(|path| path.arrivals.usual_egress());
        OneWay { time, correction: fused.kind, uncorrected, egress }
    }
}

/// A peer's clock minus the local one at `at`, by its reading then and by all that packets told.
fn compare(path: &Path, reading: &PeerClock, local: &ClockView, at: MonoNs) -> Fused {
    fuse(ntp(reading, local, at), path.delta(reading.epoch, local, at).as_ref())
}

/// The same by the two readings alone.
fn ntp(reading: &PeerClock, local: &ClockView, at: MonoNs) -> Option<Bounded> {
    let claimed = trusted(reading.state, Bounded::new(reading.theta, reading.bound));
    both(claimed, trusted(local.offset.state, own_theta(local, at)))
}

/// Does a clock of this host or of the peer lie, or may it? Of a third one's lie this path knows nothing.
fn concerns(verdict: &Verdict<NodeId>, peer: &NodeId) -> bool {
    match verdict {
        Verdict::Lies(who) => who.iter().any(|who| match who {
            Who::Own => true,
            Who::Peer(liar) => liar == peer,
        }),
        verdict => verdict.clock_uncertain(),
    }
}

/// The verdict's name in reports and metrics.
pub const fn verdict_name(verdict: &Verdict<NodeId>) -> &'static str {
    match verdict {
        Verdict::Unchecked => "unchecked",
        Verdict::Honest => "honest",
        Verdict::Lies(_) => "lies",
        Verdict::Unsure => "unsure",
    }
}

/// The verdict in one sentence.
pub fn honesty_sentence(verdict: &Verdict<NodeId>) -> String {
    match verdict {
        Verdict::Unchecked => "not compared with any peer's".to_owned(),
        Verdict::Honest => "agrees with the peers'".to_owned(),
        Verdict::Unsure => {
            "some clock here is wrong by more than its bound, and with so few hosts it cannot be told whose: look at \
             the NTP sources of this host and its peers"
                .to_owned()
        }
        Verdict::Lies(who) => {
            let name = |who: &Who<NodeId>| match who {
                Who::Own => "this host's own clock".to_owned(),
                Who::Peer(peer) => format!("the clock of {peer}"),
            };
            let names: Vec<String> = who.iter().map(name).collect();
            let is = if names.len() == 1 { "is" } else { "are" };
            format!("{} {is} wrong by more than NTP says there: look at the NTP source", names.join(" and "))
        }
    }
}

/// The local clock's error, the mapping's included.
fn own_theta(clock: &ClockView, at: MonoNs) -> Bounded {
    let theta = clock.offset.at(at);
    Bounded::new(theta.value, theta.bound + clock.mapping.error)
}

fn trusted(state: ClockState, theta: Bounded) -> Option<Bounded> {
    (state != ClockState::Unsynchronised).then_some(theta)
}

fn both(peer: Option<Bounded>, local: Option<Bounded>) -> Option<Bounded> {
    ntp_delta(peer?, local?)
}
