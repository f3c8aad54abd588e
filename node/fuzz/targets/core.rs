//! The core as a whole: two nodes that talk, a third party that sends what it likes, and time that passes.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use pikoscope::proto::{Config, Core, Limits, NodeId, Outbox, Received};
use pikoscope::wire::v1;
use pikoscope_fuzz::seeds;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::ByReadings;
use probe_user::analysis::breakdown::Stamp;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

const LIMITS: Limits = Limits {
    nodes: 6,
    entries_per_node: 12,
    bytes_per_node: 8 << 10,
    bytes: 24 << 10,
    version_jump: 1 << 20,
};
const STREAM_BYTES: usize = 2048;

fuzz_target!(init: seeds::offer(seeds::core_scripts), |data: &[u8]| run(data));

/// Reads instructions: a byte that says what to do and who does it, and what that needs.
fn run(mut script: &[u8]) {
    let script = &mut script;
    let versions = byte(script);
    let mut now = MonoNs::from_nanos(1_000_000_000);
    let mut pair = [0, 1].map(|number| Host::new(number, versions >> number & 1, now));
    while !script.is_empty() {
        let op = byte(script);
        let who = usize::from(op & 1);
        let other = address(1 - (op & 1));
        let stranger = address(7 + (op >> 4));
        match op >> 1 & 7 {
            0 => now = now + Span::from_millis(10 * i64::from(byte(script))),
            1 => now = now + Span::from_secs(i64::from(byte(script))),
            2 => pair[who].receive(message(op, script), stranger, now),
            // The last packet that the other one sent to anyone, with a byte changed or none.
            3 => {
                let packet = damaged(pair[1 - who].last_sent.clone(), script);
                pair[who].receive(&packet, other, now);
            }
            4 => drop(pair[who].answer(message(op, script), stranger, now)),
            5 => pair[who].write(byte(script), byte(script), now),
            6 => pair[who].tick(now),
            // A message over TCP to the other one, and its answer.
            _ => {
                let mut request = Vec::new();
                match op >> 4 & 7 {
                    7 => pair[who].core.leave_request(&mut request),
                    _ => pair[who].core.join_request(&mut request),
                }
                let request = damaged(request, script);
                let from = address(op & 1);
                let response = damaged(pair[1 - who].answer(&request, from, now), script);
                pair[who].hear_answer(&response, other, now);
            }
        }
    }
}

fn byte(script: &mut &[u8]) -> u8 {
    let (first, rest) = script.split_first().map_or((0, *script), |(first, rest)| (*first, rest));
    *script = rest;
    first
}
/// Up to 2047 bytes.
fn message<'s>(op: u8, script: &mut &'s [u8]) -> &'s [u8] {
    let len = usize::from(byte(script)) << 3 | usize::from(op >> 4 & 7);
    let (message, rest) = script.split_at(len.min(script.len()));
    *script = rest;
    message
}
fn damaged(mut message: Vec<u8>, script: &mut &[u8]) -> Vec<u8> {
    let (at, flip) = (usize::from(byte(script)), byte(script));
    let at = at * message.len() / 256;
    if let Some(hit) = message.get_mut(at) {
        *hit ^= flip;
    }
    message
}
fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + host], 7000))
}

struct Host {
    core: Core,
    clock: ClockView,
    out: Outbox,
    last_sent: Vec<u8>,
}

impl Host {
    fn new(number: u8, max_version: u8, now: MonoNs) -> Self {
        let theta = Span::from_micros(i64::from(number) * 50);
        let mapping = Mapping {
            real_minus_mono: Span::from_secs(1_700_000_000),
            error: Span::from_nanos(20),
            epoch: 0,
            injected: theta.into(),
        };
        let offset = ClockOffset {
            theta,
            bound_at_read: Span::from_micros(100),
            read_at: now,
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
            rate: None,
        };
        let clock = ClockView { mapping, offset };
        let id = NodeId::new(["a", "b"][usize::from(number)]).expect("an id");
        let mut config = Config::new(id, address(number));
        config.max_version = max_version;
        config.seeds = vec![address(1 - number)];
        config.stream_bytes = STREAM_BYTES;
        config.limits = LIMITS;
        config.seed = u64::from(number);
        config.incarnation = u32::from(number) + 1;
        let core = Core::new(config, now, &clock).expect("settings that work");
        Self { core, clock, out: Outbox::default(), last_sent: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8], from: SocketAddr, now: MonoNs) {
        self.out.clear();
        let (before, mut known) = (self.state(), self.addresses());
        let kernel = Some(Bounded::new(Span::from_micros(5), Span::ZERO));
        let received = Received { from, bytes, now, received: Some(Stamp::exact(now)), kernel, clock: &self.clock, align: &ByReadings };
        if self.core.handle_datagram(received, &mut self.out).is_err() {
            self.check_untouched(&before);
        }
        known.extend(self.addresses());
        // Nobody is answered but the source, and one who has not shown that it is there with no more than he sent.
        let shown = v1::decode(bytes).is_ok_and(|packet| packet.header.answers.is_some());
        let mut answered = 0;
        for transmit in self.out.transmits() {
            assert!(transmit.to == from || known.contains(&transmit.to), "reflected to {}", transmit.to);
            answered += if transmit.to == from { self.out.bytes(transmit).len() } else { 0 };
        }
        let trusted = shown || known.contains(&from);
        assert!(trusted || answered <= bytes.len(), "{answered} bytes for {}", bytes.len());
        self.check(now);
    }
    fn answer(&mut self, request: &[u8], from: SocketAddr, now: MonoNs) -> Vec<u8> {
        self.out.clear();
        let (before, mut response) = (self.state(), Vec::new());
        let handled = self.core.handle_stream(request, from, now, &self.clock, &mut response, &mut self.out);
        if handled.is_err() {
            assert!(response.is_empty());
            self.check_untouched(&before);
        }
        assert!(response.len() <= STREAM_BYTES);
        self.check(now);
        response
    }
    fn hear_answer(&mut self, response: &[u8], from: SocketAddr, now: MonoNs) {
        self.out.clear();
        let before = self.state();
        if self.core.handle_join_response(response, from, now, &self.clock, &mut self.out).is_err() {
            self.check_untouched(&before);
        }
        self.check(now);
    }
    fn tick(&mut self, now: MonoNs) {
        self.out.clear();
        self.core.tick(now, &self.clock, &mut self.out);
        assert!(self.core.next_wakeup() > now, "it would spin");
        self.check(now);
    }
    fn write(&mut self, key: u8, len: u8, now: MonoNs) {
        self.out.clear();
        let (key, value) = (format!("k{}", key % 20), vec![key; 6 * usize::from(len)]);
        let before = self.state();
        let written = match len {
            0 => self.core.delete(&key, now, &self.clock),
            _ => self.core.set(&key, &value, None, now, &self.clock),
        };
        if written.is_err() {
            self.check_untouched(&before);
        }
        self.check(now);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.core.members().map(|member| member.addr).collect()
    }
    /// Who is known, and up to which version.
    fn state(&self) -> Vec<(NodeId, SocketAddr, u64, usize)> {
        self.core.members().map(|m| (m.id.clone(), m.addr, m.version, m.entries)).collect()
    }
    fn check_untouched(&self, before: &[(NodeId, SocketAddr, u64, usize)]) {
        assert_eq!(self.state(), before, "something refused has changed the state");
        assert!(self.out.transmits().is_empty() && self.out.events.is_empty() && self.out.entries.is_empty());
        assert!(self.out.packet.is_none() && self.out.streams.is_empty());
    }
    /// What must hold at any time.
    fn check(&mut self, now: MonoNs) {
        assert!(self.core.member_count() <= LIMITS.nodes);
        let mut bytes = 0;
        for member in self.core.members() {
            let entries = self.core.entries(member.id.as_str());
            let held: usize = entries.map(|e| e.key.len() + e.value.len() + Limits::ENTRY_OVERHEAD).sum();
            assert!(member.entries <= LIMITS.entries_per_node, "{} entries", member.entries);
            assert!(held <= LIMITS.bytes_per_node, "{held} bytes of {}", member.id.as_str());
            bytes += held;
        }
        assert!(bytes <= LIMITS.bytes, "{bytes} bytes");
        for transmit in self.out.transmits() {
            let packet = self.out.bytes(transmit);
            assert!(!packet.is_empty() && packet.len() <= 1400 && transmit.handed_over <= now);
        }
        if let Some(last) = self.out.transmits().last() {
            self.last_sent = self.out.bytes(last).to_vec();
        }
    }
}
