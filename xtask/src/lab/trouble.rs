//! Doing what a timeline says, and undoing it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::bed::{Bed, ports};
use super::scenario::Scenario;
use super::switch::clock::mono_now;
use super::switch::{LinkSpec, Port};
use super::timeline::{Step, pairs};
use crate::exec;
use crate::rig::{Process, Stopwatch};

/// The CPU on which nodes are starved; the switch has the last one.
const STARVED_CPU: usize = 0;
/// Payload of the competing traffic.
const COMPETING_BYTES: usize = 1_200;
/// Port at the hub that takes the competing traffic.
const DISCARD_PORT: u16 = 9;

/// What is in force and has to be undone.
#[derive(Debug, Default)]
pub struct Troubles {
    hogs: Vec<(usize, Vec<Process>)>,
    competing: Vec<(usize, Competing)>,
    paused: Vec<(usize, i64)>,
    /// When a chronyd first was told to say something else, in nanoseconds of CLOCK_MONOTONIC.
    pub first_ntp_change: Option<i64>,
    /// When nodes were stopped, in nanoseconds of CLOCK_MONOTONIC: (host, from, to).
    pub pauses: Vec<(usize, i64, i64)>,
}

impl Troubles {
    /// Does one step.
    pub fn act(&mut self, step: &Step, scenario: &Scenario, bed: &mut Bed) -> Result<()> {
        let group = |hosts: &[usize]| hosts.iter().map(|host| Port::host(*host)).collect::<Vec<_>>();
        match step {
            Step::Link(pairs, spec) => bed.switch().set_all(&ports(pairs), *spec).map(drop),
            Step::Restore(pairs) => restore(pairs, scenario, bed),
            Step::Cut(one, other) => bed.switch().partition(&group(one), &group(other)).map(drop),
            Step::Heal(one, other) => bed.switch().heal(&group(one), &group(other)).map(drop),
            Step::Pause(host) => {
                if let Some(node) = bed.seat(*host).node() {
                    node.process().pause()?;
                    self.paused.push((*host, mono_now().as_nanos()));
                }
                Ok(())
            }
            Step::Resume(host) => {
                if let Some(node) = bed.seat(*host).node() {
                    node.process().resume()?;
                }
                let until = mono_now().as_nanos();
                let ended = self.paused.extract_if(.., |(paused, _)| paused == host);
                self.pauses.extend(ended.map(|(host, from)| (host, from, until)));
                Ok(())
            }
            Step::Kill(host) => bed.kill_node(*host),
            Step::Start(host, id) => bed.start_node(*host, id),
            Step::Starve { host, hogs, nice } => self.starve(*host, *hogs, *nice, bed),
            Step::Feed(host) => {
                self.hogs.retain(|(starved, _)| starved != host);
                Ok(())
            }
            Step::Throttle { host, kbit_per_s, queue_bytes, competing_kbit_per_s } => {
                let ns = bed.namespace(*host).name();
                let qdisc = format!(
                    "-netns {ns} qdisc add dev eth0 root tbf rate {kbit_per_s}kbit burst 1600 limit {queue_bytes}"
                );
                exec::output(Command::new("tc").args(qdisc.split(' ')))?;
                if *competing_kbit_per_s > 0 {
                    self.competing.push((*host, Competing::start(*host, *competing_kbit_per_s, bed)?));
                }
                Ok(())
            }
            Step::Unthrottle(host) => {
                self.competing.retain(|(throttled, _)| throttled != host);
                let ns = bed.namespace(*host).name();
                exec::output(Command::new("tc").args(["-netns", ns, "qdisc", "del", "dev", "eth0", "root"]))
                    .map(drop)
            }
            Step::KillNtp => bed.kill_ntp(),
            Step::StartNtp(host, seconds) => bed.follow(*host, *seconds),
            Step::NtpOffset(host, seconds) => {
                self.first_ntp_change.get_or_insert(mono_now().as_nanos());
                bed.follow(*host, *seconds)
            }
        }
    }

    fn starve(&mut self, host: usize, hogs: u32, nice: i32, bed: &mut Bed) -> Result<()> {
        let Some(node) = bed.seat(host).node() else { return Ok(()) };
        bind(node.process().pid(), STARVED_CPU)?;
        let dir = tempfile::tempdir_in(crate::rig::sandbox::temp_dir())?;
        let processes = (0..hogs)
            .map(|number| {
                let mut hog = Command::new("nice");
                hog.args(["-n", &nice.to_string(), "sh", "-c", "while :; do :; done"]);
                let process = Process::spawn(&format!("hog-{host}-{number}"), hog, dir.path())?;
                bind(process.pid(), STARVED_CPU)?;
                Ok(process)
            })
            .collect::<Result<Vec<_>>>()?;
        self.hogs.push((host, processes));
        Ok(())
    }
}

/// What the links were at the start.
fn restore(changed: &[(usize, usize)], scenario: &Scenario, bed: &Bed) -> Result<()> {
    bed.switch().set_all(&ports(changed), LinkSpec::default())?;
    for order in &scenario.links {
        let mut again = pairs(order, scenario.hosts);
        again.retain(|pair| changed.contains(pair));
        bed.switch().set_all(&ports(&again), order.is)?;
    }
    Ok(())
}

/// Binds all threads of a process to one CPU.
fn bind(pid: u32, cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu).context("cpu")?;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = thread?.file_name();
        let thread: i32 = name.to_str().and_then(|name| name.parse().ok()).context("a thread's id")?;
        sched_setaffinity(Pid::from_raw(thread), &only)
            .with_context(|| format!("binding {pid} to CPU {cpu}"))?;
    }
    Ok(())
}

/// Other traffic on a host's link.
#[derive(Debug)]
struct Competing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Bound and never read: what comes is dropped without an answer.
    _discard: UdpSocket,
}

impl Competing {
    fn start(host: usize, kbit_per_s: u32, bed: &Bed) -> Result<Self> {
        let bind = |address: SocketAddr| move || UdpSocket::bind(address);
        // Each throttled host has a port of its own at the hub.
        let hub = SocketAddr::new(Port::HUB.v4().into(), DISCARD_PORT + u16::try_from(host)? * 100);
        let discard = bed.hub().within(bind(hub))?.with_context(|| format!("binding to {hub}"))?;
        let from = SocketAddr::new(Port::host(host).v4().into(), 0);
        let socket = bed.namespace(host).within(bind(from))??;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs_f64(COMPETING_BYTES as f64 * 8e-3 / f64::from(kbit_per_s));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let started = Stopwatch::start();
                let mut sent = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    // A full queue is what this is for.
                    let _ = socket.send_to(&[0; COMPETING_BYTES], hub);
                    sent += 1;
                    thread::sleep((every * sent).saturating_sub(started.elapsed()));
                }
            }
        });
        Ok(Self { stop, thread: Some(thread), _discard: discard })
    }
}

impl Drop for Competing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
