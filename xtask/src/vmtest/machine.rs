//! Runs the tests: in a virtual machine, or here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::console::Transcript;
use super::image;
use super::suite::Suite;
use crate::paths;
use crate::rig::{Process, Stopwatch, wait_for};
use crate::setup::apt;

/// For everything, boot included: it takes about ten seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(180);
/// For the rest of a panic's lines, or for switching off, once the outcome is known.
const GRACE: Duration = Duration::from_secs(5);

const QEMU: &str = "qemu-system-x86_64";
/// The shell and tools of the machine, in one static program.
const BUSYBOX: &str = "busybox-static";

/// What came of running the tests on one kernel.
#[derive(Debug)]
pub(super) struct Run {
    /// What the output said.
    pub(super) transcript: Transcript,
    /// The full output.
    pub(super) output: String,
    /// The file that keeps it.
    pub(super) log: PathBuf,
    /// Whether it had to be ended, its time being up.
    pub(super) timed_out: bool,
    /// From the start to the first word from the machine's `init`; nothing where no machine was started.
    pub(super) boot: Option<Duration>,
    /// Start to end.
    pub(super) duration: Duration,
}

impl Run {
    /// Boots `kernel` in qemu with the tests as its only purpose. The log is `NAME.log` in `dir`.
    pub(super) fn booted(name: &str, kernel: &Path, suite: &Suite, dir: &Path) -> Result<Self> {
        let initrd = dir.join("initrd.img");
        let archive = image::initramfs(&fs::read(busybox()?)?, &fs::read(&suite.binary)?);
        fs::write(&initrd, archive).with_context(|| format!("writing {}", initrd.display()))?;
        let mut qemu = Command::new(qemu()?);
        // Software emulation works everywhere, inside virtual machines too. Two processors: the probe counts
        // per processor, and the kernel tells all of them when stamping is switched on.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "512", "-nic", "none"])
            .args(["-nographic", "-no-reboot", "-append"])
            .arg("console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1")
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(&initrd);
        Self::follow(&mut Process::spawn(name, qemu, dir)?, log(name, dir), DEADLINE)
    }

    /// Runs the tests on this machine's kernel. The log is `NAME.log` in `dir`.
    pub(super) fn here(name: &str, suite: &Suite, dir: &Path) -> Result<Self> {
        let mut tests = Command::new(&suite.binary);
        tests.arg("--test-threads=1").env("CI", "true").env("RUST_BACKTRACE", "0");
        let mut process = Process::spawn(name, tests, dir)?;
        let mut run = Self::follow(&mut process, log(name, dir), DEADLINE)?;
        run.transcript.status = process.ended()?.and_then(|status| status.code());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("this kernel's release")?;
        run.transcript.release = Some(release.trim_end().to_owned());
        Ok(run)
    }

    /// Watches the output until the outcome is known, and sees that the process ends.
    fn follow(process: &mut Process, log: PathBuf, deadline: Duration) -> Result<Self> {
        let started = Stopwatch::start();
        let mut boot = None;
        let known = wait_for("the outcome of the tests", deadline, || {
            // Looked at first: once it has ended, the output is complete.
            let ended = process.ended()?.is_some();
            let so_far = Transcript::read(&process.log());
            if so_far.release.is_some() {
                boot.get_or_insert_with(|| started.elapsed());
            }
            Ok((ended || so_far.status.is_some() || so_far.fatal.is_some()).then_some(()))
        });
        let timed_out = known.is_err();
        if !timed_out {
            // A machine that can't switch itself off has still run the tests.
            let _ = process.wait(GRACE);
        }
        process.kill()?;
        let output = process.log();
        Ok(Self {
            transcript: Transcript::read(&output),
            output,
            log,
            timed_out,
            boot,
            duration: started.elapsed(),
        })
    }
}

/// Where a [`Process`] of this name writes.
fn log(name: &str, dir: &Path) -> PathBuf {
    dir.join(format!("{name}.log"))
}

/// The emulator; installed when it is missing and that is possible.
pub(crate) fn qemu() -> Result<PathBuf> {
    if paths::find_program(QEMU).is_none() {
        apt::install(&["qemu-system-x86"])
            .with_context(|| format!("{QEMU} is missing: sudo apt-get install qemu-system-x86"))?;
    }
    paths::find_program(QEMU).with_context(|| format!("the package has no {QEMU}"))
}

/// A static busybox from the cache, unpacked when it is missing.
pub(crate) fn busybox() -> Result<PathBuf> {
    let root = paths::cache()?.join("tools").join(BUSYBOX);
    let program = root.join("bin/busybox");
    if !paths::is_executable(&program) {
        apt::unpack(BUSYBOX, &root, "bin/busybox")?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a machine that is a shell with this script.
    fn follow(script: &str, deadline: Duration) -> (Run, Process) {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        let mut process = Process::spawn("machine", shell, dir.path()).unwrap();
        let run = Run::follow(&mut process, log("machine", dir.path()), deadline).unwrap();
        (run, process)
    }

    #[test]
    fn a_machine_that_hangs_is_ended_at_the_deadline_and_its_output_kept() {
        let (run, process) = follow("echo 'vmtest: release 6.1.0'; exec sleep 1000", Duration::from_secs(2));
        assert!(run.timed_out && run.boot.is_some());
        assert_eq!(run.transcript.release.as_deref(), Some("6.1.0"));
        assert!(!Path::new(&format!("/proc/{}", process.pid())).exists());
    }

    #[test]
    fn a_machine_that_has_panicked_is_not_waited_for_long() {
        let script = "echo '[    1.2] Kernel panic - not syncing: no init'; exec sleep 1000";
        let (run, process) = follow(script, Duration::from_secs(600));
        assert!(!run.timed_out && run.transcript.fatal.is_some());
        assert!(!Path::new(&format!("/proc/{}", process.pid())).exists());
    }

    #[test]
    fn a_machine_that_switches_off_is_done_at_once_with_all_it_wrote() {
        let (run, _) = follow("echo 'vmtest: exit 0'; sleep 0.2; echo Power down", Duration::from_secs(600));
        assert_eq!((run.timed_out, run.transcript.status), (false, Some(0)));
        assert!(run.output.ends_with("Power down\n"), "{}", run.output);
        assert!(run.duration < GRACE, "{:?}", run.duration);
    }
}
