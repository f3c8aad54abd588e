//! Doing troubles to a running bed, and undoing them.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::json;

use super::trouble::Trouble;
use crate::lab::bed::Bed;
use crate::lab::scenario::{LinkOrder, Scenario, host_name};
use crate::lab::switch::Port;
use crate::lab::timeline::{Step, pairs};
use crate::lab::trouble::Troubles;
use crate::rig::{Process, Stopwatch, node, sandbox};

/// The receive buffer that is next to nothing: the kernel's least.
const LEAST_BUFFER: usize = 1;
/// Bytes of a datagram of a burst.
const BURST_BYTES: usize = 16;
/// The period of a CPU quota.
const QUOTA_PERIOD_US: u32 = 100_000;
/// Competing traffic, as a share of the link's rate.
const COMPETING: f64 = 1.15;

/// What is in force and has to be undone.
#[derive(Debug, Default)]
pub struct Hands {
    troubles: Troubles,
    quotas: Vec<(usize, Quota)>,
    floods: Vec<(usize, Flood)>,
    buffers: Vec<(usize, OwnedFd, usize)>,
}

impl Hands {
    /// Begins a trouble; pulses are the caller's, by [`step`](Self::step).
    pub fn begin(&mut self, trouble: &Trouble, scenario: &Scenario, bed: &mut Bed) -> Result<()> {
        if let Some((from, to, both, spec)) = trouble.link() {
            return self.step(&Step::Link(directed(from, to, both, scenario), spec), scenario, bed);
        }
        match *trouble {
            Trouble::Congest { host, kbit_per_s, queue_bytes } => {
                let competing_kbit_per_s = (f64::from(kbit_per_s) * COMPETING) as u32;
                let step = Step::Throttle { host, kbit_per_s, queue_bytes, competing_kbit_per_s };
                self.step(&step, scenario, bed)
            }
            Trouble::ClockLie { host, ms } => {
                self.step(&Step::NtpOffset(host, f64::from(ms) / 1e3), scenario, bed)
            }
            Trouble::SlowHandler { host, us } => slow_handler(host, us, bed),
            Trouble::Starve { host, percent } => {
                let pid = bed.seat(host).node().context("no node")?.process().pid();
                self.quotas.push((host, Quota::set(host, pid, percent)?));
                Ok(())
            }
            Trouble::SmallBuffer { host, burst, every_ms } => {
                let pid = bed.seat(host).node().context("no node")?.process().pid();
                let socket = gossip_socket(pid)?;
                // The kernel doubles what it is asked for, and tells the double.
                let before = getsockopt(&socket, sockopt::RcvBuf)? / 2;
                setsockopt(&socket, sockopt::RcvBuf, &LEAST_BUFFER)?;
                self.buffers.push((host, socket, before));
                self.floods.push((host, Flood::start(host, burst, every_ms, bed)?));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends it.
    pub fn end(&mut self, trouble: &Trouble, scenario: &Scenario, bed: &mut Bed) -> Result<()> {
        if let Some((from, to, both, _)) = trouble.link() {
            return self.step(&Step::Restore(directed(from, to, both, scenario)), scenario, bed);
        }
        match *trouble {
            Trouble::Congest { host, .. } => self.step(&Step::Unthrottle(host), scenario, bed),
            Trouble::ClockLie { host, .. } => self.step(&Step::NtpOffset(host, 0.0), scenario, bed),
            Trouble::SlowHandler { host, .. } => slow_handler(host, 0, bed),
            Trouble::Starve { host, .. } => {
                self.quotas.retain(|(starved, _)| *starved != host);
                Ok(())
            }
            Trouble::SmallBuffer { host, .. } => {
                self.floods.retain(|(flooded, _)| *flooded != host);
                for (_, socket, before) in self.buffers.extract_if(.., |(small, ..)| *small == host) {
                    setsockopt(&socket, sockopt::RcvBuf, &before)?;
                }
                Ok(())
            }
            Trouble::Stop { host, .. } => self.step(&Step::Resume(host), scenario, bed),
            _ => Ok(()),
        }
    }

    /// One step that the lab knows.
    pub fn step(&mut self, step: &Step, scenario: &Scenario, bed: &mut Bed) -> Result<()> {
        self.troubles.act(step, scenario, bed)
    }
}

fn directed(from: usize, to: usize, both: bool, scenario: &Scenario) -> Vec<(usize, usize)> {
    let order = LinkOrder {
        from: Some(host_name(from)),
        to: Some(host_name(to)),
        one_way: !both,
        is: crate::lab::switch::LinkSpec::default(),
    };
    pairs(&order, scenario.hosts)
}

fn slow_handler(host: usize, us: u32, bed: &mut Bed) -> Result<()> {
    let node = bed.seat(host).node().context("no node")?;
    node.control().ask(&json!({"cmd": "slow_handler", "us": us})).map(drop)
}

/// A copy of the UDP socket of a node (pidfd_getfd), to change what the node itself does not let change.
fn gossip_socket(pid: u32) -> Result<OwnedFd> {
    let process =
        pidfd_open(Pid::from_raw(i32::try_from(pid)?).context("a pid of zero")?, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !is_socket {
            continue;
        }
        let fd = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        let is_datagram = getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Datagram);
        let port = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&fd))
            .ok()
            .and_then(|address| address.as_sockaddr_in().map(|v4| v4.port()));
        if is_datagram && port == Some(node::gossip([0, 0, 0, 0]).port()) {
            return Ok(fd);
        }
    }
    anyhow::bail!("process {pid} has no socket at the gossip port")
}

/// A CPU quota that a node shares with a program that never waits. Dropping it lets the node go and kills the program.
#[derive(Debug)]
struct Quota {
    dir: PathBuf,
    node: u32,
    _hog: Process,
}

/// The CPU controller of cgroup v1.
const V1: &str = "/sys/fs/cgroup/cpu";
/// The tree of cgroup v2.
const V2: &str = "/sys/fs/cgroup";

impl Quota {
    fn set(host: usize, node: u32, percent: u32) -> Result<Self> {
        let quota_us = QUOTA_PERIOD_US / 100 * percent;
        let name = format!("pikoscope-lab-{}-{}", std::process::id(), host_name(host));
        let v1 = Path::new(V1).join("tasks").exists();
        let dir = Path::new(if v1 { V1 } else { V2 }).join(name);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("making the cgroup {}", dir.display()));
            }
            _ => {}
        }
        let write = |file: &str, text: String| {
            fs::write(dir.join(file), text).with_context(|| format!("writing {file} of {}", dir.display()))
        };
        if v1 {
            write("cpu.cfs_period_us", QUOTA_PERIOD_US.to_string())?;
            write("cpu.cfs_quota_us", quota_us.to_string())?;
        } else {
            fs::write(Path::new(V2).join("cgroup.subtree_control"), "+cpu").context("the CPU controller")?;
            write("cpu.max", format!("{quota_us} {QUOTA_PERIOD_US}"))?;
        }
        let files = tempfile::tempdir_in(sandbox::temp_dir())?;
        let mut hog = Command::new("sh");
        hog.args(["-c", "while :; do :; done"]);
        let hog = Process::spawn(&format!("hog-{}", host_name(host)), hog, files.path())?;
        write("cgroup.procs", hog.pid().to_string())?;
        write("cgroup.procs", node.to_string())?;
        Ok(Self { dir, node, _hog: hog })
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let root = self.dir.parent().unwrap_or(Path::new("/")).join("cgroup.procs");
        // One that has ended is in no group any more.
        let _ = fs::write(root, self.node.to_string());
        let _ = self._hog.kill();
        let watch = Stopwatch::start();
        // The kernel takes a moment to take the dead out.
        while fs::remove_dir(&self.dir).is_err() && watch.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A program of a host that sends to the host's own node.
#[derive(Debug)]
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(host: usize, burst: u32, every_ms: u32, bed: &Bed) -> Result<Self> {
        let own = Port::host(host).v4();
        let from = SocketAddr::new(own.into(), 0);
        let to = node::gossip(own);
        let socket = bed.namespace(host).within(move || UdpSocket::bind(from))??;
        socket.set_nonblocking(true)?;
        ensure!(burst > 0 && every_ms > 0, "a burst of nothing");
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_millis(every_ms.into());
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..burst {
                        // What finds no room is what this is for.
                        let _ = socket.send_to(&[0; BURST_BYTES], to);
                    }
                    thread::sleep(every);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
