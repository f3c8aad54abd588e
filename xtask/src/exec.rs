//! Running other programs, with their failure in words.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs to the end with this process' output; not succeeding is an error that shows the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs to the end and returns what it wrote to its standard output; standard error is part of the failure.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", line(command), output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`output`], with `input` on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading says why on its standard error; the broken pipe is no news.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}\ninput was:\n{input}", line(command), output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The cargo that runs this, for builds with the user's own toolchain.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::paths::workspace());
    command
}

/// A cargo of another toolchain, given by path.
///
/// The outer `cargo run` leaves its own toolchain in the environment (`RUSTC`, `RUSTUP_TOOLCHAIN`, `CARGO_*`,
/// its library path); none of it may reach the inner one. What the user set for all cargos stays.
pub fn foreign_cargo(cargo: &Path) -> Command {
    let mut command = Command::new(cargo);
    command.current_dir(crate::paths::workspace());
    for (key, _) in env::vars_os() {
        if let Some(name) = key.to_str()
            && names_a_toolchain(name)
        {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", without_toolchains(&path));
    }
    command
}

/// Whether this variable is one that selects or configures one particular toolchain or build.
fn names_a_toolchain(name: &str) -> bool {
    const FOR_ALL: [&str; 5] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_"];
    let of_cargo = name.starts_with("CARGO") && !FOR_ALL.iter().any(|kept| name.starts_with(kept));
    let of_rustc = name.starts_with("RUSTC") || name.starts_with("RUSTDOC");
    of_cargo || of_rustc || matches!(name, "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "RUST_RECURSION_COUNT")
}

fn without_toolchains(path: &OsStr) -> std::ffi::OsString {
    let kept: Vec<PathBuf> = env::split_paths(path)
        .filter(|dir| !dir.components().any(|part| part.as_os_str() == "toolchains"))
        .filter(|dir| !dir.starts_with(crate::paths::target()))
        .collect();
    env::join_paths(kept).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_is_told_from_what_holds_for_all() {
        for name in ["RUSTC", "RUSTFLAGS", "CARGO", "CARGO_PKG_NAME", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
            assert!(names_a_toolchain(name), "{name} would reach the inner cargo");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX", "RUSTUP_HOME", "PATH"] {
            assert!(!names_a_toolchain(name), "{name} would be lost");
        }
    }

    #[test]
    fn a_failure_shows_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo gone wrong >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("gone wrong") && text.contains("exit status: 3"), "{text}");
    }
}
