//! Namespaces around the whole command, so that nothing outlives it, not even when it is killed.
//!
//! The command runs itself again as the first process of a new pid namespace, with a mount namespace of its
//! own, an empty `/run/netns` and a place for files. When that process ends, the kernel kills every process it ever started; with
//! its mounts go the named network namespaces, and with those bridges and veths. It ends by itself, or because
//! the visible process in front of it was killed (parent-death signal). Nothing has to be cleaned up, and runs
//! side by side do not see each other.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Once;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Set inside a sandbox, to the pid (outside) of the visible process.
pub const SANDBOX_ENV: &str = "PIKOSCOPE_SANDBOX";

/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

/// A tmpfs inside a sandbox, for files that are to go with it. Outside it is an empty directory.
const FILES: &str = "/run/pikoscope-sandbox";

/// Set inside a sandbox, to the place of its own tmpfs: [`FILES`], or in a sandbox inside another a directory in
/// that one's, so that the outer files stay in sight.
const FILES_ENV: &str = "PIKOSCOPE_SANDBOX_FILES";

/// Where to make temporary files: inside a sandbox a place that goes with it.
pub fn temp_dir() -> PathBuf {
    match env::var_os(FILES_ENV) {
        Some(files) if is_inside() => PathBuf::from(files),
        _ => env::temp_dir(),
    }
}

/// Whether this process already runs inside a sandbox.
pub fn is_inside() -> bool {
    env::var_os(SANDBOX_ENV).is_some()
}

/// Returns inside a sandbox. Needs root.
///
/// Outside, this process becomes the visible front: it starts the same command inside, passes signals on,
/// waits, and exits with the same status, so the call does not return. To be called from the main thread,
/// before others are started.
pub fn enter() -> Result<()> {
    static SET_UP: Once = Once::new();
    if let Some(front) = env::var_os(SANDBOX_ENV) {
        let mut result = Ok(());
        if getpid() == Pid::from_raw(1) {
            SET_UP.call_once(|| result = set_up(Path::new(&front)));
        }
        return result.context("setting up the sandbox");
    }
    let status = run_inside(Command::new(own_binary()?).args(env::args_os().skip(1)))?;
    std::process::exit(code(status));
}

/// Runs `command` as the first process of a new sandbox and waits for it; the command has to call [`enter`],
/// which makes the mounts. SIGINT, SIGTERM and SIGHUP are passed on.
fn run_inside(command: &mut Command) -> Result<ExitStatus> {
    let files = match env::var_os(FILES_ENV) {
        Some(outer) => PathBuf::from(outer).join(std::process::id().to_string()),
        None => PathBuf::from(FILES),
    };
    // Mount points inside have to be there outside. They stay, empty: always the same two.
    for dir in [Path::new(NETNS), &files] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    unshare(CloneFlags::CLONE_NEWPID).context("a pid namespace was refused (root is needed)")?;
    let mut child = command
        .env(SANDBOX_ENV, std::process::id().to_string())
        .env(FILES_ENV, files)
        .spawn()
        .context("starting the command inside a sandbox")?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("pid")?);
    loop {
        for signal in signals.wait() {
            if signal != SIGCHLD {
                // It may just have ended, which the next wait tells.
                let _ = kill(pid, Signal::try_from(signal)?);
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
    }
}

/// First steps of the first process inside.
fn set_up(front: &Path) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // Still the outer /proc. If the front died before the line above, nothing will ever kill this.
    if !Path::new("/proc").join(front).exists() {
        bail!("the process in front is gone");
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none).context("/proc")?;
    mount(Some("tmpfs"), NETNS, Some("tmpfs"), safe, Some("mode=0755")).context(NETNS)?;
    let files = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Others may pass, to what is made for them: tests run nodes as other users.
    let place = temp_dir();
    mount(Some("tmpfs"), &place, Some("tmpfs"), files, Some("mode=0711"))
        .with_context(|| place.display().to_string())?;
    Ok(())
}

fn own_binary() -> Result<PathBuf> {
    env::current_exe().context("finding this program's own file")
}

/// Exit code as a shell would tell it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
