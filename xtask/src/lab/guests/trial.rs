//! Two guests of one kernel: up, through stretches with and without delay, and down.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use probe_ebpf::time::{MonoNs, Span};
use serde_json::Value;

use super::desk::Desk;
use super::guest::{self, Boot, Guest, Who};
use super::kit;
use crate::lab::switch::clock::mono_now;
use crate::lab::switch::{Capture, Closing, Journey, LinkSpec, Port, Settings, Switch, truth};
use crate::rig::chrony::{NTP_PORT, Served};
use crate::rig::interrupt::Interrupt;
use crate::rig::metrics::{self, sample};
use crate::rig::{ChronyServer, Hosts, Namespace, Stopwatch, node, sandbox, wait_on};

/// The guests and their nodes.
pub(super) const NAMES: [&str; 2] = ["a", "b"];
/// By how much each guest's clocks are made to run fast: real ones are off by tens of ppm, and an emulated counter is
/// found to be right to within a few.
const FAST_PPM: [i32; 2] = [40, -30];
/// What the switch adds from the first to the second guest in every other stretch.
pub(super) const ADDED: Span = Span::from_millis(5);

/// How long the link stays as it is. With and without delay take turns, so that what else the machine is busy with
/// slows both down alike.
const STRETCH: Duration = Duration::from_secs(1);

/// From power-on to a node that runs; about fifteen seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(240);
/// Until the nodes know each other and their clocks' offsets.
const READY: Duration = Duration::from_secs(60);
/// chronyd's bound may be no wider when the measurement begins. At first it is a second; a few exchanges later it is
/// about half of the emulated round trip.
const NARROW_S: f64 = 0.005;
/// How long this process may be kept from running.
const PAUSE: Duration = Duration::from_secs(60);
/// Until all is delivered.
const DELIVERY: Duration = Duration::from_secs(60);
/// Room of the capture.
const MOST_STAMPS: usize = 1_000_000;

/// How a trial is to be run.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) image: PathBuf,
    pub(super) node: PathBuf,
    /// Where consoles and records stay.
    pub(super) dir: PathBuf,
    /// How long it is measured.
    pub(super) length: Duration,
    /// Error of what the second guest's chronyd is told.
    pub(super) lie_ms: f64,
    /// Take the processor away from the second guest's emulation instead of delaying packets.
    pub(super) starve: bool,
}

/// For the judges to learn what is normal, before [`Order::starve`].
const LEARN: Duration = Duration::from_secs(30);
/// The second guest's machine stands still for so long...
const STILL: Duration = Duration::from_millis(40);
/// ...of this. At the gossip's own interval of 100 ms, packets would fall into the same part of it for a minute: into the
/// pause, or never.
const EVERY: Duration = Duration::from_millis(97);

/// What one guest leaves.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub(super) port: Port,
    pub(super) name: String,
    /// `uname -r`.
    pub(super) release: Option<String>,
    /// What its kernel keeps time by, at the start and at the end.
    pub(super) clocksources: Vec<String>,
    /// The node's stamps, packet by packet.
    pub(super) records: Vec<Value>,
    /// The node's final report.
    pub(super) report: Value,
}

/// What is left of a trial.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) guests: Vec<Left>,
    /// Every UDP datagram from edge to edge, the edges being the guests' TAP devices.
    pub(super) journeys: Vec<Journey>,
    pub(super) closing: Closing,
    /// How far the stamps at the edges may be off.
    pub(super) edge_error: Span,
    /// When each stretch began, by turns with perfect links and with [`ADDED`] from the first guest to the second, and
    /// at last when the last one ended.
    pub(super) stretches: Vec<MonoNs>,
    /// From power-on to running nodes, and to narrow clocks.
    pub(super) booted: Duration,
    pub(super) ready: Duration,
}

/// Runs one.
pub(super) fn run(order: &Order, interrupt: &Interrupt, tell: &dyn Fn(&str)) -> Result<Remains> {
    let dir = order.dir.as_path();
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let initrd = dir.join("initrd.img");
    fs::write(&initrd, kit::initramfs(&order.image, &order.node)?)
        .with_context(|| format!("writing {}", initrd.display()))?;
    let hosts = Hosts::unlinked(NAMES.len())?;
    let switch = Switch::start(&hosts, Settings::default())?;
    let ports = [Port::host(0), Port::host(1)];
    for (host, port) in hosts.iter().zip(ports) {
        guest::plug(host, port)?;
    }
    let capture = Capture::outside(&hosts, guest::DEVICE, MOST_STAMPS)?;
    let ntp = SocketAddr::new(Port::HUB.v4().into(), NTP_PORT);
    // chronyd's files must not be those of an earlier run.
    let scratch = tempfile::tempdir_in(sandbox::temp_dir()).context("a directory for chronyd's files")?;
    let served = Served::default();
    let server = ChronyServer::start("ntp-server", Some(hosts.switch()), ntp, served, scratch.path())?;
    let mut desk = Desk::open(hosts.switch())?;

    tell("two guests boot");
    let watch = Stopwatch::start();
    let boot = Boot { image: &order.image, initrd: &initrd };
    let mut crew = Crew { guests: Vec::new(), server, interrupt };
    for (index, name) in NAMES.iter().enumerate() {
        let (port, peer, fast_ppm) = (ports[index], ports[1 - index], FAST_PPM[index]);
        let who = Who { name, port, peer, fast_ppm, lie_ms: order.lie_ms * index as f64 };
        crew.guests.push(Guest::boot(&hosts[index], who, boot, dir)?);
    }
    crew.wait("both guests to call", BOOT, || Ok(desk.called(&ports)?.then_some(())))?;
    let booted = watch.elapsed();
    tell("nodes find each other and the time");
    crew.wait("nodes that know each other and the time", READY, || {
        ports.iter().try_for_each(|port| ready(hosts.switch(), *port)).map(Some)
    })?;
    let ready = watch.elapsed();

    let stretches = if order.starve {
        tell(&format!("{LEARN:?} of quiet, then b's machine stands still for {STILL:?} of each {EVERY:?}"));
        crew.starve(order.length)?
    } else {
        let count = stretches(order.length);
        tell(&format!("{count} stretches of {STRETCH:?}, every other one with {ADDED} more from a to b"));
        crew.delay(&switch, ports, count)?
    };

    tell("going down");
    desk.hang_up();
    let mut delivered = Vec::new();
    crew.wait("what both guests have measured", DELIVERY, || {
        delivered.extend(desk.delivery(dir)?);
        Ok((delivered.len() == NAMES.len()).then_some(()))
    })?;
    let Crew { mut guests, server, .. } = crew;
    drop(server);
    let captured = capture.stop()?;
    let switched = switch.stop()?;
    guests.iter_mut().try_for_each(Guest::wait_off)?;
    ensure!(
        captured.omitted == 0 && captured.missed == 0 && switched.log.omitted() == 0,
        "the truth is not complete: {} stamps and {} records had no room, {} frames were missed",
        captured.omitted,
        switched.log.omitted(),
        captured.missed
    );
    let (journeys, closing) = truth::join(&captured.stamps, switched.log.records());
    let guests = guests
        .iter()
        .map(|guest| {
            let ip = std::net::IpAddr::from(guest.port().v4());
            let index = delivered.iter().position(|(from, _)| *from == ip).context("no delivery")?;
            left(guest, delivered.swap_remove(index).1)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Remains { guests, journeys, closing, edge_error: captured.error, stretches, booted, ready })
}

/// Everything that has to be well all the time.
struct Crew<'a> {
    guests: Vec<Guest>,
    server: ChronyServer,
    interrupt: &'a Interrupt,
}

impl Crew<'_> {
    /// Waits for something; a process that ends, a kernel that gives up, and Ctrl-C end the wait.
    fn wait<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut poll: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let alive = |crew: &mut Self| {
            ensure!(!crew.interrupt.is_raised(), "interrupted");
            crew.server.process().ensure_running()?;
            crew.guests.iter_mut().try_for_each(Guest::ensure_well)
        };
        wait_on(self, what, deadline, alive, |_| poll())
    }

    /// Lets the time pass until then.
    fn pass(&mut self, until: MonoNs) -> Result<()> {
        let left = Duration::from_nanos(u64::try_from((until - mono_now()).as_nanos()).unwrap_or(0));
        self.wait("time to pass", left + PAUSE, || Ok((mono_now() >= until).then_some(())))
    }

    /// Stretches with perfect links and with delay, by turns. Gives when each began, and when the last one ended.
    fn delay(&mut self, switch: &Switch, [from, to]: [Port; 2], count: usize) -> Result<Vec<MonoNs>> {
        let mut stretches = Vec::new();
        for stretch in 0..count {
            let delay = if stretch % 2 == 1 { ADDED } else { Span::ZERO };
            let since = switch.set(from, to, LinkSpec::delay(delay))?;
            stretches.push(since);
            self.pass(since + span(STRETCH))?;
        }
        stretches.push(mono_now());
        Ok(stretches)
    }

    /// After some quiet the second guest's whole machine, its virtual CPU and its card, stands still again and again.
    /// Gives when that began and when it ended.
    fn starve(&mut self, time: Duration) -> Result<Vec<MonoNs>> {
        self.pass(mono_now() + span(LEARN))?;
        let since = mono_now();
        while mono_now() < since + span(time) {
            ensure!(!self.interrupt.is_raised(), "interrupted");
            let pulse = Stopwatch::start();
            self.guests[1].process().pause()?;
            // The pace of the experiment, not a wait for anything.
            std::thread::sleep(STILL);
            self.guests[1].process().resume()?;
            std::thread::sleep(EVERY.saturating_sub(pulse.elapsed()));
            self.guests.iter_mut().try_for_each(Guest::ensure_well)?;
        }
        Ok(vec![since, mono_now()])
    }
}

/// As a span; trials are shorter than the three centuries that fit.
fn span(time: Duration) -> Span {
    Span::from_nanos(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// How many stretches there are: as many with delay as without.
fn stretches(length: Duration) -> usize {
    let pairs = (length.as_secs_f64() / (2.0 * STRETCH.as_secs_f64())).round() as usize;
    2 * pairs.max(1)
}

/// An error that says what is still missing.
fn ready(hub: &Namespace, port: Port) -> Result<()> {
    let address = SocketAddr::new(port.v4().into(), node::metrics_everywhere().port());
    let body = hub.within(|| metrics::get(address))??;
    let members = sample(&body, "pikoscope_members")?;
    ensure!(members == NAMES.len() as f64, "{port} knows {members} nodes");
    let synchronised = sample(&body, "pikoscope_clock_state{state=\"synchronised\"}")?;
    ensure!(synchronised == 1.0, "the clock of {port} is not synchronised");
    let bound = sample(&body, "pikoscope_clock_bound_seconds")?;
    ensure!(bound <= NARROW_S, "the clock of {port} is known to {bound} s only");
    Ok(())
}

/// Parts a delivery: the last of the values is the report.
fn left(guest: &Guest, mut records: Vec<Value>) -> Result<Left> {
    let report = records.pop().filter(|last| last["id"] == guest.name());
    let report = report.with_context(|| format!("guest {}'s delivery is cut off", guest.name()))?;
    let dropped = records.last().and_then(|end| end["dropped"].as_u64());
    ensure!(dropped == Some(0), "guest {}'s record is not complete: {dropped:?} lines lost", guest.name());
    let (release, clocksources) = guest.facts();
    Ok(Left { port: guest.port(), name: guest.name().to_owned(), release, clocksources, records, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_stretches_with_delay_as_without() {
        let of = |seconds: u64| stretches(Duration::from_secs(seconds));
        assert_eq!([0, 5, 12, 15, 30].map(of), [2, 6, 12, 16, 30]);
    }
}
