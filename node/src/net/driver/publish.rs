//! What Prometheus is told: levels and totals, once a second.

use probe_ebpf::time::{MonoNs, Span};

use super::Driver;
use crate::journey::Journeys;
use crate::metrics::Published;
use crate::net::departing::DepartureTotals;
use crate::net::hardware::Hardware;
use crate::proto::Core;
use crate::stats::EntryKind;

/// Time between counts of all entries: that takes longer the more there are.
const COUNT_ENTRIES: Span = Span::from_secs(5);

/// Totals of all events: part of the core, event, how often.
pub(super) fn events<'a>(
    core: &'a Core,
    journeys: &'a Journeys,
    departures: DepartureTotals,
) -> impl Iterator<Item = (&'static str, &'static str, u64)> + 'a {
    let protocol = core.counters().labelled().map(|(event, n)| ("proto", event, n));
    let detector = core.detector_counters().map(|(event, n)| ("detector", event, n));
    let graveyard = core.graveyard_counters().map(|(event, n)| ("graveyard", event, n));
    let journey = journeys.counters().labelled().into_iter().map(|(event, n)| ("journey", event, n));
    let departures = departures.into_iter().map(|(event, n)| ("departure", event, n));
    protocol.chain(detector).chain(graveyard).chain(journey).chain(departures)
}

impl Driver {
    pub(super) fn publish(&mut self, now: MonoNs) {
        // Asking takes calls, and without the flag there is no answer.
        let stats = self.config.probe_stats;
        let hook_costs = if stats { self.stamping.hook_costs() } else { Vec::new() };
        let medians = EntryKind::ALL.map(|kind| self.observer.stats.window_median(kind, now));
        self.observer.metrics.publish(&Published {
            tier: self.stamping.tier(),
            clock: &self.clock_report(now),
            verdicts: self.journeys.judges(),
            accounting: &self.stamping.accounting(),
            losses: self.journeys.lost(),
            probe_cost: if stats { self.stamping.cost() } else { Default::default() },
            hook_costs: &hook_costs,
            hardware: self.stamping.hardware.as_ref().map(Hardware::outcomes),
            medians,
            lost: self.observer.lost(),
            left_out: self.observer.stats.left_out(),
            members: self.core.member_count(),
        });
        self.observer.metrics.losses.set_drops(self.stamping.drop_counts());
        self.publish_gossip(now);
    }

    fn publish_gossip(&mut self, now: MonoNs) {
        let metrics = &self.observer.metrics.gossip;
        metrics.set_peers(self.core.peers());
        metrics.set(self.core.local_health(), self.core.loss(), self.core.counters());
        let departures = self.further.totals(self.stamping.departing.as_ref());
        self.totals.set(events(&self.core, &self.journeys, departures).map(|(_, _, n)| n));
        if now >= self.count_entries_at {
            self.count_entries_at = now + COUNT_ENTRIES;
            metrics.set_entries(self.core.entry_counts().map(|(id, counts)| (id.as_str(), counts)));
        }
    }
}
