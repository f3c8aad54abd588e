//! What one exchange between two v1 nodes costs in the core: the request is encoded, decoded and compared, answered,
//! and the answer taken in, for both sides together. 100 nodes with 5 keys each are known to both.
//!
//! Beside it a yardstick from the same run: decoding and encoding the same knowledge as plain v0 digests, which list
//! what fits a packet. Prints one JSON object of medians in ns.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use pikoscope::proto::{Config, Core, NodeId, Outbox, Received, StreamKind};
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

const NODES: usize = 100;
const KEYS: usize = 5;

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 7000))
}

fn clock() -> ClockView {
    ClockView {
        mapping: Mapping {
            real_minus_mono: Span::from_secs(1_700_000_000),
            error: Span::from_nanos(20),
            epoch: 0,
            injected: Span::ZERO.into(),
        },
        offset: ClockOffset {
            theta: Span::from_micros(12),
            bound_at_read: Span::from_micros(150),
            read_at: MonoNs::from_nanos(0),
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
        },
    }
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

struct Pair {
    cores: [Core; 2],
    outs: [Outbox; 2],
    clock: ClockView,
    now: MonoNs,
}

impl Pair {
    /// Two nodes that know each other and all others.
    fn new(max_version: u8) -> Self {
        let mut pair = Self {
            cores: [core(0, max_version), core(1, max_version)],
            outs: [Outbox::default(), Outbox::default()],
            clock: clock(),
            now: MonoNs::from_nanos(1_000_000_000),
        };
        for host in 2..NODES {
            let mut other = core(host, max_version);
            for key in 0..KEYS - 2 {
                other.set(&format!("key {key}"), b"value", None, pair.now, &pair.clock).expect("it fits");
            }
            for to in [0, 1] {
                let mut request = Vec::new();
                other.join_request(&mut request);
                pair.stream(to, host, &request);
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let mut request = Vec::new();
            pair.cores[from].join_request(&mut request);
            pair.stream(to, from, &request);
        }
        for _ in 0..50 {
            pair.exchange();
        }
        pair
    }

    fn stream(&mut self, to: usize, from: usize, request: &[u8]) {
        let mut response = Vec::new();
        self.cores[to]
            .handle_stream(request, address(from), self.now, &self.clock, &mut response, &mut self.outs[to])
            .expect("a request to join");
        self.outs[to].clear();
    }

    /// Lets host 0 ask until it asks host 1, then carries packets to and fro until nobody has anything to say.
    /// Returns the time the two cores took from then on, and the packets.
    fn exchange(&mut self) -> (u64, u64) {
        loop {
            self.now = self.now + Span::from_millis(150);
            let started = Instant::now();
            self.outs[0].clear();
            self.cores[0].tick(self.now, &self.clock, &mut self.outs[0]);
            self.outs[0].streams.retain(|(_, kind)| *kind == StreamKind::Leave);
            if self.outs[0].transmits().iter().any(|transmit| transmit.to == address(1)) {
                return self.carry(started);
            }
        }
    }

    fn carry(&mut self, started: Instant) -> (u64, u64) {
        let mut packets = 0;
        let mut from = 0;
        loop {
            let to = 1 - from;
            let mut sent = std::mem::take(&mut self.outs[from]);
            let mut any = false;
            self.outs[to].clear();
            for (transmit, bytes) in sent.packets_mut().filter(|(transmit, _)| transmit.to == address(to)) {
                black_box(&transmit);
                let received = Received {
                    from: address(from),
                    bytes,
                    now: self.now,
                    received: Some(self.now),
                    kernel: Some(Bounded::default()),
                    clock: &self.clock,
                };
                any = true;
                packets += 1;
                self.cores[to].handle_datagram(received, &mut self.outs[to]).expect("a packet of ours");
            }
            sent.clear();
            self.outs[from] = sent;
            if !any {
                return (started.elapsed().as_nanos() as u64, packets);
            }
            from = to;
        }
    }

    fn measure(&mut self, rounds: usize, new_keys: usize) -> (u64, u64) {
        let mut times = Vec::with_capacity(rounds);
        let mut packets = 0;
        for round in 0..rounds {
            for key in 0..new_keys {
                let value = (round * 100 + key).to_string();
                let done =
                    self.cores[1].set(&format!("key {key}"), value.as_bytes(), None, self.now, &self.clock);
                done.expect("it fits");
            }
            let (time, carried) = self.exchange();
            times.push(time);
            packets = carried;
        }
        times.sort_unstable();
        (times[times.len() / 2], packets)
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 20 } else { 300 };
    let (mut ours, mut plain) = (Pair::new(1), Pair::new(0));
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
