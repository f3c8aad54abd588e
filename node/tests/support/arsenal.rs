//! Datagrams that no good peer would send, each with the reason for which a node refuses it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pikoscope::wire::v0::{self, Cut, DeltaWriter, DigestEntry, DigestWriter, stream};
use pikoscope::wire::v1::{
    self, Entry, Listed, NodeHead, NodeRef, PacketWriter, Sender, StateSum, Step, Suspect,
};
use pikoscope::wire::{COMPACT_KEY, LEFT_KEY, PROTO_KEY};
use probe_ebpf::parse::PacketId;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::capture::Seen;

/// Why the node `own` refuses a datagram of somebody whom it does not know where it is, if it does.
pub fn refusal(datagram: &[u8], own: &str) -> Option<&'static str> {
    let (sender, news) = if datagram.get(1) == Some(&v0::VERSION) {
        match v0::decode(datagram) {
            Ok(packet) => (packet.header().node_id, matches!(packet, v0::Packet::Delta { .. })),
            Err(error) => return Some(error.reason()),
        }
    } else {
        match v1::decode(datagram) {
            Ok(packet) => (packet.header.node_id, packet.delta.is_some()),
            Err(error) => return Some(error.reason()),
        }
    };
    if sender == own { Some("own_id") } else { news.then_some("unasked") }
}

/// Is it a digest in Piko's format? Whoever sends one may be asked for what it shows, and then answer.
fn is_v0_digest(datagram: &[u8]) -> bool {
    datagram.get(1) == Some(&v0::VERSION) && matches!(v0::decode(datagram), Ok(v0::Packet::Digest { .. }))
}

/// Who sends a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A stranger. It is never asked anything, so its deltas are refused.
    Stranger,
    /// A stranger that speaks v0. After its digests it would be asked, and what it says be believed: v0's own weakness.
    /// So it sends no deltas in v0.
    Asker,
    /// A real member, as far as the address tells: a real packet of its, once more.
    Member(SocketAddr),
}

/// A datagram.
#[derive(Clone, Debug)]
pub struct Shot {
    pub from: From,
    pub bytes: Vec<u8>,
    /// What it is for.
    pub name: &'static str,
}

/// What can be fired at the node `own` at `at`.
pub struct Arsenal {
    own: String,
    members: Vec<(String, SocketAddr)>,
    /// Of the cluster, in both formats.
    real: Vec<Seen>,
    /// Those of others to the node itself.
    replayable: Vec<Seen>,
    /// How many of each were made.
    pub made: BTreeMap<&'static str, u64>,
}

type Make = fn(&Arsenal, &mut StdRng) -> Vec<u8>;

/// What a datagram is for, its share of 104, how it is made. The other four are real packets under their senders'
/// addresses.
const KINDS: [(&str, u32, Make); 12] = [
    ("random bytes", 8, |_, random| noise(random, 0..1400)),
    ("a prelude and random bytes", 12, prelude),
    ("a mutated real packet", 34, mutant),
    ("a real packet from elsewhere", 14, |arsenal, random| arsenal.any(random).to_vec()),
    ("a huge list", 6, huge),
    ("versions and ids at their limits", 6, limits),
    ("forged suspicions", 5, suspicions),
    ("forged goodbyes and compactions", 4, goodbyes),
    ("a v0 delta", 3, v0_delta),
    ("a message for TCP", 2, tcp),
    ("an answer to nothing", 3, guess),
    ("a restart that was none", 3, restart),
];

impl Arsenal {
    pub fn new(own: &str, at: SocketAddr, members: Vec<(String, SocketAddr)>, real: Vec<Seen>) -> Self {
        let replayable = real.iter().filter(|seen| seen.to == at).cloned().collect();
        Self { own: own.into(), members, real, replayable, made: BTreeMap::new() }
    }

    /// A datagram at random.
    pub fn shot(&mut self, random: &mut StdRng) -> Shot {
        let (pick, mut upto) = (random.random_range(0..104), 0);
        let kind = KINDS.iter().find(|(_, share, _)| {
            upto += share;
            pick < upto
        });
        let shot = match kind {
            Some((name, _, make)) => {
                let bytes = make(self, random);
                let from = if is_v0_digest(&bytes) { From::Asker } else { From::Stranger };
                Shot { from, bytes, name }
            }
            None => {
                let seen = &self.replayable[random.random_range(0..self.replayable.len())];
                let name = "a real packet under its sender's address";
                Shot { from: From::Member(seen.from), bytes: seen.bytes.clone(), name }
            }
        };
        *self.made.entry(shot.name).or_default() += 1;
        shot
    }

    /// Why the node refuses it, if it does.
    pub fn refusal(&self, shot: &Shot) -> Option<&'static str> {
        match shot.from {
            From::Member(_) => None,
            From::Stranger | From::Asker => refusal(&shot.bytes, &self.own),
        }
    }

    fn any(&self, random: &mut StdRng) -> &[u8] {
        &self.real[random.random_range(0..self.real.len())].bytes
    }
    fn member(&self, random: &mut StdRng) -> &str {
        &self.members[random.random_range(0..self.members.len())].0
    }
    /// A member other than the node itself.
    fn other(&self, random: &mut StdRng) -> (&str, SocketAddr) {
        loop {
            let (id, addr) = &self.members[random.random_range(0..self.members.len())];
            if *id != self.own {
                return (id, *addr);
            }
        }
    }
    /// A name to send under: a stranger's, or a member's.
    fn name(&self, random: &mut StdRng) -> String {
        if random.random_bool(0.5) {
            self.other(random).0.to_owned()
        } else {
            format!("stranger {}", random.random_range(0..5000))
        }
    }
}

fn noise(random: &mut StdRng, len: std::ops::Range<usize>) -> Vec<u8> {
    let len = random.random_range(len);
    (0..len).map(|_| random.random()).collect()
}

fn prelude(_: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let mut bytes = noise(random, 14..600);
    (bytes[0], bytes[1]) = (random.random_range(0..6), random.random_range(0..3));
    if bytes[1] == v1::VERSION {
        bytes[2..4].fill(0);
        // Some way into the structure.
        bytes[12] = [0x92, 0x94][usize::from(random.random_bool(0.5))];
        bytes[13] = 0x96;
    }
    bytes
}

fn mutant(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let mut bytes = arsenal.any(random).to_vec();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, random.random()),
            3 => drop(bytes.remove(at)),
            _ => bytes[at] = random.random(),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// A v1 digest; `fill` adds to it.
fn digest(name: &str, step: Step, random: &mut StdRng, suspects: &[Suspect], list: &[Listed]) -> Vec<u8> {
    let mut out = Vec::new();
    let id = PacketId { incarnation: random.random(), counter: random.random() };
    let sender = Sender { node_id: name, answers: None };
    let sum = StateSum::from_u64(random.random());
    let mut w = PacketWriter::digest(&mut out, 1400, id, &sender, step, sum, suspects);
    for listed in list {
        w.list(*listed);
    }
    w.finish();
    out
}
/// A v1 delta about one node.
fn delta(
    name: &str,
    answers: Option<PacketId>,
    head: &NodeHead<'_>,
    entries: &[Entry<'_>],
    random: &mut StdRng,
) -> Vec<u8> {
    let mut out = Vec::new();
    let id = PacketId { incarnation: random.random(), counter: random.random() };
    let sender = Sender { node_id: name, answers };
    let mut w = PacketWriter::delta(&mut out, 1400, id, &sender, random.random());
    w.node(head, entries.iter().copied(), 0);
    w.finish();
    out
}
fn step(random: &mut StdRng) -> Step {
    [Step::Request, Step::Answer, Step::Pull, Step::Offer][random.random_range(0..4)]
}

fn huge(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let name = arsenal.name(random);
    match random.random_range(0..4) {
        // As many nodes as a packet has room for, none of which exists.
        0 => {
            let list: Vec<Listed> = (0..190)
                .map(|_| Listed { node: NodeRef::of(&random.random::<u64>().to_string()), version: 1 })
                .collect();
            digest(&name, step(random), random, &[], &list)
        }
        1 => {
            let mut out = Vec::new();
            let sender = v0::Sender { node_id: &name, addr: "10.77.0.9:7", max_version: None };
            let mut w = DigestWriter::new(&mut out, 1400, &sender, random.random());
            loop {
                let id = random.random::<u64>().to_string();
                let entry = DigestEntry { id: &id, addr: "10.77.0.9:7", version: 5, left: false };
                if !w.push(&entry) {
                    break;
                }
            }
            w.finish();
            out
        }
        // Lists that claim more than there is, and lists in lists.
        2 => {
            let mut bytes = vec![random.random_range(1..3), random.random_range(0..2)];
            if bytes[1] == v1::VERSION {
                bytes.extend([0; 10]);
            }
            bytes.extend([0xdd, 0xff, 0xff, 0xff, 0xff]);
            bytes.extend(noise(random, 0..100));
            bytes
        }
        _ => {
            let mut bytes = vec![random.random_range(1..3), v1::VERSION];
            bytes.extend([0; 10]);
            bytes.extend([0x92; 1300]);
            bytes
        }
    }
}

fn limits(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let long = "i".repeat([1, 255, 256, 0][random.random_range(0..4)]);
    let (other, addr) = arsenal.other(random);
    let version = u64::MAX - random.random_range(0..3);
    match random.random_range(0..4) {
        0 => {
            let all: Vec<Listed> =
                (arsenal.members.iter()).map(|(id, _)| Listed { node: NodeRef::of(id), version }).collect();
            digest(other, step(random), random, &[], &all)
        }
        1 => {
            let entry = Entry { version, ..plain("k", b"v") };
            let head = NodeHead { id: other, addr, from_version: 0, known_version: version };
            delta(other, None, &head, &[entry], random)
        }
        2 => {
            let mut out = Vec::new();
            let sender = v0::Sender { node_id: &long, addr: "10.77.0.9:7", max_version: Some(255) };
            let mut w = DigestWriter::new(&mut out, 1400, &sender, true);
            for (id, addr) in &arsenal.members {
                w.push(&DigestEntry { id, addr: &addr.to_string(), version, left: random.random() });
            }
            w.finish();
            out
        }
        // The codec writes no such ids itself.
        _ => {
            let good = digest("AAAA", step(random), random, &[], &[]);
            let at = good.windows(5).position(|w| w == b"\xa4AAAA").unwrap_or(0);
            let mut id = vec![0xda];
            id.extend((long.len() as u16).to_be_bytes());
            id.extend(long.as_bytes());
            [&good[..at], &id[..], &good[at + 5..]].concat()
        }
    }
}

/// Everybody, the node itself too, is said to be dead, by everybody and by nobody.
fn suspicions(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let mut suspects = Vec::new();
    for (suspect, _) in &arsenal.members {
        for by in [arsenal.member(random).to_owned(), format!("forger {}", random.random::<u16>())] {
            let version = [0, 1, random.random_range(0..500), u64::MAX][random.random_range(0..4)];
            suspects.push(Suspect { node: NodeRef::of(suspect), version, by: NodeRef::of(&by) });
        }
    }
    digest(&arsenal.name(random), step(random), random, &suspects, &[])
}

fn plain<'a>(key: &'a str, value: &'a [u8]) -> Entry<'a> {
    Entry { key, value, version: 1, internal: false, deleted: false, reversioned: false, stamp: None }
}

fn goodbyes(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let (of, addr) = arsenal.other(random);
    let version = random.random_range(100..100_000);
    let value = (version - 1).to_string();
    let (key, value): (&str, &[u8]) =
        [(LEFT_KEY, &b""[..]), (COMPACT_KEY, value.as_bytes()), (PROTO_KEY, b"0")][random.random_range(0..3)];
    let entry = Entry { internal: true, version, ..plain(key, value) };
    let head = NodeHead { id: of, addr, from_version: 0, known_version: version };
    let name = arsenal.name(random);
    delta(&name, None, &head, &[entry], random)
}

fn v0_delta(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let (of, addr) = arsenal.other(random);
    let addr = addr.to_string();
    let name = arsenal.name(random);
    let mut out = Vec::new();
    let sender = v0::Sender { node_id: &name, addr: &addr, max_version: None };
    let mut w = DeltaWriter::new(&mut out, 1400, &sender, Cut::AsPiko);
    let version = random.random_range(1..10_000);
    let entry = v0::Entry { key: b"forged", value: b"v", version, internal: false, deleted: random.random() };
    w.node(&v0::NodeHead { id: of, addr: &addr }, [entry]);
    w.finish();
    out
}

fn tcp(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let name = arsenal.name(random);
    let sender = v0::Sender { node_id: &name, addr: "10.77.0.9:7", max_version: None };
    let mut out = Vec::new();
    if random.random() {
        stream::put_join_request(&mut out, &sender, &[], &[]);
    } else {
        stream::put_leave_request(&mut out, &sender, &[]);
    }
    out
}

/// News that pretend to answer a packet of the node's, whose id can only be guessed.
fn guess(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let counter = if random.random() { 0 } else { random.random_range(1..100) };
    let answers = Some(PacketId { incarnation: random.random(), counter });
    let (of, addr) = arsenal.other(random);
    let entry = Entry { version: 7000, ..plain("forged", b"v") };
    let head = NodeHead { id: of, addr, from_version: 0, known_version: 7000 };
    delta(of, answers, &head, &[entry], random)
}

/// The node itself is said to be known at a version that it never had.
fn restart(arsenal: &Arsenal, random: &mut StdRng) -> Vec<u8> {
    let version = random.random_range(1000..1 << 31);
    let name = arsenal.name(random);
    if random.random() {
        let own = Listed { node: NodeRef::of(&arsenal.own), version };
        return digest(&name, step(random), random, &[], &[own]);
    }
    let mut out = Vec::new();
    let sender = v0::Sender { node_id: &name, addr: "10.77.0.9:7", max_version: None };
    let mut w = DigestWriter::new(&mut out, 1400, &sender, random.random());
    w.push(&DigestEntry { id: &arsenal.own, addr: "10.77.0.9:7", version, left: false });
    w.finish();
    out
}
