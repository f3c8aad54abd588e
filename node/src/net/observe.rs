//! What one received packet adds to statistics, metrics and record.

use std::collections::HashMap;
use std::sync::Arc;

use probe_ebpf::time::{Bounded, MonoNs};
use probe_user::analysis::align::Correction;
use probe_user::analysis::breakdown::{Propagation, Receipt};
use probe_user::analysis::journey::{Journey, Leg};
use probe_user::clock::ClockView;

use crate::metrics::{Metrics, SegmentMetrics};
use crate::proto::{EntryArrival, NodeId, Outbox};
use crate::stats::{EntryKind, Stats};
use crate::wire::v1::Egress;

use super::record::{Record, Recorder};

/// Everything that watches the packet path.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) stats: Stats,
    pub(super) metrics: Arc<Metrics>,
    segments: SegmentMetrics,
    pub(super) recorder: Option<Recorder>,
    /// Lost packets by sender, as far as their ids tell; bounded by the core's bound on nodes.
    lost: HashMap<NodeId, u64>,
    rejected: Counts,
    not_samples: Counts,
}

/// Counters by reason, for the report; the reasons are a fixed set.
pub(super) type Counts = std::collections::BTreeMap<&'static str, u64>;

impl Observer {
    pub(super) fn new(
        stats: Stats,
        metrics: Arc<Metrics>,
        tier: Option<u8>,
        recorder: Option<Recorder>,
    ) -> Self {
        let segments = metrics.segments(tier);
        Self {
            stats,
            metrics,
            segments,
            recorder,
            lost: HashMap::new(),
            rejected: Counts::new(),
            not_samples: Counts::new(),
        }
    }

    pub(super) fn rejected(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
        self.metrics.rejected(reason);
    }

    pub(super) fn rejections(&self) -> &Counts {
        &self.rejected
    }

    pub(super) fn not_samples(&self) -> &Counts {
        &self.not_samples
    }

    /// Packets lost on all paths that end here.
    pub(super) fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Takes in what the core found in one datagram, applied at `applied` (T7).
    pub(super) fn arrived(&mut self, found: &Outbox, receipt: &Receipt, applied: MonoNs, clock: &ClockView) {
        if let Some(packet) = &found.packet {
            self.stats.packet(packet.from.as_str(), &packet.ports, applied);
            if let Some(sequence) = packet.sequence {
                self.count_lost(&packet.from, sequence.lost_before, sequence.reordered, applied);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.push(Record::Received {
                    from: packet.from.clone(),
                    id: packet.id,
                    receipt: *receipt,
                    applied,
                    one_way: packet.one_way,
                });
            }
        }
        self.learnt(found, applied, clock);
    }

    /// A packet's journey to here is over.
    pub(super) fn journey(&mut self, from: NodeId, journey: &Journey) {
        for (segment, time) in journey.segments() {
            self.segments.observe(segment, time.value, journey.departed_by_hooks, journey.correction);
        }
        self.stats.journey(from.as_str(), network_from(journey), journey);
        if let Some(recorder) = &mut self.recorder {
            recorder.push(Record::Journey { from, journey: *journey });
        }
    }

    /// Takes in the entries that came with something, applied at `applied`.
    pub(super) fn learnt(&mut self, found: &Outbox, applied: MonoNs, clock: &ClockView) {
        for entry in &found.entries {
            let way = self.entry(entry, applied, clock);
            if let (Some((way, hops, egress)), Some(packet), Some(recorder)) =
                (way, &found.packet, &mut self.recorder)
            {
                let (from, origin, key) = (packet.from.clone(), entry.origin.clone(), Arc::clone(&entry.key));
                recorder.push(Record::Entry { from, id: packet.id, origin, key, hops, egress, way });
            }
        }
    }

    fn count_lost(&mut self, from: &NodeId, lost_before: u32, reordered: bool, now: MonoNs) {
        if lost_before == 0 && !reordered {
            return;
        }
        if !self.lost.contains_key(from) {
            self.lost.insert(from.clone(), 0);
        }
        if let Some(lost) = self.lost.get_mut(from) {
            // A packet that came late was counted as lost when a newer one overtook it.
            *lost = (*lost + u64::from(lost_before)).saturating_sub(u64::from(reordered));
            self.stats.set_lost(from.as_str(), now, *lost);
        }
    }

    /// Gives its way here, its hops, and where the senders' parts are, if all is known.
    fn entry(
        &mut self,
        entry: &EntryArrival,
        applied: MonoNs,
        clock: &ClockView,
    ) -> Option<(Propagation, u8, Egress)> {
        let sample = match &entry.propagation {
            Ok(sample) => sample,
            Err(why) => {
                let reason = why.reason();
                *self.not_samples.entry(reason).or_default() += 1;
                self.metrics.not_sample(reason);
                return None;
            }
        };
        let (now, bound) = clock.utc(applied);
        let total = Bounded::new(now - sample.created, bound + sample.created_bound);
        let kind = EntryKind::of(entry.kind)?;
        let metrics = match kind {
            EntryKind::Entry => &self.metrics.entries,
            EntryKind::Beacon => &self.metrics.beacons,
        };
        let origin = entry.origin.as_str();
        match (sample.network, sample.kernel) {
            (Some(network), Some(kernel)) => {
                let way = Propagation::split(total, network, kernel);
                metrics.observe(&way);
                self.stats.entry(origin, applied, kind, &way);
                Some((way, sample.hops, sample.egress))
            }
            _ => {
                metrics.observe_without_parts(total.value);
                self.stats.entry_without_parts(origin, applied, kind, total);
                None
            }
        }
    }
}

/// Where network time begins, and how it was corrected.
fn network_from(journey: &Journey) -> &'static str {
    let network = journey.leg(Leg::Network).map(|_| journey.correction);
    match (network, journey.network_has_egress) {
        (None, _) => "unknown",
        (Some(Correction::Ntp), false) => "driver, ntp",
        (Some(Correction::Fused), false) => "driver, fused",
        (Some(Correction::PeerOnly), false) => "driver, peer_only",
        (Some(Correction::None), false) => "driver, uncorrected",
        (Some(Correction::Ntp), true) => "app_tx, ntp",
        (Some(Correction::Fused), true) => "app_tx, fused",
        (Some(Correction::PeerOnly), true) => "app_tx, peer_only",
        (Some(Correction::None), true) => "app_tx, uncorrected",
    }
}
