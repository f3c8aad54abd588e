//! Packets whose sender is not who it says, not where it says, or speaks of the past.

use std::net::{IpAddr, SocketAddr};

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::Span;
use probe_user::analysis::align::ByReadings;

use super::craft::{delta, delta_by, digest_by, entry, hand, hand_from, head};
use super::net::{Faults, Net, address, id};
use super::traps::{v0_delta, v0_digest, v0_entry};
use crate::proto::{MemberStatus, Outbox, Received, Rejected};
use crate::wire::v0::stream;
use crate::wire::v1::{self, Entry, NodeRef, PacketWriter, Sender, StateSum, Step, Suspect};
use crate::wire::{PROTO_KEY, v0};

const MINUTE: Span = Span::from_secs(60);

fn bytes(out: &Outbox) -> usize {
    out.transmits().iter().map(|t| out.bytes(t).len()).sum()
}

/// A digest of someone who answers a packet of host 0's and suspects it at `version`.
fn accusation(version: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let sender = Sender { node_id: "a", answers: super::craft::ANSWERS };
    let suspect = Suspect { node: NodeRef::of("node-0"), version, by: NodeRef::of("a") };
    let (id, sum) = (PacketId::default(), StateSum::default());
    PacketWriter::digest(&mut out, 1400, id, &sender, Step::Offer, sum, &[suspect]).finish();
    out
}

#[test]
fn an_answer_proves_an_address_only_where_its_packet_went() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for key in 0..40 {
        net.set(0, &format!("key {key}"), &[0; 100]);
    }
    // A stranger asks from where it really is, and is answered.
    let padding: Vec<(String, u64)> = (0..50).map(|n| (format!("nobody {n}"), 0)).collect();
    let padding: Vec<(&str, u64)> = padding.iter().map(|(id, v)| (id.as_str(), *v)).collect();
    let sum = StateSum::default();
    let (_, out) = hand_from(&mut net, 7, &digest_by("x", None, Step::Request, sum, &padding));
    let answer = v1::decode(out.bytes(&out.transmits()[0])).unwrap();
    // With that answer in hand it asks again as if from elsewhere: a victim that never heard of this node.
    let request = digest_by("x", Some(answer.id), Step::Pull, sum, &[("node-0", 0)]);
    let (_, out) = hand_from(&mut net, 8, &request);
    assert!(bytes(&out) <= request.len(), "{} bytes for {}", bytes(&out), request.len());
    let news = delta_by("x", Some(answer.id), &head("x", 0, 4), &[entry("k", 4)]);
    assert_eq!(hand_from(&mut net, 8, &news).0, Err(Rejected::Unasked));
    // Where it is it may have more, and may join.
    assert!(bytes(&hand_from(&mut net, 7, &request).1) > 4000);
    assert_eq!(hand_from(&mut net, 7, &news).0, Ok(()));
    assert_eq!(net.hosts[0].core.member_count(), 2);
}

#[test]
fn members_packets_do_not_tell_strangers_what_to_answer() {
    let mut net = Net::new(2, 1, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(1));
    let sent = net.sent.iter().rfind(|(from, to, _)| *from == 0 && *to == address(1)).unwrap().2.clone();
    let seen = v1::decode(&sent).unwrap().id;
    for counter in [0, 1, seen.counter, seen.counter + 1, u32::MAX] {
        let answered = Some(PacketId { counter, ..seen });
        let request = digest_by("x", answered, Step::Request, StateSum::default(), &[]);
        assert!(bytes(&hand_from(&mut net, 7, &request).1) <= request.len());
        let news = delta_by("x", answered, &head("x", 0, 4), &[entry("k", 4)]);
        assert_eq!(hand_from(&mut net, 7, &news).0, Err(Rejected::Unasked), "{counter}");
    }
}

#[test]
fn strangers_cannot_make_this_node_rewrite_itself() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let sum = StateSum::default();
    for from in [digest_by("x", None, Step::Offer, sum, &[("node-0", 500)]), {
        v0_digest(7, "x", true, &[("node-0", 500)])
    }] {
        hand_from(&mut net, 7, &from).0.unwrap();
        assert_eq!(net.hosts[0].core.counters().restarts_found, 0);
    }
    hand_from(&mut net, 7, &digest_by("x", super::craft::ANSWERS, Step::Offer, sum, &[("node-0", 500)]))
        .0
        .unwrap();
    assert_eq!(net.hosts[0].core.counters().restarts_found, 1);
}

#[test]
fn forged_suspicions_are_answered_once_in_a_while_but_answered() {
    let mut net = Net::new(1, 1, Faults::NONE);
    hand(&mut net, &delta("a", &head("a", 0, 4), &[entry("k", 4)])).0.unwrap();
    let refutations = |net: &Net| net.hosts[0].core.counters().refutations;
    for _ in 0..50 {
        hand(&mut net, &accusation(u64::MAX)).0.unwrap();
    }
    assert_eq!((refutations(&net), net.hosts[0].core.counters().suspected_ahead), (0, 50));
    let start = net.now;
    for _ in 0..1000 {
        let accused = accusation(net.version(0, 0));
        hand(&mut net, &accused).0.unwrap();
        net.run(Span::from_millis(1));
    }
    assert!((3..=5).contains(&refutations(&net)), "{} in {}", refutations(&net), net.now - start);
    // The last one is not forgotten, however soon after another it came.
    let accused = net.version(0, 0);
    hand(&mut net, &accusation(accused)).0.unwrap();
    assert!(net.run_until(Span::from_millis(300), |net| net.version(0, 0) > accused));
}

#[test]
fn old_packets_do_not_keep_a_dead_node_alive() {
    let mut net = Net::new(3, 5, Faults::NONE);
    net.run(Span::from_secs(30));
    let old: Vec<Vec<u8>> = (net.sent.iter())
        .filter(|(from, to, bytes)| *from == 1 && *to == address(0) && bytes[1] == v1::VERSION)
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    assert!(old.len() > 100);
    net.hosts[1].up = false;
    let dead = |net: &Net| {
        let status = net.hosts[0].core.members().find(|m| *m.id == id(1)).map(|m| m.status);
        status.is_none_or(|status| status == MemberStatus::Unreachable)
    };
    for packet in old.iter().rev().cycle().take(2000) {
        hand_from(&mut net, 1, packet).0.unwrap();
        net.run(Span::from_millis(10));
        if dead(&net) {
            break;
        }
    }
    assert!(dead(&net), "20 s of its old packets hid that it is gone");
    let counters = net.hosts[0].core.counters();
    assert!(counters.stale > 0 && counters.duplicates > 0, "{counters:?}");
}

/// Piko 7: a Piko node that restarts under its id does not know its past, and others would ignore all that it says.
#[test]
fn piko_7_a_node_that_began_anew_is_believed_and_old_packets_of_one_that_did_not_are_not() {
    for answers in [false, true] {
        let mut net = Net::new(1, 1, Faults::NONE);
        let shown = |version| v0_digest(7, "p", true, &[("p", version), ("pad 1", 0), ("pad 2", 0)]);
        hand_from(&mut net, 7, &shown(9)).0.unwrap();
        let news = v0_delta(7, "p", "p", &[v0_entry("k", 4), v0_entry("l", 9)]);
        // The first makes it a member, the second shows that the member answers.
        (0..2).for_each(|_| hand_from(&mut net, 7, &news).0.unwrap());
        let mut challenged = 0;
        for _ in 0..30 {
            let (_, out) = hand_from(&mut net, 7, &shown(2));
            let challenge = out.transmits().iter().any(|t| match v0::decode(out.bytes(t)).unwrap() {
                v0::Packet::Digest { request: false, digest, .. } => {
                    digest.entries().next().is_some_and(|e| e.id == "p" && e.version == 8)
                }
                _ => false,
            });
            challenged += u32::from(challenge);
            if challenge && answers {
                hand_from(&mut net, 7, &v0_delta(7, "p", "p", &[v0_entry("l", 9)])).0.unwrap();
            }
            net.run(Span::from_millis(100));
        }
        let core = &net.hosts[0].core;
        assert!(challenged > 2, "{challenged}");
        let expected = if answers { (0, 2) } else { (1, 0) };
        assert_eq!((core.counters().rebirths, core.entries("p").count()), expected, "answers: {answers}");
    }
}

#[test]
fn strangers_do_not_crowd_out_the_questions_to_members() {
    let mut net = Net::empty(3, Faults::NONE);
    net.start(0, |config| config.max_version = 0);
    for stranger in 0..9000 {
        let digest = v0_digest(stranger, "x", true, &[("nobody", 0), ("pad 1", 0), ("pad 2", 0)]);
        hand_from(&mut net, 1000 + stranger, &digest).0.unwrap();
    }
    net.start(1, |config| config.max_version = 0);
    assert!(net.run_until(Span::from_secs(1), Net::converged), "joined");
    net.set(1, "key", b"value");
    assert!(net.run_until(Span::from_secs(2), Net::converged));
}

#[test]
fn a_join_in_a_members_name_from_elsewhere_is_no_sign_of_life() {
    let mut net = Net::new(2, 1, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    let heard = |net: &Net| net.hosts[0].core.members().find(|m| *m.id == id(1)).unwrap().heard;
    let before = heard(&net);
    net.now = net.now + Span::from_millis(1);
    for (from, counts) in [(address(7), false), (address(1), true)] {
        let (mut request, mut response, mut out) = (Vec::new(), Vec::new(), Outbox::default());
        let sender = v0::Sender { node_id: "node-1", addr: &address(1).to_string(), max_version: Some(1) };
        stream::put_join_request(&mut request, &sender, &[], &[]);
        let (now, host) = (net.now, &mut net.hosts[0]);
        host.core.handle_stream(&request, from, now, &host.clock, &mut response, &mut out).unwrap();
        assert_eq!(heard(&net) != before, counts, "{from}");
    }
}

#[test]
fn a_v0_digest_is_no_way_to_make_a_v1_request_go_to_somebody_else() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let at = |of| v1::NodeHead { addr: address(of), ..head("m", 0, 1) };
    let speaks = Entry { value: b"1", internal: true, ..entry(PROTO_KEY, 1) };
    hand(&mut net, &delta("a", &at(8), &[speaks])).0.unwrap();
    let mut digest = Vec::new();
    let sender = v0::Sender { node_id: "m", addr: "10.0.0.9:7000", max_version: Some(1) };
    v0::DigestWriter::new(&mut digest, 1400, &sender, false).finish();
    let (_, out) = hand_from(&mut net, 8, &digest);
    assert!(bytes(&out) <= digest.len(), "{} bytes for {}", bytes(&out), digest.len());
}

#[test]
fn an_ipv4_sender_at_an_ipv6_socket_is_the_same_one() {
    let mut net = Net::new(2, 1, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(1));
    // One that answers nothing, so that only its address tells whose it is.
    let unasked = |bytes: &[u8]| v1::decode(bytes).is_ok_and(|packet| packet.header.answers.is_none());
    let sent = net.sent.iter().rfind(|(from, to, bytes)| *from == 1 && *to == address(0) && unasked(bytes));
    let packet = sent.unwrap().2.clone();
    let IpAddr::V4(ip) = address(1).ip() else { panic!("IPv4") };
    let mut out = Outbox::default();
    let (now, host) = (net.now, &mut net.hosts[0]);
    let from = SocketAddr::new(ip.to_ipv6_mapped().into(), address(1).port());
    let received = Received {
        from,
        bytes: &packet,
        now,
        received: None,
        kernel: None,
        clock: &host.clock,
        align: &ByReadings,
    };
    host.core.handle_datagram(received, &mut out).unwrap();
    assert_eq!(out.packet.unwrap().from, id(1));
}
