//! `cargo xtask`: what a developer of pikoscope types.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::setup::{self, Purpose};
use xtask::build;

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
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::command(),
        Command::Build => setup::ensure(Purpose::Build).and_then(|setup| {
            let binary = build::node(setup.bpf.as_ref())?;
            println!("{}", binary.display());
            Ok(())
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
