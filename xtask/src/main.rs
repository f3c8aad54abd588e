//! `cargo xtask`: what a developer of pikoscope types.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::setup::{self, Purpose};
use xtask::{bench, build, ci, demo, fuzz, lab, lint, sim, test, vmtest};

/// Builds, shows and tests pikoscope.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the eBPF toolchain and the test tools
    Setup,
    /// Build the eBPF object and the node: target/release/pikoscope
    Build,
    /// Three nodes, changing entries, and where the time goes; as root on three hosts with the eBPF probe
    Demo(demo::Options),
    /// Run all tests; arguments go to `cargo test --workspace`
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure what things cost, beside a yardstick
    Bench(bench::Options),
    /// Run the live probe tests on other kernels: Debian's 6.1 and 6.12 in qemu, and this one
    Vmtest(vmtest::Options),
    /// Hosts and links in trouble, on one machine, with the truth about every packet
    Lab {
        #[command(subcommand)]
        command: lab::Command,
    },
    /// Many nodes in one process under virtual time: how fast a change spreads, and what that costs
    #[command(disable_help_flag = true)]
    Sim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Hostile input for every decoder and for the core
    Fuzz(fuzz::Options),
    /// Check format, clippy and licences
    Lint,
    /// All that must hold before a change lands
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::command(),
        Command::Build => setup::ensure(Purpose::Build).and_then(|setup| {
            let binary = build::node(setup.bpf.as_ref())?;
            println!("{}", binary.display());
            Ok(())
        }),
        Command::Demo(options) => demo::command(&options),
        Command::Test { args } => test::command(&args),
        Command::Bench(options) => bench::command(&options),
        Command::Vmtest(options) => vmtest::command(&options),
        Command::Lab { command } => lab::command(&command),
        Command::Sim { args } => sim::command(&args),
        Command::Fuzz(options) => fuzz::command(&options),
        Command::Lint => lint::command(),
        Command::Ci => ci::command(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
