//! `cargo xtask build`: the eBPF object, then the node with the object inside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::setup::toolchain::BpfToolchain;
use crate::{exec, paths};

/// Cargo profile of the eBPF object, and its directory.
const PROFILE: &str = "bpf";
/// Rust's name for eBPF, little-endian.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// Builds the eBPF object and returns its path. Cargo decides whether there is anything to do.
pub fn object(toolchain: &BpfToolchain) -> Result<PathBuf> {
    compile(toolchain, "kernel", &paths::bpf_target())
}

/// Builds an object that every kernel must refuse, apart from the good one, and returns its path.
pub fn broken_object(toolchain: &BpfToolchain) -> Result<PathBuf> {
    compile(toolchain, "broken", &paths::bpf_target().with_extension("broken"))
}

fn compile(toolchain: &BpfToolchain, feature: &str, target: &Path) -> Result<PathBuf> {
    let mut cargo = exec::foreign_cargo(&toolchain.cargo);
    let mut path = vec![toolchain.linker_dir()?.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    cargo
        .env("PATH", std::env::join_paths(path).context("PATH")?)
        .env("RUSTC", &toolchain.rustc)
        .env(
            "RUSTFLAGS",
            format!("-Cdebuginfo=2 -Clink-arg=--btf --cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        )
        .args(["build", "--quiet", "--profile", PROFILE, "-Z", "build-std=core"])
        .args(["--target", BPF_TARGET, "--package", "probe-ebpf", "--bin", "pikoscope-bpf"])
        .args(["--features", feature, "--target-dir"])
        .arg(target);
    if toolchain.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    exec::run(&mut cargo).context("building the eBPF object")?;
    let object = target.join(BPF_TARGET).join(PROFILE).join("pikoscope-bpf");
    ensure!(object.is_file(), "the build succeeded but left no {}", object.display());
    Ok(object)
}

/// Builds the release binary of the node and returns its path; without an eBPF toolchain it is one that can
/// only do tier 0.
///
/// `probe-user` embeds the object from where [`object`] leaves it. `PIKOSCOPE_BPF_OBJECT` is not set for that: it
/// would make every `cargo build` after a `cargo xtask build` start over, and the reverse.
pub fn node(toolchain: Option<&BpfToolchain>) -> Result<PathBuf> {
    let mut cargo = exec::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "pikoscope"]);
    if let Some(toolchain) = toolchain {
        object(toolchain)?;
    }
    exec::run(&mut cargo).context("building the node")?;
    let binary = paths::node_binary();
    ensure!(binary.is_file(), "the build succeeded but left no {}", binary.display());
    Ok(binary)
}
