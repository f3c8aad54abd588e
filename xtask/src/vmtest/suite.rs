//! The test binary: the probe's live tests, statically linked, with the eBPF object inside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::exec;

/// Named, also where it is the host's own: cargo then builds the build scripts without the flags below.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The tests that every kernel runs.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    /// Needs no library and no other file.
    pub(super) binary: PathBuf,
    /// How many tests the binary lists.
    pub(super) tests: usize,
}

/// What is read of cargo's JSON messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

impl Suite {
    /// Builds the tests with `object` inside. Cargo's output is below `dir`, apart from everybody else's, whose
    /// builds have other flags.
    pub(super) fn build(object: &Path, dir: &Path) -> Result<Self> {
        let mut cargo = exec::cargo();
        cargo
            .args(["test", "--quiet", "--no-run", "--package", "probe-user", "--test", "live"])
            .args(["--target", TARGET, "--message-format", "json-render-diagnostics", "--target-dir"])
            .arg(dir)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("PIKOSCOPE_BPF_OBJECT", object)
            // An emulated machine has to load and run it.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_STRIP", "symbols")])
            .stderr(Stdio::inherit());
        let messages = exec::output(&mut cargo).context("building the live tests")?;
        let binary = executable(&messages).context("cargo named no executable of the live tests")?;
        let listed = exec::output(Command::new(&binary).args(["--list", "--format", "terse"]))?;
        let tests = count_tests(&listed);
        ensure!(tests > 0, "{} has no tests", binary.display());
        Ok(Self { binary, tests })
    }
}

/// The one executable among cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find_map(|message| message.executable)
}

/// How many `NAME: test` lines there are.
fn count_tests(listed: &str) -> usize {
    listed.lines().filter(|line| line.ends_with(": test")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_other_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null,"fresh":true}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","executable":"/t/deps/live-1","fresh":false}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/deps/live-1")));
        assert_eq!(executable("not JSON"), None);
    }

    #[test]
    fn benchmarks_are_no_tests() {
        assert_eq!(count_tests("a: test\nm::b: test\nc: benchmark\n"), 2);
    }
}
