//! Nodes that are gone, and those who could bring them back (research: gossip, traps 4 and 9).

use probe_ebpf::time::Span;

use super::craft::{delta, entry, hand, hand_from, head};
use super::net::{Faults, Net, address, id};
use crate::proto::{Event, MemberStatus, Outbox, StreamKind};
use crate::wire::LEFT_KEY;
use crate::wire::v0::{self, DigestEntry, DigestWriter, stream};

const SECOND: Span = Span::from_secs(1);
const MINUTE: Span = Span::from_secs(60);

/// Gossip 4: a node that did not run while all others forgot somebody still holds him for alive, and lists him.
#[test]
fn gossip_4_who_slept_does_not_bring_back_whom_the_others_forgot() {
    for max_version in [0, 1] {
        let mut net = Net::empty(3, Faults::NONE);
        for host in 0..6 {
            net.start(host, |config| config.max_version = max_version);
        }
        assert!(net.run_until(MINUTE, Net::converged));
        net.run(Span::from_secs(5));
        let knows = |net: &Net, host: usize, of: usize| net.version(host, of) > 0;
        // Both stop at once; one of them is dead, the other sleeps.
        net.hosts[4].up = false;
        net.hosts[5].up = false;
        let forgotten = |net: &Net| (0..4).all(|host| !knows(net, host, 4) && !knows(net, host, 5));
        assert!(net.run_until(Span::from_secs(120), forgotten));
        for host in &mut net.hosts {
            host.events.clear();
        }
        net.hosts[4].up = true;
        assert!(knows(&net, 4, 5), "as if nothing had happened");
        assert!(net.run_until(MINUTE, |net| (0..4).all(|host| knows(net, host, 4))), "it is taken back");
        net.run(Span::from_secs(100));
        let ghost = |event: &Event| matches!(event, Event::Joined { node } if *node == id(5));
        assert!(net.hosts.iter().all(|host| !host.events.iter().any(ghost)), "v{max_version}");
        assert!((0..5).all(|host| !knows(&net, host, 5)), "v{max_version}: all have forgotten it");
    }
}

/// Gossip 9, Piko 9: the expiry of those who left began anew at everyone who joined.
#[test]
fn gossip_9_who_left_is_forgotten_however_many_join() {
    let n = 8;
    let mut net = Net::new(n, 3, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(5));
    net.leave(3);
    let left = |net: &Net, host: usize| {
        net.hosts[host].core.members().any(|m| *m.id == id(3) && m.status == MemberStatus::Left)
    };
    assert!(net.run_until(SECOND, |net| (0..n).all(|host| host == 3 || left(net, host))), "told at once");
    let told = net.streams.iter().filter(|(_, _, kind)| *kind == StreamKind::Leave).count();
    assert_eq!(told, 4, "some at once, the others by them");
    // Every ten seconds somebody joins.
    for joiner in 0..12 {
        net.start(n + joiner, |_| ());
        net.run(Span::from_secs(10));
    }
    for host in (0..n + 12).filter(|h| *h != 3) {
        assert!(net.hosts[host].core.members().all(|m| *m.id != id(3)), "{host} still knows it");
    }
    let flagged = net.hosts.iter().flat_map(|h| &h.events).filter(|e| matches!(e, Event::Unreachable { .. }));
    assert_eq!(flagged.count(), 0, "who left is not dead");
}

/// Gossip 9: taken in from a digest, who left would have its whole time before it at everyone who joins.
#[test]
fn gossip_9_who_joins_does_not_ask_for_who_left() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let addr = address(7).to_string();
    let mut shown = Vec::new();
    let sender = v0::Sender { node_id: "a", addr: &addr, max_version: None };
    let mut w = DigestWriter::new(&mut shown, 1400, &sender, true);
    for (id, left) in [("gone", true), ("there", false)] {
        assert!(w.push(&DigestEntry { id, addr: &addr, version: 5, left }));
    }
    // A stranger is sent no more than it sent: so that there is room for both.
    for id in ["pad 1", "pad 2", "pad 3", "pad 4"] {
        assert!(w.push(&DigestEntry { id, addr: &addr, version: 0, left: false }));
    }
    w.finish();
    let (_, out) = hand_from(&mut net, 7, &shown);
    let asked = out.transmits().iter().find_map(|t| match v0::decode(out.bytes(t)).unwrap() {
        v0::Packet::Digest { digest, .. } => Some(digest),
        v0::Packet::Delta { .. } => None,
    });
    let asked: Vec<_> = asked.unwrap().entries().map(|e| (e.id, e.version)).collect();
    assert!(asked.contains(&("there", 0)) && !asked.iter().any(|(id, _)| *id == "gone"), "{asked:?}");
}

/// Gossip 7 and 9: anybody who can send could make everybody believe that another one has left.
#[test]
fn gossip_9_nobody_says_goodbye_for_another_from_elsewhere() {
    let mut net = Net::new(1, 1, Faults::NONE);
    hand(&mut net, &delta("a", &head("b", 0, 2), &[entry("k", 2)])).0.unwrap();
    let addr = address(1).to_string();
    let sender = v0::Sender { node_id: "b", addr: &addr, max_version: None };
    let left = v0::Entry { key: LEFT_KEY.as_bytes(), value: b"", version: 3, internal: true, deleted: false };
    let goodbye = stream::Node { head: v0::NodeHead { id: "b", addr: &addr }, entries: vec![left] };
    let mut request = Vec::new();
    stream::put_leave_request(&mut request, &sender, &[goodbye]);
    for (from, expected) in [(7, MemberStatus::Alive), (1, MemberStatus::Left)] {
        let (mut response, mut out) = (Vec::new(), Outbox::default());
        let (now, host) = (net.now, &mut net.hosts[0]);
        host.core.handle_stream(&request, address(from), now, &host.clock, &mut response, &mut out).unwrap();
        assert!(!response.is_empty(), "it is answered as Piko does");
        let status = net.hosts[0].core.members().find(|m| m.id.as_str() == "b").map(|m| m.status);
        assert_eq!(status, Some(expected), "from {from}");
    }
    assert_eq!(net.hosts[0].core.counters().foreign_leave, 1);
}
