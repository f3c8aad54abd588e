//! What the protocol did and whom it knows, under Piko's names where it has one.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{counter, gauge, register};
use crate::proto::{Counters, EntryCounts, MemberStatus, Protocol};

/// Nodes with series of their own in `piko_gossip_entries`; all others are one, under the empty id, which no node has.
const NODES: usize = 64;
const OTHERS: &str = "";
/// `deleted` and `internal`.
const LABELS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];
const PROTOCOLS: [Protocol; 2] = [Protocol::V0, Protocol::V1];
const STATUSES: [MemberStatus; 4] =
    [MemberStatus::Alive, MemberStatus::Suspect, MemberStatus::Unreachable, MemberStatus::Left];

/// Handles for what is written once a second or less often.
#[derive(Debug)]
pub struct GossipMetrics {
    /// In the order of [`PROTOCOLS`] and [`STATUSES`].
    peers: [[IntGauge; STATUSES.len()]; PROTOCOLS.len()],
    local_health: IntGauge,
    loss: Gauge,
    digest_entries: [IntCounter; 2],
    delta_entries: [IntCounter; 2],
    events: IntCounterVec,
    entries: IntGaugeVec,
    /// The nodes that `entries` has.
    shown: Mutex<BTreeSet<String>>,
}

/// Handles for the totals of the protocol and of the failure detector: counted there, read once a second.
#[derive(Debug)]
pub struct GossipTotals {
    counters: Vec<IntCounter>,
}

impl GossipMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let peers = register(
            r,
            IntGaugeVec::new(
                Opts::new(
                    "pikoscope_peers",
                    "Other nodes known, by the format they are spoken to in (v0 is Piko's) and by what is known of them.",
                ),
                &["protocol", "status"],
            )?,
        )?;
        Ok(Self {
            peers: PROTOCOLS.map(|protocol| {
                STATUSES.map(|status| peers.with_label_values(&[protocol.name(), status.name()]))
            }),
            local_health: register(
                r,
                IntGauge::new(
                    "pikoscope_local_health",
                    "0 when this node is well, up to 8 when it runs late or hears from nobody: the longer it then waits before it believes others dead.",
                )?,
            )?,
            loss: gauge(
                r,
                "pikoscope_request_loss_ratio",
                "Share of requests to living peers that went unanswered lately: the loss of both ways together.",
            )?,
            digest_entries: [
                counter(r, "piko_gossip_digest_entries_inbound_total", "Nodes listed in received digests.")?,
                counter(
                    r,
                    "piko_gossip_digest_entries_outbound_total",
                    "Nodes listed in the digests that were sent.",
                )?,
            ],
            delta_entries: [
                counter(
                    r,
                    "piko_gossip_delta_entries_inbound_total",
                    "Entries in received deltas, those over TCP included.",
                )?,
                counter(
                    r,
                    "piko_gossip_delta_entries_outbound_total",
                    "Entries in the deltas that were sent as datagrams.",
                )?,
            ],
            events: register(
                r,
                IntCounterVec::new(
                    Opts::new(
                        "pikoscope_gossip_events_total",
                        "What the protocol and its failure detector did and met, by event; see the documentation of proto::Counters.",
                    ),
                    &["part", "event"],
                )?,
            )?,
            entries: register(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "piko_gossip_entries",
                        "Entries known, by their node; those of nodes beyond the first 64 are under the empty node_id.",
                    ),
                    &["node_id", "deleted", "internal"],
                )?,
            )?,
            shown: Mutex::default(),
        })
    }

    /// Handles for these events, each with its part; all exist from the start, at zero.
    pub fn totals(&self, events: impl Iterator<Item = (&'static str, &'static str)>) -> GossipTotals {
        GossipTotals {
            counters: events.map(|(part, event)| self.events.with_label_values(&[part, event])).collect(),
        }
    }

    /// Who is known.
    pub fn set_peers(&self, peers: impl Iterator<Item = (Protocol, MemberStatus)>) {
        let mut counts = [[0; STATUSES.len()]; PROTOCOLS.len()];
        for (protocol, status) in peers {
            counts[protocol as usize][status as usize] += 1;
        }
        for (gauges, counts) in self.peers.iter().zip(counts) {
            gauges.iter().zip(counts).for_each(|(gauge, count)| gauge.set(count));
        }
    }

    /// How this node judges itself, and what was really sent and received.
    pub fn set(&self, local_health: u8, loss: f64, counters: &Counters) {
        self.local_health.set(local_health.into());
        self.loss.set(loss);
        let Self { digest_entries: [digest_in, digest_out], delta_entries: [delta_in, delta_out], .. } = self;
        for (counter, total) in [
            (digest_in, counters.digest_entries_received),
            (digest_out, counters.digest_entries_sent),
            (delta_in, counters.delta_entries_received),
            (delta_out, counters.delta_entries_sent),
        ] {
            raise(counter, total);
        }
    }

    /// The entries of all nodes, this one's first. Nodes that are gone lose their series.
    pub fn set_entries<'a>(&self, nodes: impl Iterator<Item = (&'a str, EntryCounts)>) {
        let mut nodes: Vec<(&str, EntryCounts)> = nodes.collect();
        // Always the same ones, whatever the order in which they became known.
        if let Some((_, others)) = nodes.split_first_mut() {
            others.sort_unstable_by_key(|(id, _)| *id);
        }
        let mut rest = EntryCounts::default();
        for (_, counts) in nodes.iter().skip(NODES) {
            for deleted in 0..2 {
                for internal in 0..2 {
                    rest.0[deleted][internal] += counts.0[deleted][internal];
                }
            }
        }
        let crowded = nodes.len() > NODES;
        let mut gone = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = BTreeSet::new();
        for (id, counts) in nodes.into_iter().take(NODES).chain(crowded.then_some((OTHERS, rest))) {
            for (deleted, internal) in LABELS {
                let gauge = self.entries.with_label_values(&[id, name(deleted), name(internal)]);
                let count = counts.0[usize::from(deleted)][usize::from(internal)];
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            gone.remove(id);
            shown.insert(id.to_owned());
        }
        // One after the other, and the living stay: a scrape in between sees all of them.
        for (id, (deleted, internal)) in gone.iter().flat_map(|id| LABELS.map(|labels| (id, labels))) {
            // It was there, and if not, all is well too.
            let _ = self.entries.remove_label_values(&[id, name(deleted), name(internal)]);
        }
        *gone = shown;
    }
}

impl GossipTotals {
    /// The totals, in the order of the events they were made for.
    pub fn set(&self, totals: impl Iterator<Item = u64>) {
        self.counters.iter().zip(totals).for_each(|(counter, total)| raise(counter, total));
    }
}

const fn name(label: bool) -> &'static str {
    if label { "true" } else { "false" }
}

fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn with(test: impl FnOnce(&GossipMetrics)) -> String {
        let registry = Registry::new();
        test(&GossipMetrics::new(&registry).unwrap());
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn peers_are_counted_by_protocol_and_status() {
        let text = with(|m| {
            let all = PROTOCOLS.into_iter().flat_map(|p| STATUSES.into_iter().map(move |s| (p, s)));
            m.set_peers(all.clone());
            m.set_peers(all.chain([(Protocol::V0, MemberStatus::Left)]));
        });
        for (protocol, status, n) in [("v0", "left", 2), ("v0", "alive", 1), ("v1", "unreachable", 1)] {
            let line = format!("pikoscope_peers{{protocol=\"{protocol}\",status=\"{status}\"}} {n}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn entries_of_many_nodes_are_a_bounded_number_of_series_and_nothing_is_left_out() {
        let ids: Vec<String> = (0..200).map(|i| format!("n{i:03}")).collect();
        let counts = EntryCounts([[3, 2], [1, 0]]);
        let text = with(|m| {
            m.set_entries(ids.iter().map(|id| (id.as_str(), counts)));
            m.set_entries(ids[100..].iter().rev().map(|id| (id.as_str(), counts)));
        });
        let series = |text: &str| text.lines().filter(|l| l.starts_with("piko_gossip_entries{")).count();
        assert_eq!(series(&text), 4 * (NODES + 1));
        for line in [
            "piko_gossip_entries{deleted=\"false\",internal=\"false\",node_id=\"n199\"} 3\n",
            "piko_gossip_entries{deleted=\"true\",internal=\"false\",node_id=\"n100\"} 1\n",
            "piko_gossip_entries{deleted=\"false\",internal=\"true\",node_id=\"\"} 72\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("n050"), "gone");
        assert_eq!(series(&with(|m| m.set_entries([("a", counts)].into_iter()))), 4);
    }

    #[test]
    fn totals_follow_their_events_and_only_rise() {
        let text = with(|m| {
            let totals = m.totals([("proto", "a"), ("detector", "b")].into_iter());
            totals.set([5, 1].into_iter());
            totals.set([4, 2].into_iter());
            m.set(3, 0.25, &Counters { digest_entries_sent: 7, ..Counters::default() });
        });
        for line in [
            "pikoscope_gossip_events_total{event=\"a\",part=\"proto\"} 5\n",
            "pikoscope_gossip_events_total{event=\"b\",part=\"detector\"} 2\n",
            "piko_gossip_digest_entries_outbound_total 7\n",
            "pikoscope_local_health 3\n",
            "pikoscope_request_loss_ratio 0.25\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
