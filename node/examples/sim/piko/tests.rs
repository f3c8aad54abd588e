//! The baseline's rule, packet by packet.

use super::*;

type Plain = Piko<false>;

struct Node {
    member: Plain,
    scratch: Scratch,
    effects: Effects,
}

const NOW: MonoNs = MonoNs::from_nanos(0);

impl Node {
    fn new(host: u32) -> Self {
        let rule =
            RuleOptions { interval: Span::from_millis(100), fanout: None, max_packet: 1400, judge: false };
        let start = Start { host: Host(host), seed: 1, now: NOW, seeds: &[], rule };
        let (mut scratch, mut effects) = (Scratch::default(), Effects::default());
        let io = &mut Io { scratch: &mut scratch, effects: &mut effects };
        let member = Plain::start(&start, io).unwrap();
        Self { member, scratch, effects }
    }
    fn set(&mut self, value: &[u8]) -> u64 {
        self.member.state.set(self.member.own, KEY, value)
    }
    /// Hands a packet over; returns what it sends.
    fn handle(&mut self, from: u32, bytes: &[u8]) -> Vec<Vec<u8>> {
        let io = &mut Io { scratch: &mut self.scratch, effects: &mut self.effects };
        self.member.handle_datagram(Host(from), bytes, NOW, io);
        self.sent()
    }
    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.effects.sends.drain(..).map(|(_, slot)| self.effects.packets.get(slot).to_vec()).collect()
    }
    fn digest(&mut self, to: u32, request: bool) -> Vec<u8> {
        let io = &mut Io { scratch: &mut self.scratch, effects: &mut self.effects };
        self.member.send_digest(Host(to), request, io);
        self.sent().remove(0)
    }
}

fn versions(packet: &[u8]) -> Vec<(String, u64)> {
    match v0::decode(packet).unwrap() {
        Packet::Digest { digest, .. } => digest.entries().map(|e| (e.id.to_owned(), e.version)).collect(),
        Packet::Delta { delta, .. } => delta
            .nodes()
            .flat_map(|node| node.entries().map(move |entry| (node.head.id.to_owned(), entry.version)))
            .collect(),
    }
}

#[test]
fn a_request_is_answered_by_delta_and_digest_and_that_by_a_delta() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    a.set(b"a");
    b.set(b"b");
    let request = a.digest(1, true);
    let answers = b.handle(0, &request);
    assert_eq!(answers.len(), 2);
    assert_eq!(versions(&answers[0]), [], "the request did not list b");
    let mut listed = versions(&answers[1]);
    listed.sort();
    assert_eq!(listed, [("node-0000".into(), 0), ("node-0001".into(), 1)], "b found a in the request");
    assert!(matches!(v0::decode(&answers[1]), Ok(Packet::Digest { request: false, .. })));

    assert!(a.handle(1, &answers[0]).is_empty());
    let last = a.handle(1, &answers[1]);
    assert_eq!(last.len(), 1);
    assert_eq!(versions(&last[0]), [("node-0000".into(), 1)]);
    assert!(b.handle(0, &last[0]).is_empty());
    assert_eq!(b.effects.learned.len(), 1);
    assert_eq!(b.member.state.version(Host(0)), 1);
}

#[test]
fn entries_at_or_below_the_known_version_are_dropped() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    a.set(b"1");
    b.member.state.discover(Host(0));
    let ask = b.digest(0, false);
    let old = a.handle(1, &ask).remove(0);
    a.set(b"2");
    let new = a.handle(1, &ask).remove(0);
    b.handle(0, &new);
    b.handle(0, &old);
    assert_eq!((b.member.state.version(Host(0)), b.member.totals.dropped_entries), (2, 1));
    assert_eq!(b.member.state.since(Host(0), 0).map(|entry| entry.value).collect::<Vec<_>>(), [b"2"]);
}

/// Of many nodes a digest lists as many as fit, each time others; the others are not answered for.
#[test]
fn a_digest_lists_a_random_part_and_an_answer_only_that() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    for host in (0..500).map(Host) {
        a.member.state.discover(host);
        b.member.state.discover(host);
        b.member.state.set(host, KEY, b"value");
    }
    let first = a.digest(1, true);
    assert!((1400 - 60..=1400).contains(&first.len()), "{} bytes", first.len());
    let listed = versions(&first);
    assert!((20..=28).contains(&listed.len()), "{} nodes", listed.len());
    assert_ne!(listed, versions(&a.digest(1, true)));
    let delta = versions(&b.handle(0, &first)[0]);
    assert!(!delta.is_empty());
    assert!(delta.iter().all(|(id, _)| listed.iter().any(|(other, _)| other == id)));
}

#[test]
fn who_joins_over_tcp_gets_everything() {
    let (mut seed, mut new) = (Node::new(0), Node::new(1));
    for host in (0..300).map(Host).filter(|host| host.0 != 1) {
        seed.member.state.discover(host);
        seed.member.state.set(host, KEY, b"value");
    }
    new.set(b"new");
    let io = &mut Io { scratch: &mut new.scratch, effects: &mut new.effects };
    new.member.join(Host(0), io);
    let (_, slot) = new.effects.connects.remove(0);
    let (request, mut response) = (new.effects.packets.take(slot), Vec::new());
    let io = &mut Io { scratch: &mut seed.scratch, effects: &mut seed.effects };
    seed.member.handle_request(Host(1), &request, NOW, io, &mut response);
    assert_eq!(seed.member.state.version(Host(1)), 1);
    let io = &mut Io { scratch: &mut new.scratch, effects: &mut new.effects };
    new.member.handle_response(Host(0), &response, NOW, io);
    assert_eq!((new.member.state.known().len(), new.effects.learned.len()), (300, 299));
}
