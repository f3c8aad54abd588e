//! A scenario from start to end.

use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bed::Bed;
use super::counters::Usage;
use super::expect;
use super::load::Writer;
use super::measure::{Measured, Used};
use super::packets::Packets;
use super::plot;
use super::report::Report;
use super::scenario::{Scenario, host_name};
use super::statements;
use super::switch::clock::mono_now;
use super::timeline::{self, Step, Timed};
use super::trouble::Troubles;
use crate::rig::Stopwatch;
use crate::rig::interrupt::Interrupt;

/// What to run and where to write what came out.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The scenario's name, or a file that ends in .toml
    pub name: String,
    /// The rest, which `soak` has too.
    #[command(flatten)]
    pub output: Output,
}

/// The seed of a run, and where to write what came out.
#[derive(Clone, Debug, clap::Args)]
pub struct Output {
    /// Decides all random numbers
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw every path's segments over time to this file, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Run this node instead of building one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// Lines of progress on standard error; on a terminal the last one counts time.
struct Progress {
    watch: Stopwatch,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { watch: Stopwatch::start(), terminal: stderr().is_terminal() }
    }

    /// Without a last line that counts: somebody else writes there, too.
    fn beside_a_shell(self) -> Self {
        Self { terminal: false, ..self }
    }

    fn tell(&self, what: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}lab: {:6.2} s  {what}", self.watch.elapsed().as_secs_f64());
    }

    fn count(&self, what: &str) {
        if self.terminal {
            eprint!("\r\x1b[Klab: {:6.2} s  {what}", self.watch.elapsed().as_secs_f64());
            let _ = stderr().flush();
        }
    }
}

/// Runs a scenario and shows the result. Must be inside a sandbox.
pub fn command(scenario: &Scenario, options: &Output, binary: &Path) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let measured = measure(scenario, options.seed, binary, &interrupt)?;
    let judged = expect::judge(&scenario.expectations, &measured);
    let report = Report::new(scenario, options.seed, judged, &measured);
    println!("{}", report.text());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(file) = &options.plot {
        let svg = plot::draw(scenario, &measured.packets.joined);
        fs::write(file, svg).with_context(|| format!("writing {}", file.display()))?;
    }
    let failed = report.expectations.iter().filter(|judged| judged.status == expect::Status::Fail).count();
    ensure!(failed == 0, "{failed} of {} expectations failed", report.expectations.len());
    Ok(())
}

/// Brings it up, lets it happen, takes it down, and joins what is left.
fn measure(scenario: &Scenario, seed: u64, binary: &Path, interrupt: &Interrupt) -> Result<Measured> {
    let progress = Progress::new();
    let mut bed = Bed::up(scenario, seed, binary, &mut |what| progress.tell(what))?;
    let up_ns = i64::try_from(progress.watch.elapsed().as_nanos())?;
    progress.tell(&format!("up; {} s to go", scenario.seconds));
    let granted = bed.switch().granted();
    if !granted.realtime {
        progress.tell("the switch has no real-time priority: links are less exact");
    }
    bed.wait_for_start()?;
    let writer = Writer::start(&scenario.load, bed.places());
    let mut troubles = Troubles::default();
    let pids = bed.pids();
    let before: Vec<Option<Usage>> = pids.iter().map(|pid| pid.and_then(Usage::of)).collect();
    let start = mono_now().as_nanos();
    follow(scenario, &mut bed, &mut troubles, &progress, &|| interrupt.is_raised())?;
    ensure!(!interrupt.is_raised(), "interrupted");
    let after: Vec<Option<Usage>> = pids.iter().map(|pid| pid.and_then(Usage::of)).collect();
    let usage = before
        .into_iter()
        .zip(after)
        .map(|(before, after)| Some(Used::between(before?, after?, scenario.seconds)))
        .collect();
    let changes = writer.stop();
    progress.tell(&format!("over, after {changes} changes of entries"));
    end(scenario, &mut bed, &mut troubles)?;
    let not_converged = bed.not_converged()?;
    progress.tell("going down");
    let remains = bed.down()?;
    progress.tell(&format!("down after {:.2} s", remains.down.as_secs_f64()));
    let packets = Packets::join(scenario, &remains, &troubles, start)?;
    ensure!(packets.unrecorded == 0, "nodes could not record {} packets", packets.unrecorded);
    progress.tell(&format!(
        "{} packets joined; the switch: {:?}",
        packets.joined.len(),
        remains.switch.totals.all
    ));
    let mut said = Vec::new();
    for (host, records) in remains.records.iter().enumerate() {
        // One that was killed before it could write has none.
        for record in records.iter().filter(|record| record.exists()) {
            said.extend(statements::of(record, host, false)?);
        }
    }
    Ok(Measured {
        packets,
        remains,
        usage,
        not_converged,
        up_ns,
        ipv6: scenario.ipv6,
        statements: said,
        start,
        lies_from: troubles.first_ntp_change.unwrap_or(start),
    })
}

/// Does every step in its time, until the scenario is over or it is to stop.
fn follow(
    scenario: &Scenario,
    bed: &mut Bed,
    troubles: &mut Troubles,
    progress: &Progress,
    is_stopped: &dyn Fn() -> bool,
) -> Result<()> {
    let watch = Stopwatch::start();
    let end = Duration::from_secs_f64(scenario.seconds);
    let mut steps = timeline::steps(scenario).into_iter().peekable();
    let mut looked = Duration::ZERO;
    loop {
        if is_stopped() {
            return Ok(());
        }
        let now = watch.elapsed();
        while let Some(Timed { at, step }) = steps.next_if(|timed| timed.at <= now) {
            if !matches!(step, Step::Pause(_) | Step::Resume(_)) {
                progress.tell(&format!("{:5.2}: {}", at.as_secs_f64(), words(&step)));
            }
            troubles.act(&step, scenario, bed).with_context(|| format!("at {at:?}: {}", words(&step)))?;
        }
        if now >= end {
            return Ok(());
        }
        if now >= looked {
            looked = now + Duration::from_secs(1);
            bed.ensure_running()?;
            progress.count(&format!("{:.0} of {} s", now.as_secs_f64(), scenario.seconds));
        }
        let next = steps.peek().map_or(end, |timed| timed.at.min(end));
        // Short, since it is also how long Ctrl-C may take.
        thread::sleep(next.saturating_sub(watch.elapsed()).min(Duration::from_millis(50)));
    }
}

/// Undoes what would keep the nodes from ending in good order.
fn end(scenario: &Scenario, bed: &mut Bed, troubles: &mut Troubles) -> Result<()> {
    for host in 0..scenario.hosts {
        troubles.act(&Step::Resume(host), scenario, bed)?;
        troubles.act(&Step::Feed(host), scenario, bed)?;
    }
    Ok(())
}

fn words(step: &Step) -> String {
    let names = |hosts: &[usize]| hosts.iter().map(|host| host_name(*host)).collect::<Vec<_>>().join(",");
    match step {
        Step::Link(pairs, spec) => format!("{} links become {spec:?}", pairs.len()),
        Step::Restore(pairs) => format!("{} links as at the start", pairs.len()),
        Step::Cut(one, other) => format!("{} cut off from {}", names(one), names(other)),
        Step::Heal(one, other) => format!("{} and {} together again", names(one), names(other)),
        Step::Pause(host) => format!("{} stopped", host_name(*host)),
        Step::Resume(host) => format!("{} goes on", host_name(*host)),
        Step::Kill(host) => format!("{} killed", host_name(*host)),
        Step::Start(_, id) => format!("{id} started"),
        Step::Starve { host, hogs, nice } => format!("{hogs} hogs (nice {nice}) beside {}", host_name(*host)),
        Step::Feed(host) => format!("no hogs beside {}", host_name(*host)),
        Step::Throttle { host, kbit_per_s, competing_kbit_per_s, .. } => {
            format!(
                "{}'s own link at {kbit_per_s} kbit/s, with {competing_kbit_per_s} of others",
                host_name(*host)
            )
        }
        Step::Unthrottle(host) => format!("{}'s own link as before", host_name(*host)),
        Step::StartNtp(host, _) => format!("{}'s chronyd starts", host_name(*host)),
        Step::KillNtp => "the NTP server dies".to_owned(),
        Step::NtpOffset(host, seconds) => {
            format!("{}'s chronyd says {:.1} ms", host_name(*host), seconds * 1e3)
        }
    }
}

/// Brings a scenario up, starts its load and its events, and leaves it to a shell until that ends.
///
/// The events happen once. What a scenario leaves as it is at its end stays so, for as long as the shell lives.
pub fn shell(scenario: &Scenario, binary: &Path) -> Result<()> {
    let progress = Progress::new();
    let mut bed = Bed::up(scenario, 1, binary, &mut |what| progress.tell(what))?;
    let progress = progress.beside_a_shell();
    let writer = Writer::start(&scenario.load, bed.places());
    eprintln!(
        "\nThe load runs; this shell's end takes all down. Each host is a network namespace with the addresses\n10.77.0.N and fd77::N:"
    );
    for host in 0..scenario.hosts {
        let control = bed.seat(host).node().map(|node| node.control().path().display().to_string());
        let control = control.unwrap_or_default();
        eprintln!(
            "  {}: ip netns exec {} COMMAND; {} status --control {control}",
            host_name(host),
            bed.namespace(host).name(),
            binary.display()
        );
    }
    match scenario.events.len() {
        0 => eprintln!("There are no events."),
        events => eprintln!(
            "The events ({events}) begin now, are told here, and happen once, within {} s.",
            scenario.seconds
        ),
    }
    let mut troubles = Troubles::default();
    let over = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            match follow(scenario, &mut bed, &mut troubles, &progress, &|| over.load(Ordering::Relaxed)) {
                Ok(()) if over.load(Ordering::Relaxed) => {}
                Ok(()) => progress.tell("the events are over; all stays as it is now, and the load goes on"),
                // Whoever sits at the shell may well have done it.
                Err(error) => progress.tell(&format!("no further events: {error:#}")),
            }
        });
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "sh".into());
        let ended = process::Command::new(shell).status().context("starting the shell");
        over.store(true, Ordering::Relaxed);
        ended
    });
    writer.stop();
    end(scenario, &mut bed, &mut troubles)?;
    bed.down()?;
    ended.map(drop)
}
