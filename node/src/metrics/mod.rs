//! What Prometheus sees of a node.
//!
//! The gossip thread holds the handles and updates them; a scrape reads them. Handles are atomics, and the
//! children of labelled metrics are looked up before the first packet, so the packet path takes no lock. What
//! is only known as a total or a level ([`Metrics::publish`]) is written once a second and read from there:
//! a scrape asks the gossip thread for nothing. (The one exception is the library's: a scrape spins while an
//! `observe` of the same histogram is half done, some tens of nanoseconds.)

use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::health::Health;
use crate::journey::{Judges, Way};
use crate::report::{AccountingReport, ClockReport};
use crate::stats::EntryKind;
use probe_ebpf::time::Span;
use probe_user::analysis::verdict::Loss;
use probe_user::hooks::HookCost;

mod clock;
mod entries;
mod gossip;
mod hardware;
mod hooks;
mod losses;
mod paths;
mod reasons;
mod segments;
mod streams;
mod verdicts;

pub use entries::EntryMetrics;
pub use gossip::{GossipMetrics, GossipTotals};
pub use losses::LossMetrics;
pub use reasons::Reasons;
pub use segments::SegmentMetrics;
pub use streams::StreamMetrics;

use clock::ClockMetrics;
use hardware::HardwareMetrics;
use hooks::HookMetrics;
use paths::PathMetrics;
use verdicts::VerdictMetrics;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Signs of life; [`Metrics::publish`] is one.
    pub health: Health,
    /// Datagrams received, rejected ones included.
    pub packets_received: IntCounter,
    /// Datagrams sent.
    pub packets_sent: IntCounter,
    /// Datagrams that the kernel did not take for sending.
    pub send_failed: IntCounter,
    /// Bytes of the received datagrams' payloads.
    pub bytes_received: IntCounter,
    /// Bytes of the sent datagrams' payloads.
    pub bytes_sent: IntCounter,
    /// Propagation of entries set by users.
    pub entries: EntryMetrics,
    /// Propagation of beacons.
    pub beacons: EntryMetrics,
    /// Conversations over TCP.
    pub streams: StreamMetrics,
    /// What the protocol did, and whom it knows.
    pub gossip: GossipMetrics,
    /// Losses by place and reason.
    pub losses: LossMetrics,
    segments: segments::Families,
    rejected: Reasons,
    not_samples: Reasons,
    lost: IntCounter,
    left_out: IntCounter,
    events: Outcomes,
    rcvbuf_dropped: IntCounter,
    probe_runs: IntCounter,
    probe_run_seconds: prometheus::Counter,
    hooks: HookMetrics,
    hardware: HardwareMetrics,
    tier: IntGauge,
    members: IntGauge,
    clock: ClockMetrics,
    verdicts: VerdictMetrics,
    paths: PathMetrics,
}

#[derive(Debug)]
struct Outcomes {
    seen: IntCounter,
    matched: IntCounter,
    unmatched: IntCounter,
    late: IntCounter,
    ring_failed: IntCounter,
    dropped: IntCounter,
    without_event: IntCounter,
}

/// What the gossip thread publishes once a second: levels, and totals since the start.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Tier of the stamps; `None` without kernel stamps.
    pub tier: Option<u8>,
    /// The local clock.
    pub clock: &'a ClockReport,
    /// The verdicts on paths.
    pub verdicts: &'a Judges,
    /// Accounting of the probe's events.
    pub accounting: &'a AccountingReport,
    /// What was lost on all paths to here.
    pub losses: &'a Loss,
    /// Probe runs that the kernel counted, and the time they took.
    pub probe_cost: (u64, Duration),
    /// The same of each hook of tier 2.
    pub hook_costs: &'a [HookCost],
    /// What became of the NIC's stamps, if they were asked for.
    pub hardware: Option<probe_user::hardware::Outcomes>,
    /// Median entry totals of the last complete window, in the order of [`EntryKind::ALL`].
    pub medians: [Option<Span>; EntryKind::ALL.len()],
    /// Packets lost on all paths that end here.
    pub lost: u64,
    /// Values that [`Stats`](crate::stats::Stats) had no room for.
    pub left_out: u64,
    /// Members known, this node included.
    pub members: usize,
}

impl Metrics {
    /// Registers everything; the series of every reason exist from the start, at zero.
    ///
    /// # Errors
    /// Two metrics of the same name, or a malformed name: a mistake in this module.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let build = prometheus::IntGaugeVec::new(
            Opts::new("pikoscope_build_info", "Version of the running binary; always 1."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        r.register(Box::new(build))?;
        let events = counters(
            r,
            "pikoscope_probe_events_total",
            "Datagrams seen by the eBPF socket filter, by what became of their events: seen = matched + unmatched + late + ring_failed + dropped (+ pending). without_event counts datagrams received without an event.",
            "outcome",
        )?;
        let event = |outcome: &str| events.with_label_values(&[outcome]);
        let latency = register(
            r,
            prometheus::GaugeVec::new(
                Opts::new(
                    "piko_gossip_propagation_latency_seconds",
                    "Median propagation time in the last complete reporting window, corrected for clock offsets; NaN when nothing propagated in it.",
                ),
                &["type"],
            )?,
        )?;
        let tier = register(
            r,
            IntGauge::new(
                "pikoscope_tier",
                "Source of the receive stamps: 1 eBPF socket filter, 0 SO_TIMESTAMPING, -1 none.",
            )?,
        )?;
        tier.set(-1);
        Ok(Self {
            health: Health::default(),
            packets_received: counter(
                r,
                "pikoscope_packets_received_total",
                "Gossip datagrams received, rejected ones included.",
            )?,
            packets_sent: counter(r, "pikoscope_packets_sent_total", "Gossip datagrams sent.")?,
            send_failed: counter(
                r,
                "pikoscope_packets_send_failed_total",
                "Gossip datagrams that the kernel did not take for sending.",
            )?,
            bytes_received: counter(
                r,
                "piko_gossip_packet_bytes_inbound_total",
                "Bytes received in gossip datagrams.",
            )?,
            bytes_sent: counter(
                r,
                "piko_gossip_packet_bytes_outbound_total",
                "Bytes sent in gossip datagrams.",
            )?,
            entries: EntryMetrics::entries(r, &latency)?,
            beacons: EntryMetrics::beacons(r, &latency)?,
            streams: StreamMetrics::new(r)?,
            gossip: GossipMetrics::new(r)?,
            losses: LossMetrics::new(r)?,
            segments: segments::Families::new(r)?,
            rejected: Reasons::new(
                r,
                "pikoscope_packets_rejected_total",
                "Gossip datagrams received and refused, by reason; they never change state.",
                &reasons::REJECTED,
            )?,
            not_samples: Reasons::new(
                r,
                "pikoscope_not_samples_total",
                "Entries learnt that say nothing about propagation, by reason.",
                &reasons::NOT_SAMPLES,
            )?,
            lost: counter(
                r,
                "pikoscope_packets_lost_total",
                "Gossip datagrams sent to this node that never came, by gaps in the packet ids.",
            )?,
            left_out: counter(
                r,
                "pikoscope_values_left_out_total",
                "Values not kept per peer, because too many peers are known.",
            )?,
            events: Outcomes {
                seen: event("seen"),
                matched: event("matched"),
                unmatched: event("unmatched"),
                late: event("late"),
                ring_failed: event("ring_failed"),
                dropped: event("dropped"),
                without_event: event("without_event"),
            },
            rcvbuf_dropped: counter(
                r,
                "pikoscope_socket_rcvbuf_dropped_total",
                "Datagrams dropped at the gossip socket because its receive buffer was full.",
            )?,
            probe_runs: counter(
                r,
                "pikoscope_probe_runs_total",
                "Runs of the socket filter that the kernel timed; zero without --probe-stats.",
            )?,
            probe_run_seconds: register(
                r,
                prometheus::Counter::new(
                    "pikoscope_probe_run_seconds_total",
                    "Time the kernel spent in the socket filter; zero without --probe-stats.",
                )?,
            )?,
            hooks: HookMetrics::new(r)?,
            hardware: HardwareMetrics::new(r)?,
            tier,
            members: register(
                r,
                IntGauge::new("pikoscope_members", "Cluster members known, this node included.")?,
            )?,
            clock: ClockMetrics::new(r)?,
            verdicts: VerdictMetrics::new(r)?,
            paths: PathMetrics::new(r)?,
            registry,
        })
    }

    /// The handles for segments measured at `tier`. Takes a lock: get them before the first packet.
    pub fn segments(&self, tier: Option<u8>) -> SegmentMetrics {
        self.segments.at(tier)
    }

    /// One datagram was refused.
    pub fn rejected(&self, reason: &str) {
        self.rejected.inc(reason);
    }

    /// One entry was learnt in a way that says nothing about propagation.
    pub fn not_sample(&self, reason: &str) {
        self.not_samples.inc(reason);
    }

    /// Writes levels and totals; once a second.
    pub fn publish(&self, now: &Published<'_>) {
        self.health.beat();
        let a = now.accounting;
        self.tier.set(now.tier.map_or(-1, i64::from));
        self.members.set(i64::try_from(now.members).unwrap_or(i64::MAX));
        self.clock.set(now.clock);
        self.losses.set(now.losses);
        self.verdicts.set(now.verdicts.worst(), now.verdicts.verdicts().map(|(_, _, verdict)| verdict));
        self.paths.set(now.verdicts.verdicts().map(|(peer, way, verdict)| {
            let (own, peer) = (now.verdicts.own().as_str(), peer.as_str());
            (if way == Way::Incoming { (peer, own) } else { (own, peer) }, verdict)
        }));
        self.entries.set_median(now.medians[EntryKind::Entry as usize]);
        self.beacons.set_median(now.medians[EntryKind::Beacon as usize]);
        // A counter can't take back what was late after all: then it waits until the total has caught up.
        for (counter, total) in [
            (&self.events.seen, a.seen),
            (&self.events.matched, a.matched),
            (&self.events.unmatched, a.unmatched),
            (&self.events.late, a.late),
            (&self.events.ring_failed, a.ring_failed),
            (&self.events.dropped, a.dropped),
            (&self.events.without_event, a.without_event),
            (&self.rcvbuf_dropped, a.rcvbuf_dropped),
            (&self.lost, now.lost),
            (&self.left_out, now.left_out),
            (&self.probe_runs, now.probe_cost.0),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.probe_run_seconds
            .inc_by((now.probe_cost.1.as_secs_f64() - self.probe_run_seconds.get()).max(0.0));
        self.hooks.set(now.hook_costs);
        self.hardware.set(&now.hardware.unwrap_or_default());
    }

    /// Everything in the text format 0.0.4.
    ///
    /// # Errors
    /// Never for the metrics above; the library reports what it could not write.
    pub fn encode(&self) -> prometheus::Result<String> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        // The library writes infinity as Rust does. Only a value can stand at the end of a line here.
        Ok(text.replace(" inf\n", " +Inf\n"))
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    r: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(r, IntCounter::new(name, help)?)
}

fn gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
    register(r, Gauge::new(name, help)?)
}

fn counters(r: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    register(r, IntCounterVec::new(Opts::new(name, help), &[label])?)
}
