//! The real program on real sockets. Needs root (or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN) and the embedded
//! eBPF object: fails without them in CI, says loudly that it was skipped elsewhere.

mod drops;
mod hooks;
mod transmit;

use std::net::UdpSocket;
use std::time::Duration;

use probe_ebpf::event::{PacketEvent, PacketKey};
use probe_ebpf::time::Span;
use probe_user::analysis::correlate::{Correlator, Outcomes};
use probe_user::clock::mapping::mono_now;
use probe_user::load::{LoadError, Options, Probe, ProbeCounters};
use probe_user::recv::RecvBatch;
use probe_user::timestamping;

/// How long the kernel may take to deliver what was sent: far more than it ever does.
const PATIENCE: Span = Span::from_secs(10);

fn permitted(options: &Options) -> Option<Probe> {
    match Probe::load(options) {
        Ok(probe) => Some(probe),
        Err(error @ (LoadError::NotPermitted { .. } | LoadError::NoObject))
            if std::env::var_os("CI").is_none() =>
        {
            eprintln!("SKIPPED, nothing was tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A bound receiver with the probe on it, and a sender connected to it.
fn pair(probe: &mut Probe, bind: &str) -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind(bind).expect("a free port");
    receiver.set_nonblocking(true).expect("nonblocking");
    timestamping::enable_receive_stamps(&receiver).expect("stamps");
    timestamping::enable_drop_count(&receiver).expect("drop count");
    probe.attach(&receiver).expect("attach");
    let sender = UdpSocket::bind(bind).expect("a free port");
    sender.connect(receiver.local_addr().expect("bound")).expect("connect");
    (receiver, sender)
}

fn numbered(n: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; len];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// Asks until it is so, for at most [`PATIENCE`].
///
/// Loopback mostly delivers before `send` returns, but not where the kernel leaves the work to ksoftirqd, as
/// 6.1 does under load.
fn wait_until(mut so: impl FnMut() -> bool) -> bool {
    let deadline = mono_now() + PATIENCE;
    while !so() {
        if mono_now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Each matched event with the stamp that came with its datagram.
type Matched = Vec<(PacketEvent, Option<i64>)>;

/// Receives and matches `expected` datagrams, waiting for those that are on their way.
fn receive(socket: &UdpSocket, probe: &mut Probe, correlator: &mut Correlator, expected: usize) -> Matched {
    let (mut received, mut matched) = (0, Vec::new());
    let all = wait_until(|| {
        let (n, mut m) = receive_queued(socket, probe, correlator);
        received += n;
        matched.append(&mut m);
        received >= expected
    });
    assert!(all && received == expected, "received {received} of {expected} datagrams");
    matched
}

/// Receives and matches what is queued; gives the number received too.
fn receive_queued(socket: &UdpSocket, probe: &mut Probe, correlator: &mut Correlator) -> (usize, Matched) {
    let mut batch = RecvBatch::new(32, 2048);
    let (mut received, mut matched) = (0, Vec::new());
    while let Ok(n) = batch.receive(socket) {
        let now = mono_now();
        probe.ring.drain(|event| correlator.push(event, now));
        for i in 0..n {
            let d = batch.get(i).expect("received");
            let port = d.from.expect("an address").port();
            if let Some(event) = correlator.take(PacketKey::of(d.payload, d.wire_len, port, d.received)) {
                assert!(event.filtered() <= now, "filtered after it was read");
                matched.push((event, d.received.map(|r| r.as_nanos())));
            }
        }
        received += n;
    }
    (received, matched)
}

fn every_packet_matches(bind: &str) {
    let Some(mut probe) = permitted(&Options::default()) else { return };
    let (receiver, sender) = pair(&mut probe, bind);
    let mut correlator = Correlator::new(4096);
    // The kernel switches stamping on from a work queue: packets before that have no T4.
    let mut warm_up = 0;
    let stamped = wait_until(|| {
        sender.send(&numbered(0, 64)).expect("send");
        warm_up += 1;
        let matched = receive(&receiver, &mut probe, &mut correlator, 1);
        matched.iter().any(|(event, _)| event.received().is_some())
    });
    assert!(stamped, "the kernel never stamped a packet");
    let total = 2000u32;
    let mut matched = Vec::new();
    for chunk in 0..total / 20 {
        for n in 0..20 {
            sender.send(&numbered(chunk * 20 + n, 16 + n as usize)).expect("send");
        }
        matched.extend(receive(&receiver, &mut probe, &mut correlator, 20));
    }
    assert_eq!(matched.len(), total as usize);
    let seen = u64::from(total) + warm_up;
    assert_eq!(correlator.outcomes(), Outcomes { matched: seen, ..Outcomes::default() });
    assert_eq!(probe.counters(), ProbeCounters { seen, ring_failed: 0 });
    for (event, cmsg) in &matched {
        assert_ne!(event.tstamp, 0, "no receive stamp in the event");
        assert_eq!(Some(event.tstamp as i64), *cmsg, "eBPF and SCM_TIMESTAMPING read different stamps");
    }
}

#[test]
fn every_packet_matches_over_ipv4() {
    every_packet_matches("127.0.0.1:0");
}

#[test]
fn every_packet_matches_over_ipv6() {
    every_packet_matches("[::1]:0");
}

#[test]
fn short_and_empty_datagrams_match_too() {
    let Some(mut probe) = permitted(&Options::default()) else { return };
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    for len in 0..24 {
        sender.send(&vec![7; len]).expect("send");
    }
    let mut correlator = Correlator::new(64);
    assert_eq!(receive(&receiver, &mut probe, &mut correlator, 24).len(), 24);
}

#[test]
fn a_full_ring_is_counted_and_traffic_goes_on() {
    let Some(mut probe) = permitted(&Options { ring_bytes: 4096, ..Options::default() }) else { return };
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    let total = 150;
    for n in 0..total {
        sender.send(&numbered(n, 32)).expect("send");
    }
    let mut correlator = Correlator::new(256);
    // The ring is not drained before all have been filtered: what is received early would make room in it.
    assert!(wait_until(|| probe.counters().seen == u64::from(total)), "not all were filtered");
    let matched = receive(&receiver, &mut probe, &mut correlator, total as usize);
    let counters = probe.counters();
    assert_eq!(counters.seen, u64::from(total));
    assert!(counters.ring_failed > 0, "a ring of 4096 bytes held {total} events");
    assert_eq!(matched.len() as u64 + counters.ring_failed, counters.seen);
    assert_eq!(correlator.outcomes().without_event, counters.ring_failed);
}

#[test]
fn datagrams_dropped_after_the_filter_are_unmatched() {
    let Some(mut probe) = permitted(&Options::default()) else { return };
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    // The default receive buffer holds a few hundred small datagrams.
    let total = 2000;
    for n in 0..total {
        sender.send(&numbered(n, 512)).expect("send");
    }
    let mut correlator = Correlator::new(4096);
    assert!(wait_until(|| probe.counters().seen == u64::from(total)), "not all were filtered");
    let received = receive_queued(&receiver, &mut probe, &mut correlator).0 as u64;
    assert!(received < u64::from(total), "nothing was dropped: the test shows nothing");
    correlator.expire(mono_now() + Correlator::WINDOW + Span::from_nanos(1));
    let (seen, o) = (probe.counters().seen, correlator.outcomes());
    assert_eq!((seen, o.matched, o.unmatched), (u64::from(total), received, u64::from(total) - received));
}

#[test]
fn detaching_stops_the_probe_and_leaves_the_socket_working() {
    let Some(mut probe) = permitted(&Options::default()) else { return };
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    receiver.set_nonblocking(false).expect("blocking");
    receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut buffer = [0; 16];
    sender.send(b"seen").expect("send");
    assert_eq!(receiver.recv(&mut buffer).expect("first"), 4);
    assert_eq!(probe.counters().seen, 1);
    probe.detach();
    sender.send(b"not seen").expect("send");
    assert_eq!(receiver.recv(&mut buffer).expect("second"), 8);
    assert_eq!(probe.counters().seen, 1);
}

#[test]
fn without_btf_the_probe_works_and_says_what_is_missing() {
    let options = Options { btf: "/nonexistent/btf".into(), ..Options::default() };
    let Some(mut probe) = permitted(&options) else { return };
    assert!(probe.no_tstamp().expect("a reason").to_string().contains("/nonexistent/btf"));
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    sender.send(&numbered(1, 64)).expect("send");
    let mut correlator = Correlator::new(64);
    let matched = receive(&receiver, &mut probe, &mut correlator, 1);
    assert_eq!(matched.len(), 1, "an event without a stamp must still match");
    assert_eq!(matched[0].0.received(), None);
}

/// How long the run-time statistics take to print a figure per packet: see `cargo xtask bench probe`.
#[test]
fn run_time_statistics_count_every_run() {
    let Some(mut probe) = permitted(&Options { stats: true, ..Options::default() }) else { return };
    let (receiver, sender) = pair(&mut probe, "127.0.0.1:0");
    for n in 0..50 {
        sender.send(&numbered(n, 64)).expect("send");
    }
    receive(&receiver, &mut probe, &mut Correlator::new(64), 50);
    let (runs, time) = probe.cost();
    assert_eq!(runs, 50);
    assert!(time > Duration::ZERO);
}
