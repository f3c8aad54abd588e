//! `cargo xtask vmtest`: the live probe tests on the kernels that users have, not only on this one.
//!
//! One statically linked test binary runs under each kernel: Debian's in qemu with software emulation (seconds
//! to boot, no hardware help needed), and this machine's own. A kernel that refuses the program makes it red
//! with the verifier's log.

pub mod console;
pub mod cpio;
mod image;
pub mod kernel;
pub(crate) mod machine;
mod suite;
mod verdict;

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::setup::{self, Purpose};
use crate::{build, paths};
use kernel::Kernel;
use machine::Run;
use suite::Suite;
use verdict::Verdict;

/// What to run, and where.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Run on this kernel only (may be repeated). Debian's are downloaded once and kept in the cache
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Build a mistake into the eBPF program: every kernel must refuse it, so this must fail
    #[arg(long)]
    break_program: bool,
}

/// Runs the tests under each kernel, one after the other; fails after the last when any was red.
pub fn command(options: &Options) -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "vmtest has kernels for x86_64 only");
    let setup = setup::ensure(Purpose::Build)?;
    let toolchain = setup.bpf.as_ref().context("the eBPF toolchain is missing")?;
    let object =
        if options.break_program { build::broken_object(toolchain)? } else { build::object(toolchain)? };
    let dir = paths::target().join("vmtest");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let suite = Suite::build(&object, &dir)?;

    let kernels = if options.kernels.is_empty() { &Kernel::ALL[..] } else { &options.kernels };
    let (mut passed, mut failed, mut red) = (0, 0, Vec::new());
    for &kernel in kernels {
        let name = kernel.to_string();
        let run = match kernel {
            Kernel::Host => Run::here(&name, &suite, &dir)?,
            Kernel::Debian(series) => Run::booted(&name, &series.fetch()?, &suite, &dir)?,
        };
        let verdict = Verdict::of(&run, kernel, suite.tests);
        println!("{kernel:<5} {verdict}");
        if !verdict.is_green() {
            eprintln!("{}", verdict.explanation(&run));
            red.push(name);
        }
        passed += verdict.passed;
        failed += verdict.failed;
    }
    println!("vmtest: {passed} passed, {failed} failed");
    if !red.is_empty() {
        bail!("red on {}", red.join(", "));
    }
    Ok(())
}
