//! `cargo xtask lint`: format, clippy, licences.

use anyhow::{Context, Result, bail};

use crate::{exec, licences};

/// Everything that can be said about the code without running it. All checks are made, whichever fail first.
pub fn command() -> Result<()> {
    let checks = [
        exec::run(exec::cargo().args(["fmt", "--all", "--check"]))
            .context("`cargo fmt --all` puts that right"),
        clippy(&["--workspace", "--all-targets"]),
        // The kernel side is no default feature; its code also compiles for the host, where clippy can read it.
        clippy(&["--package", "probe-ebpf", "--features", "kernel", "--all-targets"]),
        licences::check(),
    ];
    let failed: Vec<String> =
        checks.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\nerror: "));
    }
    Ok(())
}

fn clippy(what: &[&str]) -> Result<()> {
    exec::run(exec::cargo().args(["clippy", "--quiet"]).args(what).args(["--", "-D", "warnings"]))
}
