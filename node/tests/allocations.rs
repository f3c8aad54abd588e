//! A packet that brings nothing new costs no allocation: not in the core that takes it in and answers, not in what is
//! kept of its journey, not in the metrics (DESIGN section 5: the hot path).

#[path = "support/clock.rs"]
mod clock;

use std::collections::VecDeque;
use std::net::SocketAddr;

use allocation_counter::{AllocationInfo, measure};
use clock::clock;
use pikoscope::journey::{Journeys, Way};
use pikoscope::metrics::{Metrics, SegmentMetrics};
use pikoscope::proto::{Config, Core, NodeId, Outbox, Protocol, Received};
use pikoscope::stats::Stats;
use pikoscope::wire::v1;
use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::align::PeerClock;
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::clock::{ClockSource, ClockView};

const NODES: usize = 3;
/// The packet's time in the sender's kernel, in its queue, on the way, and in the receiver's socket.
const STAGES: [Span; 4] =
    [Span::from_micros(9), Span::from_micros(2), Span::from_micros(200), Span::from_micros(30)];

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 7000))
}

struct Node {
    core: Core,
    journeys: Journeys,
    stats: Stats,
    segments: SegmentMetrics,
    _metrics: Metrics,
    out: Outbox,
    tail: v1::Tail,
}

impl Node {
    fn new(host: usize) -> Self {
        let id = NodeId::new(&format!("node-{host}")).expect("a valid id");
        let now = MonoNs::from_nanos(0);
        let config = Config {
            seed: host as u64,
            incarnation: host as u32 + 1,
            // What brings news may allocate: it is to be kept.
            beacon_interval: Span::from_secs(1_000_000),
            ..Config::new(id.clone(), address(host))
        };
        let metrics = Metrics::new().expect("metrics");
        Self {
            core: Core::new(config, now, &clock()).expect("settings that work"),
            stats: Stats::new(id.as_str(), Span::from_secs(15), now),
            journeys: Journeys::new(id),
            segments: metrics.segments(Some(1)),
            _metrics: metrics,
            out: Outbox::default(),
            tail: v1::Tail::default(),
        }
    }
}

/// A packet on its way; the buffers are used again.
struct Flight {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
    at: MonoNs,
}

/// The nodes and what is on its way between them, with the work that a driver does around the core.
struct World {
    nodes: Vec<Node>,
    clock: ClockView,
    now: MonoNs,
    flying: VecDeque<Flight>,
    spare: Vec<Vec<u8>>,
    packets: u64,
    with_news: u64,
}

impl World {
    fn new() -> Self {
        let nodes = (0..NODES).map(Node::new).collect();
        let now = MonoNs::from_nanos(1_000_000_000);
        let (flying, spare) =
            (VecDeque::with_capacity(64), (0..64).map(|_| Vec::with_capacity(2048)).collect());
        let mut world = Self { nodes, clock: clock(), now, flying, spare, packets: 0, with_news: 0 };
        for from in 1..NODES {
            let (mut request, mut response) = (Vec::new(), Vec::new());
            world.nodes[from].core.join_request(&mut request);
            let mut out = Outbox::default();
            let host = &mut world.nodes[0].core;
            let done =
                host.handle_stream(&request, address(from), now, &world.clock, &mut response, &mut out);
            done.expect("a request to join");
            let guest = &mut world.nodes[from].core;
            let done = guest.handle_join_response(&response, address(0), now, &world.clock, &mut out);
            done.expect("an answer");
        }
        world
    }

    /// What the driver does with the outbox.
    fn send(&mut self, from: usize) {
        let node = &mut self.nodes[from];
        for (transmit, bytes) in node.out.packets_mut() {
            let sent = self.now;
            let to = (0..NODES).find(|to| address(*to) == transmit.to).expect("one of the nodes");
            let mut whole = self.spare.pop().expect("as many as are on their way");
            whole.clear();
            if transmit.protocol == Protocol::V1 {
                let clock = PeerClock::of(&self.clock, sent);
                let wall = self.clock.mapping.wall(sent);
                let done = v1::stamp(bytes, wall, Span::ZERO, &clock, ClockSource::Chrony);
                done.expect("a packet of the core's");
            }
            let mut parts = [&*bytes, &[]];
            if let Some(peer) = transmit.destination.as_ref().filter(|_| transmit.protocol == Protocol::V1) {
                node.journeys.sent(peer, transmit.id, sent, Span::ZERO, None, &self.clock);
                node.tail.begin(bytes, 1400);
                node.journeys.write_reports(peer, transmit.answers, sent, &mut node.tail);
                parts = node.tail.split(bytes);
                let (egress, qdisc) = (Some(STAGES[0]), Some(STAGES[1]));
                let left = v1::Sending { counter: transmit.id.counter, egress, qdisc, hooked: false };
                node.journeys.departed(peer, sent, left);
            }
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            let at = sent + STAGES[0] + STAGES[1] + STAGES[2];
            self.flying.push_back(Flight { from, to, bytes: whole, at });
        }
    }

    fn receive(&mut self, flight: Flight) {
        let node = &mut self.nodes[flight.to];
        node.out.clear();
        let read = flight.at + STAGES[3];
        self.now = self.now.max(read);
        let receipt = Receipt {
            received: Some(Stamp::exact(flight.at)),
            filtered: Some(Stamp::exact(flight.at + Span::from_micros(1))),
            read,
        };
        let received = Received {
            from: address(flight.from),
            bytes: &flight.bytes,
            now: read,
            received: receipt.received,
            kernel: receipt.kernel(),
            clock: &self.clock,
            align: &node.journeys,
        };
        self.packets += 1;
        node.core.handle_datagram(received, &mut node.out).expect("a packet that is well");
        self.with_news += u64::from(!node.out.entries.is_empty());
        if let Some(packet) = &node.out.packet {
            node.journeys.received(packet, &node.out.reports, &receipt, read, &self.clock);
            node.stats.packet(packet.from.as_str(), &packet.ports, read);
        }
        for (peer, way, journey) in node.journeys.over() {
            if way == Way::Incoming {
                for (segment, time) in journey.segments() {
                    node.segments.observe(segment, time.value, false, journey.correction);
                }
                node.stats.journey(peer.as_str(), "driver, ntp", &journey);
            }
        }
        self.spare.push(flight.bytes);
        self.send(flight.to);
    }

    /// Everybody's rounds and all that comes of them, for so many intervals.
    fn run(&mut self, intervals: usize) {
        for _ in 0..intervals {
            self.now = self.now + Span::from_millis(100);
            for host in 0..NODES {
                let node = &mut self.nodes[host];
                node.out.clear();
                node.core.tick(self.now, &self.clock, &mut node.out);
                self.send(host);
                while let Some(flight) = self.flying.pop_front() {
                    self.receive(flight);
                }
            }
        }
    }
}

#[test]
fn a_packet_that_brings_nothing_new_allocates_nothing() {
    let mut world = World::new();
    // All know each other, and all memory that grows has grown.
    world.run(600);
    (world.packets, world.with_news) = (0, 0);
    let AllocationInfo { count_total, bytes_total, .. } = measure(|| world.run(300));
    println!("{} packets: {count_total} allocations, {bytes_total} bytes", world.packets);
    assert!(
        world.packets > 1000 && world.with_news == 0,
        "{} packets, {} with news",
        world.packets,
        world.with_news
    );
    assert_eq!(count_total, 0, "{bytes_total} bytes in {} packets", world.packets);
}

#[test]
fn what_allocates_is_counted() {
    let info = measure(|| drop(std::hint::black_box(vec![1u8; 100])));
    assert_eq!(info.count_total, 1);
}
