//! `cargo xtask bench exchange`: one exchange in the core, from decoding to encoding, beside plain v0.

use anyhow::Result;
use serde_json::Value;

use super::cargo_bench;

/// Runs the benchmark of the node's core and shows its figures.
pub(super) fn run(quick: bool) -> Result<Value> {
    let figures = cargo_bench("pikoscope", "exchange", quick)?;
    println!(
        "one exchange of two nodes that know 100 nodes with 5 keys each, microseconds for both together"
    );
    println!("{:<12} {:>8} {:>8} {:>10}", "", "v1", "packets", "plain v0");
    for (what, name) in [("nothing_new", "nothing new"), ("ten_keys", "10 new keys")] {
        let us = |key: String| figures[key].as_f64().unwrap_or(f64::NAN) / 1000.0;
        let packets = figures[format!("{what}_packets")].as_u64().unwrap_or_default();
        let (ours, plain) = (us(format!("{what}_ns")), us(format!("v0_{what}_ns")));
        println!("{name:<12} {ours:>8.1} {packets:>8} {plain:>10.1}");
    }
    Ok(figures)
}
