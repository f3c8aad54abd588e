//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use probe_ebpf::time::Span;

use crate::member::RuleOptions;
use crate::net::Faults;
use crate::world::Plan;

/// Many nodes in one process under virtual time: the same seed gives the same packets
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
pub(crate) struct Options {
    /// How many nodes; several numbers make a table
    #[arg(long, value_name = "N,N..", value_delimiter = ',', default_value = "100",
          value_parser = clap::value_parser!(u32).range(2..=60_000))]
    pub(crate) nodes: Vec<u32>,
    /// By which rule they gossip
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ours")]
    pub(crate) rule: Vec<Rule>,
    /// What happens
    #[arg(long, value_enum, default_value_t = Scenario::Changes)]
    pub(crate) scenario: Scenario,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Single changes at random nodes, one after the other
    #[arg(long, value_name = "C", default_value_t = 40)]
    pub(crate) changes: usize,
    /// Time between a node's rounds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) interval_ms: u32,
    /// Peers asked in a round; without it the rule's own default
    #[arg(long, value_name = "K")]
    pub(crate) fanout: Option<usize>,
    /// Largest packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1400)]
    pub(crate) max_packet: usize,
    /// Share of packets that are lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) loss: f64,
    /// Share of packets that arrive twice
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) duplicate: f64,
    /// Share of packets that are held back for up to 50 ms
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) reorder: f64,
    /// One-way time of a packet, drawn evenly
    #[arg(long, value_name = "MS-MS", default_value = "0.2-1")]
    pub(crate) delay_ms: Range,
    /// Draw that once for each pair of hosts and direction, not for each packet
    #[arg(long)]
    pub(crate) fixed_delays: bool,
    /// How many nodes are everybody's seeds
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seeds: u32,
    /// All nodes start within this time
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub(crate) start_over_ms: u32,
    /// A change that is not known everywhere by then is incomplete
    #[arg(long, value_name = "S", default_value_t = 120)]
    pub(crate) patience_s: u32,
    /// A message keeps its receiver busy for so long
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub(crate) handling_us: u32,
    /// Nodes to kill: before the changes, or one after the other
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) kill: usize,
    /// Nodes that are replaced by new ones in a minute, while there are changes
    #[arg(long, value_name = "PER-MINUTE", default_value_t = 0.0)]
    pub(crate) churn: f64,
    /// Before a node is killed, or the network split
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(crate) warm_up_s: u32,
    /// How long the network is split
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub(crate) split_s: u32,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw who knew a change when to this file
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Print the nodes' own totals
    #[arg(long)]
    pub(crate) counters: bool,
}

/// A rule of gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rule {
    /// The product's core
    Ours,
    /// Piko's own; nobody is ever given up
    PikoV0,
    /// Piko's own, with its failure detector: the unreachable are asked apart, and forgotten after a minute
    PikoV0Detector,
}

impl Rule {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::PikoV0 => "piko-v0",
            Self::PikoV0Detector => "piko-v0-detector",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Single changes in a settled cluster: how fast they spread, and what that costs
    Changes,
    /// All nodes join together: is anybody held for unreachable in the first minute?
    Join,
    /// Nodes die, one after the other: how long until the others notice?
    Kill,
    /// All nodes start and follow their packets as the daemon does: until when has each a verdict on every path between
    /// it and its ring neighbours?
    Verdicts,
    /// The network falls into two halves for a while: how long until all is well again?
    Split,
}

/// Two times, the lesser first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range(Span, Span);

impl FromStr for Range {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let ms = |text: &str| match text.parse::<f64>() {
            Ok(ms) if (0.0..1e6).contains(&ms) => Ok(Span::from_secs_f64(ms / 1e3)),
            _ => Err(format!("`{text}` is no time in milliseconds")),
        };
        let range = Self(ms(least)?, ms(most)?);
        if range.0 <= range.1 { Ok(range) } else { Err("the lesser comes first".into()) }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".into()),
    }
}

impl Options {
    /// The world of one run.
    pub(crate) fn plan(&self, nodes: usize) -> Plan {
        Plan {
            nodes,
            seeds: self.seeds as usize,
            start_over: Span::from_millis(self.start_over_ms.into()),
            seed: self.seed,
            faults: Faults {
                delay: (self.delay_ms.0, self.delay_ms.1),
                fixed: self.fixed_delays,
                loss: self.loss,
                copies: self.duplicate,
                reorder: self.reorder,
                hold: Span::from_millis(50),
            },
            handling: Span::from_micros(self.handling_us.into()),
            rule: RuleOptions {
                interval: Span::from_millis(self.interval_ms.into()),
                fanout: self.fanout,
                max_packet: self.max_packet,
                judge: self.scenario == Scenario::Verdicts,
            },
        }
    }
}
