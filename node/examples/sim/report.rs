//! Figures, for programs and for readers.

use probe_ebpf::time::Span;
use serde::Serialize;

use crate::options::{Options, Rule};
use crate::scenario::changes::{Load, Outcome};

/// The figures of one run of single changes. Times are `None` where too many nodes never knew.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) rule: &'static str,
    pub(crate) nodes: usize,
    pub(crate) interval_ms: u32,
    pub(crate) loss: f64,
    pub(crate) seed: u64,
    pub(crate) changes: usize,
    /// Until half of the nodes knew a change: median over the changes.
    pub(crate) t50_ms: Option<f64>,
    /// Likewise 95 %.
    pub(crate) t95_ms: Option<f64>,
    /// Likewise all.
    pub(crate) t100_ms: Option<f64>,
    /// Of all times from a change to a node.
    pub(crate) p95_ms: Option<f64>,
    /// While nothing changes but the rule's own entries.
    pub(crate) bytes_per_s_per_node: f64,
    pub(crate) packets_per_s_per_node: f64,
    pub(crate) false_unreachable: usize,
    pub(crate) wall_s: f64,
    /// Until everybody knew everybody.
    pub(crate) settled_ms: f64,
    /// Longest time until all knew.
    pub(crate) t100_max_ms: Option<f64>,
    /// Changes that did not reach everybody in time.
    pub(crate) incomplete: usize,
    /// The same while there were changes.
    pub(crate) changing_bytes_per_s_per_node: f64,
    pub(crate) changing_packets_per_s_per_node: f64,
    /// Packets that the network lost.
    pub(crate) lost: u64,
    pub(crate) packets: u64,
    /// Of all packets: times, ends and bytes.
    pub(crate) fingerprint: String,
    pub(crate) virtual_s: f64,
    pub(crate) events: u64,
}

/// What a run cost and left behind.
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) virtual_s: f64,
    pub(crate) events: u64,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) fingerprint: u64,
}

impl Row {
    pub(crate) fn new(rule: Rule, nodes: usize, options: &Options, outcome: &Outcome, cost: &Cost) -> Self {
        let until = |share| median(outcome.spreads.iter().map(|spread| spread.time(share)).collect());
        let all: Vec<Option<Span>> = outcome
            .spreads
            .iter()
            .flat_map(|spread| {
                let never = std::iter::repeat_n(None, spread.left());
                spread.times.iter().copied().map(Some).chain(never)
            })
            .collect();
        let per_node = |load: &Load, total: u64| total as f64 / load.over.as_secs_f64() / nodes as f64;
        let Outcome { idle, changing, spreads, .. } = outcome;
        Self {
            rule: rule.name(),
            nodes,
            interval_ms: options.interval_ms,
            loss: options.loss,
            seed: options.seed,
            changes: spreads.len(),
            t50_ms: until(0.5),
            t95_ms: until(0.95),
            t100_ms: until(1.0),
            p95_ms: quantile(all, 0.95),
            bytes_per_s_per_node: per_node(idle, idle.traffic.bytes),
            packets_per_s_per_node: per_node(idle, idle.traffic.packets),
            false_unreachable: outcome.false_unreachable,
            wall_s: cost.wall_s,
            settled_ms: ms(outcome.settled),
            t100_max_ms: quantile(spreads.iter().map(|spread| spread.time(1.0)).collect(), 1.0),
            incomplete: spreads.iter().filter(|spread| !spread.is_complete()).count(),
            changing_bytes_per_s_per_node: per_node(changing, changing.traffic.bytes),
            changing_packets_per_s_per_node: per_node(changing, changing.traffic.packets),
            lost: cost.lost,
            packets: cost.packets,
            fingerprint: format!("{:016x}", cost.fingerprint),
            virtual_s: cost.virtual_s,
            events: cost.events,
        }
    }

    /// The names of [`line`](Self::line)'s columns.
    pub(crate) fn heading() -> String {
        format!(
            "{:8} {:>5} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {:>6} {:>7} {:>8} {:>8}",
            "rule",
            "nodes",
            "loss",
            "t50",
            "t95",
            "t100",
            "p95",
            "settled",
            "B/s idle",
            "pk/s",
            "B/s chg",
            "incpl",
            "false",
            "wall",
            "x real"
        )
    }
    pub(crate) fn line(&self) -> String {
        let time = |ms: Option<f64>| ms.map_or_else(|| "never".into(), |ms| format!("{ms:.1} ms"));
        format!(
            "{:8} {:>5} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9.0} {:>6.1} {:>9.0} {:>6} {:>7} {:>8} {:>8.2}",
            self.rule,
            self.nodes,
            self.loss,
            time(self.t50_ms),
            time(self.t95_ms),
            time(self.t100_ms),
            time(self.p95_ms),
            format!("{:.1} s", self.settled_ms / 1e3),
            self.bytes_per_s_per_node,
            self.packets_per_s_per_node,
            self.changing_bytes_per_s_per_node,
            self.incomplete,
            self.false_unreachable,
            format!("{:.1} s", self.wall_s),
            self.virtual_s / self.wall_s,
        )
    }
}

fn ms(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e6
}

fn median(times: Vec<Option<Span>>) -> Option<f64> {
    quantile(times, 0.5)
}

/// The least time that so many of `times` do not exceed; those that never came are the longest.
fn quantile(mut times: Vec<Option<Span>>, share: f64) -> Option<f64> {
    times.sort_by_key(|time| time.unwrap_or(Span::MAX));
    let place = (share * times.len() as f64).ceil() as usize;
    times.get(place.max(1) - 1).copied().flatten().map(ms)
}
