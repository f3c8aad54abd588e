//! What v0 nodes are sent, and what they make of it (research: gossip, section 3; Piko's wire): the traps that one
//! packet is enough to show.

use probe_ebpf::time::Span;

use super::craft::{ANSWERS, delta, digest_by, entry, hand, hand_from, head};
use super::net::{Faults, Net, address};
use super::traps::{v0_delta, v0_digest, v0_entry};
use crate::proto::legacy::SURPLUS;
use crate::proto::{Outbox, WriteError};
use crate::wire::v0::{self, DigestWriter, stream};
use crate::wire::v1::{self, Entry, StateSum, Step};

const MINUTE: Span = Span::from_secs(60);

/// Fillers for digests of strangers, who are sent no more than they sent.
fn padded<'a>(nodes: &[(&'a str, u64)]) -> Vec<(&'a str, u64)> {
    let fillers = ["pad 1", "pad 2", "pad 3", "pad 4", "pad 5", "pad 6", "pad 7", "pad 8"].map(|id| (id, 0));
    nodes.iter().copied().chain(fillers).collect()
}
/// What a digest asks for: whether it is a request, and nodes with versions.
type Asked = (bool, Vec<(String, u64)>);
/// Nodes with the versions of their entries.
type Given = Vec<(String, Vec<u64>)>;

/// What is in the v0 packets of an outbox.
fn said(out: &Outbox) -> (Vec<Asked>, Vec<Given>) {
    let (mut asked, mut given) = (Vec::new(), Vec::new());
    for transmit in out.transmits() {
        match v0::decode(out.bytes(transmit)).unwrap() {
            v0::Packet::Digest { request, digest, .. } => {
                asked.push((request, digest.entries().map(|e| (e.id.to_owned(), e.version)).collect()));
            }
            v0::Packet::Delta { delta, .. } => given.push(
                delta
                    .nodes()
                    .map(|n| (n.head.id.to_owned(), n.entries().map(|e| e.version).collect()))
                    .collect(),
            ),
        }
    }
    (asked, given)
}

/// Gossip 1: a lagging node is sent a change only if its own digest happens to list whose it is. So one that sees news
/// in a digest lists just that, and gets it.
#[test]
fn gossip_1_a_digest_that_shows_news_is_answered_by_asking_for_just_that() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for name in ["b", "c"] {
        hand(&mut net, &delta("a", &head(name, 0, 4), &[entry("k", 4)])).0.unwrap();
    }
    let shown = v0_digest(7, "x", false, &padded(&[("b", 5), ("c", 4)]));
    let (asked, given) = said(&hand_from(&mut net, 7, &shown).1);
    assert_eq!(asked, [(false, vec![("b".to_owned(), 4)])]);
    assert_eq!(given.len(), 1, "and with the delta that says that it lives");
    let nothing_new = v0_digest(7, "x", false, &padded(&[("b", 4), ("c", 4)]));
    assert!(said(&hand_from(&mut net, 7, &nothing_new).1).0.is_empty());
}

/// Gossip 3, Piko 5: an entry that fits no packet would block all later ones of its node. What is as large as may be
/// written travels by either format, and through a v0 node from one to the other.
#[test]
fn gossip_3_no_entry_is_written_that_could_block_those_after_it() {
    let mut net = Net::v0_between(17);
    let (now, host) = (net.now, &mut net.hosts[1]);
    let refused = host.core.set("large", &[0; 1400], None, now, &host.clock);
    let Err(WriteError::TooLarge { len: 1400, limit }) = refused else { panic!("{refused:?}") };
    net.set(1, "large", &vec![0; limit]);
    net.set(1, "after", b"");
    assert!(net.run_until(MINUTE, Net::converged));
}

/// Gossip 3, the other direction: such an entry of another's, which came over TCP, holds up nobody else.
#[test]
fn gossip_3_another_ones_oversized_entry_does_not_hold_up_the_rest() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let large = Entry { value: &[0; 3000], ..entry("k", 4) };
    hand(&mut net, &delta("a", &head("b", 0, 4), &[large])).0.unwrap();
    hand(&mut net, &delta("a", &head("c", 0, 4), &[entry("k", 4)])).0.unwrap();
    // Which of the two comes first is drawn anew each time.
    for _ in 0..20 {
        let shown = v0_digest(7, "x", false, &padded(&[("b", 0), ("c", 0)]));
        let (_, given) = said(&hand_from(&mut net, 7, &shown).1);
        assert_eq!(given, [[("c".to_owned(), vec![4])]]);

        let shown = digest_by("x", ANSWERS, Step::Pull, StateSum::default(), &[("b", 0), ("c", 0)]);
        let (_, out) = hand_from(&mut net, 7, &shown);
        let has_c = |bytes: &[u8]| {
            let delta = v1::decode(bytes).unwrap().delta.unwrap();
            delta.nodes().any(|n| n.head.id == "c" && n.entries().count() == 1)
        };
        assert!(out.transmits().iter().any(|t| has_c(out.bytes(t))));
    }
    assert_eq!(net.hosts[0].core.counters().oversized, 40, "and it is counted");
}

/// Gossip 8: what shows a v0 member's address can be made up by whoever has seen one packet, so that there is a limit to
/// what such members are sent beyond what they sent.
#[test]
fn gossip_8_v0_members_are_sent_a_bounded_surplus() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for key in 0..40 {
        net.set(0, &format!("key {key}"), &[0; 100]);
    }
    hand_from(&mut net, 7, &v0_digest(7, "p", true, &padded(&[("p", 9)]))).0.unwrap();
    let news = v0_delta(7, "p", "p", &[v0_entry("k", 9)]);
    // The first makes it a member, the second shows that the member answers.
    (0..2).for_each(|_| hand_from(&mut net, 7, &news).0.unwrap());
    let request = v0_digest(7, "p", true, &[("node-0", 0)]);
    let mut surplus = 0;
    for _ in 0..1000 {
        let (_, out) = hand_from(&mut net, 7, &request);
        let sent: usize = out.transmits().iter().map(|t| out.bytes(t).len()).sum();
        surplus += sent.saturating_sub(request.len());
    }
    let limit = SURPLUS as usize;
    assert!((limit..=limit + 2 * 1400).contains(&surplus), "{surplus}");
}

/// Gossip 12: what the protocol's own keys will be one day is not known here, but others may need them.
#[test]
fn gossip_12_unknown_internal_keys_are_kept_and_passed_on() {
    let mut net = Net::v0_between(17);
    hand_from(&mut net, 7, &v0_digest(7, "b", true, &padded(&[("b", 4)]))).0.unwrap();
    let unknown = v0::Entry { internal: true, ..v0_entry("_internal:future", 4) };
    hand_from(&mut net, 7, &v0_delta(7, "b", "b", &[unknown])).0.unwrap();
    let kept = |net: &Net, host: usize| {
        net.hosts[host].core.entry("b", "_internal:future").is_some_and(|e| e.internal && e.value == b"v")
    };
    assert!(net.run_until(Span::from_secs(5), |net| (0..3).all(|host| kept(net, host))));
}

/// Gossip 8, Piko 2: Piko answers to the address inside the packet, even a name that it looks up first.
#[test]
fn piko_2_answers_go_to_the_source_whatever_the_packet_says() {
    let mut net = Net::new(1, 1, Faults::NONE);
    // One that is known to be elsewhere.
    hand(&mut net, &delta("a", &head("b", 0, 4), &[entry("k", 4)])).0.unwrap();
    let mut requests = vec![digest_by("b", ANSWERS, Step::Request, StateSum::default(), &[("node-0", 0)])];
    for addr in [address(1).to_string().as_str(), "example.org:7000", ""] {
        for name in ["b", "x"] {
            let mut request = Vec::new();
            let sender = v0::Sender { node_id: name, addr, max_version: None };
            let mut w = DigestWriter::new(&mut request, 1400, &sender, true);
            for (id, version) in padded(&[("b", 1), ("node-0", 0)]) {
                assert!(w.push(&v0::DigestEntry { id, addr, version, left: false }));
            }
            w.finish();
            requests.push(request);
        }
    }
    for request in requests {
        let (_, out) = hand_from(&mut net, 7, &request);
        assert!(!out.transmits().is_empty());
        assert!(out.transmits().iter().all(|t| t.to == address(7)));
    }
}

/// Piko 9: a v0 node takes what it did not list for the beginning of an unknown node. Only to who joins that is sent.
#[test]
fn piko_9_deltas_cover_what_was_listed_and_a_join_is_answered_with_everybody() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for name in ["b", "c"] {
        hand(&mut net, &delta("a", &head(name, 0, 4), &[entry("k", 4)])).0.unwrap();
    }
    let shown = v0_digest(7, "x", true, &padded(&[("b", 1)]));
    let (_, given) = said(&hand_from(&mut net, 7, &shown).1);
    assert_eq!(given, [[("b".to_owned(), vec![4])]]);

    let (mut request, mut response, mut out) = (Vec::new(), Vec::new(), Outbox::default());
    let sender = v0::Sender { node_id: "x", addr: "10.0.0.8:7000", max_version: None };
    let known = v0::DigestEntry { id: "x", addr: "10.0.0.8:7000", version: 1, left: false };
    stream::put_join_request(&mut request, &sender, &[], &[known]);
    let (now, host) = (net.now, &mut net.hosts[0]);
    host.core.handle_stream(&request, address(7), now, &host.clock, &mut response, &mut out).unwrap();
    let response = stream::decode_join_response(&response, &host.core.stream_limits()).unwrap();
    let mut told: Vec<_> = response.delta.nodes().map(|node| node.head.id).collect();
    told.sort_unstable();
    assert_eq!(told, ["b", "c", "node-0"]);
}
