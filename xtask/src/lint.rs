//! `cargo xtask lint`: format, clippy, licences.

use anyhow::{Context, Result};

use crate::{exec, licences};

/// Everything that can be said about the code without running it; any finding is a failure.
pub fn command() -> Result<()> {
    exec::run(exec::cargo().args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts that right")?;
    clippy(&["--workspace", "--all-targets"])?;
    // The kernel side is no default feature; its code also compiles for the host, where clippy can read it.
    clippy(&["--package", "probe-ebpf", "--features", "kernel", "--all-targets"])?;
    licences::check()
}

fn clippy(what: &[&str]) -> Result<()> {
    exec::run(exec::cargo().args(["clippy", "--quiet"]).args(what).args(["--", "-D", "warnings"]))
}
