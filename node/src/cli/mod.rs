//! The command line.
//!
//! Exit codes of every command: 0 done, 1 failed (with one sentence on standard error), 2 wrong usage.
//! `doctor` exits with 1 also when the host is not ready; see [`doctor`](crate::doctor).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use probe_user::clock::spec::SourceSpec;

use crate::config::{self, Settings};
use crate::control::{Line, TraceId, client};

mod diagnose;
mod doctor;
mod replay;
mod run;
mod self_check;
mod status;
mod table;
mod watch;

pub use status::render as render_status;

/// Is it the network or the application? A gossip node that measures its own packets in the kernel.
#[derive(Debug, Parser)]
#[command(name = "pikoscope", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGINT or SIGTERM
    Run(Box<Run>),
    /// Show what the running node knows
    Status {
        #[command(flatten)]
        control: Control,
        /// The whole report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show it again every second
    Top {
        #[command(flatten)]
        control: Control,
    },
    /// Set an entry of the running node; prints its new version
    Set {
        /// Key
        key: String,
        /// Value
        value: String,
        /// The trace that it belongs to (W3C trace-id, 32 hexadecimal digits); it travels with the entry
        #[arg(long, value_name = "HEX")]
        trace_id: Option<TraceId>,
        #[command(flatten)]
        control: Control,
    },
    /// Show who holds a key: node, version, value
    Get {
        /// Key
        key: String,
        #[command(flatten)]
        control: Control,
    },
    /// Delete an entry of the running node; prints the version of the deletion
    Delete {
        /// Key
        key: String,
        #[command(flatten)]
        control: Control,
    },
    /// Show changes as they happen: nodes that come and go, keys that get values
    Watch {
        #[command(flatten)]
        control: Control,
        /// One JSON object per change
        #[arg(long)]
        json: bool,
        /// The protocol's own keys too
        #[arg(long)]
        internal: bool,
    },
    /// Tell where in the cluster the trouble is: a host, one side of it, a direction, a link, or everybody
    Diagnose {
        #[command(flatten)]
        control: Control,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Judge a recorded run again: each change of a path's verdict, from what `run --record FILE` wrote
    Replay {
        /// The record
        file: PathBuf,
    },
    /// Compare the eBPF stamps with SO_TIMESTAMPING's on the same packets, over loopback; fails when they differ
    SelfCheck {
        /// How many packets
        #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        packets: u32,
        /// Write the differences to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Tell what this host can measure, why not more, and what to do about it
    Doctor {
        #[command(flatten)]
        control: Control,
        /// Who tells how wrong the clock is, as for `run`
        #[arg(long = "clock-source", value_name = "SOURCE")]
        clock_sources: Option<Vec<SourceSpec>>,
        /// Where chronyd answers queries [default: 127.0.0.1:323]
        #[arg(long, value_name = "IP:PORT")]
        chrony: Option<SocketAddr>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `pikoscope run`.
#[derive(Debug, Args)]
struct Run {
    /// TOML file with the same settings, `interval_ms` for --interval-ms; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Which node to talk to.
#[derive(Debug, Args)]
struct Control {
    /// Control socket of the node [default: /run/pikoscope/control.sock for root,
    /// $XDG_RUNTIME_DIR/pikoscope/control.sock for others]
    #[arg(long = "control", value_name = "PATH")]
    path: Option<PathBuf>,
}

impl Control {
    fn path(self) -> Result<PathBuf, config::ConfigError> {
        self.path.or_else(config::default_control).ok_or(config::ConfigError::NoControlPath)
    }
}

/// Any failure; its `Display` is the one sentence for the user.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command.execute() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("pikoscope: {}", one_line(&failure.to_string()));
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn execute(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Run(run) => run::run(*run)?,
            Self::Status { control, json } => status::status(&control.path()?, json)?,
            Self::Top { control } => status::top(&control.path()?)?,
            Self::Set { key, value, trace_id, control } => {
                change(control, Line::Set { key, value, trace_id })?
            }
            Self::Delete { key, control } => change(control, Line::Delete { key })?,
            Self::Get { key, control } => return get(control, key),
            Self::Watch { control, json, internal } => watch::watch(&control.path()?, json, internal)?,
            Self::Diagnose { control, json } => diagnose::diagnose(&control.path()?, json)?,
            Self::Replay { file } => replay::replay(&file)?,
            Self::SelfCheck { packets, json } => return self_check::self_check(packets, json.as_deref()),
            Self::Doctor { control, clock_sources, chrony, json } => {
                let sources = SourceSpec::with_chrony(clock_sources, chrony);
                return doctor::doctor(control.path().ok(), &sources, json);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn change(control: Control, line: Line) -> Result<(), Failure> {
    let answer = client::ask(&control.path()?, &line)?;
    print(&format!("version {}\n", answer.version.unwrap_or_default())).map(drop)
}

/// Nobody holding the key is an answer, and still a failure: scripts want to tell.
fn get(control: Control, key: String) -> Result<ExitCode, Failure> {
    let held = client::ask(&control.path()?, &Line::Get { key: key.clone() })?.held.unwrap_or_default();
    if held.is_empty() {
        return Err(format!("no node holds the key {key:?}").into());
    }
    // Few use traces, and none need a column of dashes.
    let traced = held.iter().any(|held| held.trace_id.is_some());
    let header = ["NODE", "VERSION", "TRACE", "VALUE"];
    let header: Vec<_> = header.into_iter().filter(|name| traced || *name != "TRACE").collect();
    let mut table = table::Table::new(&header).right(&[1]);
    for held in held {
        let trace = held.trace_id.map_or_else(|| "-".into(), |id| id.to_string());
        let cells = [held.node, held.version.to_string()].into_iter();
        table.row(cells.chain(traced.then_some(trace)).chain([held.value]));
    }
    print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// To standard output; a reader that went away (`| head`) is no failure, and told by `false`.
fn print(text: &str) -> Result<bool, Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}").into())
        }
        written => Ok(written.is_ok()),
    }
}

/// Some errors of libraries span lines (the verifier's log does).
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Host, LogLevel, ProbeMode};
    use clap::CommandFactory;
    use probe_ebpf::time::{MonoNs, Span};
    use probe_user::clock::mapping::{Injected, InjectedStep};

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_arrives() {
        let cli = Cli::try_parse_from([
            "pikoscope",
            "run",
            "--node-id",
            "n",
            "--bind",
            "127.0.0.1:0",
            "--advertise",
            "127.0.0.1:0",
            "--seed",
            "127.0.0.1:1",
            "--seed",
            "127.0.0.1:2",
            "--interval-ms",
            "50",
            "--metrics-bind",
            "127.0.0.1:0",
            "--control",
            "/c",
            "--probe",
            "timestamping",
            "--ring-bytes",
            "4096",
            "--chrony",
            "127.0.0.1:99",
            "--probe-stats",
            "--hardware-stamps",
            "eth0",
            "--record",
            "/r",
            "--final-report",
            "/f",
            "--inject-clock-error-ns",
            "-50000000",
            "--inject-clock-drift-ppb",
            "-50000",
            "--inject-clock-step-ns",
            "-7",
            "--inject-clock-step-at-ns",
            "9",
            "--log",
            "debug",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        let host = Host { name: Ok("h".into()), page_bytes: 4096, control: None };
        let config = run.settings.validate(&host).unwrap();
        assert_eq!(config.seeds.len(), 2);
        assert_eq!(
            (config.probe, config.log, config.probe_stats),
            (ProbeMode::Timestamping, LogLevel::Debug, true)
        );
        assert_eq!(config.hardware_stamps.as_deref(), Some("eth0"));
        let step = InjectedStep { by: Span::from_nanos(-7), at: MonoNs::from_nanos(9), seen: false };
        let injected = Injected { at_boot: Span::from_millis(-50), drift_ppb: -50_000, step: Some(step) };
        assert_eq!(config.inject_clock_error, injected);
        assert_eq!(config.interval.as_millis(), 50);
        assert_eq!((config.record, config.final_report), (Some("/r".into()), Some("/f".into())));
    }

    #[test]
    fn what_is_not_given_stays_open_for_the_file() {
        let cli = Cli::try_parse_from(["pikoscope", "run", "--config", "x"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.settings, Settings::default());
    }

    #[test]
    fn wrong_usage_is_refused_and_test_aids_are_not_advertised() {
        for args in
            [vec!["pikoscope"], vec!["pikoscope", "fly"], vec!["pikoscope", "run", "--probe", "magic"]]
        {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2);
        }
        let help = Cli::command().find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(help.contains("--ring-bytes") && !help.contains("inject"), "{help}");
    }

    #[test]
    fn failures_are_one_line() {
        assert_eq!(one_line("a\n\n  b\n"), "a; b");
    }
}
