//! A few cores and a bad network between them, under virtual time. Everything follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{ByReadings, PeerClock};
use probe_user::analysis::breakdown::Stamp;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::proto::{
    Config, Core, EntryArrival, Event, NodeId, Outbox, PacketArrival, Protocol, Received, Rejected,
    StreamKind,
};
use crate::wire::v1;

/// What the network does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) loss: f64,
    pub(super) copies: f64,
    /// One-way time in microseconds, drawn anew for each packet: a wide range reorders.
    pub(super) delay_us: (i64, i64),
}

impl Faults {
    pub(super) const NONE: Self = Self { loss: 0.0, copies: 0.0, delay_us: (200, 300) };
    pub(super) const BAD: Self = Self { loss: 0.3, copies: 0.2, delay_us: (100, 250_000) };
}

pub(super) struct Host {
    pub(super) core: Core,
    pub(super) clock: ClockView,
    pub(super) up: bool,
    /// Has its kernel stamps (T4, T5)?
    pub(super) stamps: bool,
    /// How far off T4 can be.
    pub(super) t4_error: Span,
    pub(super) entries: Vec<EntryArrival>,
    pub(super) packets: Vec<PacketArrival>,
    pub(super) rejected: Vec<Rejected>,
    pub(super) events: Vec<Event>,
}

struct Flying {
    from: SocketAddr,
    to: SocketAddr,
    what: What,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Datagram,
    /// A message over TCP that wants an answer...
    Request(StreamKind),
    /// ...and that.
    JoinResponse,
}

pub(super) struct Net {
    pub(super) now: MonoNs,
    pub(super) hosts: Vec<Host>,
    pub(super) faults: Faults,
    /// Fixed one-way times of some directed paths; `None` cuts the path.
    pub(super) paths: BTreeMap<(usize, usize), Option<Span>>,
    addresses: BTreeMap<SocketAddr, usize>,
    /// Packets in flight by time of arrival.
    flying: BTreeMap<(MonoNs, u64), Flying>,
    /// Every packet sent: sender, destination, bytes.
    pub(super) sent: Vec<(usize, SocketAddr, Vec<u8>)>,
    /// Source ports whose packets are lost.
    pub(super) dead_ports: BTreeSet<u16>,
    pub(super) lost: u64,
    pub(super) copied: u64,
    /// Requests over TCP: sender, destination, what.
    pub(super) streams: Vec<(usize, SocketAddr, StreamKind)>,
    runs: u32,
    rng: StdRng,
}

pub(super) const KERNEL: Span = Span::from_micros(3);

pub(super) fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host / 200) as u8, 1 + (host % 200) as u8], 7000))
}
pub(super) fn id(host: usize) -> NodeId {
    NodeId::new(&format!("node-{host}")).unwrap()
}
/// A host whose clock is fast by `theta`, and knows it to the microsecond.
pub(super) fn clock(theta: Span) -> ClockView {
    ClockView {
        mapping: Mapping {
            real_minus_mono: Span::from_secs(1_700_000_000),
            error: Span::from_nanos(20),
            epoch: 0,
            injected: theta.into(),
        },
        offset: ClockOffset {
            theta,
            bound_at_read: Span::from_micros(1),
            read_at: MonoNs::from_nanos(0),
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
            rate: None,
        },
    }
}

impl Net {
    /// Two v1 nodes (1 and 2) that meet only through a v0 node (0), settled.
    pub(super) fn v0_between(seed: u64) -> Self {
        let mut net = Self::empty(seed, Faults::NONE);
        net.paths.extend([((1, 2), None), ((2, 1), None)]);
        for host in 0..3 {
            net.start(host, |config| config.max_version = u8::from(host > 0));
        }
        net.run(Span::from_secs(5));
        net
    }

    pub(super) fn empty(seed: u64, faults: Faults) -> Self {
        Self {
            now: MonoNs::from_nanos(0),
            hosts: Vec::new(),
            faults,
            paths: BTreeMap::new(),
            addresses: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: Vec::new(),
            dead_ports: BTreeSet::new(),
            lost: 0,
            copied: 0,
            streams: Vec::new(),
            runs: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }
    /// `n` hosts, each with a clock error of its own; host 0 is everybody's seed.
    pub(super) fn new(n: usize, seed: u64, faults: Faults) -> Self {
        let mut net = Self::empty(seed, faults);
        for host in 0..n {
            net.start(host, |_| ());
        }
        net
    }
    /// What a host is started with.
    pub(super) fn config(&mut self, host: usize) -> Config {
        self.runs += 1;
        Config {
            seeds: vec![address(0)],
            seed: self.rng.random(),
            // Whoever makes packets by hand knows the first one's.
            incarnation: self.runs,
            ..Config::new(id(host), address(host))
        }
    }
    /// Starts (or starts anew) a host.
    pub(super) fn start(&mut self, host: usize, adjust: impl FnOnce(&mut Config)) {
        let mut config = self.config(host);
        adjust(&mut config);
        self.addresses.insert(address(host), host);
        let clock = clock(Span::from_millis(7 * host as i64 - 10));
        let core = Core::new(config, self.now, &clock).unwrap();
        let new = Host {
            core,
            clock,
            up: true,
            stamps: true,
            t4_error: Span::ZERO,
            entries: Vec::new(),
            packets: Vec::new(),
            rejected: Vec::new(),
            events: Vec::new(),
        };
        if host == self.hosts.len() { self.hosts.push(new) } else { self.hosts[host] = new }
    }

    pub(super) fn set(&mut self, host: usize, key: &str, value: &[u8]) -> u64 {
        let Host { core, clock, .. } = &mut self.hosts[host];
        core.set(key, value, None, self.now, clock).unwrap()
    }
    /// A host says goodbye and is gone.
    pub(super) fn leave(&mut self, host: usize) {
        let mut out = Outbox::default();
        let Host { core, clock, .. } = &mut self.hosts[host];
        core.leave(self.now, clock, &mut out);
        self.settle(host, self.now, out);
        self.hosts[host].up = false;
    }
    /// What `host` holds of `of`'s keys that are not internal.
    pub(super) fn held(&self, host: usize, of: usize) -> BTreeMap<String, Vec<u8>> {
        let core = &self.hosts[host].core;
        core.entries(id(of).as_str())
            .filter(|e| !e.internal)
            .map(|e| (e.key.to_owned(), e.value.to_vec()))
            .collect()
    }
    pub(super) fn version(&self, host: usize, of: usize) -> u64 {
        self.hosts[host].core.members().find(|m| *m.id == id(of)).map_or(0, |m| m.version)
    }
    /// Do all running hosts hold the same application entries of all running hosts?
    pub(super) fn converged(&self) -> bool {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].up).collect();
        up.iter().all(|host| {
            up.iter().all(|of| self.version(*host, *of) > 0 && self.held(*host, *of) == self.held(*of, *of))
        })
    }

    /// Runs for `span`, or until `done` (looked at once a millisecond); returns whether it was.
    pub(super) fn run_until(&mut self, span: Span, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + span;
        let mut look_at = self.now;
        loop {
            if self.now >= look_at {
                if done(self) {
                    return true;
                }
                look_at = self.now + Span::from_millis(1);
            }
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let timer = self.hosts.iter().filter(|h| h.up).map(|h| h.core.next_wakeup()).min();
            let next = arrival.into_iter().chain(timer).min().unwrap();
            if next > end {
                self.now = end;
                return done(self);
            }
            self.now = self.now.max(next);
            if let Some(key) = self.flying.keys().next().copied().filter(|(at, _)| *at <= self.now) {
                let flying = self.flying.remove(&key).unwrap();
                self.deliver(key.0, &flying);
                continue;
            }
            for host in 0..self.hosts.len() {
                let Host { core, clock, up, .. } = &mut self.hosts[host];
                if *up && core.next_wakeup() <= self.now {
                    let mut out = Outbox::default();
                    core.tick(self.now, clock, &mut out);
                    self.settle(host, self.now, out);
                }
            }
        }
    }
    pub(super) fn run(&mut self, span: Span) {
        self.run_until(span, |_| false);
    }

    fn host_at(&self, addr: SocketAddr) -> Option<usize> {
        self.addresses.get(&addr).copied()
    }

    fn deliver(&mut self, at: MonoNs, flying: &Flying) {
        let Some(host) = self.host_at(flying.to).filter(|host| self.hosts[*host].up) else { return };
        let target = &mut self.hosts[host];
        let mut out = Outbox::default();
        match flying.what {
            What::Datagram => (),
            What::Request(_) => {
                let mut response = Vec::new();
                let result = target.core.handle_stream(
                    &flying.bytes,
                    flying.from,
                    at,
                    &target.clock,
                    &mut response,
                    &mut out,
                );
                match result {
                    Ok(()) if flying.what == What::Request(StreamKind::Join) => {
                        self.fly_as(What::JoinResponse, flying.to, flying.from, at, &response);
                    }
                    Ok(()) => (),
                    Err(reason) => target.rejected.push(reason),
                }
                return self.settle(host, at, out);
            }
            What::JoinResponse => {
                if let Err(reason) =
                    target.core.handle_join_response(&flying.bytes, flying.from, at, &target.clock, &mut out)
                {
                    target.rejected.push(reason);
                }
                return self.settle(host, at, out);
            }
        }
        let received = Received {
            from: flying.from,
            bytes: &flying.bytes,
            now: at + KERNEL,
            received: target.stamps.then_some(Stamp { at, error: target.t4_error }),
            kernel: target.stamps.then_some(Bounded::exact(KERNEL)),
            clock: &target.clock,
            align: &ByReadings,
        };
        if let Err(reason) = target.core.handle_datagram(received, &mut out) {
            target.rejected.push(reason);
        }
        self.settle(host, at + KERNEL + KERNEL, out);
    }

    /// Keeps what a host found, and sends what it wants sent.
    fn settle(&mut self, host: usize, at: MonoNs, mut out: Outbox) {
        let target = &mut self.hosts[host];
        target.entries.append(&mut out.entries);
        target.events.append(&mut out.events);
        target.packets.extend(out.packet.take());
        for (to, kind) in std::mem::take(&mut out.streams) {
            let mut bytes = Vec::new();
            let core = &mut self.hosts[host].core;
            match kind {
                StreamKind::Join => core.join_request(&mut bytes),
                StreamKind::Leave => core.leave_request(&mut bytes),
            }
            self.streams.push((host, to, kind));
            self.fly_as(What::Request(kind), address(host), to, at, &bytes);
        }
        self.send(host, at, out);
    }

    /// Sends what a host left in its outbox, all of it `at` the same time.
    fn send(&mut self, host: usize, at: MonoNs, mut out: Outbox) {
        for (transmit, packet) in out.packets_mut() {
            if transmit.protocol == Protocol::V0 {
                let (to, bytes) = (transmit.to, packet.to_vec());
                self.sent.push((host, to, bytes.clone()));
                self.fly(address(host), to, at, &bytes);
                continue;
            }
            assert_eq!(
                PacketId::from_u64(u64::from_be_bytes(packet[4..12].try_into().unwrap())),
                transmit.id
            );
            let clock = &self.hosts[host].clock;
            let stamped = v1::stamp(
                packet,
                clock.mapping.wall(at),
                at - transmit.handed_over,
                &PeerClock::of(clock, at),
                clock.offset.source,
            );
            assert_eq!(stamped, Ok(()));
            let (to, bytes) = (transmit.to, packet.to_vec());
            self.sent.push((host, to, bytes.clone()));
            let mut from = address(host);
            from.set_port(from.port() + transmit.source as u16);
            if self.dead_ports.contains(&from.port()) {
                self.lost += 1;
            } else {
                self.fly(from, to, at, &bytes);
            }
        }
    }

    /// Puts a datagram on its way.
    fn fly(&mut self, from: SocketAddr, to: SocketAddr, at: MonoNs, bytes: &[u8]) {
        self.fly_as(What::Datagram, from, to, at, bytes);
    }

    /// Puts anything on its way; TCP repeats what is lost, so that only a cut path stops it.
    fn fly_as(&mut self, what: What, from: SocketAddr, to: SocketAddr, at: MonoNs, bytes: &[u8]) {
        let host = SocketAddr::new(from.ip(), address(0).port());
        let path = (self.host_at(host).unwrap_or(usize::MAX), self.host_at(to).unwrap_or(usize::MAX));
        let fixed = self.paths.get(&path);
        let datagram = what == What::Datagram;
        if fixed == Some(&None) || (datagram && self.rng.random_bool(self.faults.loss)) {
            self.lost += u64::from(datagram);
            return;
        }
        let copies = 1 + u64::from(datagram && self.rng.random_bool(self.faults.copies));
        self.copied += copies - 1;
        for _ in 0..copies {
            let (least, most) = self.faults.delay_us;
            let random = Span::from_micros(self.rng.random_range(least..=most));
            let number: u64 =
                self.flying.last_key_value().map_or(0, |(key, _)| key.1).max(self.sent.len() as u64) + 1;
            let mut key = (at + fixed.copied().flatten().unwrap_or(random), number);
            while self.flying.contains_key(&key) {
                key.1 += 1;
            }
            self.flying.insert(key, Flying { from, to, what, bytes: bytes.to_vec() });
        }
    }
}
