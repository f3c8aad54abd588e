//! The figures as a line and as JSON.

use serde_json::{Value, json};

use super::cluster::Idle;
use super::spread::Spread;
use super::usage::Memory;

/// What was measured of one cluster.
pub(super) struct Figures {
    pub(super) nodes: u16,
    pub(super) tier: Option<u64>,
    pub(super) idle: Idle,
    pub(super) spread: Spread,
}

/// What the columns are.
pub(super) const LEGEND: &str = "\
spread: milliseconds until all nodes know one change; idle, per node: share of one processor (mean, most), packets
and bytes of payload sent a second; memory in MB: resident (median), of that the process' own, and its fair share of
all; others: share of the machine that was busy with something else meanwhile";

/// The head of the table.
pub(super) fn heading(interval_ms: u64, tries: u16, idle: u64) -> String {
    format!(
        "gossip on loopback, {interval_ms} ms interval, {tries} changes, {idle} s idle\n\
         {:>5} {:>4} | {:>7} {:>7} {:>7} {:>4} | {:>6} {:>6} {:>7} {:>8} | {:>5} {:>5} {:>5} | {:>6}",
        "nodes",
        "tier",
        "median",
        "p95",
        "most",
        "inc.",
        "cpu %",
        "most",
        "pkt/s",
        "bytes/s",
        "RSS",
        "own",
        "PSS",
        "others",
    )
}

impl Figures {
    /// One line of the table.
    pub(super) fn line(&self) -> String {
        let (spread, traffic) = (&self.spread, &self.idle.traffic);
        let megabytes = |of: fn(&Memory) -> u64| self.memory(of, 0.5) as f64 / 1000.0;
        format!(
            "{:>5} {:>4} | {:>7.1} {:>7.1} {:>7.1} {:>4} | {:>6.3} {:>6.3} {:>7.1} {:>8.0} | {:>5.1} {:>5.1} {:>5.1} | {:>5.0}%",
            self.nodes,
            self.tier.map_or_else(|| "-".into(), |tier| tier.to_string()),
            quantile(&spread.until_all, 0.5),
            quantile(&spread.until_all, 0.95),
            quantile(&spread.until_all, 1.0),
            spread.incomplete,
            mean(&self.idle.processor),
            quantile(&self.idle.processor, 1.0),
            traffic.packets,
            traffic.bytes,
            megabytes(|memory| memory.resident),
            megabytes(|memory| memory.anonymous),
            megabytes(|memory| memory.proportional),
            self.idle.load.others * 100.0,
        )
    }

    /// The same and more.
    pub(super) fn json(&self, interval_ms: u64) -> Value {
        let (spread, idle) = (&self.spread, &self.idle);
        let threads: serde_json::Map<String, Value> =
            idle.threads.iter().map(|(name, share)| (name.clone(), json!(share))).collect();
        let memory =
            |of: fn(&Memory) -> u64| json!({"median": self.memory(of, 0.5), "max": self.memory(of, 1.0)});
        json!({
            "nodes": self.nodes, "tier": self.tier, "interval_ms": interval_ms,
            "tries": spread.until_all.len() + spread.incomplete, "incomplete": spread.incomplete,
            "until_all_ms": {
                "p50": quantile(&spread.until_all, 0.5), "p95": quantile(&spread.until_all, 0.95),
                "max": quantile(&spread.until_all, 1.0),
            },
            "until_each_ms": {
                "p50": quantile(&spread.each, 0.5), "p95": quantile(&spread.each, 0.95),
                "max": quantile(&spread.each, 1.0),
            },
            "idle": {
                "seconds": idle.seconds,
                "cpu_percent": mean(&idle.processor), "cpu_percent_max": quantile(&idle.processor, 1.0),
                "cpu_percent_by_thread": threads,
                "packets_per_s": idle.traffic.packets, "bytes_per_s": idle.traffic.bytes,
                "kernel_packets_per_s": idle.traffic.kernel_packets, "wire_bytes_per_s": idle.traffic.wire_bytes,
                "others_share": idle.load.others,
            },
            "memory_kb": {
                "rss": memory(|memory| memory.resident), "anonymous": memory(|memory| memory.anonymous),
                "pss": memory(|memory| memory.proportional), "peak": memory(|memory| memory.peak),
            },
        })
    }

    fn memory(&self, of: fn(&Memory) -> u64, q: f64) -> u64 {
        quantile(&self.idle.memory.iter().map(|memory| of(memory) as f64).collect::<Vec<_>>(), q) as u64
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The smallest value that a share `q` of all values does not exceed; NaN of none.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=40).rev().map(f64::from).collect();
        assert_eq!(
            (quantile(&values, 0.5), quantile(&values, 0.95), quantile(&values, 1.0)),
            (20.0, 38.0, 40.0)
        );
        assert!(quantile(&[], 0.5).is_nan());
    }
}
