//! `cargo xtask demo`: three nodes, changing entries, and where the time goes, live.

mod cluster;
pub mod report;
mod table;
mod writer;

use std::fs;
use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::interrupt::Interrupt;
use crate::rig::{Stopwatch, is_permitted, sandbox};
use crate::setup::{self, Purpose};
use crate::{build, paths};
use cluster::Cluster;
use report::Report;
use writer::Writer;

/// Between two looks at the nodes on a terminal, and elsewhere.
const REFRESH: Duration = Duration::from_secs(1);
const REFRESH_PLAIN: Duration = Duration::from_secs(5);

/// How the demo is to be run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run for --seconds, then print the result and exit
    #[arg(long)]
    once: bool,
    /// With --once: how long to run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Write the final report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the demo until Ctrl-C, or as long as `options` say.
pub fn command(options: &Options) -> Result<()> {
    let setup = setup::ensure(Purpose::Demo)?;
    let permitted = is_permitted();
    if !sandbox::is_inside() {
        for missing in &setup.missing {
            eprintln!("demo: going on without\n{missing}");
        }
        if !permitted {
            eprintln!(
                "demo: not root, so no hosts as namespaces and no eBPF: three nodes on loopback, at tier 0"
            );
        }
        eprintln!("demo: building the node");
        build::node(setup.bpf.as_ref())?;
    }
    if permitted {
        sandbox::enter()?;
    }
    let interrupt = Interrupt::catch()?;
    let binary = paths::node_binary();
    let mut cluster = if permitted { Cluster::on_hosts(&binary)? } else { Cluster::on_loopback(&binary)? };
    let writer = Writer::start(cluster.controls());
    let watched = watch(&mut cluster, options, &interrupt);
    writer.stop();
    watched?;
    let place = cluster.place();
    let report = cluster.stop()?;
    print!("{}{}\n{}", heading(&report, place), table::render(&report), table::summary(&report));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// Shows the nodes until the time is over or Ctrl-C comes; a node that dies is an error.
fn watch(cluster: &mut Cluster, options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut screen = Screen::new();
    if options.once && !screen.terminal {
        eprintln!("demo: running for {} s", options.seconds);
    }
    let started = Stopwatch::start();
    let mut shown = Stopwatch::start();
    let end = options.once.then(|| Duration::from_secs(options.seconds));
    while !interrupt.is_raised() && end.is_none_or(|end| started.elapsed() < end) {
        // Short, since it is also how long Ctrl-C may take.
        thread::sleep(Duration::from_millis(50));
        let due = if screen.terminal { REFRESH } else { REFRESH_PLAIN };
        if shown.elapsed() < due {
            continue;
        }
        shown = Stopwatch::start();
        cluster.ensure_running()?;
        // Without a terminal, --once prints its result at the end only.
        if screen.terminal || !options.once {
            let report = cluster.report()?;
            let seconds = started.elapsed().as_secs();
            let heading = heading(&report, cluster.place());
            let hint = match end {
                Some(end) => format!("{seconds} of {} s\n", end.as_secs()),
                None => format!("{seconds} s; Ctrl-C ends it\n"),
            };
            screen.show(&format!("{heading}{hint}\n{}", table::render(&report)))?;
        }
    }
    screen.clear()
}

fn heading(report: &Report, place: &str) -> String {
    format!("pikoscope: {place}, kernel {}, tier {}\n", report.kernel, table::tier(report.tier))
}

/// Redraws in place on a terminal; elsewhere one text follows the other.
struct Screen {
    terminal: bool,
    fresh: bool,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: stdout().is_terminal(), fresh: true }
    }

    fn show(&mut self, text: &str) -> Result<()> {
        let mut out = stdout().lock();
        if self.terminal {
            if self.fresh {
                // Clear once; afterwards lines are overwritten, which does not flicker.
                write!(out, "\x1b[2J")?;
            }
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\r\n"))?;
        } else {
            writeln!(out, "{text}")?;
        }
        self.fresh = false;
        out.flush()?;
        Ok(())
    }

    /// Makes room for the result.
    fn clear(&mut self) -> Result<()> {
        if self.terminal && !self.fresh {
            let mut out = stdout().lock();
            write!(out, "\x1b[H\x1b[2J")?;
            out.flush()?;
        }
        Ok(())
    }
}
