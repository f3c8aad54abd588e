//! What the node tells of itself.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::verdict::{self, Diagnosis, Summary, Verdict};
use probe_user::clock::honesty::{self, Transition, Who};

use super::Driver;
use crate::journey::{PeerClockView, Way, honesty_sentence, verdict_name};
use crate::net::hardware::Hardware;
use crate::net::observe::Counts;
use crate::proto::Member;
use crate::proto::NodeId;
use crate::report::{
    ClockReport, GossipReport, HonestyChange, HonestyReport, MemberReport, NodeReport, PathReport,
    PeerClockReport, VerdictReport, known,
};
use crate::stats::EntryKind;

impl Driver {
    pub(super) fn clock_report(&self, now: MonoNs) -> ClockReport {
        let offset = self.clock.offset.at(now);
        ClockReport {
            source: self.clock.offset.source,
            state: self.clock.offset.state,
            offset_ns: offset.value.as_nanos(),
            at_mono_ns: now.as_nanos(),
            bound_ns: known(offset.bound + self.clock.mapping.error),
            age_ns: (now - self.clock.offset.read_at).as_nanos(),
            epoch: self.clock.mapping.epoch,
            drift_ppb: self.clock.offset.rate.map(|rate| rate.ppb),
            drift_bound_ppb: self.clock.offset.rate.map(|rate| rate.bound_ppb),
            disagreements: self.disagreements,
            note: self.clock_note.clone(),
            honesty: self.honesty_report(),
            peers: self.journeys.clocks(&self.clock, now).map(|peer| peer_clock_report(&peer)).collect(),
        }
    }

    /// Where in the cluster the trouble is. What cannot be read is another version's, and left out.
    fn diagnosis(&self) -> (Diagnosis, usize) {
        let own = self.journeys.judges().summary();
        let others = self.core.told().filter(|(node, _)| node.as_str() != own.host);
        let others = others.filter_map(|(node, text)| Summary::decode(node.as_str(), text).ok());
        let mut all: Vec<Summary> = others.collect();
        all.push(own);
        (verdict::diagnose(&all), all.len())
    }

    fn verdict_reports(&self, now: MonoNs) -> Vec<VerdictReport> {
        let report = |(peer, way, verdict): (&NodeId, Way, &Verdict)| {
            let (own, peer) = (self.config.node_id.clone(), peer.to_string());
            let (from, to) = if way == Way::Incoming { (peer, own) } else { (own, peer) };
            VerdictReport {
                from,
                to,
                cause: verdict.cause,
                also: verdict.also,
                confidence: verdict.confidence,
                samples: verdict.samples,
                evidence: verdict.evidence.clone(),
                for_ns: (now - verdict.since).as_nanos(),
                effect_ns: verdict.effect.as_nanos(),
            }
        };
        self.journeys.judges().verdicts().map(report).collect()
    }

    fn honesty_report(&self) -> HonestyReport {
        let verdict = self.journeys.honesty().verdict();
        let name = |who: &Who<NodeId>| match who {
            Who::Own => self.config.node_id.clone(),
            Who::Peer(peer) => peer.to_string(),
        };
        let names = |verdict: &honesty::Verdict<NodeId>| match verdict {
            honesty::Verdict::Lies(who) => who.iter().map(name).collect(),
            _ => Vec::new(),
        };
        let liars: Vec<String> = names(verdict);
        let change = |change: &Transition<NodeId>| HonestyChange {
            at_mono_ns: change.at.as_nanos(),
            verdict: verdict_name(&change.to).to_owned(),
            liars: names(&change.to),
        };
        let changes: Vec<HonestyChange> = self.journeys.changes().map(change).collect();
        let finding = self.journeys.finding();
        let bias = finding.and_then(|finding| finding.own_bias);
        HonestyReport {
            verdict: verdict_name(verdict).to_owned(),
            sentence: honesty_sentence(verdict),
            own_lie: matches!(verdict, honesty::Verdict::Lies(who) if who.contains(&Who::Own)),
            liars,
            disagreement_ns: finding.and_then(|finding| finding.disagreement).map(Span::as_nanos),
            own_bias_ns: bias.map(|bias| bias.value.as_nanos()),
            own_bias_bound_ns: bias.and_then(|bias| known(bias.bound)),
            since_mono_ns: changes.last().map(|change| change.at_mono_ns),
            changes,
        }
    }

    pub(super) fn report(&self, now: MonoNs) -> NodeReport {
        let counts = |c: &Counts| c.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        NodeReport {
            id: self.config.node_id.clone(),
            address: self.config.advertise_when_bound(self.socket.bound()).to_string(),
            kernel: self.kernel.clone(),
            tier: self.stamping.tier(),
            tier_reason: self.stamping.reason().map(str::to_owned),
            clock: self.clock_report(now),
            accounting: self.stamping.accounting(),
            drops: self.stamping.drops_report(),
            probe: self.stamping.cost_report(),
            hooks: self.stamping.hook_reports(),
            hardware: self.stamping.hardware.as_ref().map(Hardware::report),
            paths: self.path_reports(),
            verdicts: self.verdict_reports(now),
            diagnosis: Some(self.diagnosis()),
            entries: self.observer.stats.entry_reports(EntryKind::Entry),
            beacons: self.observer.stats.entry_reports(EntryKind::Beacon),
            members: self.member_reports(),
            gossip: self.gossip_report(),
            rejected: counts(self.observer.rejections()),
            not_samples: counts(self.observer.not_samples()),
        }
    }

    fn path_reports(&self) -> Vec<PathReport> {
        let mut paths = self.observer.stats.path_reports();
        for path in &mut paths {
            if let Some(lost) = self.journeys.lost_from(&path.from) {
                path.lost_here.clone_from(&lost.lost_here);
                path.lost_outside = lost.lost_outside;
                for port in &mut path.source_ports {
                    port.lost = lost.by_port.lost.get(&port.port).copied().unwrap_or(0);
                }
            }
        }
        paths
    }

    fn member_reports(&self) -> Vec<MemberReport> {
        let report = |m: Member<'_>| MemberReport {
            id: m.id.to_string(),
            address: m.addr.to_string(),
            version: m.version,
            entries: m.entries as u64,
            protocol: m.protocol.name().to_owned(),
            status: m.status.name().to_owned(),
            round_trip_ns: m.round_trip.map(Span::as_nanos),
        };
        self.core.members().map(report).collect()
    }

    fn gossip_report(&self) -> GossipReport {
        fn owned(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
            counts.filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
        }
        let streams = &self.observer.metrics.streams;
        GossipReport {
            local_health: self.core.local_health(),
            loss: self.core.loss(),
            events: owned(self.core.counters().labelled()),
            detector: owned(self.core.detector_counters()),
            journeys: owned(self.journeys.counters().labelled().into_iter()),
            departures: owned(self.further.totals(self.stamping.departing.as_ref()).into_iter()),
            graveyard: owned(self.core.graveyard_counters()),
            inbound_failed: owned(streams.inbound_failed.counts()),
            outbound_failed: owned(streams.outbound_failed.counts()),
        }
    }
}

fn peer_clock_report(view: &PeerClockView<'_>) -> PeerClockReport {
    let drift = view.packets.and_then(|packets| packets.drift);
    let ppm = |ppb: i64| ppb as f64 / 1e3;
    PeerClockReport {
        peer: view.peer.to_owned(),
        delta_ns: view.fused.delta.value.as_nanos(),
        bound_ns: known(view.fused.delta.bound),
        correction: view.fused.kind,
        disagreement_ns: view.fused.disagreement.map(Span::as_nanos),
        min_round_trip_ns: view.packets.map(|packets| packets.min_round_trip.as_nanos()),
        drift_ppm: drift.map(|drift| ppm(drift.ppb)),
        drift_bound_ppm: drift.map(|drift| ppm(drift.uncertainty_ppb)),
        samples: view.packets.map_or(0, |packets| packets.samples),
    }
}
