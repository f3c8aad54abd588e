//! `cargo xtask bench probe`: the socket filter, beside one that does nothing.

use anyhow::Result;
use serde_json::Value;

use super::cargo_bench;
use crate::build;
use crate::setup::toolchain::BpfToolchain;

/// Runs the benchmark of `probe-user` and shows its figures.
pub(super) fn run(bpf: &BpfToolchain, quick: bool) -> Result<Value> {
    build::object(bpf)?;
    let figures = cargo_bench("probe-user", "probe", quick)?;
    println!("socket filter, ns per packet (kernel's run-time statistics)");
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "", "packets", "filter", "reads", "empty", "net", "reads net"
    );
    for (name, case) in figures.as_object().into_iter().flatten() {
        let n = |key: &str| case[key].as_i64().unwrap_or_default();
        println!(
            "{name:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
            n("packets"),
            n("filter_ns"),
            n("reads_ns"),
            n("empty_ns"),
            n("net_ns"),
            n("reads_net_ns")
        );
    }
    println!(
        "reads: reads the clock, the packet and its stamp, keeps nothing; empty: does nothing; net: less the empty one"
    );
    Ok(figures)
}
