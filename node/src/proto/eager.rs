//! Spreading a fresh change at once.
//!
//! Whoever learns a fresh change pushes it to a few random peers, and a moment later tells a few others that it has
//! it. The periodic rounds repair what chance and loss left out. A push carries the version it builds on, so a peer
//! that lacks something before it takes nothing and asks; to v0 peers, whose deltas cannot say that, a digest goes.

use std::collections::{BTreeMap, VecDeque};

use probe_ebpf::time::{MonoNs, Span};
use rand::Rng as _;
use smallvec::SmallVec;

use super::Outbox;
use super::core::Core;
use super::peer::Protocol;
use super::state::SELF;
use crate::wire::v1::{Kind, Listed, NodeHead, PacketWriter, SUMMARY_MAX, Sender, Step};

/// Changes within this time travel together.
const GATHER: Span = Span::from_millis(5);
/// From the push until others are told.
const OFFER_AFTER: Span = Span::from_millis(20);
/// Offers waiting, at most.
const OFFERS_MAX: usize = 64;

/// Fresh changes that are to travel, and how much may be sent for them.
#[derive(Debug)]
pub(super) struct Eager {
    /// Node -> its version before the change.
    pending: BTreeMap<usize, u64>,
    flush_at: Option<MonoNs>,
    flushed_at: Option<MonoNs>,
    offers: VecDeque<(MonoNs, Vec<usize>)>,
    bytes: Bucket,
    packets: Bucket,
}

/// A token bucket that holds a second's worth.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: i64,
    left: i64,
    at: MonoNs,
}

impl Bucket {
    pub(super) fn new(per_second: u32, now: MonoNs) -> Self {
        Self { per_second: per_second.into(), left: per_second.into(), at: now }
    }
    pub(super) fn refill(&mut self, now: MonoNs) {
        let passed = (now - self.at).as_nanos().clamp(0, 1_000_000_000);
        let earned = passed * self.per_second / 1_000_000_000;
        // Not until it is a whole token, or small steps would earn nothing.
        if earned > 0 {
            self.left = (self.left + earned).min(self.per_second);
            self.at = now;
        }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.left <= 0
    }
    pub(super) fn take(&mut self, n: usize) {
        self.left -= n as i64;
    }
}

impl Eager {
    pub(super) fn new(bytes_per_second: u32, packets_per_second: u32, now: MonoNs) -> Self {
        Self {
            pending: BTreeMap::new(),
            flush_at: None,
            flushed_at: None,
            offers: VecDeque::new(),
            bytes: Bucket::new(bytes_per_second, now),
            packets: Bucket::new(packets_per_second, now),
        }
    }

    /// A node changed; before, it was known up to `base`.
    pub(super) fn note(&mut self, index: usize, base: u64, now: MonoNs) {
        self.pending.entry(index).or_insert(base);
        let soonest = self.flushed_at.map_or(now, |at| at + GATHER).max(now);
        self.flush_at = Some(self.flush_at.map_or(soonest, |at| at.min(soonest)));
    }

    /// A node is forgotten.
    pub(super) fn forget(&mut self, index: usize) {
        self.pending.remove(&index);
        for (_, nodes) in &mut self.offers {
            nodes.retain(|node| *node != index);
        }
    }

    pub(super) fn next_wakeup(&self) -> Option<MonoNs> {
        self.flush_at.into_iter().chain(self.offers.front().map(|(at, _)| *at)).min()
    }
}

/// Positions of some peers: as few as a round asks, so that they need no allocation.
pub(super) type Picked = SmallVec<[usize; 8]>;

impl Core {
    /// Pushes and offers what is due. `from`: who told of it, and need not be told again.
    pub(super) fn spread(&mut self, from: Option<usize>, now: MonoNs, out: &mut Outbox) {
        if self.eager.flush_at.is_some_and(|at| at <= now) {
            self.push(from, now, out);
        }
        while self.eager.offers.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, nodes)) = self.eager.offers.pop_front() else { break };
            self.offer(&nodes, now, out);
        }
    }

    fn push(&mut self, from: Option<usize>, now: MonoNs, out: &mut Outbox) {
        self.eager.flush_at = None;
        self.eager.flushed_at = Some(now);
        let pending = std::mem::take(&mut self.eager.pending);
        let fanout = self.config.eager_fanout;
        if pending.is_empty() || fanout == 0 {
            return;
        }
        let peers = self.state.len() - 1;
        // A single change needs not go back to where it is from, nor to its origin.
        let origin = (pending.len() == 1).then(|| pending.keys().next().copied()).flatten();
        // In a cluster this small its origin told everybody.
        let told = peers <= fanout && !pending.contains_key(&SELF) && origin.is_some() && origin == from;
        if !told {
            for index in self.pick(fanout, &[from, origin]) {
                if !self.may_spread(now) {
                    break;
                }
                let before = out.buffer.len();
                match self.state[index].peer.protocol {
                    Protocol::V1 => self.send_push(index, &pending, now, out),
                    Protocol::V0 => self.send_request_v0(index, Some(&pending), now, out),
                }
                self.charge(out.buffer.len() - before);
            }
        }
        if self.eager.offers.len() >= OFFERS_MAX {
            self.counters.eager_skipped += 1;
            return;
        }
        let at =
            now + Span::from_nanos((OFFER_AFTER.as_nanos() as f64 * self.rng.random_range(0.8..1.2)) as i64);
        let nodes = pending.into_keys().collect();
        let place = self.eager.offers.partition_point(|(due, _)| *due <= at);
        self.eager.offers.insert(place, (at, nodes));
    }

    fn send_push(&mut self, index: usize, pending: &BTreeMap<usize, u64>, now: MonoNs, out: &mut Outbox) {
        let to = self.state[index].addr;
        let transmit = self.open(to, Kind::Delta, now, out);
        let sender = Sender { node_id: self.config.id.as_str(), answers: None };
        let max = self.config.max_packet;
        let mut w = PacketWriter::delta(&mut out.buffer, max, transmit.id, &sender, true);
        let mut given = None;
        let mut left_out = false;
        for (node_index, base) in pending {
            let Some(node) = self.state.at(*node_index).filter(|_| *node_index != index) else { continue };
            let head = NodeHead {
                id: node.id.as_str(),
                addr: node.addr,
                from_version: *base,
                known_version: node.version,
            };
            // Beacons travel with the rounds; but a delta must have no holes.
            let written = w.node(&head, node.since(*base), SUMMARY_MAX + 9 * pending.len().min(16));
            self.counters.delta_entries_sent += written.entries as u64;
            left_out |= written.left_out > 0;
            if *node_index == SELF {
                given = written.last_version;
            }
        }
        if left_out {
            // The peer asks for what had no room.
            w.begin_digest(Step::Offer, self.state.sum(), &[]);
            for node_index in pending.keys() {
                if let Some(node) = self.state.at(*node_index) {
                    w.list(Listed { node: node.name, version: node.version });
                }
            }
        }
        self.counters.digest_entries_sent += u64::from(w.listed());
        w.finish();
        self.gave(SELF, given);
        self.counters.deltas_sent += 1;
        self.counters.pushes_sent += 1;
        out.close(transmit);
    }

    fn offer(&mut self, nodes: &[usize], now: MonoNs, out: &mut Outbox) {
        if nodes.is_empty() {
            return;
        }
        let origin = if let [node] = nodes { Some(*node) } else { None };
        for index in self.pick(self.config.offer_fanout, &[origin]) {
            if self.state[index].peer.protocol != Protocol::V1 || !self.may_spread(now) {
                continue;
            }
            let transmit = self.open(self.state[index].addr, Kind::Digest, now, out);
            let sender = Sender { node_id: self.config.id.as_str(), answers: None };
            let (max, sum) = (self.config.max_packet, self.state.sum());
            let mut w =
                PacketWriter::digest(&mut out.buffer, max, transmit.id, &sender, Step::Offer, sum, &[]);
            for node in nodes.iter().filter_map(|node| self.state.at(*node)) {
                w.list(Listed { node: node.name, version: node.version });
            }
            self.counters.digest_entries_sent += u64::from(w.listed());
            self.counters.digests_sent += 1;
            let len = w.finish();
            self.charge(len);
            self.counters.offers_sent += 1;
            out.close(transmit);
        }
    }

    /// Some random peers to talk to, but not these.
    pub(super) fn pick(&mut self, count: usize, not: &[Option<usize>]) -> Picked {
        let end = self.state.end();
        // Who is said to be at this node's own address is gone: it is its earlier run under another id.
        let own = self.config.advertise;
        let fits = |index: usize| {
            index != SELF
                && !not.contains(&Some(index))
                && self.state.at(index).is_some_and(|node| node.is_alive() && node.addr != own)
        };
        let mut chosen = Picked::new();
        if end <= 4 * (count + not.len()) {
            while chosen.len() < count {
                let left = || (0..end).filter(|index| fits(*index) && !chosen.contains(index));
                let number = left().count();
                if number == 0 {
                    break;
                }
                let one = left().nth(self.rng.random_range(0..number));
                chosen.extend(one);
            }
            return chosen;
        }
        // Tries are bounded: most positions may be in use by nodes that are gone.
        for _ in 0..count * 8 {
            if chosen.len() == count {
                break;
            }
            let index = self.rng.random_range(0..end);
            if fits(index) && !chosen.contains(&index) {
                chosen.push(index);
            }
        }
        chosen
    }

    fn may_spread(&mut self, now: MonoNs) -> bool {
        self.eager.bytes.refill(now);
        self.eager.packets.refill(now);
        let may = !self.eager.bytes.is_empty() && !self.eager.packets.is_empty();
        self.counters.eager_skipped += u64::from(!may);
        may
    }

    fn charge(&mut self, bytes: usize) {
        self.eager.bytes.take(bytes);
        self.eager.packets.take(1);
    }
}
