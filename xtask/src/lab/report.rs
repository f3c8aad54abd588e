//! A run's result, as JSON and for people.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::expect::{Judged, Status};
use super::measure::Measured;
use super::packets::SEGMENTS;
use super::scenario::Scenario;

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What decided all random numbers.
    pub seed: u64,
    /// Whether nothing failed.
    pub pass: bool,
    /// One by one.
    pub expectations: Vec<Judged>,
    /// As in the demo's report; each segment also has `truth_p50_ns`.
    pub paths: Vec<Value>,
    /// How far off each packet was against the truth, without sign, by segment: count, p50, p99, max.
    pub errors: Value,
    /// How far off corrected network times were against the clock that all hosts share, and their bounds: of all packets
    /// (`all`) and of those of each kind of correction.
    pub clock: Value,
    /// What each node in the end said of the clocks, by name.
    pub clocks: Value,
    /// How long entries took from node to node, as the nodes report it.
    pub propagation: Vec<Value>,
    /// Gossip packets lost.
    pub loss: Loss,
    /// What each node used, by name.
    pub resources: Value,
}

/// Gossip packets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// That the switch dropped.
    pub switch: u64,
    /// That the nodes missed.
    pub nodes: u64,
}

impl Report {
    /// Of this run.
    pub fn new(scenario: &Scenario, seed: u64, expectations: Vec<Judged>, measured: &Measured) -> Self {
        Self {
            scenario: scenario.name.clone(),
            seed,
            pass: expectations.iter().all(|judged| judged.status != Status::Fail),
            expectations,
            paths: measured.paths(),
            errors: measured.errors(),
            clock: measured.clock(),
            clocks: measured.clocks(),
            propagation: measured.propagation(),
            loss: Loss { switch: measured.packets.dropped, nodes: measured.lost_by_nodes() },
            resources: measured.resources(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let shown = &self.paths[..self.paths.len().min(MOST_PATHS)];
        let _ = write!(text, "{:<8}{:>8}{:>6}", "path", "packets", "lost");
        for name in SEGMENTS {
            let _ = write!(text, "  {name:>13} p50 {:>9}", "truth");
        }
        text.push('\n');
        for path in shown {
            let ends =
                format!("{} > {}", path["from"].as_str().unwrap_or("?"), path["to"].as_str().unwrap_or("?"));
            let _ =
                write!(text, "{ends:<8}{:>8}{:>6}", path["packets"].to_string(), path["lost"].to_string());
            for name in SEGMENTS {
                let segment = &path["segments"][name];
                let time =
                    |key: &str| segment[key].as_i64().map_or_else(|| "-".to_owned(), |ns| time(ns as f64));
                let _ = write!(text, "  {:>17} {:>9}", time("p50_ns"), time("truth_p50_ns"));
            }
            text.push('\n');
        }
        if shown.len() < self.paths.len() {
            let _ = writeln!(text, "and {} more paths in the JSON", self.paths.len() - shown.len());
        }
        self.errors_text(&mut text);
        self.clock_text(&mut text);
        self.propagation_text(&mut text);
        let _ = writeln!(
            text,
            "\ngossip packets lost: {} by the switch, {} missed by nodes",
            self.loss.switch, self.loss.nodes
        );
        if let Some(used) = self.resources.as_object().filter(|used| !used.is_empty()) {
            let most = |key: &str| used.values().filter_map(|node| node[key].as_f64()).fold(0.0, f64::max);
            let _ = writeln!(
                text,
                "most used by a node: {:.1} % of a CPU, {:.1} MiB, {} open files",
                most("cpu_percent"),
                most("rss_bytes") / f64::from(1 << 20),
                most("fds")
            );
        }
        text.push('\n');
        for Judged { name, status, measured, truth, unit } in &self.expectations {
            let status = match status {
                Status::Pass => "PASS",
                Status::Fail => "FAIL",
            };
            let _ = write!(text, "{status:<8} {name}");
            if let Some(measured) = measured {
                let _ = write!(text, ": {}", value(*measured, unit));
            }
            if let Some(truth) = truth {
                let _ = write!(text, ", reference {}", value(*truth, unit));
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\n{} (seed {}): {}",
            self.scenario,
            self.seed,
            if self.pass { "PASS" } else { "FAIL" }
        );
        text
    }
}

impl Report {
    fn errors_text(&self, text: &mut String) {
        for (name, error) in self.errors.as_object().into_iter().flatten() {
            let [p50, p99, max] =
                ["p50_ns", "p99_ns", "max_ns"].map(|key| time(error[key].as_f64().unwrap_or_default()));
            let count = &error["count"];
            let _ =
                writeln!(text, "{name} off by {p50} at p50, {p99} at p99, {max} at most ({count} packets)");
        }
    }

    fn clock_text(&self, text: &mut String) {
        let Some(kinds) = self.clock.as_object().filter(|kinds| !kinds.is_empty()) else { return };
        let _ = writeln!(
            text,
            "\n{:<12}{:>8}  {:>10} {:>10} {:>10}  {:>10} {:>9}",
            "correction", "packets", "error p50", "p99", "max", "bound p50", "covered"
        );
        for (name, figures) in kinds {
            let time = |key: &str| match figures[key].as_f64() {
                Some(ns) if ns < NO_BOUND => time(ns),
                _ => "none".to_owned(),
            };
            let _ = writeln!(
                text,
                "{name:<12}{:>8}  {:>10} {:>10} {:>10}  {:>10} {:>9}",
                figures["count"].to_string(),
                time("p50_ns"),
                time("p99_ns"),
                time("max_ns"),
                time("bound_p50_ns"),
                figures["covered_percent"]
                    .as_f64()
                    .map_or_else(|| "-".to_owned(), |covered| format!("{covered:.2} %"))
            );
        }
        for (name, clock) in self.clocks.as_object().into_iter().flatten() {
            let sentence = clock["honesty"]["sentence"].as_str().unwrap_or("nothing");
            let note = clock["note"].as_str().map_or_else(String::new, |note| format!("; {note}"));
            let _ = writeln!(text, "{name} says of its clock: {sentence}{note}");
        }
    }

    fn propagation_text(&self, text: &mut String) {
        let with_samples: Vec<&Value> =
            self.propagation.iter().filter(|entry| entry["count"].as_u64() > Some(0)).collect();
        if with_samples.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n{:<8}{:>8}  {:>10} {:>10} {:>10}  {:>12} {:>15}",
            "entries", "count", "total p50", "p95", "p99", "network p50", "application p50"
        );
        for entry in with_samples.iter().take(MOST_PATHS) {
            let quantile = |part: &str, key: &str| {
                entry[part][key].as_i64().map_or_else(|| "-".to_owned(), |ns| time(ns as f64))
            };
            let ends = format!(
                "{} > {}",
                entry["from"].as_str().unwrap_or("?"),
                entry["to"].as_str().unwrap_or("?")
            );
            let _ = writeln!(
                text,
                "{ends:<8}{:>8}  {:>10} {:>10} {:>10}  {:>12} {:>15}",
                entry["count"].to_string(),
                quantile("total", "p50_ns"),
                quantile("total", "p95_ns"),
                quantile("total", "p99_ns"),
                quantile("network", "p50_ns"),
                quantile("application", "p50_ns")
            );
        }
        if with_samples.len() > MOST_PATHS {
            let _ = writeln!(text, "and {} more in the JSON", with_samples.len() - MOST_PATHS);
        }
    }
}

/// Bounds beyond this, a century, say that nothing is bounded.
const NO_BOUND: f64 = 3.2e18;
/// More paths than this are not for reading.
const MOST_PATHS: usize = 20;

fn value(value: f64, unit: &str) -> String {
    match unit {
        "ns" => time(value),
        "percent" => format!("{value:.2} %"),
        unit => format!("{value} {unit}"),
    }
}

/// Nanoseconds with a unit and three digits.
pub(super) fn time(ns: f64) -> String {
    let (scale, unit) = match ns.abs() {
        0.0..1e3 => return format!("{ns:.0} ns"),
        1e3..1e6 => (1e3, "us"),
        1e6..1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let scaled = ns / scale;
    let digits = if scaled.abs() < 9.995 { 2 } else { usize::from(scaled.abs() < 99.95) };
    format!("{scaled:.digits$} {unit}")
}
