//! Inputs and timers.

use std::collections::VecDeque;
use std::net::SocketAddr;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{Align, OneWay};
use probe_user::analysis::breakdown::Stamp;
use probe_user::clock::ClockView;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::delta::{Carrier, News};
use super::detector::{self, Detector, Finding};
use super::eager::{Bucket, Eager};
use super::exchange::{Asker, Comparison};
use super::graveyard::Graveyard;
use super::links::Links;
use super::membership::Passing;
use super::outbox::PacketArrival;
use super::peer::Protocol;
use super::questions::Questions;
use super::ring::Ring;
use super::state::{SELF, State};
use super::{Config, ConfigError, Counters, Outbox, Rejected, legacy};
use crate::wire::WireError;
use crate::wire::v1::{self, Egress, NodeRef, Packet, Suspect};

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
    pub(super) ring: Ring,
    pub(super) questions: Questions,
    /// What v0 peers may be sent beyond what they sent.
    pub(super) surplus: Bucket,
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
    pub(super) beacon_at: MonoNs,
    /// Before this, suspicions of this node are not answered...
    pub(super) refute_at: MonoNs,
    /// ...but one came: the next beacon answers it.
    pub(super) refute_due: bool,
    pub(super) sweep_at: MonoNs,
    /// The roster in which the last sweep found nobody absent.
    pub(super) all_here: Option<u64>,
    pub(super) beacons: u64,
    /// What beacons tell.
    pub(super) told: String,
    /// The newest own version that this run told anyone of.
    pub(super) given: u64,
    /// The same, in requests to join that were not answered yet.
    pub(super) given_by_join: u64,
    /// A version of an earlier run, to be jumped past; 0 for none.
    pub(super) restart_above: u64,
    /// From this version on, a peer has the entry that says from which ports this node sends.
    pub(super) ports_since: u64,
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
    pub received: Option<Stamp>,
    /// This kernel's share of the time since T4, if it is known.
    pub kernel: Option<Bounded>,
    /// The local clock.
    pub clock: &'a ClockView,
    /// How other hosts' clocks compare with it.
    pub align: &'a dyn Align,
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
            links: Links::new(config.incarnation, config.seed),
            detector: Detector::new(
                detector::Config {
                    version_jump: config.limits.version_jump,
                    ..detector::Config::new(config.interval, config.fanout)
                },
                now,
            ),
            graveyard: Graveyard::default(),
            eager: Eager::new(config.eager_bytes_per_second, config.eager_packets_per_second, now),
            ring: Ring::default(),
            questions: Questions::default(),
            surplus: Bucket::new(legacy::SURPLUS, now),
            counters: Counters::default(),
            passing: VecDeque::new(),
            found: Comparison::default(),
            suspicions: Vec::new(),
            findings: Vec::new(),
            slice_at: 0,
            round_at: phase(&mut rng, config.interval),
            seed_at: now,
            beacon_at: phase(&mut rng, config.beacon_interval),
            refute_at: now,
            refute_due: false,
            sweep_at: now,
            all_here: None,
            beacons: 0,
            told: String::new(),
            given: 0,
            given_by_join: 0,
            restart_above: 0,
            ports_since: 0,
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
        // An IPv4 sender at an IPv6 socket is still who its IPv4 address says.
        let from = SocketAddr::new(received.from.ip().to_canonical(), received.from.port());
        let received = if from.is_ipv4() { Received { from, ..received } } else { received };
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
        let Packet { id, header, delta, digest, reports } = packet;
        if header.node_id == self.config.id.as_str() {
            return Err(Rejected::OwnId);
        }
        let now = received.now;
        let known = self.state.find(header.node_id);
        let from = self.advertised_of(known, received.from);
        let member = known.filter(|index| self.state[*index].addr == from);
        // Nobody can answer a packet that he did not get: whoever answers one that went there is at that address...
        let here = header.answers.filter(|answered| self.links.went_to(from, *answered));
        // ...and whoever answers a member's, from wherever, is that member.
        let answers = match known {
            Some(index) if member.is_none() => {
                let addr = self.state[index].addr;
                header.answers.filter(|answered| self.links.went_to_member(addr, *answered))
            }
            _ => here,
        };
        let verified = here.is_some() || member.is_some_and(|index| self.state[index].peer.verified);
        let trusted = verified || answers.is_some();
        if delta.is_some() && !trusted && member.is_none() {
            return Err(Rejected::Unasked);
        }
        let one_way = received.received.map(|stamp| {
            let way = received.align.one_way(header.node_id, &header.sent, stamp.at, received.clock);
            way.stamped_to(stamp.error)
        });
        if let Some(index) = member.or(known.filter(|_| answers.is_some())) {
            let peer = &mut self.state[index].peer;
            let awaited = peer.asked.is_some_and(|asked| answers.is_some_and(|a| a.counter == asked.counter));
            // Too old to be told from a copy: what it says may be taken, but it is no sign of life.
            let old = peer.received.is_old(id.incarnation, id.counter) && !awaited;
            self.counters.stale += u64::from(old);
            if peer.received.is_another_run(id.incarnation) {
                peer.knows_ports = false;
            }
            let sequence = peer.received.note(id.incarnation, id.counter);
            let ports = self.ports_of(index, id.counter, received.from);
            let node = &mut self.state[index];
            out.packet = (!old).then(|| PacketArrival {
                from: node.id.clone(),
                kind: packet.kind(),
                id,
                sent: header.sent,
                sender_source: header.source,
                send_queue: header.t1_minus_t0,
                answers: answers.map(|answered| answered.counter),
                one_way,
                sequence,
                ports,
            });
            if sequence.is_some_and(|s| s.duplicate) {
                self.counters.duplicates += 1;
                return Ok(member);
            }
            out.reports.extend(reports.take(if old { 0 } else { usize::MAX }));
            node.peer.verified |= here.is_some() && member.is_some();
            if !old {
                self.state.speaks(index, Protocol::V1);
                self.detector.set_direct_only(index, false);
                self.heard(index, answers.map(|answered| answered.counter), now, out);
            }
        }
        if let Some(delta) = delta {
            self.counters.deltas_received += 1;
            let (network, egress) = one_way.as_ref().map(OneWay::split).unzip();
            let carrier = Carrier {
                now,
                clock: received.clock,
                network,
                kernel: received.kernel.map(|kernel| kernel + egress.unwrap_or_default()),
                egress: one_way
                    .as_ref()
                    .map_or_else(Egress::default, |way| Egress::of_hop(way.egress.is_some())),
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
            if trusted {
                self.hear_suspicions(&digest, now, received.clock, out);
            }
            let asker = Asker {
                addr: from,
                member: self.state.find(header.node_id).filter(|i| self.state[*i].addr == from),
                packet: id,
                trusted: trusted || member.is_some(),
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
            if self.refute_due {
                self.refute(now, clock)
            } else {
                self.beacon(now, clock)
            }
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
        if self.ask_ring(now, out) {
            for index in self.pick(self.config.fanout, &[]) {
                self.ask(index, now, out);
            }
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
