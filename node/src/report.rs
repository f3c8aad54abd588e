//! What a node tells about itself, as JSON: `status --json`, the final report of a run, the demo's report.
//!
//! Times are integer nanoseconds with the unit in the name.

use std::collections::BTreeMap;

use probe_ebpf::time::Span;
use probe_user::analysis::align::Correction;
use probe_user::analysis::verdict::{Cause, Confidence, Diagnosis};
use probe_user::clock::{ClockSource, ClockState};
use serde::{Deserialize, Serialize};

pub mod sentence;

/// A whole node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node id.
    pub id: String,
    /// Advertised gossip address.
    pub address: String,
    /// `uname -r`.
    pub kernel: String,
    /// Where the stamps come from: 2 that and hooks on the way out, 1 eBPF socket filter, 0 `SO_TIMESTAMPING`, `None` application only.
    pub tier: Option<u8>,
    /// Why the tier is not the best one, in one sentence.
    pub tier_reason: Option<String>,
    /// The local clock.
    pub clock: ClockReport,
    /// Where every datagram that the probe saw went.
    pub accounting: AccountingReport,
    /// What this host's kernel dropped at the socket.
    #[serde(default)]
    pub drops: DropsReport,
    /// What the probe costs.
    pub probe: ProbeReport,
    /// What the hooks of tier 2 cost the host, others' packets included; empty without them.
    #[serde(default)]
    pub hooks: Vec<HookReport>,
    /// T4 by the NIC; absent when nobody asked for it.
    #[serde(default)]
    pub hardware: Option<HardwareReport>,
    /// Directed paths that end here.
    pub paths: Vec<PathReport>,
    /// What is wrong, by path between this node and its ring neighbours.
    #[serde(default)]
    pub verdicts: Vec<VerdictReport>,
    /// Where in the cluster the trouble is, as far as all nodes' summaries tell; how many there are.
    #[serde(default)]
    pub diagnosis: Option<(Diagnosis, usize)>,
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
    /// When it is that, on this host's CLOCK_MONOTONIC.
    #[serde(default)]
    pub at_mono_ns: i64,
    /// Its bound now; absent when nothing bounds it.
    pub bound_ns: Option<i64>,
    /// Age of the reading.
    pub age_ns: i64,
    /// Steps of the wall clock seen so far.
    pub epoch: u32,
    /// What it gains on true time, in nanoseconds a second, by the last readings; absent when they do not tell.
    #[serde(default)]
    pub drift_ppb: Option<i32>,
    /// How far off that can be.
    #[serde(default)]
    pub drift_bound_ppb: Option<u32>,
    /// How often one of its sources began to contradict the one in use.
    #[serde(default)]
    pub disagreements: u64,
    /// Why no better source is used, in one sentence.
    pub note: Option<String>,
    /// What the peers' packets say of it.
    #[serde(default)]
    pub honesty: HonestyReport,
    /// The peers' clocks against it, by id.
    #[serde(default)]
    pub peers: Vec<PeerClockReport>,
}

/// Do the clocks tell the truth?
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HonestyReport {
    /// `honest`, `lies`, `unsure` (somebody's is wrong, and it cannot be told whose) or `unchecked`.
    pub verdict: String,
    /// The same in one sentence.
    pub sentence: String,
    /// Whose clocks are wrong by more than NTP says there; this node's id stands for its own.
    pub liars: Vec<String>,
    /// The local clock is among them.
    pub own_lie: bool,
    /// How far NTP's word and the packets' are apart at least; absent when they agree.
    pub disagreement_ns: Option<i64>,
    /// What the local reading is wrong by, if most peers are right.
    pub own_bias_ns: Option<i64>,
    /// Its bound.
    pub own_bias_bound_ns: Option<i64>,
    /// When the verdict was last a different one, on this host's CLOCK_MONOTONIC; absent if it never was.
    #[serde(default)]
    pub since_mono_ns: Option<i64>,
    /// The last changes of the verdict, the oldest first.
    #[serde(default)]
    pub changes: Vec<HonestyChange>,
}

/// A change of [`HonestyReport::verdict`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HonestyChange {
    /// When, on this host's CLOCK_MONOTONIC.
    pub at_mono_ns: i64,
    /// The verdict from then on.
    pub verdict: String,
    /// Whose clocks are wrong from then on.
    pub liars: Vec<String>,
}

/// What is wrong with a directed path between this node and a ring neighbour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerdictReport {
    /// Sender's node id.
    pub from: String,
    /// Receiver's node id.
    pub to: String,
    /// The main cause.
    pub cause: Cause,
    /// A second one at the same time.
    pub also: Option<Cause>,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// Journeys that it rests on.
    pub samples: u32,
    /// Why, in one sentence.
    pub evidence: String,
    /// For how long the main cause has stood.
    pub for_ns: i64,
    /// Excess time per journey.
    pub effect_ns: i64,
}

/// A peer's clock against the local one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerClockReport {
    /// The peer.
    pub peer: String,
    /// Its clock minus the local one.
    pub delta_ns: i64,
    /// How far off that can be; absent when nothing bounds it.
    pub bound_ns: Option<i64>,
    /// What it rests on: `ntp`, `fused`, `peer_only` (the paths' asymmetry cannot be seen) or `none`.
    pub correction: Correction,
    /// How far NTP's word and the packets' are apart; absent when they agree.
    pub disagreement_ns: Option<i64>,
    /// Least time of both directions together lately.
    pub min_round_trip_ns: Option<i64>,
    /// How fast the difference changes, in parts per million.
    pub drift_ppm: Option<f64>,
    /// How far off that can be.
    pub drift_bound_ppm: Option<f64>,
    /// Packets that this rests on, both directions.
    pub samples: u64,
}

/// Complete accounting: `seen = matched + unmatched + late + ring_failed + dropped + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountingReport {
    /// Datagrams the filter ran for, counted in the kernel.
    pub seen: u64,
    /// Events joined with the datagram they describe.
    pub matched: u64,
    /// Events whose datagram never came, and the kernel told of no drop.
    pub unmatched: u64,
    /// Events whose datagram the kernel dropped after the filter: there was no room in the socket.
    #[serde(default)]
    pub dropped: u64,
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
    /// Receive stamps not used because the wall clock was stepped between stamp and use; their datagrams count above.
    #[serde(default)]
    pub stamps_voided: u64,
}

/// Drops at the gossip socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsReport {
    /// The kernel's tracepoint that tells of them, or `SO_RXQ_OVFL` for the socket's own count.
    pub seen_by: String,
    /// Why they are not all told by reason, in one sentence.
    pub note: Option<String>,
    /// How many there were, by the kernel's name for the reason; empty when it tells none.
    pub by_reason: BTreeMap<String, u64>,
    /// Of those told one by one, how many the socket filter's events do not show: dropped before it, or the ring was full.
    pub without_event: u64,
}

/// Cost of the socket filter, from the kernel's own statistics.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Runs counted while statistics were on; 0 when they never were.
    pub run_cnt: u64,
    /// Mean run time.
    pub ns_per_packet: f64,
}

/// Cost of one of tier 2's hooks, from the kernel's own statistics.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HookReport {
    /// Its program.
    pub program: String,
    /// Runs, for packets of the whole host, counted while statistics were on.
    pub run_cnt: u64,
    /// Mean run time.
    pub ns_per_packet: f64,
}

/// Whether T4 is from the NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareReport {
    /// The interface that was asked for.
    pub interface: String,
    /// The number of its clock (`/dev/ptpN`); absent when its stamps are never used.
    pub phc: Option<u32>,
    /// Why its stamps are never used, or its clock cannot be relied on at present, in one sentence.
    pub reason: Option<String>,
    /// Datagrams by what became of the NIC's stamp; only that of those `used` is T4.
    pub outcomes: BTreeMap<String, u64>,
    /// How far off the last stamp that was used can be, for what lies between the NIC's clock and the kernel's.
    pub error_ns: Option<i64>,
    /// How often the NIC's clock was not what it had to be: set, slewed, or standing still.
    pub breaks: u64,
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
    /// Of those, how many this host's kernel dropped, by reason; settled a second or two later than `lost`.
    #[serde(default)]
    pub lost_here: BTreeMap<String, u64>,
    /// How many were lost outside this host, likewise.
    #[serde(default)]
    pub lost_outside: u64,
    /// Which stamp is the start of `network`, how it was corrected.
    pub network_from: String,
    /// By segment name.
    pub segments: BTreeMap<String, QuantileReport>,
    /// By the port that the packets were sent from; empty when the sender has but one.
    #[serde(default)]
    pub source_ports: Vec<SourcePortReport>,
}

/// Packets of a path that were sent from one of several ports.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SourcePortReport {
    /// Which.
    pub port: u16,
    /// How many were lost, wherever; settled a second or two later than the path's `lost`.
    pub lost: u64,
    /// The segment `network` of those that came.
    pub network: QuantileReport,
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
    /// What became of timing reports, journeys and clock samples, by event.
    #[serde(default)]
    pub journeys: BTreeMap<String, u64>,
    /// What became of the stamps of sent packets, by event.
    #[serde(default)]
    pub departures: BTreeMap<String, u64>,
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
