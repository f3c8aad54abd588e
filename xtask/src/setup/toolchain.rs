//! The compiler for the eBPF object: it must build `core` for a target without a prebuilt one.
//!
//! In this order: a rustup nightly with its `rust-src` component; Debian's `rustc-web` with `rust-web-src`
//! (a stable compiler that is told to accept unstable options), installed when root on Debian; else a message
//! with the command for this system. Compilers are called by path: Debian's is in /usr/bin, beside rustup's
//! proxies of the same name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt, fs};

use anyhow::{Context, Result, bail};

use super::missing::{BPF_TOOLCHAIN, Missing};
use super::{apt, linker};
use crate::{exec, paths};

/// Debian's packages of a compiler with the sources of `core`, and the LLVM for the linker.
const DEBIAN: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];

/// A compiler with the sources of `core`, and the linker for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfToolchain {
    /// Its cargo.
    pub cargo: PathBuf,
    /// Its rustc.
    pub rustc: PathBuf,
    /// Whether rustc is a stable one that must be told to accept unstable options.
    pub bootstrap: bool,
    /// bpf-linker.
    pub linker: PathBuf,
}

impl BpfToolchain {
    /// Directory of the linker, for `PATH`: rustc finds it by name.
    pub fn linker_dir(&self) -> Result<&Path> {
        self.linker.parent().context("the linker's path has no directory")
    }

    pub(super) fn find_or_install() -> Result<Self, Missing> {
        let mut reasons = Vec::new();
        for find in [nightly, debian] {
            match find().and_then(Compiler::with_linker) {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        Err(Missing {
            what: BPF_TOOLCHAIN.to_owned(),
            needed_for: "building the kernel side; without it the node has tier 0 only",
            reason: Some(reasons.join("\n")),
            remedy: remedy(),
        })
    }
}

impl fmt::Display for BpfToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.rustc.display(), self.linker.display())
    }
}

struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    bootstrap: bool,
}

impl Compiler {
    fn with_linker(self) -> Result<BpfToolchain> {
        let llvm = llvm_major(&self.rustc)?;
        let linker = linker::ensure_for(llvm).with_context(|| self.rustc.display().to_string())?;
        Ok(BpfToolchain { cargo: self.cargo, rustc: self.rustc, bootstrap: self.bootstrap, linker })
    }
}

/// The plain `nightly` of rustup, else its newest dated one, that has the sources of `core`.
fn nightly() -> Result<Compiler> {
    let rustup = match env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().context("HOME is not set")?.join(".rustup"),
    };
    let mut toolchains: Vec<PathBuf> = fs::read_dir(rustup.join("toolchains"))
        .context("no rustup toolchains")?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly-")))
        .collect();
    // `nightly-x86_64…` sorts behind `nightly-2026-…`, and dates sort by age.
    toolchains.sort();
    let with_sources = toolchains
        .into_iter()
        .rev()
        .find(|path| path.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists());
    let Some(toolchain) = with_sources else { bail!("no rustup nightly with rust-src") };
    Ok(Compiler { cargo: toolchain.join("bin/cargo"), rustc: toolchain.join("bin/rustc"), bootstrap: false })
}

/// Debian's compiler; installed when root.
fn debian() -> Result<Compiler> {
    let there = || {
        paths::is_executable(Path::new("/usr/bin/rustc"))
            && paths::is_executable(Path::new("/usr/bin/cargo"))
            && Path::new("/usr/lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    };
    if !there() {
        apt::install(&DEBIAN).context("Debian's rustc-web with rust-web-src")?;
        if !there() {
            bail!("Debian's rustc-web and rust-web-src are installed, but not where they were expected");
        }
    }
    Ok(Compiler { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into(), bootstrap: true })
}

/// Major version of the LLVM in a rustc.
fn llvm_major(rustc: &Path) -> Result<u32> {
    let about = exec::output(Command::new(rustc).arg("-vV").env_remove("RUSTUP_TOOLCHAIN"))?;
    parse_llvm_major(&about).with_context(|| format!("{} tells no LLVM version", rustc.display()))
}

fn parse_llvm_major(about: &str) -> Option<u32> {
    about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.trim().parse().ok()
}

/// What to type on this system.
fn remedy() -> String {
    if apt::is_here() && paths::find_program("rustup").is_none() {
        return format!("sudo apt-get install {}", DEBIAN.join(" "));
    }
    let llvm = if apt::is_here() {
        "sudo apt-get install llvm-22-dev"
    } else {
        "install LLVM 22 (or newer) with its headers from your distribution"
    };
    format!("rustup toolchain install nightly --component rust-src; {llvm}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_rustc() {
        let about = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_llvm_major(about), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.0\nLLVM version: unknown\n"), None);
    }
}
