//! What one exchange between two v1 nodes costs in the core: the request is encoded, decoded and compared, answered,
//! and the answer taken in, for both sides together. 100 nodes with 5 keys each are known to both.
//!
//! Beside it a yardstick from the same run: decoding and encoding the same knowledge as plain v0 digests, which list
//! what fits a packet. Prints one JSON object of medians in ns.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../tests/support/clock.rs"]
mod clock;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use clock::clock;
use pikoscope::proto::{Config, Core, NodeId, Outbox, Received};
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::ByReadings;
use probe_user::analysis::breakdown::Stamp;
use probe_user::clock::ClockView;

const NODES: usize = 100;
const KEYS: usize = 5;

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 7000))
}

fn host(address: SocketAddr) -> usize {
    (0..NODES).find(|host| self::address(*host) == address).expect("one of them")
}

fn core(host: usize, max_version: u8) -> Core {
    let id = NodeId::new(&format!("node-{host:03}")).expect("a valid id");
    let config = Config {
        max_version,
        seed: host as u64,
        incarnation: host as u32 + 1,
        // Only exchanges are wanted, whenever they are asked for.
        beacon_interval: Span::from_secs(1_000_000),
        eager_fanout: 0,
        offer_fanout: 0,
        ..Config::new(id, address(host))
    };
    Core::new(config, MonoNs::from_nanos(0), &clock()).expect("settings that work")
}

/// All nodes; only what the first two say to each other is timed.
struct Cluster {
    cores: Vec<Core>,
    outs: [Outbox; 2],
    clock: ClockView,
    now: MonoNs,
    /// Time both took, and packets, of each of their exchanges.
    timed: Vec<(u64, u64)>,
}

impl Cluster {
    /// Everybody knows everybody.
    fn new(max_version: u8) -> Self {
        let now = MonoNs::from_nanos(1_000_000_000);
        let clock = clock();
        let mut cores: Vec<Core> = (0..NODES).map(|host| core(host, max_version)).collect();
        for core in &mut cores {
            for key in 0..KEYS - 2 {
                core.set(&format!("key {key}"), b"value", None, now, &clock).expect("it fits");
            }
        }
        let mut cluster =
            Self { cores, outs: [Outbox::default(), Outbox::default()], clock, now, timed: Vec::new() };
        for from in 1..NODES {
            cluster.join(from, 0);
        }
        for from in 1..NODES {
            cluster.join(from, 0);
        }
        while cluster.cores.iter().any(|core| core.member_count() < NODES) {
            cluster.step();
        }
        (0..50).for_each(|_| cluster.step());
        cluster
    }

    fn join(&mut self, from: usize, to: usize) {
        let (mut request, mut response) = (Vec::new(), Vec::new());
        self.cores[from].join_request(&mut request);
        let (now, clock, out) = (self.now, &self.clock, &mut self.outs[0]);
        let done = self.cores[to].handle_stream(&request, address(from), now, clock, &mut response, out);
        done.expect("a request to join");
        let done = self.cores[from].handle_join_response(&response, address(to), now, clock, out);
        done.expect("an answer");
        out.clear();
    }

    /// One interval: every node has its rounds, and each exchange is carried to its end.
    fn step(&mut self) {
        self.now = self.now + Span::from_millis(150);
        for from in 0..NODES {
            let mut out = std::mem::take(&mut self.outs[0]);
            out.clear();
            let started = Instant::now();
            self.cores[from].tick(self.now, &self.clock, &mut out);
            let ticked = started.elapsed().as_nanos() as u64;
            for (transmit, bytes) in out.packets_mut() {
                let to = host(transmit.to);
                let (time, packets) = self.carry(from, to, bytes);
                if from + to == 1 {
                    self.timed.push((ticked + time, packets));
                }
            }
            self.outs[0] = out;
        }
    }

    /// Carries one packet, its answer and so on; returns the time the cores took, and the packets.
    fn carry(&mut self, from: usize, to: usize, bytes: &[u8]) -> (u64, u64) {
        let (mut from, mut to, mut packets) = (from, to, 0);
        let mut time = 0;
        let mut waiting: Vec<Vec<u8>> = vec![bytes.to_vec()];
        while !waiting.is_empty() {
            let mut answers = Vec::new();
            for bytes in &waiting {
                let out = &mut self.outs[1];
                out.clear();
                let received = Received {
                    from: address(from),
                    bytes,
                    now: self.now,
                    received: Some(Stamp::exact(self.now)),
                    kernel: Some(Bounded::default()),
                    clock: &self.clock,
                    align: &ByReadings,
                };
                packets += 1;
                let started = Instant::now();
                // In the beginning some are strangers to each other.
                let _ = black_box(self.cores[to].handle_datagram(received, out));
                time += started.elapsed().as_nanos() as u64;
                answers.extend(out.transmits().iter().map(|transmit| out.bytes(transmit).to_vec()));
            }
            waiting = answers;
            (from, to) = (to, from);
        }
        (time, packets)
    }

    /// Medians over that many exchanges of the first two nodes; before each, one of them may write.
    fn measure(&mut self, rounds: usize, new_keys: usize) -> (u64, u64) {
        self.timed.clear();
        let mut times = Vec::with_capacity(rounds);
        while times.len() < rounds {
            for key in 0..new_keys {
                let value = (times.len() * 100 + key).to_string();
                let (now, clock) = (self.now, &self.clock);
                let done = self.cores[1].set(&format!("key {key}"), value.as_bytes(), None, now, clock);
                done.expect("it fits");
            }
            // The writes of this round go straight to the other one, and to nobody else before.
            if new_keys > 0 {
                self.meet();
            } else {
                self.step();
            }
            times.append(&mut self.timed);
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Lets the first node ask until it asks the second one.
    fn meet(&mut self) {
        while self.timed.is_empty() {
            self.now = self.now + Span::from_millis(150);
            let mut out = std::mem::take(&mut self.outs[0]);
            out.clear();
            let started = Instant::now();
            self.cores[0].tick(self.now, &self.clock, &mut out);
            let ticked = started.elapsed().as_nanos() as u64;
            for (transmit, bytes) in out.packets_mut() {
                let to = host(transmit.to);
                let (time, packets) = self.carry(0, to, bytes);
                if to == 1 {
                    self.timed.push((ticked + time, packets));
                }
            }
            self.outs[0] = out;
        }
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 20 } else { 300 };
    let (mut ours, mut plain) = (Cluster::new(1), Cluster::new(0));
    let (idle, idle_packets) = ours.measure(rounds, 0);
    let (plain_idle, plain_packets) = plain.measure(rounds, 0);
    let (news, news_packets) = ours.measure(rounds, 10);
    let (plain_news, _) = plain.measure(rounds, 10);
    println!(
        "{{\"nothing_new_ns\":{idle},\"nothing_new_packets\":{idle_packets},\"ten_keys_ns\":{news},\
         \"ten_keys_packets\":{news_packets},\"v0_nothing_new_ns\":{plain_idle},\
         \"v0_nothing_new_packets\":{plain_packets},\"v0_ten_keys_ns\":{plain_news}}}"
    );
}
