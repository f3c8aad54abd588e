//! `cargo xtask bench probe`: the socket filter, beside one that does nothing.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::setup::toolchain::BpfToolchain;
use crate::{build, exec};

/// Runs the benchmark of `probe-user` and shows its figures.
pub(super) fn run(bpf: &BpfToolchain, quick: bool) -> Result<Value> {
    build::object(bpf)?;
    let mut cargo = exec::cargo();
    cargo.args(["bench", "--quiet", "--package", "probe-user", "--bench", "probe", "--"]);
    if quick {
        cargo.arg("--quick");
    }
    let text = exec::output(&mut cargo)?;
    let figures: Value = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("the benchmark printed no figures: {text}"))?;
    println!("socket filter, ns per packet (kernel's run-time statistics)");
    println!("{:<12} {:>8} {:>8} {:>8} {:>8}", "", "packets", "filter", "empty", "net");
    for (name, case) in figures.as_object().into_iter().flatten() {
        let n = |key: &str| case[key].as_i64().unwrap_or_default();
        println!(
            "{name:<12} {:>8} {:>8} {:>8} {:>8}",
            n("packets"),
            n("filter_ns"),
            n("empty_ns"),
            n("net_ns")
        );
    }
    Ok(json!(figures))
}
