//! `cargo xtask ci`: all that must hold before a change lands, with the time that each step takes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::demo::report::SEGMENTS;
use crate::rig::{Stopwatch, sandbox};
use crate::setup::{self, Purpose};
use crate::{exec, lint};

/// Packets that every segment of every path must have in the demo.
const LEAST_PACKETS: u64 = 100;
/// Of the datagrams seen, the share that may be unmatched or late.
const MOST_UNMATCHED: f64 = 0.001;

/// Runs the steps one after the other; the first failure ends it.
pub fn command() -> Result<()> {
    ensure!(setup::is_root(), "ci must run as root: it attaches eBPF programs and makes network namespaces");
    let started = Stopwatch::start();
    let dir = tempfile::tempdir_in(sandbox::temp_dir())?;
    let report = dir.path().join("demo.json");
    step("setup", || setup::ensure(Purpose::Everything).map(drop))?;
    step("lint", lint::command)?;
    // These two as the README has them.
    step("test", || exec::run(exec::cargo().args(["xtask", "test"])))?;
    step("demo", || {
        exec::run(exec::cargo().args(["xtask", "demo", "--once", "--json"]).arg(&report))?;
        check_demo(&report)
    })?;
    println!("ci: all passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("ci: {name} ...");
    let started = Stopwatch::start();
    run().with_context(|| format!("ci: {name} failed after {:.1} s", started.elapsed().as_secs_f64()))?;
    println!("ci: {name} passed in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn check_demo(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let report: Value = serde_json::from_str(&text).context("the demo's JSON")?;
    let wrong = shortcomings(&report);
    if !wrong.is_empty() {
        bail!("the demo's report is not what it must be:\n  {}\n{text}", wrong.join("\n  "));
    }
    Ok(())
}

/// What the demo's JSON must show and does not.
fn shortcomings(report: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut demand = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    demand(report["tier"] == 1, format!("tier is {}, not 1", report["tier"]));
    let paths = report["paths"].as_array().map_or(&[][..], Vec::as_slice);
    demand(paths.len() == 6, format!("{} paths, not 6", paths.len()));
    for path in paths {
        for segment in SEGMENTS {
            let count = path["segments"][segment]["count"].as_u64().unwrap_or(0);
            demand(
                count >= LEAST_PACKETS,
                format!("{} > {}: {count} packets in {segment}", path["from"], path["to"]),
            );
        }
    }
    let nodes = report["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    demand(nodes.len() == 3, format!("{} nodes, not 3", nodes.len()));
    for node in nodes {
        let id = &node["id"];
        let count = |key: &str| node["accounting"][key].as_u64().unwrap_or(u64::MAX);
        let parts = ["matched", "unmatched", "late", "ring_failed", "dropped"].map(count);
        let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
        demand(
            sum == Some(count("seen")) && count("seen") > 0,
            format!("node {id}: accounting does not close: {}", node["accounting"]),
        );
        let astray = count("unmatched").saturating_add(count("late"));
        demand(
            astray as f64 <= MOST_UNMATCHED * count("seen") as f64,
            format!("node {id}: {astray} of {} unmatched or late", count("seen")),
        );
        let clock = &node["clock"];
        demand(
            clock["source"] == "chrony" && clock["state"] == "synchronised",
            format!("node {id}: clock is {clock}"),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        let segment = json!({"count": 100});
        let segments: serde_json::Map<_, _> =
            SEGMENTS.iter().map(|name| ((*name).to_owned(), segment.clone())).collect();
        let path = json!({"from": "a", "to": "b", "segments": segments});
        let node = json!({"id": "a", "clock": {"source": "chrony", "state": "synchronised"},
            "accounting": {"seen": 1000, "matched": 997, "unmatched": 1, "late": 0, "ring_failed": 1,
                "dropped": 1}});
        json!({"tier": 1, "paths": [path, path, path, path, path, path], "nodes": [node, node, node]})
    }

    #[test]
    fn a_good_report_passes_and_every_demand_can_fail() {
        assert_eq!(shortcomings(&good()), Vec::<String>::new());
        for (pointer, value) in [
            ("/tier", json!(0)),
            ("/tier", Value::Null),
            ("/paths", json!([])),
            ("/nodes", json!([])),
            ("/paths/3/segments/handling/count", json!(99)),
            ("/paths/0/segments/send_queue/count", json!(0)),
            ("/paths/0/segments/egress_stack", json!({})),
            ("/paths/5/segments/qdisc", Value::Null),
            ("/paths/3/segments", json!({})),
            ("/nodes/1/accounting/seen", json!(1001)),
            ("/nodes/1/accounting", json!({})),
            (
                "/nodes/1/accounting",
                json!({"seen": 1000, "matched": 998, "unmatched": 1, "late": 1, "ring_failed": 0, "dropped": 0}),
            ),
            (
                "/nodes/1/accounting",
                json!({"seen": 0, "matched": 0, "unmatched": 0, "late": 0, "ring_failed": 0, "dropped": 0}),
            ),
            ("/nodes/2/clock/state", json!("unsynchronised")),
        ] {
            let mut report = good();
            *report.pointer_mut(pointer).unwrap() = value.clone();
            assert!(!shortcomings(&report).is_empty(), "{pointer} = {value} passed");
        }
    }
}
