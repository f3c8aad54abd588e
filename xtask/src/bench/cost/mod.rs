//! `cargo xtask bench cost`: what the tiers cost the packets, the node and the rest of the host.

mod nodes;

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::cargo_bench;

/// Runs all three parts and shows their figures.
pub(super) fn run(binary: &Path, quick: bool) -> Result<Value> {
    let mut figures = cargo_bench("probe-user", "cost", quick)?;
    println!("hooks of tier 2, ns per packet (kernel's run-time statistics)");
    println!(
        "{:<12} {:<8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "hook", "own", "others'", "empty", "net own", "net oth."
    );
    for (case, hooks) in figures["hooks"].as_object().into_iter().flatten() {
        for (hook, figures) in hooks.as_object().into_iter().flatten() {
            let n = |key: &str| figures[key].as_i64().unwrap_or_default();
            let keys = ["own_ns", "foreign_ns", "empty_ns", "own_net_ns", "foreign_net_ns"];
            let [own, foreign, empty, own_net, foreign_net] = keys.map(n);
            println!("{case:<12} {hook:<8} {own:>8} {foreign:>8} {empty:>8} {own_net:>8} {foreign_net:>8}");
        }
    }
    println!("other traffic: packets a second over loopback, as a ratio to those without a probe");
    for (lane, figures) in figures["foreign"].as_object().into_iter().flatten() {
        let n = |value: &Value| value.as_f64().unwrap_or_default();
        let [low, high] = [0, 1].map(|place| n(&figures["ratio_quartiles"][place]));
        let (rate, ratio) = (n(&figures["packets_per_s"]), n(&figures["ratio"]));
        println!("{lane:<12} {rate:>10.0} {ratio:>7.3}  (half of the turns {low:.3} to {high:.3})");
    }
    figures["nodes"] = nodes::run(binary, quick)?;
    Ok(json!(figures))
}
