//! The lab: real hosts and kernels, links that can be troubled, and the truth about every packet.
//!
//! A [`scenario`] is read, its [`bed`] is made, its [`timeline`] is followed by [`trouble`] under [`load`]; then the
//! nodes' [`packets`] are joined with the switch's log, [`measure`]d, and held against what is [expected](expect).

pub mod amount;
pub mod attribution;
pub mod bed;
pub mod clocks;
pub mod counters;
pub mod expect;
pub mod expectation;
pub mod guests;
pub mod library;
pub mod load;
pub mod measure;
pub mod packets;
pub mod plot;
pub mod report;
pub mod run;
pub mod scenario;
pub mod skew;
pub mod soak;
pub mod statements;
pub mod switch;
pub mod timeline;
pub mod trouble;
mod validate;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::rig::{is_permitted, sandbox};
use crate::setup::{self, Purpose};
use crate::{build, paths};

/// What can be done in the lab.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the scenarios
    List,
    /// Run a scenario and judge what it expects
    Run(run::Options),
    /// Run random trouble for some minutes, all of it decided by the seed
    Soak {
        /// How long
        #[arg(long, value_name = "M", default_value_t = 5)]
        minutes: u32,
        /// Write the timeline to this file, as a scenario for `lab run`
        #[arg(long, value_name = "FILE.toml")]
        keep: Option<PathBuf>,
        #[command(flatten)]
        /// Seed and outputs
        output: run::Output,
    },
    /// Measure how exactly the switch does what it is asked to
    Selftest {
        /// Write the figures to this file, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Two emulated machines with clocks of their own, held against the switch: what the nodes in them measure
    Guests(guests::Options),
    /// Random trouble to pairs of hosts: are the verdicts right? Prints the confusion matrix
    Attribution(attribution::Options),
    /// Bring a scenario's hosts, links, nodes, load and events (once) up, and leave them to a shell
    Shell {
        /// Its name
        name: String,
    },
}

/// Does it; an expectation that failed is an error.
pub fn command(command: &Command) -> Result<()> {
    match command {
        Command::List => {
            for scenario in library::all()? {
                println!(
                    "{:18} {:>2} hosts  {:>4} s  {}",
                    scenario.name, scenario.hosts, scenario.seconds, scenario.about
                );
            }
            Ok(())
        }
        Command::Run(options) => {
            let scenario = library::find(&options.name)?;
            let binary = prepare(options.output.binary.as_deref())?;
            run::command(&scenario, &options.output, &binary)
        }
        Command::Soak { minutes, keep, output } => {
            let (scenario, text) = soak::scenario(*minutes, output.seed)?;
            if let Some(file) = keep {
                fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
            }
            let binary = prepare(output.binary.as_deref())?;
            run::command(&scenario, output, &binary)
        }
        Command::Selftest { json } => switch::selftest::command(json.as_deref()),
        Command::Attribution(options) if !options.runs() => attribution::again(options),
        Command::Attribution(options) => {
            let binary = prepare(options.binary.as_deref())?;
            attribution::command(options, &binary)
        }
        Command::Guests(options) => guests::command(options),
        Command::Shell { name } => {
            let scenario = library::find(name)?;
            let binary = prepare(None)?;
            run::shell(&scenario, &binary)
        }
    }
}

/// Builds the node outside the sandbox, unless there is one; returns inside it.
fn prepare(binary: Option<&Path>) -> Result<PathBuf> {
    ensure!(is_permitted(), "the lab needs root: its hosts are network namespaces");
    if !sandbox::is_inside() && binary.is_none() {
        let setup = setup::ensure(Purpose::Demo)?;
        eprintln!("lab: building the node");
        build::node(setup.bpf.as_ref()).context("building the node")?;
    }
    sandbox::enter()?;
    Ok(binary.map_or_else(paths::node_binary, Path::to_owned))
}
