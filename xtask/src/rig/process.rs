//! A child process with its output in a file: signalled, waited for, and never left behind.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{sandbox, wait_for};
use crate::{exec, paths};

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log_dir/NAME.log`.
    ///
    /// Outside a sandbox the child is told to die with the thread that starts it, if the system has `setpriv`.
    pub fn spawn(name: &str, command: Command, log_dir: &Path) -> Result<Self> {
        let log = log_dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = bound_to_parent(command);
        let child = command
            // A Ctrl-C at the terminal is for the one who started it, who then ends it in good order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}: `{}`", exec::line(&command)))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid: of the program itself, since every wrapper in front of it has replaced itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("pid")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Stops it from running until [`resume`](Self::resume) (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error with the end of its log, if it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("{} has ended ({status}); {}", self.name, self.log_tail(20)),
            None => Ok(()),
        }
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(&what, deadline, || Ok(self.child.try_wait()?))
    }

    /// Asks it to end (SIGTERM) and expects it to do so with status 0.
    pub fn stop(&mut self, deadline: Duration) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        let status = self.wait(deadline)?;
        ensure!(status.success(), "{} ended with {status}; {}", self.name, self.log_tail(20));
        Ok(())
    }

    /// Kills it (SIGKILL) and reaps it; that it has ended before is no error.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill()?;
            let status = self.child.wait()?;
            ensure!(status.signal().is_some() || status.code().is_some(), "no status");
        }
        Ok(())
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last `lines` of what it has written, with a heading.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        let tail = &all[all.len().saturating_sub(lines)..];
        if tail.is_empty() {
            return "it wrote nothing".to_owned();
        }
        format!("it wrote at last:\n    {}", tail.join("\n    "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process is killed all the same; one that has ended is only reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `command`, to die with its parent where no sandbox sees to that.
fn bound_to_parent(command: Command) -> Command {
    if sandbox::is_inside() {
        return command;
    }
    let Some(setpriv) = paths::find_program("setpriv") else { return command };
    wrap(Command::new(setpriv).args(["--pdeathsig", "KILL", "--"]), &command)
}

/// `front` followed by `command` as its arguments, with `command`'s environment and directory.
pub(super) fn wrap(front: &mut Command, command: &Command) -> Command {
    let mut wrapped = Command::new(front.get_program());
    wrapped.args(front.get_args()).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_process_that_ends_early_is_told_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut process =
            Process::spawn("brief", shell("echo no such port >&2; exit 7"), dir.path()).unwrap();
        process.wait(Duration::from_secs(10)).unwrap();
        let text = format!("{:#}", process.ensure_running().unwrap_err());
        assert!(text.contains("no such port") && text.contains('7'), "{text}");
    }

    #[test]
    fn dropping_kills_and_reaps_even_what_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn("sleeper", shell("exec sleep 1000"), dir.path()).unwrap();
        let pid = process.pid();
        process.pause().unwrap();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn stop_expects_a_clean_end() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let mut process = Process::spawn("tidy", shell(script), dir.path()).unwrap();
        wait_for("its trap", Duration::from_secs(10), || Ok(process.log().contains("ready").then_some(())))
            .unwrap();
        process.stop(Duration::from_secs(10)).unwrap();
    }
}
