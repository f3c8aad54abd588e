//! What the driver tells of the node: to scrapers once a second, in full when asked.

use probe_ebpf::time::MonoNs;

use super::Driver;
use crate::metrics::Published;
use crate::net::observe::Counts;
use crate::report::{ClockReport, MemberReport, NodeReport, known};
use crate::stats::EntryKind;

impl Driver {
    /// Writes levels and totals for the scrapers.
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
    }

    fn clock_report(&self, now: MonoNs) -> ClockReport {
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

    /// The whole node.
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
            members: self
                .core
                .members()
                .map(|m| MemberReport {
                    id: m.id.to_string(),
                    address: m.addr.to_string(),
                    version: m.version,
                    entries: m.entries as u64,
                })
                .collect(),
            rejected: counts(self.observer.rejections()),
            not_samples: counts(self.observer.not_samples()),
        }
    }
}
