//! `cargo xtask bench`: what things cost, always beside a yardstick measured in the same run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::setup::{self, Purpose};
use crate::{build, exec};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these
    #[arg(value_enum)]
    what: Vec<What>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer rounds: shows that it runs, not what it costs
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The socket filter per packet, beside a filter that does nothing
    Probe,
}

/// Runs the benchmarks.
pub fn command(options: &Options) -> Result<()> {
    let all = options.what.is_empty();
    let mut report = serde_json::Map::new();
    if all || options.what.contains(&What::Probe) {
        report.insert("probe".into(), probe(options.quick)?);
    }
    if let Some(file) = &options.json {
        write(file, &Value::Object(report))?;
    }
    Ok(())
}

fn probe(quick: bool) -> Result<Value> {
    if !setup::is_root() {
        anyhow::bail!("bench probe attaches eBPF programs: run it as root");
    }
    let setup = setup::ensure(Purpose::Build)?;
    let bpf = setup.bpf.context("bench probe needs the eBPF toolchain: see `cargo xtask setup`")?;
    build::object(&bpf)?;
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

fn write(file: &Path, report: &Value) -> Result<()> {
    std::fs::write(file, format!("{report:#}\n")).with_context(|| format!("writing {}", file.display()))
}
