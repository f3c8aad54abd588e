//! `cargo xtask fuzz`: hostile input for every decoder and for the core.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::{exec, paths};

/// The version that is installed when there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long each runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Look for misused memory as well: several times slower, and our code has no unsafe in what is fuzzed
    #[arg(long)]
    address_sanitizer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Datagrams of version 0
    V0Packet,
    /// Messages of version 0 over TCP
    V0Stream,
    /// Datagrams of version 1
    V1Packet,
    /// Where a MessagePack item ends, as it arrives
    Framing,
    /// Two cores, a third party's datagrams, and time
    Core,
}

impl Target {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
    /// Longest input. Longer ones add nothing that shorter ones have not, and cost speed.
    fn max_len(self) -> usize {
        match self {
            Self::V0Packet | Self::V1Packet => 1600,
            Self::V0Stream | Self::Core => 4096,
            Self::Framing => 512,
        }
    }
}

/// Builds the targets, seeds each one's corpus from Piko's own messages and our writers', and runs them one after
/// the other. All are run, whichever has a finding first.
pub fn command(options: &Options) -> Result<()> {
    ensure!(options.seconds > 0, "0 seconds would mean no end");
    let cargo_fuzz = cargo_fuzz()?;
    let dir = paths::target().join("fuzz");
    let sanitizer = if options.address_sanitizer { "address" } else { "none" };
    exec::run(
        exec::cargo()
            // Both are found on PATH by the other; the flags that it gives are those of a nightly compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("PATH", with_first(&cargo_fuzz)?)
            .args(["fuzz", "build", "--sanitizer", sanitizer, "--fuzz-dir", "node/fuzz", "--target-dir"])
            .arg(&dir),
    )?;
    let all = Target::value_variants();
    let targets = if options.targets.is_empty() { all } else { &options.targets };
    let failed: Vec<String> = targets
        .iter()
        .filter_map(|target| run(*target, &dir, options.seconds).err())
        .map(|error| format!("{error:#}"))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\nerror: "));
    }
    Ok(())
}

fn run(target: Target, dir: &Path, seconds: u32) -> Result<()> {
    let name = target.name();
    let (corpus, seeds, found) =
        (dir.join("corpus").join(&name), dir.join("seeds").join(&name), dir.join("found").join(&name));
    for dir in [&corpus, &seeds, &found] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let binary = binary(dir, &name)?;
    exec::run(Command::new(&binary).env("PIKOSCOPE_FUZZ_SEEDS", &seeds))?;
    println!("fuzz: {name} for {seconds} s");
    exec::run(
        Command::new(&binary)
            .args([&corpus, &seeds])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={}", target.max_len()))
            // A decoder that takes seconds or half a gigabyte for a packet is a finding.
            .args(["-timeout=5", "-rss_limit_mb=512", "-print_final_stats=1"]),
    )
    .with_context(|| format!("fuzz: {name} has a finding in {}", found.display()))
}

/// The built target; cargo-fuzz builds for an explicit triple.
fn binary(dir: &Path, name: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path().join("release").join(name))
        .find(|binary| paths::is_executable(binary))
        .with_context(|| format!("cargo-fuzz left no {name} in {}", dir.display()))
}

/// cargo-fuzz, installed when it is not there.
fn cargo_fuzz() -> Result<PathBuf> {
    if let Some(there) = paths::find_program("cargo-fuzz") {
        return Ok(there);
    }
    let root = paths::cache()?.join("tools/cargo-fuzz");
    let there = root.join("bin/cargo-fuzz");
    if !paths::is_executable(&there) {
        eprintln!("fuzz: installing cargo-fuzz {CARGO_FUZZ}, which takes about a minute");
        let version = format!("={CARGO_FUZZ}");
        exec::output(
            exec::cargo()
                .args(["install", "cargo-fuzz", "--locked", "--version", &version, "--root"])
                .arg(&root),
        )?;
        ensure!(paths::is_executable(&there), "cargo install left no {}", there.display());
    }
    Ok(there)
}

/// `PATH` with the directory of this program before all others.
fn with_first(program: &Path) -> Result<std::ffi::OsString> {
    let dir = program.parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(dir.into_iter().chain(std::env::split_paths(&path)))?)
}
