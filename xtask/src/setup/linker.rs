//! bpf-linker, of a pinned version, kept outside `target/` because it takes about a minute to build.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt;
use crate::{exec, paths};

/// The version that links aya-ebpf 0.2's output into an object that aya 0.14 loads.
const VERSION: &str = "0.13.0";
/// LLVM versions that it can be built against.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Path of the linker for a compiler with this LLVM, building it when it is not there.
///
/// Its LLVM must not be older than the compiler's, whose bitcode it reads.
pub(super) fn ensure_for(llvm: u32) -> Result<PathBuf> {
    let cache = paths::cache()?;
    if let Some(there) = (llvm..=*LLVMS.end())
        .map(|llvm| root(&cache, llvm).join("bin/bpf-linker"))
        .find(|linker| paths::is_executable(linker))
    {
        return Ok(there);
    }
    let (llvm, prefix) = llvm_at_least(llvm)?;
    let root = root(&cache, llvm);
    eprintln!("setup: building bpf-linker {VERSION} with LLVM {llvm}, which takes about a minute");
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    // Any cargo can build it; the one that runs this is there for certain.
    let cargo = exec::cargo().get_program().to_owned();
    exec::output(
        exec::foreign_cargo(cargo.as_ref())
            .current_dir(&cache)
            .env("LLVM_PREFIX", &prefix)
            .args(["install", "bpf-linker", "--version", &format!("={VERSION}"), "--no-default-features"])
            .args(["--features", &format!("llvm-{llvm}"), "--root"])
            .arg(&root),
    )?;
    let linker = root.join("bin/bpf-linker");
    ensure!(paths::is_executable(&linker), "cargo install left no {}", linker.display());
    Ok(linker)
}

/// Where the linker for one LLVM is installed.
fn root(cache: &std::path::Path, llvm: u32) -> PathBuf {
    cache.join(format!("bpf-linker-{VERSION}-llvm-{llvm}"))
}

/// An LLVM with headers, `wanted` or newer, as version and prefix; installed when root on Debian.
fn llvm_at_least(wanted: u32) -> Result<(u32, PathBuf)> {
    if let Some(found) = find_llvm(wanted) {
        return Ok(found);
    }
    ensure!(
        wanted <= *LLVMS.end(),
        "the compiler has LLVM {wanted}, newer than bpf-linker {VERSION} knows; an older nightly will do"
    );
    for llvm in wanted.max(*LLVMS.start())..=*LLVMS.end() {
        if apt::install(&[&format!("llvm-{llvm}-dev")]).is_ok()
            && let Some(found) = find_llvm(wanted)
        {
            return Ok(found);
        }
    }
    bail!("no LLVM {wanted} with headers to build bpf-linker against (Debian's package: llvm-{wanted}-dev)")
}

fn find_llvm(wanted: u32) -> Option<(u32, PathBuf)> {
    (wanted.max(*LLVMS.start())..=*LLVMS.end()).find_map(|llvm| {
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        if prefix.join("include/llvm-c/Core.h").exists() {
            return Some((llvm, prefix));
        }
        // Systems with a single LLVM.
        let config = paths::find_program(&format!("llvm-config-{llvm}"))
            .or_else(|| paths::find_program("llvm-config"))?;
        let version = exec::output(Command::new(&config).arg("--version")).ok()?;
        if version.split('.').next()?.parse::<u32>().ok()? != llvm {
            return None;
        }
        let prefix = PathBuf::from(exec::output(Command::new(&config).arg("--prefix")).ok()?.trim());
        prefix.join("include/llvm-c/Core.h").exists().then_some((llvm, prefix))
    })
}
