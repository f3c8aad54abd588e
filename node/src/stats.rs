//! What a node remembers of the packets and entries it received: one distribution per directed path and
//! segment, one per origin of entries, and the reporting window of the latency gauges.
//!
//! Pure: the gossip thread feeds it values and passes `now`.

use std::collections::BTreeMap;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::breakdown::{Propagation, Segment};
use probe_user::analysis::journey::Journey;
use probe_user::analysis::quantiles::SpanHistogram;

use crate::proto;
use crate::report::{EntryReport, PathReport, QuantileReport, known};

mod peers;
mod ports;
mod window;

pub use peers::Peers;
pub use ports::PortStats;
pub use window::Window;

/// Peers and origins that are remembered, each; the bound of memory (2 to 10 kB per peer, 600 kB at worst; more for peers with
/// several source ports, 1 kB for each).
pub const MAX_PEERS: usize = 256;

/// What kind of entry was propagated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Set by a user of the node.
    Entry,
    /// A node's `_internal:beacon`.
    Beacon,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Entry, Self::Beacon];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Beacon => "beacon",
        }
    }
    /// The kind of an entry of the protocol; `None` for those that nobody waits for.
    pub const fn of(kind: proto::EntryKind) -> Option<Self> {
        match kind {
            proto::EntryKind::Entry => Some(Self::Entry),
            proto::EntryKind::Beacon => Some(Self::Beacon),
            proto::EntryKind::Internal => None,
        }
    }
    const fn index(self) -> usize {
        self as usize
    }
}

/// Values and their bounds.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    values: SpanHistogram,
    bounds: SpanHistogram,
}

impl Distribution {
    /// Adds one value.
    pub fn record(&mut self, value: Bounded) {
        self.values.record(value.value);
        self.bounds.record(value.bound);
    }
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.values.count()
    }
    /// Its quantiles; all zero when empty.
    pub fn quantiles(&self) -> QuantileReport {
        let at = |q| self.values.quantile(q).unwrap_or(Span::ZERO).as_nanos();
        QuantileReport {
            count: self.count(),
            p50_ns: at(0.5),
            p95_ns: at(0.95),
            p99_ns: at(0.99),
            bound_ns: self.bounds.quantile(0.5).and_then(known),
            negative: self.values.negative(),
        }
    }
}

/// One directed path, from a sending peer to this node.
#[derive(Clone, Debug, Default)]
pub struct PathStats {
    packets: u64,
    lost: u64,
    network_from: &'static str,
    segments: [Option<Box<Distribution>>; Segment::ALL.len()],
    ports: PortStats,
}

/// Entries of one origin.
#[derive(Clone, Debug, Default)]
pub struct EntryStats {
    total: Distribution,
    network: Distribution,
    kernel: Distribution,
    application: Distribution,
}

/// Everything that is remembered; see the module.
#[derive(Debug)]
pub struct Stats {
    node_id: String,
    paths: Peers<PathStats>,
    origins: [Peers<EntryStats>; EntryKind::ALL.len()],
    windows: [Window; EntryKind::ALL.len()],
}

impl Stats {
    /// Nothing yet, at node `node_id`, with reporting windows of length `window` from `now` on.
    pub fn new(node_id: &str, window: Span, now: MonoNs) -> Self {
        let window = || Window::new(window, now);
        Self {
            node_id: node_id.to_owned(),
            paths: Peers::new(MAX_PEERS),
            origins: [Peers::new(MAX_PEERS), Peers::new(MAX_PEERS)],
            windows: [window(), window()],
        }
    }

    /// One packet from peer `from`, which has these source ports.
    pub fn packet(&mut self, from: &str, ports: &[u16], now: MonoNs) {
        if let Some(path) = self.paths.get(from, now) {
            path.packets += 1;
            // None are told as long as the sender uses but one of them: what is known stays.
            if !ports.is_empty() {
                path.ports.set(ports);
            }
        }
    }

    /// A packet's journey from peer `from` is over. `network_from` names the stamp at which its network time begins, and
    /// its correction, for instance `driver, ntp`.
    pub fn journey(&mut self, from: &str, network_from: &'static str, journey: &Journey) {
        // It does not count as heard of: it may be long ago.
        let Some(path) = self.paths.find(from) else { return };
        path.network_from = network_from;
        path.ports.journey(journey);
        for (segment, value) in journey.segments() {
            path.segments[segment.index()].get_or_insert_default().record(value);
        }
    }

    /// The number of packets from `from` that never came, as known by now (a late packet takes one back).
    pub fn set_lost(&mut self, from: &str, now: MonoNs, lost: u64) {
        if let Some(path) = self.paths.get(from, now) {
            path.lost = lost;
        }
    }

    /// One entry of `origin` that propagated to here.
    pub fn entry(&mut self, origin: &str, now: MonoNs, kind: EntryKind, way: &Propagation) {
        if let Some(stats) = self.entry_total(origin, now, kind, way.total) {
            stats.network.record(way.network);
            stats.kernel.record(way.kernel);
            stats.application.record(way.application);
        }
    }

    /// One entry of `origin` that came over a hop which could not measure its part: only the total is known.
    pub fn entry_without_parts(&mut self, origin: &str, now: MonoNs, kind: EntryKind, total: Bounded) {
        self.entry_total(origin, now, kind, total);
    }

    fn entry_total(
        &mut self,
        origin: &str,
        now: MonoNs,
        kind: EntryKind,
        total: Bounded,
    ) -> Option<&mut EntryStats> {
        self.windows[kind.index()].record(now, total.value);
        let stats = self.origins[kind.index()].get(origin, now)?;
        stats.total.record(total);
        Some(stats)
    }

    /// Median total of the last complete reporting window; `None` when it was empty or none is complete.
    pub fn window_median(&mut self, kind: EntryKind, now: MonoNs) -> Option<Span> {
        self.windows[kind.index()].median(now)
    }

    /// The paths that end here, by sender.
    pub fn path_reports(&self) -> Vec<PathReport> {
        self.paths
            .sorted()
            .into_iter()
            .map(|(from, path)| PathReport {
                from: from.to_owned(),
                to: self.node_id.clone(),
                packets: path.packets,
                lost: path.lost,
                // Told by whoever knows what this host dropped.
                lost_here: BTreeMap::new(),
                lost_outside: 0,
                network_from: path.network_from.to_owned(),
                segments: segment_reports(path),
                source_ports: path.ports.reports(),
            })
            .collect()
    }

    /// The entries of one kind that propagated to here, by origin.
    pub fn entry_reports(&self, kind: EntryKind) -> Vec<EntryReport> {
        self.origins[kind.index()]
            .sorted()
            .into_iter()
            .map(|(from, stats)| EntryReport {
                from: from.to_owned(),
                to: self.node_id.clone(),
                count: stats.total.count(),
                total: stats.total.quantiles(),
                network: stats.network.quantiles(),
                application: stats.application.quantiles(),
            })
            .collect()
    }

    /// Values that were not remembered because [`MAX_PEERS`] others are, and peers forgotten to make room.
    pub fn left_out(&self) -> u64 {
        self.paths.left_out() + self.origins.iter().map(Peers::left_out).sum::<u64>()
    }
}

fn segment_reports(path: &PathStats) -> BTreeMap<String, QuantileReport> {
    Segment::ALL
        .into_iter()
        .filter_map(|s| Some((s.name().to_owned(), path.segments[s.index()].as_ref()?.quantiles())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_user::analysis::align::Correction;
    use probe_user::analysis::journey::Leg;

    fn at(s: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(s)
    }
    fn ms(value: i64, bound: i64) -> Bounded {
        Bounded::new(Span::from_millis(value), Span::from_millis(bound))
    }

    #[test]
    fn paths_keep_values_bounds_negatives_and_losses() {
        let mut stats = Stats::new("me", Span::from_secs(15), at(0));
        let journey = |network: i64, handling: Option<i64>| {
            let mut legs = [None; 7];
            legs[Leg::Network.index()] = Some(ms(network, 7));
            legs[Leg::Handling.index()] = handling.map(|value| ms(value, 0));
            Journey { legs, correction: Correction::Ntp, ..Journey::unknown(1, at(1)) }
        };
        for from in ["b", "b", "a"] {
            stats.packet(from, &[], at(1));
        }
        stats.journey("b", "driver, ntp", &journey(-4, Some(1)));
        stats.journey("b", "driver, ntp", &journey(2, None));
        stats.journey("unheard of", "driver, ntp", &journey(2, None));
        stats.set_lost("b", at(2), 3);
        let paths = stats.path_reports();
        assert_eq!(
            paths.iter().map(|p| (p.from.as_str(), p.packets, p.lost)).collect::<Vec<_>>(),
            [("a", 1, 0), ("b", 2, 3)]
        );
        let network = paths[1].segments["network"];
        assert_eq!((network.count, network.negative), (2, 1));
        assert!((network.p50_ns + 4_000_000).abs() < 50_000, "{network:?}");
        assert!((network.bound_ns.unwrap() - 7_000_000).abs() < 80_000, "{network:?}");
        assert_eq!(paths[1].segments.len(), 2);
        assert_eq!(paths[1].to, "me");
    }

    #[test]
    fn entries_and_beacons_are_kept_apart() {
        let mut stats = Stats::new("me", Span::from_secs(15), at(0));
        let way = Propagation::split(ms(100, 5), ms(30, 2), ms(10, 1));
        stats.entry("o", at(1), EntryKind::Beacon, &way);
        assert!(stats.entry_reports(EntryKind::Entry).is_empty());
        stats.entry_without_parts("o", at(2), EntryKind::Beacon, ms(100, 5));
        let beacons = stats.entry_reports(EntryKind::Beacon);
        assert_eq!((beacons[0].count, beacons[0].from.as_str()), (2, "o"));
        assert!((beacons[0].application.p50_ns - 60_000_000).abs() < 600_000);
        assert_eq!(stats.window_median(EntryKind::Entry, at(16)), None);
        assert!(stats.window_median(EntryKind::Beacon, at(16)).is_some());
    }
}
