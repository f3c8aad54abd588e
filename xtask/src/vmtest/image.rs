//! The machine's only file system: busybox, the tests, and an `init` that runs them and switches off.

use super::console::MARK;
use super::cpio::Archive;

/// Everything that the machine boots into. Both programs must be statically linked.
pub(super) fn initramfs(busybox: &[u8], tests: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", busybox);
    archive.program("tests", tests);
    archive.program("init", init().as_bytes());
    archive.finish()
}

/// The first process. Ending it for any reason (`set -e`) makes the kernel panic, which the runner sees.
///
/// Kernel messages are kept off the serial line from here on, so that they do not cut the tests' lines in two;
/// a panic comes through all the same.
fn init() -> String {
    format!(
        r#"#!/bin/busybox sh
set -e
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t bpf bpf /sys/fs/bpf
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t devtmpfs devtmpfs /dev
$b mount -t tmpfs tmpfs /tmp
$b dmesg -n 1
$b ip link set lo up
read -r release </proc/sys/kernel/osrelease
echo
echo "{MARK} release $release"
status=0
CI=true RUST_BACKTRACE=0 /tests --test-threads=1 2>&1 || status=$?
echo
echo "{MARK} exit $status"
$b poweroff -f
"#
    )
}
