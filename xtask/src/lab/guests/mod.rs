//! `cargo xtask lab guests`: two virtual machines with clocks of their own, linked through the switch.
//!
//! Namespaces share the kernel's clocks, so a wrong clock has to be made up there. Emulated machines have their own:
//! each boots at another moment, sets its wall clock from a chip that knows whole seconds, and finds out the rate of
//! its counter by itself. In each runs a node with the eBPF probe, and a chronyd that follows a server on the host
//! and leaves the guest's clock alone, so that nothing but the node's correction brings the two together.
//!
//! What the nodes measure is held against the host's own stamps ([`packets`]); each guest's clock is bracketed on the
//! host's by causality alone ([`bracket`]).

mod bracket;
mod desk;
mod figures;
mod guest;
mod judge;
mod kit;
mod packets;
mod starved;
mod trial;

use std::fmt::Display;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::paths;
use crate::rig::Stopwatch;
use crate::rig::interrupt::Interrupt;
use crate::vmtest::kernel::Kernel;
use crate::vmtest::machine;

/// What to run, and where to write what came out.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run on this kernel only (may be repeated): 6.1 or 6.12
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// How long to measure: half of it with 5 ms more one way
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(15..=3600))]
    seconds: u32,
    /// Let b's chronyd believe that its server is off by this much: nodes that do not notice have bounds that are too
    /// small, and nodes that do stop correcting by clocks; so this must fail
    #[arg(long, value_name = "MS", default_value_t = 0.0, allow_negative_numbers = true)]
    lie_ms: f64,
    /// Instead of delaying packets, let b's machine stand still for 40 ms of each 97 ms, as a starved virtual CPU does,
    /// and see what the nodes call it: never plain network
    #[arg(long)]
    starve: bool,
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run this node instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs a trial on each kernel and judges it; fails after the last when any expectation did.
pub fn command(options: &Options) -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "the guests' kernels are for x86_64 only");
    let debian = || Kernel::ALL.into_iter().filter(|kernel| *kernel != Kernel::Host);
    ensure!(!options.kernels.contains(&Kernel::Host), "a guest has a kernel of its own: 6.1 or 6.12");
    let kernels = if options.kernels.is_empty() { debian().collect() } else { options.kernels.clone() };
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("guests are linked by TAP devices, and /dev/net/tun cannot be opened: it needs root and the kernel module tun")?;
    machine::qemu()?;
    machine::busybox()?;
    let mut images = Vec::new();
    for kernel in kernels {
        if let Kernel::Debian(series) = kernel {
            images.push((kernel, series.fetch()?));
        }
    }
    let node = super::prepare(options.binary.as_deref())?;
    let interrupt = Interrupt::catch()?;
    let (mut results, mut red) = (Vec::new(), Vec::new());
    for (kernel, image) in images {
        let watch = Stopwatch::start();
        let tell = |what: &str| eprintln!("guests: {kernel} {:6.2} s  {what}", watch.elapsed().as_secs_f64());
        let dir = paths::target().join("guests").join(kernel.to_string());
        let length = Duration::from_secs(options.seconds.into());
        let (lie_ms, starve) = (options.lie_ms, options.starve);
        let order = trial::Order { image, dir, node: node.clone(), length, lie_ms, starve };
        let context = || format!("guests with kernel {kernel}");
        let remains = trial::run(&order, &interrupt, &tell).with_context(context)?;
        let (passes, result) = if starve {
            let outcome = starved::Outcome::of(kernel, &remains).with_context(context)?;
            (outcome.passes(), show(&outcome)?)
        } else {
            let outcome = judge::Outcome::of(kernel, &remains).with_context(context)?;
            (outcome.passes(), show(&outcome)?)
        };
        if !passes {
            red.push(kernel.to_string());
        }
        results.push(result);
    }
    if let Some(file) = &options.json {
        let all = json!({ "pass": red.is_empty(), "kernels": results });
        let text = serde_json::to_string_pretty(&all)? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    if !red.is_empty() {
        bail!("expectations failed with kernel {}", red.join(" and "));
    }
    Ok(())
}

/// Prints an outcome, and gives it as JSON.
fn show(outcome: &(impl Display + Serialize)) -> Result<Value> {
    println!("{outcome}");
    Ok(serde_json::to_value(outcome)?)
}
