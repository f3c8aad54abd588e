//! `cargo xtask bench gossip`: real nodes on the loopback of a namespace of their own, as a user would run them.
//!
//! Every node holds one key. While nothing changes: processor time, packets, bytes, memory. Then one node after the
//! other, drawn at random, changes its key: the time until all know it, by the stamps of the nodes themselves
//! (one CLOCK_MONOTONIC for all), which come over the control sockets' `watch` after the fact.

mod cluster;
mod report;
mod spread;
mod traffic;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use cluster::Cluster;

/// What `bench gossip` can be told.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// Sizes of the clusters
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [5, 10, 40, 100],
          value_parser = clap::value_parser!(u16).range(2..=400))]
    nodes: Vec<u16>,
    /// Changes per cluster
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    tries: u16,
    /// How long to look on while nothing changes
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Time between gossip rounds
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..))]
    interval_ms: u64,
    /// The nodes' --probe
    #[arg(long, value_name = "MODE", default_value = "auto",
          value_parser = ["auto", "ebpf", "timestamping", "off"])]
    probe: String,
    /// Seed of the drawn nodes and pauses
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure this binary and build none
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
}

/// Measures every size in turn and shows a line of each.
pub(super) fn run(options: &Options, binary: &Path, quick: bool) -> Result<Value> {
    let (tries, idle) = if quick { (options.tries.min(3), 2) } else { (options.tries, options.idle) };
    println!("{}", report::heading(options.interval_ms, tries, idle));
    let mut all = Vec::new();
    for nodes in &options.nodes {
        let mut cluster = Cluster::start(binary, *nodes, options.interval_ms, &options.probe)?;
        let idle = cluster.watch_idle(idle)?;
        let spread = spread::measure(&mut cluster, tries, options.seed)?;
        let figures = report::Figures { nodes: *nodes, tier: cluster.tier(), idle, spread };
        println!("{}", figures.line());
        all.push(figures.json(options.interval_ms));
        cluster.stop()?;
    }
    println!("{}", report::LEGEND);
    Ok(json!(all))
}
