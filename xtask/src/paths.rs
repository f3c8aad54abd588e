//! Where things are: the workspace, its build output, and what is kept between clones.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the workspace, where the top-level `Cargo.toml` is.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// The target directory of the eBPF object.
///
/// Always below the workspace, whatever `CARGO_TARGET_DIR` says: it is where `probe-user` looks by default.
pub fn bpf_target() -> PathBuf {
    workspace().join("target/bpf")
}

/// The node's release binary, once `cargo xtask build` has made it.
pub fn node_binary() -> PathBuf {
    target().join("release/pikoscope")
}

/// What is costly to make and shared by all clones: `$XDG_CACHE_HOME/pikoscope`, else `~/.cache/pikoscope`.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir,
        None => env::home_dir().context("neither XDG_CACHE_HOME nor HOME is set")?.join(".cache"),
    };
    Ok(base.join("pikoscope"))
}

/// The first `name` that can be executed on `PATH`, or in the directories where administrators' tools are but
/// an ordinary user's `PATH` does not look.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this is a file that this user may execute.
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
