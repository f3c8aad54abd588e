//! Debian's package tools: installing as root, and unpacking without installing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{exec, paths};

/// Whether this system has apt and dpkg.
pub(super) fn is_here() -> bool {
    paths::find_program("apt-get").is_some() && paths::find_program("dpkg").is_some()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// Renews the package lists, once in a process, as root; without root what is there must do.
fn update() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        if !super::is_root() {
            return Ok(());
        }
        exec::output(apt_get().args(["update", "-qq"])).map(drop).map_err(|error| format!("{error:#}"))
    })
    .clone()
    .map_err(|error| anyhow!(error))
}

/// Installs packages. As root only.
///
/// Never for a package that starts a service or replaces one: those are [`unpack`]ed.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    ensure!(is_here(), "this system has no apt-get");
    ensure!(super::is_root(), "not root");
    eprintln!("setup: installing {}", packages.join(" "));
    update()?;
    exec::output(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages)).map(drop)
}

/// Names of the packages that a regular expression matches.
pub(crate) fn search(pattern: &str) -> Result<Vec<String>> {
    ensure!(is_here(), "this system has no apt-get");
    update()?;
    let found = exec::output(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
    Ok(found.lines().filter_map(|line| line.split_once(" - ")).map(|(name, _)| name.to_owned()).collect())
}

/// Downloads `package` and unpacks it into `into` without installing it: no service is started, no user made,
/// nothing of the system replaced. Shared libraries that `program` (relative to `into`) lacks are installed.
pub(crate) fn unpack(package: &str, into: &Path, program: &str) -> Result<()> {
    ensure!(is_here(), "this system has no apt-get and dpkg");
    eprintln!("setup: unpacking {package} into {}", into.display());
    let parent = into.parent().context("the tools' directory has no parent")?;
    fs::create_dir_all(parent)?;
    // Beside its final place, so that it comes into being by one rename.
    let scratch = tempfile::Builder::new().prefix(".unpack-").tempdir_in(parent)?;
    update()?;
    exec::output(
        apt_get()
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(scratch.path()),
    )?;
    let archive = fs::read_dir(scratch.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no package file"))?;
    let tree = scratch.path().join("tree");
    exec::output(Command::new("dpkg").arg("-x").arg(&archive).arg(&tree))?;
    let lacking = lacking_libraries(&tree.join(program))?;
    if !lacking.is_empty() {
        let depends = exec::output(Command::new("dpkg-deb").arg("-f").arg(&archive).arg("Depends"))?;
        let libraries = library_packages(&depends);
        ensure!(
            super::is_root(),
            "{program} lacks {}; as root: apt-get install {}",
            lacking.join(", "),
            libraries.join(" ")
        );
        install(&libraries)?;
    }
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::rename(&tree, into).with_context(|| format!("moving {package} to {}", into.display()))
}

/// Names of shared libraries that the dynamic linker does not find for `program`.
fn lacking_libraries(program: &Path) -> Result<Vec<String>> {
    // ldd fails for a static program, which lacks nothing.
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("not found"))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// The library packages among a package's dependencies; of alternatives the first.
fn library_packages(depends: &str) -> Vec<&str> {
    depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        .filter(|name| name.starts_with("lib"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_taken_from_the_dependencies() {
        let depends =
            "adduser, iproute2, libc6 (>= 2.36), libcap2 (>= 1:2.10), libedit2 | libedit-dev (>= 2)\n";
        assert_eq!(library_packages(depends), ["libc6", "libcap2", "libedit2"]);
    }

    #[test]
    fn a_program_that_runs_lacks_no_library() {
        let shell = paths::find_program("sh").expect("every system has a shell");
        assert_eq!(lacking_libraries(&shell).unwrap(), Vec::<String>::new());
    }
}
