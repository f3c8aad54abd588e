//! What the nodes tell, and the demo's report made of it. Times are in nanoseconds.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The segments that a path is split into, in the order in which a packet passes them.
pub const SEGMENTS: [&str; 7] =
    ["send_queue", "egress_stack", "qdisc", "network", "ingress_stack", "socket_queue", "handling"];

/// What tier 0 has in place of `ingress_stack` and `socket_queue`.
pub const UNSPLIT: &str = "ingress_stack_and_socket_queue";

/// The part of a node's report that the demo shows.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeReport {
    id: String,
    kernel: String,
    tier: Option<u8>,
    tier_reason: Option<String>,
    clock: Clock,
    accounting: Accounting,
    probe: Probe,
    paths: Vec<Path>,
    entries: Vec<Entries>,
    #[serde(default)]
    verdicts: Vec<Verdict>,
}

impl NodeReport {
    /// From the node's JSON.
    pub fn parse(report: Value) -> Result<Self> {
        let id = report["id"].as_str().unwrap_or("?").to_owned();
        serde_json::from_value(report).with_context(|| format!("the report of node {id}"))
    }
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// The lowest tier of all nodes; none when one of them has no kernel stamps.
    pub tier: Option<u8>,
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// Directed paths.
    pub paths: Vec<Path>,
    /// Entries by origin and by where they arrived.
    pub entries: Vec<Entries>,
    /// What the receiving nodes say is wrong with the paths.
    pub verdicts: Vec<Verdict>,
}

/// What is wrong with a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Verdict {
    pub from: String,
    pub to: String,
    pub cause: String,
    pub confidence: String,
    pub evidence: String,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Node {
    pub id: String,
    pub tier: Option<u8>,
    pub tier_reason: Option<String>,
    pub clock: Clock,
    pub accounting: Accounting,
    pub probe: Probe,
}

/// A node's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Clock {
    pub source: String,
    pub offset_ns: i64,
    pub bound_ns: Option<i64>,
    pub state: String,
    pub note: Option<String>,
}

/// Where every datagram went that the probe saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Accounting {
    pub seen: u64,
    pub matched: u64,
    pub unmatched: u64,
    pub late: u64,
    pub ring_failed: u64,
    pub dropped: u64,
    pub pending: u64,
}

impl Accounting {
    /// Whether every datagram is in one of the places.
    pub fn closes(&self) -> bool {
        let Self { seen, matched, unmatched, late, ring_failed, dropped, pending } = *self;
        seen == matched + unmatched + late + ring_failed + dropped + pending
    }
}

/// What the probe costs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Probe {
    pub run_cnt: u64,
    pub ns_per_packet: f64,
}

/// One directed path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Path {
    pub from: String,
    pub to: String,
    pub packets: u64,
    pub lost: u64,
    pub network_from: String,
    pub segments: BTreeMap<String, Segment>,
}

/// One segment of a path.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Segment {
    pub count: u64,
    pub p50_ns: i64,
    pub p95_ns: i64,
    pub p99_ns: i64,
    pub bound_ns: Option<i64>,
    pub negative: u64,
}

/// Entries of one origin as they arrived at one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Entries {
    pub from: String,
    pub to: String,
    pub count: u64,
    pub total: Quantiles,
    pub network: Quantiles,
    pub application: Quantiles,
}

/// Quantiles of a time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the node's report")]
pub struct Quantiles {
    #[serde(default)]
    pub count: u64,
    pub p50_ns: i64,
    pub p95_ns: i64,
    pub p99_ns: i64,
    pub bound_ns: Option<i64>,
}

impl Report {
    /// All nodes' reports in one.
    pub fn merge(reports: Vec<NodeReport>) -> Self {
        let mut merged = Self {
            kernel: reports.first().map(|report| report.kernel.clone()).unwrap_or_default(),
            // `None < Some(_)`: a node without kernel stamps is the worst.
            tier: reports.iter().map(|report| report.tier).min().flatten(),
            ..Self::default()
        };
        for report in reports {
            let NodeReport {
                id,
                kernel: _,
                tier,
                tier_reason,
                clock,
                accounting,
                probe,
                paths,
                entries,
                verdicts,
            } = report;
            // A path is judged at both ends; the receiver knows more of it.
            merged.verdicts.extend(verdicts.into_iter().filter(|verdict| verdict.to == id));
            merged.nodes.push(Node { id, tier, tier_reason, clock, accounting, probe });
            merged.paths.extend(paths);
            merged.entries.extend(entries);
        }
        merged.nodes.sort_by(|a, b| a.id.cmp(&b.id));
        merged.paths.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        merged.verdicts.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        merged.entries.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        merged
    }

    /// Median over the paths of a segment's median, with the largest of their bounds, if all are bounded; none
    /// without packets.
    pub fn typical(&self, segment: &str) -> Option<(i64, Option<i64>)> {
        let seen: Vec<&Segment> = self
            .paths
            .iter()
            .filter_map(|path| path.segments.get(segment))
            .filter(|segment| segment.count > 0)
            .collect();
        let bounds: Option<Vec<i64>> = seen.iter().map(|segment| segment.bound_ns).collect();
        let middle = median(seen.iter().map(|segment| segment.p50_ns))?;
        Some((middle, bounds.and_then(|all| all.into_iter().max())))
    }
}

/// The middle value, the lower of two.
pub(super) fn median(values: impl Iterator<Item = i64>) -> Option<i64> {
    let mut values: Vec<i64> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A node's report with one path to it, as the node would write it.
    pub(in crate::demo) fn report(id: &str, from: &str, tier: Option<u8>) -> NodeReport {
        let segment = json!({"count": 200, "p50_ns": 12_300, "p95_ns": 40_000, "p99_ns": 90_000,
                             "bound_ns": 2_500, "negative": 0});
        let quantiles = json!({"count": 50, "p50_ns": 1_000_000, "p95_ns": 2_000_000, "p99_ns": 3_000_000,
                               "bound_ns": 2_500, "negative": 0});
        NodeReport::parse(json!({
            "id": id, "address": "10.77.0.1:7176", "kernel": "6.18.0", "tier": tier, "tier_reason": null,
            "clock": {"source": "chrony", "state": "synchronised", "offset_ns": -50_000_000,
                      "bound_ns": 1_250, "age_ns": 1, "epoch": 0, "note": null},
            "accounting": {"seen": 201, "matched": 200, "unmatched": 1, "late": 0, "ring_failed": 0,
                           "dropped": 0, "pending": 0, "without_event": 0, "rcvbuf_dropped": 0},
            "probe": {"run_cnt": 201, "ns_per_packet": 410.5},
            "paths": [{"from": from, "to": id, "packets": 200, "lost": 0, "network_from": "app_tx",
                       "segments": {"send_queue": segment, "egress_stack": segment, "qdisc": segment,
                                    "network": segment, "ingress_stack": segment,
                                    "socket_queue": segment, "handling": segment}}],
            "verdicts": [{"from": from, "to": id, "cause": "ok", "confidence": "high", "evidence": "well"}],
            "entries": [{"from": from, "to": id, "count": 50, "total": quantiles, "network": quantiles,
                         "application": quantiles}],
            "members": [], "rejected": {}, "not_samples": {},
        }))
        .unwrap()
    }

    #[test]
    fn the_worst_tier_is_the_whole_demos() {
        let tier = |tiers: [Option<u8>; 2]| {
            Report::merge(vec![report("a", "b", tiers[0]), report("b", "a", tiers[1])]).tier
        };
        assert_eq!(tier([Some(1), Some(1)]), Some(1));
        assert_eq!(tier([Some(1), Some(0)]), Some(0));
        assert_eq!(tier([Some(1), None]), None);
    }

    #[test]
    fn a_merged_report_has_the_documented_keys() {
        let merged = Report::merge(vec![report("b", "a", Some(1)), report("a", "b", Some(1))]);
        let json = serde_json::to_value(&merged).unwrap();
        assert_eq!(json["nodes"][0]["id"], "a");
        for pointer in [
            "/kernel",
            "/nodes/0/clock/source",
            "/nodes/0/clock/bound_ns",
            "/nodes/0/accounting/ring_failed",
            "/nodes/0/accounting/dropped",
            "/nodes/0/probe/ns_per_packet",
            "/paths/1/segments/socket_queue/negative",
            "/entries/1/application/p99_ns",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
        assert_eq!(merged.typical("network"), Some((12_300, Some(2_500))));
        assert_eq!(merged.typical("qdisc"), Some((12_300, Some(2_500))));
        assert_eq!(merged.typical(UNSPLIT), None);
    }

    #[test]
    fn accounting_that_leaves_a_datagram_out_does_not_close() {
        let whole =
            Accounting { seen: 9, matched: 3, unmatched: 1, late: 1, ring_failed: 1, dropped: 2, pending: 1 };
        assert!(whole.closes());
        assert!(!Accounting { seen: 10, ..whole }.closes());
    }
}
