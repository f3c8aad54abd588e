//! Inputs and timers.

use std::collections::VecDeque;
use std::net::SocketAddr;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::one_way;
use probe_user::clock::ClockView;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::delta::{Carrier, News};
use super::detector::{self, Detector, Finding};
use super::eager::Eager;
use super::exchange::{Asker, Comparison};
use super::graveyard::Graveyard;
use super::legacy::Questions;
use super::links::Links;
use super::membership::Passing;
use super::outbox::PacketArrival;
use super::peer::Protocol;
use super::state::{SELF, State};
use super::{Config, ConfigError, Counters, Outbox, Rejected};
use crate::wire::WireError;
use crate::wire::v1::{self, NodeRef, Packet, Suspect};

/// A node of the cluster, all but its sockets and clocks.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    /// The advertised address as v0 writes it.
    pub(super) advertise: String,
    pub(super) state: State,
    pub(super) links: Links,
    pub(super) detector: Detector<usize>,
    pub(super) graveyard: Graveyard,
    pub(super) eager: Eager,
    pub(super) questions: Questions,
    pub(super) counters: Counters,
    pub(super) rng: StdRng,
    /// Suspicions that are to be told to others.
    pub(super) passing: VecDeque<Passing>,
    /// Scratch memory.
    pub(super) found: Comparison,
    pub(super) suspicions: Vec<Suspect>,
    pub(super) findings: Vec<Finding<usize>>,
    /// Where the next slice of all nodes begins.
    pub(super) slice_at: usize,
    round_at: MonoNs,
    pub(super) seed_at: MonoNs,
    beacon_at: MonoNs,
    pub(super) sweep_at: MonoNs,
    pub(super) beacons: u64,
    /// The newest own version that this run told anyone of.
    pub(super) given: u64,
    /// The same, in requests to join that were not answered yet.
    pub(super) given_by_join: u64,
    /// A version of an earlier run, to be jumped past; 0 for none.
    pub(super) restart_above: u64,
    /// Before this, versions of an earlier run are not looked at again.
    pub(super) restart_at: MonoNs,
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
            advertise: config.advertise.to_string(),
            state: State::new(config.id.clone(), config.advertise, now),
            links: Links::new(config.incarnation),
            detector: Detector::new(
                detector::Config {
                    version_jump: config.limits.version_jump,
                    ..detector::Config::new(config.interval, config.fanout)
                },
                now,
            ),
            graveyard: Graveyard::default(),
            eager: Eager::new(config.eager_bytes_per_second, config.eager_packets_per_second, now),
            questions: Questions::default(),
            counters: Counters::default(),
            passing: VecDeque::new(),
            found: Comparison::default(),
            suspicions: Vec::new(),
            findings: Vec::new(),
            slice_at: 0,
            round_at: phase(&mut rng, config.interval),
            seed_at: now,
            beacon_at: phase(&mut rng, config.beacon_interval),
            sweep_at: now,
            beacons: 0,
            given: 0,
            given_by_join: 0,
            restart_above: 0,
            restart_at: now,
            rng,
            config,
        };
        core.state.list(SELF);
        core.introduce(now, clock);
        Ok(core)
    }

    /// Handles one datagram.
    ///
    /// # Errors
    /// [`Rejected`] when it is not a packet for this node; neither state nor `out` changed.
    pub fn handle_datagram(&mut self, received: Received<'_>, out: &mut Outbox) -> Result<(), Rejected> {
        let from = match received.bytes.get(1) {
            Some(&crate::wire::v0::VERSION) => {
                self.handle_v0(&received, out)?;
                None
            }
            Some(&version @ v1::VERSION) if self.config.max_version < v1::VERSION => {
                return Err(WireError::WrongVersion(version).into());
            }
            _ => self.handle_v1(&received, out)?,
        };
        self.restart(received.now, received.clock);
        self.spread(from, received.now, out);
        Ok(())
    }

    /// Returns the member that it is from.
    fn handle_v1(&mut self, received: &Received<'_>, out: &mut Outbox) -> Result<Option<usize>, Rejected> {
        let packet = v1::decode(received.bytes)?;
        let Packet { id, header, delta, digest } = packet;
        if header.node_id == self.config.id.as_str() {
            return Err(Rejected::OwnId);
        }
        let now = received.now;
        // Nobody can answer a packet that he did not get.
        let answers = header.answers.filter(|answered| answered.incarnation == self.config.incarnation);
        let known = self.state.find(header.node_id);
        let member = known.filter(|index| self.state[*index].addr == received.from);
        let verified = answers.is_some() || member.is_some_and(|index| self.state[index].peer.verified);
        if delta.is_some() && !verified && member.is_none() {
            return Err(Rejected::Unasked);
        }
        let one_way = received.received.map(|received_at| one_way(&header.sent, received_at, received.clock));
        if let Some(index) = member.or(known.filter(|_| answers.is_some())) {
            let node = &mut self.state[index];
            let sequence = node.peer.received.note(id.incarnation, id.counter);
            out.packet = Some(PacketArrival {
                from: node.id.clone(),
                kind: packet.kind(),
                id,
                sent: header.sent,
                sender_source: header.source,
                send_queue: header.t1_minus_t0,
                one_way,
                sequence,
            });
            if sequence.is_some_and(|s| s.duplicate) {
                self.counters.duplicates += 1;
                return Ok(member);
            }
            node.peer.verified |= answers.is_some() && member.is_some();
            node.peer.protocol = Protocol::V1;
            self.detector.set_direct_only(index, false);
            self.heard(index, answers.map(|answered| answered.counter), now, out);
        }
        if let Some(delta) = delta {
            self.counters.deltas_received += 1;
            let carrier = Carrier {
                now,
                clock: received.clock,
                network: one_way.map(|o| o.time),
                kernel: received.kernel,
                sender: NodeRef::of(header.node_id),
                eager: delta.eager,
            };
            for node in delta.nodes() {
                self.counters.delta_entries_received += node.len() as u64;
                let news = News {
                    id: node.head.id,
                    addr: node.head.addr,
                    from_version: node.head.from_version,
                    known_version: node.head.known_version,
                };
                self.apply(&news, node.entries(), &carrier, out);
            }
        }
        if let Some(digest) = digest {
            self.counters.digests_received += 1;
            self.counters.digest_entries_received += digest.listed().count() as u64;
            if verified {
                self.hear_suspicions(&digest, now, received.clock, out);
            }
            let asker = Asker {
                addr: received.from,
                member: self.state.find(header.node_id).filter(|i| self.state[*i].addr == received.from),
                packet: id,
                allowance: (!verified).then_some(received.bytes.len()),
                now,
            };
            self.handle_summary(&asker, &digest, out);
        }
        Ok(member)
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn next_wakeup(&self) -> MonoNs {
        let next = self.round_at.min(self.beacon_at).min(self.detector.next_due());
        self.eager.next_wakeup().map_or(next, |at| next.min(at))
    }

    /// Does what is due. Calling it early does nothing; calling it late does not do things twice.
    pub fn tick(&mut self, now: MonoNs, clock: &ClockView, out: &mut Outbox) {
        if now >= self.beacon_at {
            self.beacon(now, clock);
            self.beacon_at = self.after(self.beacon_at, self.beacon_interval(), now);
        }
        self.watch(now, out);
        if now >= self.round_at {
            self.round(now, out);
            self.look_for_seeds(now, out);
            self.round_at = self.after(self.round_at, self.config.interval, now);
        }
        self.spread(None, now, out);
    }

    /// The next time of something periodic: a tenth early or late, so that nodes do not fall into step.
    fn after(&mut self, due: MonoNs, period: Span, now: MonoNs) -> MonoNs {
        let next = due + self.scaled(period);
        // After a pause (a stopped process, a suspended host) the missed ones are not made up for.
        if next > now { next } else { now + self.scaled(period) }
    }

    /// About as long as `period`.
    pub(super) fn scaled(&mut self, period: Span) -> Span {
        scaled(period, self.rng.random_range(0.9..1.1))
    }

    fn beacon_interval(&self) -> Span {
        match self.config.beacon_rate {
            0 => self.config.beacon_interval,
            rate => {
                let shared = Span::from_secs_f64(self.state.len() as f64 / f64::from(rate));
                self.config.beacon_interval.max(shared)
            }
        }
    }

    /// Asks peers.
    fn round(&mut self, now: MonoNs, out: &mut Outbox) {
        for index in self.pick(self.config.fanout, &[]) {
            self.ask(index, now, out);
        }
    }

    /// Begins an exchange with a member.
    pub(super) fn ask(&mut self, index: usize, now: MonoNs, out: &mut Outbox) {
        if self.state[index].addr == self.config.advertise {
            return;
        }
        match self.state[index].peer.protocol {
            Protocol::V1 => self.send_request(index, now, out),
            Protocol::V0 => self.send_request_v0(index, None, now, out),
        }
    }
}

/// `span` times `factor`.
fn scaled(span: Span, factor: f64) -> Span {
    Span::from_nanos((span.as_nanos() as f64 * factor) as i64)
}
