//! What a scenario runs on: hosts, the switch, time servers and nodes, up and down.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use probe_ebpf::time::{MonoNs, Span};
use serde_json::Value;
use tempfile::TempDir;

use super::counters::Counters;
use super::scenario::{NodeOrder, Scenario, host_name};
use super::skew::Skew;
use super::switch::clock::mono_now;
use super::switch::{Capture, Closing, Finished, Journey, LinkSpec, Port, Settings, Switch, truth};
use super::timeline::pairs;
use crate::rig::chrony::{Following, NTP_PORT, Served};
use crate::rig::{
    ChronyClient, ChronyServer, Control, Hosts, Namespace, Node, NodeSpec, Stopwatch, chrony, node, sandbox,
    wait_on,
};

/// How long the nodes may take to find each other.
const JOIN: Duration = Duration::from_secs(30);
/// How long after its hosts a scenario starts when that has to be known beforehand: on an idle machine all is up in one
/// second, on a busy one in eight.
const LEAD: Span = Span::from_secs(12);
/// What is under way when the nodes end may still arrive and be logged.
const SETTLE: Duration = Duration::from_millis(200);

/// Room of the capture at the hosts' edges.
const MOST_STAMPS: usize = 4_000_000;

/// The control socket of whatever node runs on a host now.
pub type Place = Arc<RwLock<Option<Control>>>;

/// One host's node and its clock.
#[derive(Debug)]
pub struct Seat {
    order: NodeOrder,
    node: Option<Node>,
    place: Place,
    client: Option<ChronyClient>,
    /// What its chronyd follows.
    ntp: SocketAddr,
    /// What packets take to it and back.
    ntp_delay_ms: [f64; 2],
    skew: Skew,
    /// A file for each time that a node was started here.
    records: Vec<PathBuf>,
}

impl Seat {
    /// The node, if there is one.
    pub fn node(&mut self) -> Option<&mut Node> {
        self.node.as_mut()
    }
}

/// Everything that a scenario needs. Dropping it takes it down; the order of the fields is the order.
#[derive(Debug)]
pub struct Bed {
    seats: Vec<Seat>,
    /// One for all, and one for each host of which a drift is told.
    servers: Vec<ChronyServer>,
    capture: Capture,
    switch: Switch,
    hosts: Hosts,
    binary: PathBuf,
    ipv6: bool,
    /// When the scenario is to start, if something was told to happen by that.
    start: Option<MonoNs>,
    dir: TempDir,
}

/// What is left of it.
#[derive(Debug)]
pub struct Remains {
    /// The files with the stamps of every packet at its nodes, by host.
    pub records: Vec<Vec<PathBuf>>,
    /// Final reports of the nodes that lived to the end, by host.
    pub reports: Vec<Option<Value>>,
    /// What each host's kernel counted.
    pub counters: Vec<Counters>,
    /// What the switch did.
    pub switch: Finished,
    /// Every UDP datagram from edge to edge.
    pub journeys: Vec<Journey>,
    /// Whether none of them is missing anywhere.
    pub closing: Closing,
    /// By host, the error of its clock.
    pub skews: Vec<Skew>,
    /// How long everything took to go away.
    pub down: Duration,
    /// Keeps the files.
    _dir: TempDir,
}

impl Bed {
    /// Brings everything up and waits until all nodes know each other; tells how far it is.
    pub fn up(scenario: &Scenario, seed: u64, binary: &Path, tell: &mut dyn FnMut(&str)) -> Result<Self> {
        ensure!(chrony::is_available(), "no chronyd; `cargo xtask setup` gets it");
        let dir = tempfile::Builder::new()
            .prefix("pikoscope-lab-")
            .tempdir_in(sandbox::temp_dir())
            .context("a directory for the lab's files")?;
        tell(&format!("{} hosts", scenario.hosts));
        let hosts = Hosts::unlinked(scenario.hosts)?;
        let switch = Switch::start(&hosts, Settings { seed, ..Settings::default() })?;
        let capture = Capture::start(&hosts, MOST_STAMPS)?;
        for order in &scenario.links {
            switch.set_all(&ports(&pairs(order, scenario.hosts)), order.is)?;
        }
        tell("clocks");
        let hub = |port: u16| SocketAddr::new(Port::HUB.v4().into(), port);
        let serve = |name: &str, at: SocketAddr, drift_ppm: f64| {
            ChronyServer::start(name, Some(hosts.switch()), at, Served { drift_ppm }, dir.path())
        };
        let common = hub(NTP_PORT);
        let mut servers = Vec::new();
        if scenario.ntp {
            servers.push(serve("ntp-server", common, 0.0)?);
        }
        let start = mono_now() + LEAD;
        let mut seats = Vec::new();
        for index in 0..scenario.hosts {
            let order = scenario.node(index);
            let drift_ppm = order.ntp_server_drift_ppm();
            // What is served drifts from the daemon's start on; the milliseconds that this takes are nothing to ppm.
            let skew = Skew::of(&order, mono_now(), start);
            let mut ntp = common;
            for ((from, to), ms) in [(Port::host(index), Port::HUB), (Port::HUB, Port::host(index))]
                .into_iter()
                .zip(scenario.ntp_delay_ms(index))
            {
                switch.set(from, to, LinkSpec::delay(Span::from_nanos((ms * 1e6) as i64)))?;
            }
            if drift_ppm != 0.0 && scenario.ntp {
                ntp = hub(NTP_PORT + 1 + u16::try_from(index)?);
                servers.push(serve(&format!("ntp-server-{}", host_name(index)), ntp, drift_ppm)?);
            }
            let place = Place::default();
            let ntp_delay_ms = scenario.ntp_delay_ms(index);
            seats.push(Seat {
                order,
                node: None,
                place,
                client: None,
                ntp,
                ntp_delay_ms,
                skew,
                records: Vec::new(),
            });
        }
        let mut bed = Self {
            seats,
            servers,
            capture,
            switch,
            hosts,
            binary: binary.to_owned(),
            ipv6: scenario.ipv6,
            start: None,
            dir,
        };
        if bed.seats.iter().any(|seat| seat.skew.step.is_some()) {
            bed.start = Some(start);
        }
        for index in
            (0..scenario.hosts).filter(|host| scenario.ntp && scenario.node(*host).ntp_from_s.is_none())
        {
            let offset = bed.seats[index].order.ntp_offset_s();
            bed.follow(index, offset)?;
        }
        each(&mut bed.seats, |seat| {
            let (offset_s, drift_ppm) = (seat.order.ntp_offset_s(), seat.order.ntp_server_drift_ppm());
            // A way there that is longer than the way back makes the server look ahead by half of it.
            let ntp_error_s = (seat.ntp_delay_ms[0] - seat.ntp_delay_ms[1]) / 2e3;
            let since = seat.skew.since;
            let told = || offset_s + ntp_error_s + drift_ppm * 1e-6 * (mono_now() - since).as_secs_f64();
            seat.client.as_mut().map_or(Ok(()), |client| client.wait_reporting(told).map(drop))
        })?;
        tell("nodes");
        for index in 0..scenario.hosts {
            bed.start_node(index, &host_name(index))?;
        }
        each(&mut bed.seats, |seat| seat.node.as_mut().map_or(Ok(()), |node| node.wait_ready().map(drop)))?;
        tell("nodes find each other");
        bed.wait_members()?;
        Ok(bed)
    }

    /// Waits until the scenario is to start, if that was fixed.
    pub fn wait_for_start(&self) -> Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let left = start - mono_now();
        ensure!(!left.is_negative(), "the hosts were up {} too late for what is to happen then", -left);
        thread::sleep(Duration::from_nanos(left.as_nanos().unsigned_abs()));
        Ok(())
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.seats.len()
    }

    /// The switch.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The hub's namespace.
    pub fn hub(&self) -> &Namespace {
        self.hosts.switch()
    }

    /// A host's namespace.
    pub fn namespace(&self, host: usize) -> &Namespace {
        self.hosts[host].namespace()
    }

    /// What sits on a host.
    pub fn seat(&mut self, host: usize) -> &mut Seat {
        &mut self.seats[host]
    }

    /// Where to reach each host's node, now and later.
    pub fn places(&self) -> Vec<Place> {
        self.seats.iter().map(|seat| Arc::clone(&seat.place)).collect()
    }

    /// Pids of the nodes that run now, by host.
    pub fn pids(&mut self) -> Vec<Option<u32>> {
        self.seats.iter_mut().map(|seat| seat.node.as_mut().map(|node| node.process().pid())).collect()
    }

    /// Starts a node on a host; it may not answer yet.
    pub fn start_node(&mut self, host: usize, id: &str) -> Result<()> {
        let bind = |host: usize| -> SocketAddr {
            let host = &self.hosts[host];
            node::gossip(if self.ipv6 { IpAddr::from(host.v6()) } else { host.v4().into() })
        };
        let seat = &self.seats[host];
        // Its own first: who comes back must not depend on the one node that everybody else started from.
        let mut spec = NodeSpec::new(&self.binary, id, bind(host)).seed(bind(0));
        if self.seats.len() > 1 {
            spec = spec.seed(bind(1));
        }
        spec.metrics_bind = Some(node::metrics_everywhere());
        spec.probe_stats = true;
        spec.probe = "ebpf";
        spec.inject_clock_error_ns = seat.skew.at_boot();
        spec.inject_clock_drift_ppb = seat.skew.drift_ppb;
        if let Some(step) = seat.skew.step {
            spec.inject_clock_step_ns = step.by_ns;
            spec.inject_clock_step_at_ns = step.at.as_nanos();
        }
        let record = self.dir.path().join(format!("{}-{}.record", host_name(host), seat.records.len()));
        spec.record = Some(record.clone());
        let flags =
            [("--slow-handler-us", seat.order.slow_handler_us), ("--rcvbuf-bytes", seat.order.rcvbuf_bytes)];
        for (flag, value) in flags {
            spec.extra.extend(value.into_iter().flat_map(|value| [flag.into(), value.to_string().into()]));
        }
        spec.extra.extend(seat.order.source_ports.iter().map(|port| format!("--source-port={port}").into()));
        let node = Node::start(&spec, Some(self.hosts[host].namespace()), self.dir.path())?;
        let seat = &mut self.seats[host];
        *seat.place.write().unwrap_or_else(PoisonError::into_inner) = Some(node.control().clone());
        seat.records.push(record);
        seat.node = Some(node);
        Ok(())
    }

    /// Kills a host's node.
    pub fn kill_node(&mut self, host: usize) -> Result<()> {
        let seat = &mut self.seats[host];
        *seat.place.write().unwrap_or_else(PoisonError::into_inner) = None;
        seat.node.take().map_or(Ok(()), |mut node| node.process().kill())
    }

    /// (Re)starts a host's chronyd with this to say about the clock, in seconds.
    pub fn follow(&mut self, host: usize, offset_s: f64) -> Result<()> {
        let seat = &mut self.seats[host];
        // The old one has to give its ports back first.
        seat.client = None;
        let following = Following::server(seat.ntp).offset(offset_s);
        let name = format!("ntp-{}", host_name(host));
        seat.client =
            Some(ChronyClient::start(&name, Some(self.hosts[host].namespace()), following, self.dir.path())?);
        Ok(())
    }

    /// Kills the NTP servers.
    pub fn kill_ntp(&mut self) -> Result<()> {
        self.servers.drain(..).try_for_each(|mut server| server.process().kill())
    }

    /// An error that names the first process that has ended by itself, with what it said.
    pub fn ensure_running(&mut self) -> Result<()> {
        for seat in &mut self.seats {
            if let Some(node) = &mut seat.node {
                node.process().ensure_running()?;
            }
            if let Some(client) = &mut seat.client {
                client.process().ensure_running()?;
            }
        }
        Ok(())
    }

    /// Nodes that do not know all that run now.
    pub fn not_converged(&mut self) -> Result<usize> {
        let alive: Vec<&Node> = self.seats.iter().filter_map(|seat| seat.node.as_ref()).collect();
        let mut apart = 0;
        for node in &alive {
            let report = node.status()?;
            let knows = |other: &&Node| {
                let members = report["members"].as_array();
                members.is_some_and(|members| members.iter().any(|member| member["id"] == other.id()))
            };
            apart += usize::from(!alive.iter().all(knows));
        }
        Ok(apart)
    }

    fn wait_members(&mut self) -> Result<()> {
        let count = self.seats.len();
        wait_on(self, "the nodes to know each other", JOIN, Self::ensure_running, |bed| {
            for node in bed.seats.iter().filter_map(|seat| seat.node.as_ref()) {
                let known = node.status()?["members"].as_array().map_or(0, Vec::len);
                ensure!(known == count, "node {} knows {known}", node.id());
            }
            Ok(Some(()))
        })
    }

    /// Takes everything down, nodes in good order so that their reports are complete.
    pub fn down(self) -> Result<Remains> {
        let watch = Stopwatch::start();
        let Self { mut seats, servers, capture, switch, hosts, binary: _, ipv6: _, start: _, dir } = self;
        let reports = stop_nodes(&mut seats)?;
        // The clocks' traffic ends before it is counted, too.
        seats.iter_mut().for_each(|seat| seat.client = None);
        drop(servers);
        thread::sleep(SETTLE);
        let counters =
            hosts.iter().map(|host| Counters::of(host.namespace())).collect::<Result<Vec<Counters>>>()?;
        let captured = capture.stop()?;
        let switch = switch.stop()?;
        let skews = seats.iter().map(|seat| seat.skew).collect();
        let records = seats.into_iter().map(|seat| seat.records).collect();
        drop(hosts);
        let down = watch.elapsed();
        ensure!(
            captured.omitted == 0 && captured.missed == 0,
            "the capture at the hosts' edges is not complete: {} stamps had no room, {} frames were missed",
            captured.omitted,
            captured.missed
        );
        let (journeys, closing) = truth::join(&captured.stamps, switch.log.records());
        Ok(Remains { records, reports, counters, switch, journeys, closing, skews, down, _dir: dir })
    }
}

impl Remains {
    /// The lines of one record, without a last one that was cut off by a kill.
    pub fn lines(path: &Path) -> Result<Vec<Value>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // Killed before it could make the file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

/// Directed links as the switch names them.
pub fn ports(pairs: &[(usize, usize)]) -> Vec<(Port, Port)> {
    pairs.iter().map(|(from, to)| (Port::host(*from), Port::host(*to))).collect()
}

fn stop_nodes(seats: &mut [Seat]) -> Result<Vec<Option<Value>>> {
    let stopping: Vec<Option<Node>> = seats.iter_mut().map(|seat| seat.node.take()).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = stopping
            .into_iter()
            .map(|node| {
                scope.spawn(|| {
                    node.map(|mut node| {
                        // One that is stopped could not end.
                        node.process().resume()?;
                        node.stop()
                    })
                    .transpose()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("stopping a node panicked"))))
            .collect()
    })
}

/// Does it for all seats at the same time.
fn each(seats: &mut [Seat], what: impl Fn(&mut Seat) -> Result<()> + Sync) -> Result<()> {
    let what = &what;
    thread::scope(|scope| {
        let threads: Vec<_> = seats.iter_mut().map(|seat| scope.spawn(move || what(seat))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
    })
}
