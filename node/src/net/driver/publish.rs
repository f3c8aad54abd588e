//! What Prometheus is told: levels and totals, once a second.

use probe_ebpf::time::{MonoNs, Span};

use super::Driver;
use crate::metrics::Published;
use crate::proto::Core;
use crate::stats::EntryKind;

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
    pub(super) fn publish(&mut self, now: MonoNs) {
        let medians = EntryKind::ALL.map(|kind| self.observer.stats.window_median(kind, now));
        self.observer.metrics.publish(&Published {
            tier: self.stamping.tier(),
            clock: &self.clock_report(now),
            accounting: &self.stamping.accounting(),
            // Asking takes a call, and without the flag there is no answer.
            probe_cost: if self.config.probe_stats { self.stamping.cost() } else { Default::default() },
            medians,
            lost: self.observer.lost(),
            left_out: self.observer.stats.left_out(),
            members: self.core.member_count(),
        });
        self.publish_gossip(now);
    }

    fn publish_gossip(&mut self, now: MonoNs) {
        let metrics = &self.observer.metrics.gossip;
        metrics.set_peers(self.core.peers());
        metrics.set(self.core.local_health(), self.core.loss(), self.core.counters());
        self.totals.set(events(&self.core).map(|(_, _, n)| n));
        if now >= self.count_entries_at {
            self.count_entries_at = now + COUNT_ENTRIES;
            metrics.set_entries(self.core.entry_counts().map(|(id, counts)| (id.as_str(), counts)));
        }
    }
}
