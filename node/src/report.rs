//! What a node tells about itself, as JSON: `status --json`, the final report of a run, the demo's report.
//!
//! Times are integer nanoseconds with the unit in the name.

use std::collections::BTreeMap;

use probe_ebpf::time::Span;
use probe_user::clock::{ClockSource, ClockState};
use serde::{Deserialize, Serialize};

/// A whole node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node id.
    pub id: String,
    /// Advertised gossip address.
    pub address: String,
    /// `uname -r`.
    pub kernel: String,
    /// Where the stamps come from: 1 eBPF socket filter, 0 `SO_TIMESTAMPING`, `None` application only.
    pub tier: Option<u8>,
    /// Why the tier is not the best one, in one sentence.
    pub tier_reason: Option<String>,
    /// The local clock.
    pub clock: ClockReport,
    /// Where every datagram that the probe saw went.
    pub accounting: AccountingReport,
    /// What the probe costs.
    pub probe: ProbeReport,
    /// Directed paths that end here.
    pub paths: Vec<PathReport>,
    /// Entries that users set and that propagated to here, by origin.
    pub entries: Vec<EntryReport>,
    /// The same for the nodes' beacons: samples of an idle cluster.
    #[serde(default)]
    pub beacons: Vec<EntryReport>,
    /// Members this node knows, itself included.
    pub members: Vec<MemberReport>,
    /// What gossip did.
    #[serde(default)]
    pub gossip: GossipReport,
    /// Datagrams that were refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Entries that are no propagation samples, by reason.
    pub not_samples: BTreeMap<String, u64>,
}

/// The local clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClockReport {
    /// Who told the offset.
    pub source: ClockSource,
    /// How far it can be trusted.
    pub state: ClockState,
    /// `theta`: local clock minus true time, positive when fast.
    pub offset_ns: i64,
    /// Its bound now; absent when nothing bounds it.
    pub bound_ns: Option<i64>,
    /// Age of the reading.
    pub age_ns: i64,
    /// Steps of the wall clock seen so far.
    pub epoch: u32,
    /// Why no better source is used, in one sentence.
    pub note: Option<String>,
}

/// Complete accounting: `seen = matched + unmatched + late + ring_failed + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountingReport {
    /// Datagrams the filter ran for, counted in the kernel.
    pub seen: u64,
    /// Events joined with the datagram they describe.
    pub matched: u64,
    /// Events whose datagram never came: dropped between filter and socket.
    pub unmatched: u64,
    /// Events whose datagram came after the window had given them up.
    pub late: u64,
    /// Events lost to a full ring.
    pub ring_failed: u64,
    /// Events still waiting for their datagram, or still in the ring (zero in a final report).
    pub pending: u64,
    /// Datagrams received for which no event was found.
    pub without_event: u64,
    /// Datagrams dropped at this socket because its buffer was full (`SO_RXQ_OVFL`).
    pub rcvbuf_dropped: u64,
}

/// Cost of the socket filter, from the kernel's own statistics.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Runs counted while statistics were on; 0 when they never were.
    pub run_cnt: u64,
    /// Mean run time.
    pub ns_per_packet: f64,
}

/// One directed path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathReport {
    /// Sender's node id.
    pub from: String,
    /// This node's id.
    pub to: String,
    /// Packets received on it.
    pub packets: u64,
    /// Packets lost on the way, by gaps in the packet ids.
    pub lost: u64,
    /// Which stamp is the start of `network`, how it was corrected.
    pub network_from: String,
    /// By segment name.
    pub segments: BTreeMap<String, QuantileReport>,
}

/// Entries of one origin as they arrived here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryReport {
    /// Origin's node id.
    pub from: String,
    /// This node's id.
    pub to: String,
    /// Propagation samples.
    pub count: u64,
    /// From creation to application here.
    pub total: QuantileReport,
    /// Of that, on the network.
    pub network: QuantileReport,
    /// Of that, in processes (waiting for gossip rounds included).
    pub application: QuantileReport,
}

/// Quantiles of a time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct QuantileReport {
    /// Values.
    pub count: u64,
    /// Median.
    pub p50_ns: i64,
    /// 95th percentile.
    pub p95_ns: i64,
    /// 99th percentile.
    pub p99_ns: i64,
    /// Median of the values' absolute error bounds; absent when nothing bounds it.
    pub bound_ns: Option<i64>,
    /// Values below zero.
    pub negative: u64,
}

/// A member as this node knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// Node id.
    pub id: String,
    /// Gossip address.
    pub address: String,
    /// Newest version known.
    pub version: u64,
    /// Live entries.
    pub entries: u64,
    /// How it is spoken to: `v0` (Piko's format) or `v1`.
    #[serde(default)]
    pub protocol: String,
    /// `alive`, `suspect`, `unreachable` or `left`.
    #[serde(default)]
    pub status: String,
    /// Smoothed time from a request to its answer, waiting at both ends included; absent before the first.
    #[serde(default)]
    pub round_trip_ns: Option<i64>,
}

/// What gossip did, and how this node judges itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GossipReport {
    /// 0 when this node is well, up to 8 when it should not trust its own eyes about others.
    pub local_health: u8,
    /// Share of requests to living peers that went unanswered lately: the loss of both ways together.
    pub loss: f64,
    /// Totals of the protocol since start, by event.
    pub events: BTreeMap<String, u64>,
    /// Totals of the failure detector since start, by event.
    pub detector: BTreeMap<String, u64>,
    /// What was remembered of nodes that are gone, by event.
    pub graveyard: BTreeMap<String, u64>,
    /// TCP conversations that others began and that came to nothing, by reason.
    pub inbound_failed: BTreeMap<String, u64>,
    /// TCP conversations that this node began and that came to nothing, by reason.
    pub outbound_failed: BTreeMap<String, u64>,
}

/// A bound as it is reported: a clock that nothing vouches for gives [`Span::MAX`], which is no number to show.
/// Histograms round, and bounds add up, hence the limit of a century.
pub fn known(bound: Span) -> Option<i64> {
    (bound < Span::from_secs(100 * 365 * 86_400)).then_some(bound.as_nanos())
}
