//! What the core tells of itself, for metrics and reports.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};

use super::Driver;
use crate::proto::Core;
use crate::report::{GossipReport, MemberReport};

/// Time between counts of all entries: that takes longer the more there are.
const COUNT_ENTRIES: Span = Span::from_secs(5);

/// Totals of all events: part of the core, event, how often.
pub(super) fn events(core: &Core) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let protocol = core.counters().labelled().map(|(event, n)| ("proto", event, n));
    let detector = core.detector_counters().map(|(event, n)| ("detector", event, n));
    let graveyard = core.graveyard_counters().map(|(event, n)| ("graveyard", event, n));
    protocol.chain(detector).chain(graveyard)
}

impl Driver {
    /// Writes levels and totals to the metrics; once a second.
    pub(super) fn publish_gossip(&mut self, now: MonoNs) {
        let metrics = &self.observer.metrics.gossip;
        metrics.set_peers(self.core.peers());
        metrics.set(self.core.local_health(), self.core.loss(), self.core.counters());
        self.totals.set(events(&self.core).map(|(_, _, n)| n));
        if now >= self.count_entries_at {
            self.count_entries_at = now + COUNT_ENTRIES;
            metrics.set_entries(self.core.entry_counts().map(|(id, counts)| (id.as_str(), counts)));
        }
    }

    pub(super) fn member_reports(&self) -> Vec<MemberReport> {
        let report = |m: crate::proto::Member<'_>| MemberReport {
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

    pub(super) fn gossip_report(&self) -> GossipReport {
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
