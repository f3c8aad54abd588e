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
    // A thousand nodes are a gigabyte that is touched at random. On a virtual machine half of the time went into page
    // tables; glibc asks for huge pages when told so (others do not read this).
    cargo.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4294967296");
    // Files that the user names are relative to here, not to the workspace.
    cargo.current_dir(std::env::current_dir()?);
    exec::run(&mut cargo)
}
