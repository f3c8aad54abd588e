//! `cargo xtask sim`: many nodes in one process under virtual time.
//!
//! The simulator is an example of the node's package (`node/examples/sim`), since it drives the node's own core;
//! these commands shall not have to be built with it.

use std::ffi::OsString;

use anyhow::Result;

use crate::exec;

/// Builds the simulator and runs it with these arguments, in the directory that the user is in.
pub fn command(args: &[OsString]) -> Result<()> {
    let mut cargo = exec::cargo();
    let manifest = crate::paths::workspace().join("Cargo.toml");
    cargo.args(["run", "--quiet", "--release", "--package", "pikoscope", "--example", "sim"]);
    cargo.arg("--manifest-path").arg(manifest).arg("--").args(args);
    // Files that the user names are relative to here, not to the workspace.
    cargo.current_dir(std::env::current_dir()?);
    exec::run(&mut cargo)
}
