//! The tools that tests and the demo call: iproute2, util-linux, strace, chrony, prometheus.
//!
//! chrony and prometheus are never installed, because their packages start services and chrony's replaces the
//! system's time daemon: they are unpacked into the cache, where only the commands here see them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::apt;
use super::missing::Missing;
use crate::paths;

/// Directories that hold the unpacked tools, to be put first in `PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    dirs: Vec<PathBuf>,
    names: Vec<&'static str>,
}

struct Tool {
    program: &'static str,
    package: &'static str,
    needed_for: &'static str,
}

const NAMESPACES: [Tool; 3] = [
    Tool { program: "ip", package: "iproute2", needed_for: "hosts as network namespaces" },
    Tool { program: "nsenter", package: "util-linux", needed_for: "running nodes in namespaces" },
    Tool { program: "setpriv", package: "util-linux", needed_for: "ending nodes together with the demo" },
];

const TESTING: [Tool; 2] = [
    Tool { program: "tc", package: "iproute2", needed_for: "tests with queues" },
    Tool { program: "strace", package: "strace", needed_for: "counting the node's syscalls in tests" },
];

struct Unpacked {
    package: &'static str,
    programs: &'static [&'static str],
    /// Where the package has them.
    dirs: &'static [&'static str],
    needed_for: &'static str,
}

const CHRONY: Unpacked = Unpacked {
    package: "chrony",
    programs: &["chronyd", "chronyc"],
    dirs: &["usr/sbin", "usr/bin"],
    needed_for: "NTP readings in the demo and in tests (chronyd -x, which leaves the clock alone)",
};

const PROMETHEUS: Unpacked = Unpacked {
    package: "prometheus",
    programs: &["prometheus", "promtool"],
    dirs: &["usr/bin"],
    needed_for: "tests that scrape the node",
};

impl Tools {
    pub(super) fn for_demo(missing: &mut Vec<Missing>) -> Self {
        let mut tools = Self::default();
        if super::is_root() {
            tools.ensure_installed(&NAMESPACES, missing);
            tools.ensure_unpacked(&CHRONY, missing);
        }
        tools
    }

    pub(super) fn all(missing: &mut Vec<Missing>) -> Self {
        let mut tools = Self::default();
        tools.ensure_installed(&NAMESPACES, missing);
        tools.ensure_installed(&TESTING, missing);
        tools.ensure_unpacked(&CHRONY, missing);
        tools.ensure_unpacked(&PROMETHEUS, missing);
        tools
    }

    /// Value of `PATH` with the tools first, and with the administrators' directories, which an ordinary
    /// user's shell leaves out.
    pub fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = self.dirs.clone();
        for dir in std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        std::env::join_paths(dirs).unwrap_or(path)
    }

    fn ensure_installed(&mut self, wanted: &[Tool], missing: &mut Vec<Missing>) {
        let absent: Vec<&Tool> =
            wanted.iter().filter(|tool| paths::find_program(tool.program).is_none()).collect();
        let mut packages: Vec<&str> = absent.iter().map(|tool| tool.package).collect();
        packages.dedup();
        let installed = if absent.is_empty() { Ok(()) } else { apt::install(&packages) };
        for tool in wanted {
            if paths::find_program(tool.program).is_some() {
                self.names.push(tool.program);
                continue;
            }
            missing.push(Missing {
                what: tool.program.to_owned(),
                needed_for: tool.needed_for,
                reason: installed.as_ref().err().map(|error| format!("{error:#}")),
                remedy: install_command(tool.package),
            });
        }
    }

    fn ensure_unpacked(&mut self, wanted: &Unpacked, missing: &mut Vec<Missing>) {
        if wanted.programs.iter().all(|program| paths::find_program(program).is_some()) {
            self.names.extend(wanted.programs);
            return;
        }
        match unpacked_dirs(wanted) {
            Ok(dirs) => {
                self.dirs.extend(dirs);
                self.names.extend(wanted.programs);
            }
            Err(error) => missing.push(Missing {
                what: wanted.programs.join(", "),
                needed_for: wanted.needed_for,
                reason: Some(format!("{error:#}")),
                remedy: format!("have {} on your PATH", wanted.programs.join(" and ")),
            }),
        }
    }
}

/// Where a tool is: on `PATH`, or unpacked by an earlier setup. For tests, which may run without `xtask test`.
pub fn locate(program: &str) -> Option<PathBuf> {
    paths::find_program(program).or_else(|| {
        let tools = paths::cache().ok()?.join("tools");
        [CHRONY, PROMETHEUS]
            .iter()
            .flat_map(|unpacked| unpacked.dirs.iter().map(|dir| tools.join(unpacked.package).join(dir)))
            .map(|dir| dir.join(program))
            .find(|path| paths::is_executable(path))
    })
}

impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

/// Directories of an unpacked package, unpacking it when it is not there.
fn unpacked_dirs(wanted: &Unpacked) -> Result<Vec<PathBuf>> {
    let root = paths::cache()?.join("tools").join(wanted.package);
    let complete = |root: &Path| {
        wanted
            .programs
            .iter()
            .all(|program| wanted.dirs.iter().any(|dir| paths::is_executable(&root.join(dir).join(program))))
    };
    if !complete(&root) {
        let daemon = Path::new(wanted.dirs[0]).join(wanted.programs[0]);
        apt::unpack(wanted.package, &root, &daemon.to_string_lossy())?;
        anyhow::ensure!(complete(&root), "the package {} has other contents than expected", wanted.package);
    }
    Ok(wanted.dirs.iter().map(|dir| root.join(dir)).collect())
}

fn install_command(package: &str) -> String {
    let managers = [
        ("apt-get", "sudo apt-get install"),
        ("dnf", "sudo dnf install"),
        ("pacman", "sudo pacman -S"),
        ("apk", "sudo apk add"),
        ("zypper", "sudo zypper install"),
    ];
    match managers.iter().find(|(program, _)| paths::find_program(program).is_some()) {
        // Fedora's name for it.
        Some(("dnf", install)) if package == "iproute2" => format!("{install} iproute iproute-tc"),
        Some((_, install)) => format!("{install} {package}"),
        None => format!("install {package} with your system's package manager"),
    }
}
