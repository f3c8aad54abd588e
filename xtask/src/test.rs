//! `cargo xtask test`: all tests, with everything they need, in a sandbox.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::rig::{interrupt, is_permitted, sandbox};
use crate::setup::{self, Purpose};
use crate::{build, exec};

/// Runs `cargo test --workspace` with `extra` arguments.
///
/// As root the tests attach the real probe and make real hosts. Otherwise those tests say that they are
/// left out; in CI that is a failure.
pub fn command(extra: &[OsString]) -> Result<()> {
    // Outside the sandbox first, since it may install packages; inside this finds everything.
    let setup = setup::ensure(Purpose::Test)?;
    let permitted = is_permitted();
    if permitted {
        sandbox::enter()?;
    } else if setup::is_ci() {
        bail!("CI must run the tests as root: they attach eBPF programs and make network namespaces");
    }
    interrupt::exit_on_signals()?;
    for missing in &setup.missing {
        eprintln!("MISSING, so the tests that need it will fail:\n{missing}");
    }
    if !permitted {
        eprintln!(
            "NOT ROOT: every test with the eBPF probe, with hosts as namespaces or with chronyd is left out.\n\
             sudo -E env \"PATH=$PATH\" cargo xtask test runs them all."
        );
    }
    if let Some(bpf) = &setup.bpf {
        build::object(bpf)?;
    }
    let mut cargo = exec::cargo();
    cargo.args(["test", "--workspace"]).args(extra).env("PATH", setup.tools.path());
    cargo.env("TMPDIR", sandbox::temp_dir());
    exec::run(&mut cargo)
}
