//! What Prometheus's own checker and a reader of DESIGN section 6 say about `/metrics`.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use pikoscope::journey::Journeys;
use pikoscope::metrics::{Metrics, Published};
use pikoscope::proto::{Counters, EntryCounts, MemberStatus, NodeId, Protocol};
use pikoscope::report::{AccountingReport, ClockReport};
use probe_ebpf::time::{Bounded, Span};
use probe_user::analysis::align::Correction;
use probe_user::analysis::breakdown::{Propagation, Segment};
use probe_user::analysis::verdict::Loss;
use probe_user::clock::{ClockSource, ClockState};
use probe_user::hooks::HookCost;

fn ms(value: i64) -> Bounded {
    Bounded::exact(Span::from_millis(value))
}

fn clock(offset_ns: i64, bound_ns: i64) -> ClockReport {
    ClockReport {
        source: ClockSource::Chrony,
        state: ClockState::FreeRunning,
        offset_ns,
        at_mono_ns: 0,
        bound_ns: (bound_ns != i64::MAX).then_some(bound_ns),
        age_ns: 0,
        epoch: 1,
        drift_ppb: Some(-20_500),
        drift_bound_ppb: Some(900),
        disagreements: 2,
        note: None,
        honesty: Default::default(),
        peers: Vec::new(),
    }
}

/// Every metric has been used at least once.
fn busy() -> Metrics {
    let metrics = Metrics::new().unwrap();
    for tier in [Some(1), Some(0), None] {
        let segments = metrics.segments(tier);
        for segment in Segment::ALL {
            segments.observe(segment, Span::from_micros(30), false, Correction::Ntp);
        }
        segments.observe(Segment::Network, Span::from_micros(-30), false, Correction::Ntp);
    }
    for segment in Segment::ALL {
        metrics.segments(Some(1)).observe(segment, Span::from_micros(30), true, Correction::Ntp);
    }
    metrics.entries.observe(&Propagation::split(ms(100), ms(30), ms(10)));
    metrics.entries.observe(&Propagation::split(ms(10), ms(30), ms(0)));
    metrics.beacons.observe(&Propagation::split(ms(1), ms(0), ms(0)));
    metrics.rejected("truncated");
    metrics.not_sample("join");
    metrics.packets_received.inc();
    metrics.bytes_received.inc_by(100);
    let gossip = &metrics.gossip;
    gossip.set_peers([(Protocol::V0, MemberStatus::Alive), (Protocol::V1, MemberStatus::Left)].into_iter());
    gossip.set(1, 0.5, &Counters { delta_entries_sent: 9, ..Counters::default() });
    gossip.set_entries([("a \"b\"", EntryCounts([[1, 2], [3, 4]]))].into_iter());
    gossip.totals([("proto", "duplicates")].into_iter()).set([5].into_iter());
    metrics.streams.connections_inbound.inc();
    metrics.streams.inbound_failed.inc("slow");
    metrics.streams.outbound_failed.inc("connection_refused");
    publish(&metrics, 7, clock(-50_000_000, 2_000_000));
    metrics
}

fn publish(metrics: &Metrics, seen: u64, clock: ClockReport) {
    metrics.publish(&Published {
        tier: Some(1),
        clock: &clock,
        verdicts: Journeys::new(NodeId::new("a").unwrap()).judges(),
        accounting: &AccountingReport {
            seen,
            matched: 4,
            unmatched: 1,
            late: 1,
            ring_failed: 1,
            ..Default::default()
        },
        losses: &Loss {
            lost_here: [("SOCKET_RCVBUFF".to_owned(), 1)].into(),
            lost_outside: 1,
            ..Loss::default()
        },
        probe_cost: (7, Duration::from_nanos(1_500)),
        hardware: Some([5, 2, 0, 1, 0, 0]),
        hook_costs: &[HookCost { program: "h", runs: 3, time: Duration::from_nanos(600) }],
        medians: [Some(Span::from_millis(100)), None],
        lost: 2,
        left_out: 0,
        members: 3,
    });
}

fn text(metrics: &Metrics) -> String {
    metrics.encode().unwrap()
}

fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
}

#[test]
fn promtool_accepts_them() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.unwrap_or_else(|e| {
        panic!("promtool is needed on PATH ({e}): run `cargo xtask test`, which provides it")
    });
    promtool.stdin.take().unwrap().write_all(text(&busy()).as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && out.is_empty() && err.is_empty(), "promtool: {out}{err}");
}

#[test]
fn the_promised_names_labels_and_buckets_are_there() {
    let text = text(&busy());
    for line in [
        "piko_gossip_propagation_latency_seconds{type=\"entry\"} 0.1",
        "piko_gossip_propagation_latency_seconds{type=\"beacon\"} NaN",
        "piko_gossip_clock_skew_seconds -0.05",
        "pikoscope_clock_bound_seconds 0.002",
        "piko_gossip_entry_propagation_seconds_bucket{le=\"10\"} 2",
        "piko_gossip_entry_propagation_seconds_count 2",
        "piko_gossip_entry_propagation_component_seconds_bucket{component=\"network\",le=\"10\"} 2",
        "piko_gossip_entry_propagation_component_seconds_count{component=\"kernel\"} 2",
        "pikoscope_beacon_propagation_seconds_count 1",
        "pikoscope_clock_state{state=\"free_running\"} 1",
        "pikoscope_clock_state{state=\"synchronised\"} 0",
        "pikoscope_clock_source{source=\"chrony\"} 1",
        "pikoscope_clock_drift_ppm -20.5",
        "pikoscope_clock_drift_bound_ppm 0.9",
        "pikoscope_clock_disagreements_total 2",
        "pikoscope_clock_source{source=\"adjtimex\"} 0",
        "pikoscope_clock_epoch 1",
        "pikoscope_tier 1",
        "pikoscope_members 3",
        "pikoscope_segment_seconds_count{correction=\"ntp\",segment=\"network\",tier=\"1\"} 2",
        "pikoscope_segment_seconds_count{correction=\"\",segment=\"socket_queue\",tier=\"1\"} 2",
        "pikoscope_segment_seconds_count{correction=\"\",segment=\"handling\",tier=\"none\"} 1",
        "pikoscope_packets_rejected_total{reason=\"truncated\"} 1",
        "pikoscope_not_samples_total{reason=\"join\"} 1",
        "pikoscope_packets_lost_total 2",
        "pikoscope_probe_runs_total 7",
        "pikoscope_probe_run_seconds_total 0.0000015",
        "pikoscope_hook_runs_total{program=\"h\"} 3",
        "pikoscope_hook_run_seconds_total{program=\"h\"} 0.0000006",
        "pikoscope_hardware_stamps_total{result=\"used\"} 5",
        "pikoscope_hardware_stamps_total{result=\"missing\"} 2",
        "pikoscope_hardware_stamps_total{result=\"no_mapping\"} 1",
        "pikoscope_hardware_stamps_total{result=\"implausible\"} 0",
        "pikoscope_segment_seconds_count{correction=\"\",segment=\"qdisc\",tier=\"2\"} 1",
        "piko_gossip_packet_bytes_inbound_total 100",
        "piko_gossip_packet_bytes_outbound_total 0",
        "piko_gossip_connections_inbound_total 1",
        "piko_gossip_connections_outbound_total 0",
        "piko_gossip_stream_bytes_inbound_total 0",
        "piko_gossip_stream_bytes_outbound_total 0",
        "piko_gossip_digest_entries_inbound_total 0",
        "piko_gossip_digest_entries_outbound_total 0",
        "piko_gossip_delta_entries_inbound_total 0",
        "piko_gossip_delta_entries_outbound_total 9",
        "piko_gossip_entries{deleted=\"true\",internal=\"false\",node_id=\"a \\\"b\\\"\"} 3",
        "pikoscope_peers{protocol=\"v0\",status=\"alive\"} 1",
        "pikoscope_gossip_events_total{event=\"duplicates\",part=\"proto\"} 5",
        "pikoscope_streams_inbound_failed_total{reason=\"slow\"} 1",
        "pikoscope_streams_outbound_failed_total{reason=\"busy\"} 0",
    ] {
        assert_line(&text, line);
    }
}

#[test]
fn negative_times_are_counted_and_kept_out_of_histograms() {
    let text = text(&busy());
    // One entry's application share came out at -20 ms.
    assert_line(&text, "pikoscope_entry_negative_total{component=\"application\"} 1");
    assert_line(&text, "piko_gossip_entry_propagation_component_seconds_count{component=\"application\"} 1");
    // Tiers 1 and 0 know the network time; without kernel stamps there is none to be negative.
    assert_line(&text, "pikoscope_segment_negative_total{segment=\"network\"} 2");
}

#[test]
fn the_events_add_up_and_totals_only_rise() {
    let metrics = busy();
    let of = |outcome: &str| {
        let text = text(&metrics);
        let name = format!("pikoscope_probe_events_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
    };
    assert_eq!(of("seen"), of("matched") + of("unmatched") + of("late") + of("ring_failed") + of("dropped"));
    assert_eq!(of("late"), 1);
    publish(&metrics, 3, clock(0, 0));
    assert_eq!(of("seen"), 7);
}

#[test]
fn before_anything_is_known_nothing_is_claimed() {
    let metrics = Metrics::new().unwrap();
    for line in [
        "piko_gossip_propagation_latency_seconds{type=\"entry\"} NaN",
        "piko_gossip_clock_skew_seconds NaN",
        "pikoscope_clock_bound_seconds +Inf",
        "pikoscope_tier -1",
        "pikoscope_clock_state{state=\"synchronised\"} 0",
        "pikoscope_packets_rejected_total{reason=\"wrong_version\"} 0",
    ] {
        assert_line(&text(&metrics), line);
    }
    publish(&metrics, 0, clock(0, i64::MAX));
    assert_line(&text(&metrics), "piko_gossip_clock_skew_seconds NaN");
}
