//! Runs the tests: in a virtual machine, or here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::console::Transcript;
use super::image;
use super::kernel::{Kernel, Series};
use super::suite::Suite;
use crate::rig::{Process, Stopwatch, wait_for};
use crate::setup::apt;
use crate::paths;

/// For everything, boot included: it takes about ten seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(180);
/// For the rest of a panic's lines, or for switching off, once the outcome is known.
const GRACE: Duration = Duration::from_secs(5);

const QEMU: &str = "qemu-system-x86_64";

/// What came of running the tests on one kernel.
#[derive(Debug)]
pub(super) struct Run {
    /// What the output said.
    pub(super) transcript: Transcript,
    /// The full output.
    pub(super) log: PathBuf,
    /// The last lines of it.
    pub(super) tail: String,
    /// Whether it had to be ended, its time being up.
    pub(super) timed_out: bool,
    /// From the start to the kernel's first word; nothing where no kernel was started.
    pub(super) boot: Option<Duration>,
    /// Start to end.
    pub(super) duration: Duration,
}

impl Run {
    /// Boots `image` in qemu with the tests as its only program.
    pub(super) fn booted(kernel: Series, suite: &Suite, dir: &Path) -> Result<Self> {
        let kernel_image = kernel.fetch()?;
        let initrd = dir.join("initrd.img");
        let archive = image::initramfs(&fs::read(busybox()?)?, &fs::read(&suite.binary)?);
        fs::write(&initrd, archive).with_context(|| format!("writing {}", initrd.display()))?;
        let mut qemu = Command::new(qemu()?);
        // Software emulation: works everywhere, in virtual machines too.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "512"])
            .args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"])
            .arg(&kernel_image)
            .arg("-initrd")
            .arg(&initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1"]);
        let mut process = Process::spawn(&Kernel::Debian(kernel).to_string(), qemu, dir)?;
        Self::follow(&mut process, dir)
    }
}
