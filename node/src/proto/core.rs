//! Inputs, timers and the own entries.

use std::net::SocketAddr;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{PeerClock, one_way};
use probe_user::clock::ClockView;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::delta::Carrier;
use super::entry::{BEACON_KEY, INTERNAL_PREFIX, PROTO_KEY, Stored};
use super::links::Links;
use super::outbox::PacketArrival;
use super::state::{SELF, State, cost};
use super::{Config, ConfigError, Counters, Outbox, Rejected, WriteError};
use crate::wire::KEY_MAX;
use crate::wire::v1::{self, Body, EntryStamp, Kind, Packet, Sender};

/// A node of the cluster, all but its sockets and clocks.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) links: Links,
    pub(super) counters: Counters,
    pub(super) rng: StdRng,
    /// Scratch memory: which nodes the digest being written lists already.
    pub(super) listed: Vec<bool>,
    round_at: MonoNs,
    seed_at: MonoNs,
    beacon_at: MonoNs,
    beacons: u64,
    /// Before this, versions of an earlier run are not looked at again.
    restart_at: MonoNs,
}

/// A datagram and what the kernel told about it.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its source; answers go there.
    pub from: SocketAddr,
    /// The UDP payload.
    pub bytes: &'a [u8],
    /// T6 or later: when handling starts.
    pub now: MonoNs,
    /// T4, if it is known.
    pub received: Option<MonoNs>,
    /// This kernel's share of the time since T4, if it is known.
    pub kernel: Option<Bounded>,
    /// The local clock.
    pub clock: &'a ClockView,
}

/// Requests to a silent peer before it is asked less often.
const PATIENCE: u32 = 3;
/// The longest pause between requests to a silent peer.
const RETRY_MAX: Span = Span::from_secs(30);
/// How often a seed that is no member in touch is tried, so that separated parts find each other again.
const SEED_RETRY: Span = Span::from_secs(10);
/// The shortest time between two jumps past an earlier run's versions: each makes all own entries travel again.
const RESTART_PAUSE: Span = Span::from_secs(1);

impl Core {
    /// A node that knows only itself.
    ///
    /// # Errors
    /// [`ConfigError`] for settings that cannot work.
    pub fn new(config: Config, now: MonoNs, clock: &ClockView) -> Result<Self, ConfigError> {
        config.check()?;
        let mut rng = StdRng::seed_from_u64(config.seed);
        // Nodes started together must not all speak at once.
        let phase = |rng: &mut StdRng, period: Span| now + scaled(period, rng.random::<f64>());
        let mut core = Self {
            state: State::new(config.id.clone(), config.advertise),
            links: Links::new(config.incarnation),
            counters: Counters::default(),
            listed: Vec::new(),
            round_at: phase(&mut rng, config.interval),
            seed_at: now,
            beacon_at: phase(&mut rng, config.beacon_interval),
            beacons: 0,
            restart_at: now,
            rng,
            config,
        };
        core.put_own(PROTO_KEY, v1::VERSION.to_string().as_bytes(), true, false, now, clock);
        core.beacon(now, clock);
        Ok(core)
    }

    /// Handles one datagram.
    ///
    /// # Errors
    /// [`Rejected`] when it is not a packet for this node; neither state nor `out` changed.
    pub fn handle_datagram(&mut self, received: Received<'_>, out: &mut Outbox) -> Result<(), Rejected> {
        let Packet { id, header, body } = v1::decode(received.bytes)?;
        if header.node_id == self.config.id.as_str() {
            return Err(Rejected::OwnId);
        }
        match body.kind() {
            Kind::Digest => self.counters.digests_received += 1,
            Kind::Delta => self.counters.deltas_received += 1,
        }
        let one_way = received.received.map(|received_at| one_way(&header.sent, received_at, received.clock));
        if let Some(index) = self.state.find(header.node_id) {
            let node = &mut self.state.nodes[index];
            let sequence = node.peer.received.note(id.incarnation, id.counter);
            out.packet = Some(PacketArrival {
                from: node.id.clone(),
                kind: body.kind(),
                id,
                sent: header.sent,
                sender_source: header.source,
                send_queue: header.t1_minus_t0,
                one_way,
                sequence,
            });
            if sequence.is_some_and(|s| s.duplicate) {
                self.counters.duplicates += 1;
                return Ok(());
            }
            node.peer.heard = Some(received.now);
            node.peer.unanswered = 0;
            node.peer.retry_at = received.now;
        }
        let carrier = Carrier {
            now: received.now,
            clock: received.clock,
            network: one_way.map(|o| o.time),
            kernel: received.kernel,
        };
        match body {
            Body::Digest(digest) => self.handle_digest(&header, &digest, received.from, received.now, out),
            Body::Delta(delta) => self.apply(&delta, &carrier, out),
        }
        Ok(())
    }

    /// Someone knows this node at `version`. Above our own it is from an earlier run under the same id: whoever
    /// knows it would take nothing from us, so jump past it, with everything we have.
    pub(super) fn find_restart(&mut self, version: u64, now: MonoNs) {
        let own = self.state.nodes[SELF].version;
        if version <= own || now < self.restart_at {
            return;
        }
        if version - own > self.config.limits.version_jump {
            self.counters.version_jump += 1;
            return;
        }
        self.restart_at = now + RESTART_PAUSE;
        self.counters.restarts_found += 1;
        self.state.reversion_own(version);
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn next_wakeup(&self) -> MonoNs {
        self.round_at.min(self.beacon_at)
    }

    /// Does what is due. Calling it early does nothing; calling it late does not do things twice.
    pub fn tick(&mut self, now: MonoNs, clock: &ClockView, out: &mut Outbox) {
        if now >= self.beacon_at {
            self.beacon(now, clock);
            self.beacon_at = self.after(self.beacon_at, self.beacon_interval(), now);
        }
        if now >= self.round_at {
            self.round(now, out);
            self.round_at = self.after(self.round_at, self.config.interval, now);
        }
    }

    /// The next time of something periodic: a tenth early or late, so that nodes do not fall into step.
    fn after(&mut self, due: MonoNs, period: Span, now: MonoNs) -> MonoNs {
        let next = due + scaled(period, self.rng.random_range(0.9..1.1));
        // After a pause (a stopped process, a suspended host) the missed ones are not made up for.
        if next > now { next } else { now + scaled(period, self.rng.random_range(0.9..1.1)) }
    }

    fn beacon_interval(&self) -> Span {
        match self.config.beacon_rate {
            0 => self.config.beacon_interval,
            rate => {
                let shared = Span::from_secs_f64(self.state.nodes.len() as f64 / f64::from(rate));
                self.config.beacon_interval.max(shared)
            }
        }
    }

    fn beacon(&mut self, now: MonoNs, clock: &ClockView) {
        self.beacons += 1;
        self.put_own(BEACON_KEY, self.beacons.to_string().as_bytes(), true, false, now, clock);
    }

    /// Asks peers, and a seed when that is called for.
    fn round(&mut self, now: MonoNs, out: &mut Outbox) {
        let mut due: Vec<usize> = (SELF + 1..self.state.nodes.len())
            .filter(|i| self.state.nodes[*i].peer.retry_at <= now)
            .collect();
        for _ in 0..self.config.fanout.min(due.len()) {
            let index = due.swap_remove(self.rng.random_range(0..due.len()));
            let node = &mut self.state.nodes[index];
            let addr = node.addr;
            node.peer.unanswered = node.peer.unanswered.saturating_add(1);
            if let Some(doublings @ 1..) = node.peer.unanswered.checked_sub(PATIENCE) {
                let pause = self.config.interval.as_nanos().saturating_mul(1 << doublings.min(32));
                node.peer.retry_at = now + Span::from_nanos(pause).min(RETRY_MAX);
            }
            self.send_digest(addr, true, None, now, out);
        }
        if let Some(seed) = self.pick_seed(now) {
            self.send_digest(seed, true, None, now, out);
        }
    }

    /// A seed to ask: every round while nobody else is known, else now and then one that is not in touch.
    fn pick_seed(&mut self, now: MonoNs) -> Option<SocketAddr> {
        let alone = self.state.nodes.len() == 1;
        if !alone && now < self.seed_at {
            return None;
        }
        self.seed_at = now + scaled(SEED_RETRY, self.rng.random_range(0.9..1.1));
        let in_touch = |addr: SocketAddr| {
            self.links
                .member(addr)
                .and_then(|index| self.state.nodes[index].peer.heard)
                .is_some_and(|heard| now - heard < SEED_RETRY)
        };
        let far: Vec<SocketAddr> = (self.config.seeds.iter().copied())
            .filter(|seed| *seed != self.config.advertise && !in_touch(*seed))
            .collect();
        if far.is_empty() { None } else { Some(far[self.rng.random_range(0..far.len())]) }
    }

    /// Writes an entry of this node, created now. Returns its version.
    ///
    /// # Errors
    /// [`WriteError`] when it cannot be held or cannot travel; nothing changed then.
    pub fn set(
        &mut self,
        key: &str,
        value: &[u8],
        now: MonoNs,
        clock: &ClockView,
    ) -> Result<u64, WriteError> {
        self.may_write(key, value)?;
        Ok(self.put_own(key, value, false, false, now, clock))
    }

    /// Deletes an entry of this node: a tombstone takes its place and travels like a value.
    ///
    /// # Errors
    /// [`WriteError::NotFound`] when there is none, and those of [`set`](Self::set).
    pub fn delete(&mut self, key: &str, now: MonoNs, clock: &ClockView) -> Result<u64, WriteError> {
        if self.state.nodes[SELF].get(key).is_none_or(|held| held.deleted) {
            return Err(WriteError::NotFound);
        }
        self.may_write(key, &[])?;
        Ok(self.put_own(key, &[], false, true, now, clock))
    }

    fn may_write(&self, key: &str, value: &[u8]) -> Result<(), WriteError> {
        let (own, limits) = (&self.state.nodes[SELF], &self.config.limits);
        if !(1..=KEY_MAX).contains(&key.len()) {
            return Err(WriteError::Key { len: key.len() });
        }
        if key.starts_with(INTERNAL_PREFIX) {
            return Err(WriteError::Reserved);
        }
        let limit = v1::value_limit(self.config.max_packet, self.config.id.as_str().len(), key.len());
        if value.len() > limit {
            return Err(WriteError::TooLarge { len: value.len(), limit });
        }
        let replaced = own.get(key).map(|old| cost(key, &old.value));
        if replaced.is_none() && own.len() >= limits.entries_per_node {
            return Err(WriteError::TooManyEntries { limit: limits.entries_per_node });
        }
        let more = cost(key, value) - replaced.unwrap_or(0).min(cost(key, value));
        for (bytes, limit) in [(own.bytes, limits.bytes_per_node), (self.state.bytes, limits.bytes)] {
            if bytes + more > limit {
                return Err(WriteError::TooManyBytes { bytes: bytes + more, limit });
            }
        }
        if own.version == u64::MAX { Err(WriteError::VersionsUsedUp) } else { Ok(()) }
    }

    fn put_own(
        &mut self,
        key: &str,
        value: &[u8],
        internal: bool,
        deleted: bool,
        now: MonoNs,
        clock: &ClockView,
    ) -> u64 {
        let reading = PeerClock::of(clock, now);
        let stamp = EntryStamp {
            created: clock.mapping.wall(now),
            theta: reading.theta,
            bound: reading.bound,
            hops: 0,
            network: Some(Bounded::default()),
            kernel: Some(Bounded::default()),
            trace_id: None,
        };
        let entry = Stored {
            key: key.into(),
            value: value.into(),
            internal,
            deleted,
            reversioned: false,
            stamp: Some(stamp),
        };
        let version = self.state.nodes[SELF].version.saturating_add(1);
        self.state.put(SELF, version, entry);
        version
    }

    /// What this node says about itself.
    pub(super) fn sender(config: &Config) -> Sender<'_> {
        Sender { node_id: config.id.as_str(), addr: config.advertise }
    }
}

/// `span` times `factor`.
fn scaled(span: Span, factor: f64) -> Span {
    Span::from_nanos((span.as_nanos() as f64 * factor) as i64)
}
