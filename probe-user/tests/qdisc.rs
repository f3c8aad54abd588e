//! Transmit stamps through a real queue: two namespaces, a veth pair, and a token bucket in front of it. Needs root
//! and iproute2: fails without them in CI, says loudly that it was skipped elsewhere.

use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::clock::Mapping;
use probe_user::clock::mapping::{MappingReader, mono_now};
use probe_user::departures::{Departure, DepartureCounts, Departures};
use probe_user::recv::RecvBatch;
use probe_user::timestamping;
use probe_user::transmit::{self, StampBatch};

/// Bytes a second that the bucket lets through.
const RATE: u64 = 125_000;
/// UDP payload of every packet.
const PAYLOAD: usize = 958;
/// As the bucket counts it over IPv4: Ethernet, IP and UDP headers included.
const ON_WIRE: u64 = 1000;

/// Two namespaces, deleted at the end.
struct Link {
    names: [String; 2],
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Link {
    /// `None` where that is not permitted.
    fn new(label: &str) -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("tx{}-{label}-{end}", std::process::id()));
        let link = Self { names };
        let [a, b] = &link.names;
        if let Err(e) = sh(&format!("ip netns add {a}")) {
            assert!(std::env::var_os("CI").is_none(), "{e}");
            eprintln!("SKIPPED, nothing was tested: {e}");
            return None;
        }
        let script = format!(
            "ip netns add {b}
             ip -n {a} link add veth0 type veth peer name veth0 netns {b}
             ip -n {a} address add 10.9.0.1/24 dev veth0
             ip -n {b} address add 10.9.0.2/24 dev veth0
             ip -n {a} address add fd09::1/64 dev veth0 nodad
             ip -n {b} address add fd09::2/64 dev veth0 nodad
             ip -n {a} link set veth0 up
             ip -n {b} link set veth0 up
             ip netns exec {a} tc qdisc add dev veth0 root tbf rate {RATE}bps burst 2000 limit 100000"
        );
        script.lines().for_each(|line| sh(line).expect("iproute2"));
        Some(link)
    }

    /// A socket in one of them.
    fn socket(&self, end: usize, address: &str) -> UdpSocket {
        let path = format!("/run/netns/{}", self.names[end]);
        let enter = move || {
            let netns = File::open(path).expect("the namespace");
            // SAFETY: an open descriptor of a namespace; only this thread, which ends at once, changes over.
            assert_eq!(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }, 0, "setns");
            UdpSocket::bind(address).expect("bind")
        };
        std::thread::scope(|s| s.spawn(enter).join()).expect("the thread")
    }
}

fn sh(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let out = Command::new(words.next().expect("a program")).args(words).output();
    let out = out.map_err(|e| format!("{line}: {e}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(()) } else { Err(format!("{line}: {}", said.trim())) }
}

/// The kernel switches receive stamps on from a work queue, for the whole host: packets before that have none.
fn await_stamping() {
    let own = UdpSocket::bind("127.0.0.1:0").expect("bind");
    timestamping::enable_receive_stamps(&own).expect("stamps");
    own.connect(own.local_addr().expect("bound")).expect("connect");
    let mut batch = RecvBatch::new(1, 64);
    let deadline = mono_now() + Span::from_secs(10);
    loop {
        assert!(mono_now() < deadline, "stamping is not on");
        own.send(&[0]).expect("send");
        batch.receive(&own).expect("receive");
        if batch.get(0).expect("received").received.is_some() {
            return;
        }
    }
}

struct Ends {
    sender: UdpSocket,
    receiver: UdpSocket,
    batch: StampBatch,
    departures: Departures,
    mapping: Mapping,
}

impl Ends {
    fn new(link: &Link, from: &str, to: &str) -> Self {
        let (sender, receiver) = (link.socket(0, from), link.socket(1, to));
        sender.connect(receiver.local_addr().expect("bound")).expect("connect");
        sender.set_nonblocking(true).expect("nonblocking");
        transmit::enable(&sender).expect("stamps");
        timestamping::enable_receive_stamps(&receiver).expect("stamps");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        await_stamping();
        let mapping = MappingReader::new(Span::ZERO).read();
        Self { sender, receiver, batch: StampBatch::new(), departures: Departures::default(), mapping }
    }

    fn send(&mut self, cookie: u64) -> Result<(), ErrorKind> {
        let t1 = mono_now();
        match self.sender.send(&[7; PAYLOAD]) {
            Ok(_) => assert_eq!(self.departures.push(cookie, t1), None),
            Err(e) => {
                self.departures.push_failed();
                return Err(e.kind());
            }
        }
        Ok(())
    }

    fn read(&mut self, done: &mut Vec<Departure>) {
        let Self { sender, batch, departures, mapping, .. } = self;
        batch.read(sender, |stamp| done.extend(departures.stamp(stamp, mapping))).expect("the error queue");
    }

    /// Waits until the driver has taken all.
    fn all(&mut self, done: &mut Vec<Departure>) {
        let deadline = mono_now() + Span::from_secs(20);
        while self.departures.pending() > 0 {
            assert!(mono_now() < deadline, "{} have no T3", self.departures.pending());
            let mut fd = libc::pollfd { fd: self.sender.as_raw_fd(), events: 0, revents: 0 };
            // SAFETY: one valid pollfd. The stamps wake it, unasked.
            unsafe { libc::poll(&raw mut fd, 1, 1000) };
            self.read(done);
        }
    }

    /// T4 of the next datagram.
    fn received(&mut self) -> MonoNs {
        let mut batch = RecvBatch::new(1, 2048);
        let mut byte = [0; 1];
        self.receiver.peek(&mut byte).expect("a datagram");
        batch.receive(&self.receiver).expect("peeked");
        let at = batch.get(0).expect("received").received.expect("T4");
        self.mapping.mono_of_real(at)
    }
}

/// The queue shows between T2 and T3, to the packet; the wire, a veth, is nothing.
fn the_queue_shows(label: &str, from: &str, to: &str) {
    let Some(link) = Link::new(label) else { return };
    let mut ends = Ends::new(&link, from, to);
    let mut done = Vec::new();
    // The first one waits for its neighbour to be found, and fills the bucket's measure.
    ends.send(0).expect("send");
    ends.all(&mut done);
    ends.received();
    done.clear();
    let total = 20;
    for n in 1..=total {
        ends.send(n).expect("send");
    }
    ends.all(&mut done);
    assert!(done.iter().map(|d| d.cookie).eq(1..=total), "{done:?}");
    let per_packet = Span::from_nanos((ON_WIRE * 1_000_000_000 / RATE) as i64);
    for d in &done {
        let (t2, t3) = (d.t2.expect("T2"), d.t3.expect("T3"));
        assert!(t2.at - d.t1 < Span::from_millis(5), "{} before the queue", t2.at - d.t1);
        let wire = ends.received() - t3.at;
        assert!(wire > Span::from_micros(-1) && wire < Span::from_millis(5), "{wire} on a veth");
    }
    let queued = |d: &Departure| d.t3.expect("T3").since(d.t2.expect("T2")).value;
    let (first, last) = (queued(&done[3]), queued(&done[19]));
    // Sixteen more packets ahead of it, sent within a fraction of one packet's time.
    let grown = (last - first).as_nanos() as f64 / per_packet.as_nanos() as f64;
    assert!((15.0..17.5).contains(&grown), "the queue grew by {grown} packets, {first} to {last}");
    assert_eq!(ends.departures.counts(), DepartureCounts { complete: total + 1, ..Default::default() });
}

#[test]
fn the_queue_shows_over_ipv4() {
    the_queue_shows("q4", "10.9.0.1:0", "10.9.0.2:0");
}

#[test]
fn the_queue_shows_over_ipv6() {
    the_queue_shows("q6", "[fd09::1]:0", "[fd09::2]:0");
}

/// A send buffer that is full of queued packets; then a queue that drops.
#[test]
fn refused_and_dropped_packets_leave_the_others_in_step() {
    let Some(link) = Link::new("full") else { return };
    let mut ends = Ends::new(&link, "10.9.0.1:0", "10.9.0.2:0");
    let (mut done, mut sent, mut refused) = (Vec::new(), 0, 0);
    while refused < 50 {
        match ends.send(sent) {
            Ok(()) => sent += 1,
            Err(ErrorKind::WouldBlock) => refused += 1,
            Err(e) => panic!("{e}"),
        }
        ends.read(&mut done);
        assert!(sent < 1000, "the send buffer never filled");
    }
    // Wakes when packets have left.
    ends.all(&mut done);
    assert!(done.iter().map(|d| d.cookie).eq(0..sent), "{done:?}");
    let slips = ends.departures.counts().slips;
    assert_eq!(ends.departures.counts(), DepartureCounts { complete: sent, slips, ..Default::default() });

    // Room for two packets: the rest is dropped at the queue, after T2.
    let a = &link.names[0];
    sh(&format!("ip netns exec {a} tc qdisc change dev veth0 root tbf rate {RATE}bps burst 2000 limit 2100"))
        .expect("tc");
    done.clear();
    for n in 0..10 {
        ends.send(n).expect("sent, as far as the sender can tell");
    }
    let deadline = mono_now() + Span::from_secs(5);
    while done.len() < 3 && mono_now() < deadline {
        ends.read(&mut done);
    }
    let left = done.len() as u64;
    assert!((2..10).contains(&left), "{left} of 10 left");
    let after = mono_now() + Departures::PATIENCE;
    let dropped: Vec<_> = std::iter::from_fn(|| ends.departures.expire(after)).collect();
    assert_eq!(dropped.len() as u64 + left, 10);
    assert!(dropped.iter().all(|d| d.t2.is_some()), "all came as far as the queue");
    assert_eq!(ends.departures.counts().given_up, 10 - left);
}
