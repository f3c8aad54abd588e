//! What the node tells of itself.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};

use super::Driver;
use crate::net::observe::Counts;
use crate::proto::Member;
use crate::report::{ClockReport, GossipReport, MemberReport, NodeReport, known};
use crate::stats::EntryKind;

impl Driver {
    pub(super) fn clock_report(&self, now: MonoNs) -> ClockReport {
        let offset = self.clock.offset.at(now);
        ClockReport {
            source: self.clock.offset.source,
            state: self.clock.offset.state,
            offset_ns: offset.value.as_nanos(),
            bound_ns: known(offset.bound + self.clock.mapping.error),
            age_ns: (now - self.clock.offset.read_at).as_nanos(),
            epoch: self.clock.mapping.epoch,
            note: self.clock_note.clone(),
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
            probe: self.stamping.cost_report(),
            paths: self.observer.stats.path_reports(),
            entries: self.observer.stats.entry_reports(EntryKind::Entry),
            beacons: self.observer.stats.entry_reports(EntryKind::Beacon),
            members: self.member_reports(),
            gossip: self.gossip_report(),
            rejected: counts(self.observer.rejections()),
            not_samples: counts(self.observer.not_samples()),
        }
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
            graveyard: owned(self.core.graveyard_counters()),
            inbound_failed: owned(streams.inbound_failed.counts()),
            outbound_failed: owned(streams.outbound_failed.counts()),
        }
    }
}
