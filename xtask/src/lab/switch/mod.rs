//! The lab's network: a switch in userspace that does to packets what it is asked to, and knows what it did.
//!
//! Each host's `eth0` is a TAP device in its namespace; the other ends are held by one thread of this process,
//! which decides about every frame by the [`LinkSpec`] of its directed pair of hosts. [`spec`], [`link`], [`queue`]
//! and [`fabric`] are pure; [`tap`] and [`run`] do the IO.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use probe_ebpf::time::Span;
//! use xtask::lab::switch::{Capture, LinkSpec, Port, Settings, Switch, truth};
//! use xtask::rig::Hosts;
//!
//! let hosts = Hosts::unlinked(3)?;
//! let switch = Switch::start(&hosts, Settings { seed: 7, ..Settings::default() })?;
//! let capture = Capture::start(&hosts, 1_000_000)?; // stamps at the hosts' edges; before any node starts
//! let (a, b) = (Port::host(0), Port::host(1));
//! switch.set_both(a, b, LinkSpec::delay(Span::from_millis(20)))?; // holds from the returned instant on
//! switch.set(a, b, LinkSpec::cut())?; // one way only
//! let so_far = switch.totals()?;
//! // Nodes have ended by now. The capture ends before the devices go.
//! let captured = capture.stop()?;
//! let done = switch.stop()?; // totals and log; the hosts' eth0 are gone
//! assert!(done.totals.all.closes() && so_far.all.unasked() == 0);
//! let (journeys, closing) = truth::join(&captured.stamps, done.log.records());
//! assert!(closing.closes() && journeys.iter().all(|journey| journey.from != journey.to));
//! # Ok(()) }
//! ```

pub mod capture;
pub mod clock;
pub mod fabric;
pub mod frame;
pub mod link;
pub mod log;
pub mod queue;
mod run;
pub mod selftest;
pub mod spec;
mod tap;
pub mod truth;
pub mod yardstick;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::eventfd::{EfdFlags, EventFd};
use probe_ebpf::time::MonoNs;

pub use capture::{Capture, Captured, Direction, Stamp};
pub use fabric::{Counts, Totals};
pub use frame::{Class, Key, Port};
pub use link::Cause;
pub use log::{Log, Outcome, Record};
pub use run::Granted;
pub use spec::{Jitter, LinkSpec, Loss, Rate, Reorder};
pub use truth::{Closing, Journey};

use crate::rig::Hosts;
use fabric::Fabric;
use run::Request;
use tap::Tap;

/// How a switch starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decides all random numbers, for each link its own.
    pub seed: u64,
    /// What all links between hosts are at first; those of the hub are perfect.
    pub link: LinkSpec,
    /// Records that the log has room for, 56 bytes each.
    pub log_capacity: usize,
}

impl Default for Settings {
    /// Seed 1, perfect links, a million records.
    fn default() -> Self {
        Self { seed: 1, link: LinkSpec::default(), log_capacity: 1_000_000 }
    }
}

/// A running switch. Dropping it takes the hosts' `eth0` away.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Port>,
    granted: Granted,
    log_capacity: usize,
    /// `None` once it is to end.
    requests: Option<Sender<Request>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<Result<Finished>>>,
}

/// What a switch leaves.
#[derive(Debug)]
pub struct Finished {
    /// Everything that was counted; `queued` is what was still under way.
    pub totals: Totals,
    /// What was not [taken](Switch::take_log) before.
    pub log: Log,
}

impl Switch {
    /// Gives every one of `hosts` and their switch namespace (the [hub](Port::HUB)) an `eth0`, and links them all.
    ///
    /// The hosts must have none yet: see [`Hosts::unlinked`].
    pub fn start(hosts: &Hosts, settings: Settings) -> Result<Self> {
        let link = settings.link.checked()?;
        let mut places: Vec<_> =
            hosts.iter().enumerate().map(|(i, host)| (Port::host(i), host.namespace())).collect();
        places.push((Port::HUB, hosts.switch()));
        let ports: Vec<Port> = places.iter().map(|(port, _)| *port).collect();
        let taps = places
            .iter()
            .map(|(port, namespace)| Tap::open(namespace, *port, &ports))
            .collect::<Result<Vec<Tap>>>()?;
        let mut fabric = Fabric::new(&ports, link, settings.seed, Log::new(settings.log_capacity));
        for port in &ports[..ports.len() - 1] {
            fabric.set(*port, Port::HUB, LinkSpec::default());
            fabric.set(Port::HUB, *port, LinkSpec::default());
        }
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (requests, received) = mpsc::channel::<Request>();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name("switch".to_owned()).spawn({
            let wake = Arc::clone(&wake);
            move || {
                // The receiver waits for this.
                let _ = tell.send(run::prepare(run::PRIORITY));
                let (fabric, ended) = run::run(fabric, &taps, &received, &wake);
                drop(taps);
                let (totals, log) = fabric.close(clock::mono_now());
                ended.with_context(|| format!("the switch stopped early, having counted {totals:?}"))?;
                Ok(Finished { totals, log })
            }
        })?;
        let granted = told.recv().context("the switch's thread did not start")?;
        let log_capacity = settings.log_capacity;
        Ok(Self { ports, granted, log_capacity, requests: Some(requests), wake, thread: Some(thread) })
    }

    /// All ports: the hosts' in their order, then the hub's.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// What its thread was granted.
    pub fn granted(&self) -> Granted {
        self.granted
    }

    /// Changes what a link does, one way. Returns the instant from which on packets are treated so.
    ///
    /// Packets under way keep the departure that they have, except that a partition drops them when it comes.
    pub fn set(&self, from: Port, to: Port, spec: LinkSpec) -> Result<MonoNs> {
        self.set_all(&[(from, to)], spec)
    }

    /// [`set`](Self::set) in both directions at once.
    pub fn set_both(&self, one: Port, other: Port, spec: LinkSpec) -> Result<MonoNs> {
        self.set_all(&[(one, other), (other, one)], spec)
    }

    /// [`set`](Self::set) for several directed links at one instant. Nothing changes if one of them does not
    /// exist.
    pub fn set_all(&self, links: &[(Port, Port)], spec: LinkSpec) -> Result<MonoNs> {
        let spec = spec.checked()?;
        self.change(links, move |_| spec)
    }

    /// Changes several directed links at one instant, each from what it is now: for instance to cut them and to
    /// heal them later without forgetting the rest.
    pub fn change(
        &self,
        links: &[(Port, Port)],
        change: impl Fn(LinkSpec) -> LinkSpec + Send + 'static,
    ) -> Result<MonoNs> {
        let links = links.to_vec();
        self.ask(move |fabric, now| {
            let changed = links
                .iter()
                .map(|&(from, to)| {
                    let spec =
                        fabric.spec(from, to).with_context(|| format!("no link from {from} to {to}"))?;
                    Ok(((from, to), change(*spec).checked()?))
                })
                .collect::<Result<Vec<_>>>()?;
            for ((from, to), spec) in changed {
                fabric.set(from, to, spec);
            }
            Ok(now)
        })?
    }

    /// Cuts every link between the two groups, both ways; [`heal`](Self::heal) makes them whole again.
    pub fn partition(&self, one: &[Port], other: &[Port]) -> Result<MonoNs> {
        self.change(&between(one, other), |spec| LinkSpec { partition: true, ..spec })
    }

    /// Ends a [`partition`](Self::partition); the links are otherwise as they were.
    pub fn heal(&self, one: &[Port], other: &[Port]) -> Result<MonoNs> {
        self.change(&between(one, other), |spec| LinkSpec { partition: false, ..spec })
    }

    /// What a link does now.
    pub fn spec(&self, from: Port, to: Port) -> Result<LinkSpec> {
        self.ask(move |fabric, _| fabric.spec(from, to).copied())?
            .with_context(|| format!("no link from {from} to {to}"))
    }

    /// What was counted so far.
    pub fn totals(&self) -> Result<Totals> {
        self.ask(|fabric, _| fabric.totals())
    }

    /// Takes out what was logged so far. What is under way is logged later.
    pub fn take_log(&self) -> Result<Log> {
        // Made here: the switch's thread has packets to send.
        let empty = Log::new(self.log_capacity);
        self.ask(|fabric, _| fabric.take_log(empty))
    }

    /// Ends it. The hosts' `eth0` are gone when this returns.
    pub fn stop(mut self) -> Result<Finished> {
        self.end()
    }

    fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Fabric, MonoNs) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = mpsc::channel();
        let request: Request = Box::new(move |fabric, now| {
            // Who asked is waiting, or gone and does not care.
            let _ = answer.send(what(fabric, now));
        });
        let requests = self.requests.as_ref().context("the switch has ended")?;
        ensure!(requests.send(request).is_ok(), "the switch has ended");
        self.wake.write(1)?;
        answered.recv().context("the switch has ended")
    }

    fn end(&mut self) -> Result<Finished> {
        self.requests = None;
        self.wake.write(1)?;
        let thread = self.thread.take().context("the switch has ended")?;
        thread.join().map_err(|_| anyhow!("the switch's thread panicked"))?
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

/// All directed links from one group to the other and back.
fn between(one: &[Port], other: &[Port]) -> Vec<(Port, Port)> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}
