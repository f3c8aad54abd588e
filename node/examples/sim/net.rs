//! What happens to packets between the hosts.

use probe_ebpf::time::{MonoNs, Span};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::host::Host;
use crate::member::{Packets, Slot};
use crate::queue::{Queue, Way, What};

/// How good the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Faults {
    /// One-way time of a packet, drawn evenly from this range: a wide range reorders.
    pub(crate) delay: (Span, Span),
    /// Drawn once for each pair of hosts and direction instead: then packets of one path never overtake each other.
    pub(crate) fixed: bool,
    /// Share of packets that are lost.
    pub(crate) loss: f64,
    /// Share of packets that arrive twice.
    pub(crate) copies: f64,
    /// Share of packets that are held back.
    pub(crate) reorder: f64,
    /// For how long those are held back at most.
    pub(crate) hold: Span,
}

/// With more than this nothing ever arrives over TCP.
const TCP_LOSS_MAX: f64 = 0.95;

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Datagrams sent.
    pub(crate) packets: u64,
    /// Their payloads.
    pub(crate) bytes: u64,
    /// Messages over TCP.
    pub(crate) stream_bytes: u64,
    /// Dropped by chance.
    pub(crate) lost: u64,
    /// Dropped between parts that were cut off from each other.
    pub(crate) cut: u64,
    /// Arrived at a host where nobody listened.
    pub(crate) refused: u64,
    pub(crate) copied: u64,
    pub(crate) held_back: u64,
}

impl Traffic {
    /// What came since `earlier`.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
            stream_bytes: self.stream_bytes - earlier.stream_bytes,
            lost: self.lost - earlier.lost,
            cut: self.cut - earlier.cut,
            refused: self.refused - earlier.refused,
            copied: self.copied - earlier.copied,
            held_back: self.held_back - earlier.held_back,
        }
    }
}

/// The network: all hosts reach each other, unless it is split.
#[derive(Debug)]
pub(crate) struct Net {
    faults: Faults,
    pub(crate) traffic: Traffic,
    /// Of all packets sent: times, ends and bytes.
    pub(crate) fingerprint: Fingerprint,
    /// Hosts below this number and the others are cut off from each other.
    pub(crate) split: Option<Host>,
    seed: u64,
    rng: StdRng,
}

impl Net {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            traffic: Traffic::default(),
            fingerprint: Fingerprint::default(),
            split: None,
            seed,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Puts a message on its way.
    pub(crate) fn send(
        &mut self,
        path: (Host, Host),
        way: Way,
        slot: Slot,
        now: MonoNs,
        packets: &mut Packets,
        queue: &mut Queue,
    ) {
        let ((from, to), bytes) = (path, packets.get(slot));
        self.fingerprint.word(now.as_nanos() as u64);
        self.fingerprint.word(u64::from(from.0) << 32 | u64::from(to.0));
        self.fingerprint.bytes(bytes);
        if self.is_cut(from, to) {
            self.traffic.cut += 1;
            packets.lose(slot);
            return;
        }
        let arrival = |slot| What::Arrival { from, to, slot, way };
        if way != Way::Datagram {
            let at = now + self.stream_delay(path, way, bytes.len());
            self.traffic.stream_bytes += bytes.len() as u64;
            queue.push(at, arrival(slot));
            return;
        }
        self.traffic.packets += 1;
        self.traffic.bytes += bytes.len() as u64;
        if self.chance(self.faults.loss) {
            self.traffic.lost += 1;
            packets.lose(slot);
            return;
        }
        if self.chance(self.faults.copies) {
            self.traffic.copied += 1;
            let at = now + self.delay(path);
            queue.push(at, arrival(packets.copy(slot)));
        }
        let at = now + self.delay(path);
        queue.push(at, arrival(slot));
    }

    /// A rough model of TCP, good enough for messages that are rare: a handshake, then all segments at once, and
    /// what is lost comes again after the usual first timeouts (RFC 6298: one second, then the least one).
    fn stream_delay(&mut self, path: (Host, Host), way: Way, len: usize) -> Span {
        const SYN_TIMEOUT: Span = Span::from_secs(1);
        const TIMEOUT: Span = Span::from_millis(200);
        const SEGMENT: usize = 1448;
        let mut delay = self.delay(path);
        if way == Way::Request {
            delay += self.delay(path) + self.delay(path);
            for _ in 0..2 {
                while self.chance(self.faults.loss.min(TCP_LOSS_MAX)) {
                    delay += SYN_TIMEOUT;
                }
            }
        }
        let mut missing = len.div_ceil(SEGMENT);
        while missing > 0 {
            missing = (0..missing).filter(|_| self.chance(self.faults.loss.min(TCP_LOSS_MAX))).count();
            if missing > 0 {
                delay += TIMEOUT;
            }
        }
        delay
    }

    /// Does nothing get from one to the other?
    pub(crate) fn is_cut(&self, from: Host, to: Host) -> bool {
        self.split.is_some_and(|at| (from < at) != (to < at))
    }

    fn chance(&mut self, share: f64) -> bool {
        // No draw for what never happens: it is asked for every packet.
        share > 0.0 && self.rng.random_bool(share)
    }

    fn delay(&mut self, path: (Host, Host)) -> Span {
        let (least, most) = self.faults.delay;
        let mut delay = if self.faults.fixed {
            let mut drawn = Fingerprint(self.seed);
            drawn.word(u64::from(path.0.0) << 32 | u64::from(path.1.0));
            let width = (most - least).as_nanos().unsigned_abs() + 1;
            least + Span::from_nanos((drawn.value() % width) as i64)
        } else {
            self.between(least, most)
        };
        if self.chance(self.faults.reorder) {
            self.traffic.held_back += 1;
            delay += self.between(Span::ZERO, self.faults.hold);
        }
        delay
    }

    fn between(&mut self, least: Span, most: Span) -> Span {
        Span::from_nanos(self.rng.random_range(least.as_nanos()..=most.as_nanos()))
    }
}

/// A number that tells two histories apart. Made for speed, not against an enemy; the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x243f_6a88_85a3_08d3)
    }
}

impl Fingerprint {
    pub(crate) fn word(&mut self, word: u64) {
        let mixed = u128::from(self.0 ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        self.0 = ((mixed >> 64) as u64 ^ mixed as u64).wrapping_add(0xf39c_c060_5ced_c835);
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }
    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}
