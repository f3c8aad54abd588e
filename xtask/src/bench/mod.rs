//! `cargo xtask bench`: what things cost, always beside a yardstick measured in the same run.

mod cost;
mod exchange;
mod gossip;
mod probe;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::rig::{is_permitted, sandbox};
use crate::setup::{self, Purpose};
use crate::{build, exec, paths};

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
    #[command(flatten, next_help_heading = "Options of bench gossip")]
    gossip: gossip::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The socket filter per packet, beside a filter that does nothing
    Probe,
    /// The hooks of tier 2 per packet, what each tier costs other traffic, and the node's processor time by tier
    Cost,
    /// One exchange in the core, beside plain v0
    Exchange,
    /// Nodes on loopback: how fast a change reaches all, and what they cost while nothing changes
    Gossip,
}

/// Runs the benchmarks.
pub fn command(options: &Options) -> Result<()> {
    ensure!(
        setup::is_root() && is_permitted(),
        "bench attaches eBPF programs and makes network namespaces: run it as root"
    );
    let wanted = |what| options.what.is_empty() || options.what.contains(&what);
    let setup = setup::ensure(Purpose::Build)?;
    if !sandbox::is_inside()
        && (wanted(What::Gossip) || wanted(What::Cost))
        && options.gossip.binary.is_none()
    {
        eprintln!("bench: building the node");
        build::node(setup.bpf.as_ref())?;
    }
    sandbox::enter()?;
    let mut report = serde_json::Map::new();
    if wanted(What::Probe) {
        let bpf = setup.bpf.context("bench probe needs the eBPF toolchain: see `cargo xtask setup`")?;
        report.insert("probe".into(), probe::run(&bpf, options.quick)?);
    }
    if wanted(What::Cost) {
        let binary = options.gossip.binary.clone().unwrap_or_else(paths::node_binary);
        report.insert("cost".into(), cost::run(&binary, options.quick)?);
    }
    if wanted(What::Exchange) {
        report.insert("exchange".into(), exchange::run(options.quick)?);
    }
    if wanted(What::Gossip) {
        let binary = options.gossip.binary.clone().unwrap_or_else(paths::node_binary);
        report.insert("gossip".into(), gossip::run(&options.gossip, &binary, options.quick)?);
    }
    options.json.as_deref().map_or(Ok(()), |file| write(file, &Value::Object(report)))
}

/// Runs a benchmark of the workspace, which prints its figures as a line of JSON.
fn cargo_bench(package: &str, bench: &str, quick: bool) -> Result<Value> {
    let mut cargo = exec::cargo();
    cargo.args(["bench", "--quiet", "--package", package, "--bench", bench, "--"]);
    if quick {
        cargo.arg("--quick");
    }
    let text = exec::output(&mut cargo)?;
    let figures = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    figures.with_context(|| format!("the benchmark printed no figures: {text}"))
}

fn write(file: &Path, report: &Value) -> Result<()> {
    std::fs::write(file, format!("{report:#}\n")).with_context(|| format!("writing {}", file.display()))
}
