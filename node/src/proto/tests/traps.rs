//! The traps that v0 nodes fall into (research: gossip, section 3; Piko's wire), each with the counter-measure that
//! keeps this one out. Those that a packet is enough to show are in `legacy`, those of nodes that are gone in `ghosts`;
//! traps of the codec are tested beside it, those of sockets beside them.

use std::collections::BTreeSet;

use probe_ebpf::time::Span;

use super::craft::{delta, digest_by, entry, hand, hand_from, head};
use super::net::{Faults, Net, address, id};
use crate::proto::{Config, Event, MemberStatus, Rejected};
use crate::wire::v0::{self, Cut, DeltaWriter, DigestEntry, DigestWriter};
use crate::wire::v1::{self, Entry, StateSum, Step};
use crate::wire::{COMPACT_KEY, LEFT_KEY};

const SECOND: Span = Span::from_secs(1);
const MINUTE: Span = Span::from_secs(60);

/// A cluster of plain v0 nodes that know each other.
fn v0_cluster(n: usize, seed: u64) -> Net {
    let mut net = Net::empty(seed, Faults::NONE);
    for host in 0..n {
        net.start(host, |config| {
            config.max_version = 0;
            config.eager_fanout = 0;
            config.max_packet = Config::MAX_PACKET_MIN;
        });
    }
    let everybody = |net: &Net| (0..n).all(|host| net.hosts[host].core.member_count() == n);
    assert!(net.run_until(MINUTE, everybody), "joined");
    net.run(Span::from_secs(5));
    net
}

pub(super) fn v0_digest(from: usize, name: &str, request: bool, nodes: &[(&str, u64)]) -> Vec<u8> {
    let addr = address(from).to_string();
    let mut out = Vec::new();
    let sender = v0::Sender { node_id: name, addr: &addr, max_version: None };
    let mut w = DigestWriter::new(&mut out, 60_000, &sender, request);
    for (id, version) in nodes {
        assert!(w.push(&DigestEntry { id, addr: &addr, version: *version, left: false }));
    }
    w.finish();
    out
}
pub(super) fn v0_delta(from: usize, name: &str, of: &str, entries: &[v0::Entry<'_>]) -> Vec<u8> {
    let addr = address(from).to_string();
    let mut out = Vec::new();
    let sender = v0::Sender { node_id: name, addr: &addr, max_version: None };
    let mut w = DeltaWriter::new(&mut out, 60_000, &sender, Cut::Whole);
    let written = w.node(&v0::NodeHead { id: of, addr: &addr }, entries.iter().copied());
    assert_eq!(written.entries, entries.len());
    w.finish();
    out
}
pub(super) fn v0_entry(key: &str, version: u64) -> v0::Entry<'_> {
    v0::Entry { key: key.as_bytes(), value: b"v", version, internal: false, deleted: false }
}

/// Gossip 1: a digest lists about 20 of 120 nodes here, and a lagging node used to get X only if its own digest
/// happened to list X.
#[test]
fn gossip_1_a_truncated_digest_does_not_slow_a_change_down_among_v0_nodes() {
    let n = 120;
    let mut net = v0_cluster(n, 3);
    let mut times = Vec::new();
    for change in 0..5u8 {
        net.set(usize::from(change) * 20, "key", &[change]);
        let start = net.now;
        let known = |net: &Net| {
            (0..n)
                .filter(|h| net.held(*h, usize::from(change) * 20).get("key") == Some(&vec![change]))
                .count()
        };
        assert!(net.run_until(Span::from_secs(20), |net| known(net) * 100 >= n * 95), "change {change}");
        times.push(net.now - start);
    }
    times.sort_unstable();
    assert!(times[2] <= SECOND, "95 % know a change after {times:?}");
}

/// Gossip 2: a v0 delta does not say what it builds on.
#[test]
fn gossip_2_v0_deltas_are_taken_only_where_asked_and_from_the_beginning() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let news = v0_delta(9, "a", "a", &[v0_entry("k", 5)]);
    assert_eq!(hand(&mut net, &news).0, Err(Rejected::Unasked));
    // Our answer to its digest asks for it from its beginning...
    let shown = v0_digest(9, "a", true, &[("a", 5), ("b", 9), ("pad 1", 0), ("pad 2", 0), ("pad 3", 0)]);
    hand(&mut net, &shown).0.unwrap();
    hand(&mut net, &news).0.unwrap();
    assert_eq!(net.hosts[0].core.member_count(), 2);
    // ...but nobody asked for c: the node may have expired between digest and delta.
    hand(&mut net, &v0_delta(9, "a", "c", &[v0_entry("k", 5)])).0.unwrap();
    assert_eq!((net.hosts[0].core.member_count(), net.hosts[0].core.counters().gap), (2, 1));
    // Entries that do not rise end their node: what follows would hide what is missing.
    hand(&mut net, &v0_delta(9, "a", "a", &[v0_entry("l", 7), v0_entry("m", 6), v0_entry("n", 8)]))
        .0
        .unwrap();
    let core = &net.hosts[0].core;
    assert_eq!((core.counters().disordered, core.entries("a").count()), (1, 2));
}

/// Gossip 2, the other direction: what we send to v0 nodes is asked for, complete and in order.
#[test]
fn gossip_2_v0_nodes_are_never_sent_what_they_did_not_ask_for() {
    let mut net = Net::empty(5, Faults::NONE);
    for host in 0..4 {
        net.start(host, |config| config.max_version = u8::from(host > 1));
    }
    net.run(Span::from_secs(5));
    net.sent.clear();
    for round in 0..20 {
        // Several at a time, so that there is an order, and something to leave out.
        for key in ["key", "lock", "door"] {
            net.set(3, key, &[round]);
        }
        net.run(Span::from_millis(300));
    }
    net.set(3, "last", b"");
    assert!(net.run_until(MINUTE, Net::converged), "nothing was left out on the way");
    let mut asked = BTreeSet::new();
    let mut deltas = 0;
    for (from, to, bytes) in &net.sent {
        match v0::decode(bytes) {
            Ok(v0::Packet::Digest { .. }) => {
                asked.insert((*to, address(*from)));
            }
            Ok(v0::Packet::Delta { delta, .. }) => {
                assert!(asked.contains(&(address(*from), *to)), "a delta that answers nothing");
                for node in delta.nodes() {
                    deltas += 1;
                    let versions: Vec<_> = node.entries().map(|e| e.version).collect();
                    assert!(versions.is_sorted() && node.len() as i64 <= node.declared);
                }
            }
            Err(_) => (),
        }
    }
    assert!(deltas > 20);
}

/// Gossip 4, Piko 6: a crashed node is not relearnt from those who have not forgotten it yet.
#[test]
fn gossip_4_a_dead_node_does_not_come_back_as_a_ghost() {
    let mut net = Net::new(8, 3, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(5));
    net.hosts[7].up = false;
    let found = |net: &Net| {
        let dead = |h: usize| net.hosts[h].core.members().find(|m| *m.id == id(7)).map(|m| m.status);
        (0..7).all(|h| dead(h) == Some(MemberStatus::Unreachable))
    };
    assert!(net.run_until(Span::from_secs(30), found));
    for host in &mut net.hosts {
        host.events.clear();
    }
    // Who joins while it is held for dead but not forgotten, and whoever listens to them, hears nothing of it.
    net.start(8, |_| ());
    net.start(9, |config| config.max_version = 0);
    let lists = |net: &Net| {
        (0..10).filter(|h| *h != 7 && net.hosts[*h].core.members().any(|m| *m.id == id(7))).count()
    };
    assert!(net.run_until(Span::from_secs(90), |net| lists(net) == 0), "{} still know it", lists(&net));
    net.run(Span::from_secs(200));
    let ghost = |event: &Event| matches!(event, Event::Joined { node } if *node == id(7));
    assert!(net.hosts.iter().all(|h| !h.events.iter().any(ghost)) && lists(&net) == 0);
    assert!((0..10).all(|h| h == 7 || net.hosts[h].core.member_count() == 9), "the late ones are known");
}

/// Gossip 5, Piko 7: peers would ignore all that a restarted node says until its versions pass the old ones.
#[test]
fn gossip_5_a_restart_under_the_same_id_jumps_past_and_voids_its_past() {
    let mut net = Net::new(3, 9, Faults::NONE);
    for round in 0..20 {
        net.set(1, "key", &[round]);
    }
    net.set(1, "only before", b"");
    assert!(net.run_until(MINUTE, Net::converged));
    net.start(1, |_| ());
    net.set(1, "key", b"anew");
    let anew = |net: &Net| {
        [0, 2].iter().all(|h| net.held(*h, 1).get("key").is_some_and(|v| v == b"anew"))
            && [0, 2].iter().all(|h| !net.held(*h, 1).contains_key("only before"))
    };
    assert!(net.run_until(Span::from_secs(2), anew));
}

/// A restart under a new id: the old one is still said to be at this node's own address.
#[test]
fn gossip_5_a_node_does_not_talk_to_its_earlier_self() {
    let mut net = Net::new(3, 9, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.start(1, |config| config.id = crate::proto::NodeId::new("reborn").unwrap());
    let knows = |net: &Net| net.version(1, 1) > 0 && net.hosts[1].core.ring().count() > 0;
    assert!(net.run_until(Span::from_secs(2), knows));
    assert!(net.hosts[1].core.ring().all(|neighbour| *neighbour != id(1)), "it is no neighbour either");
    net.run(Span::from_secs(10));
    assert!(net.sent.iter().all(|(from, to, _)| *to != address(*from)));
    let old = |host: usize| net.hosts[host].core.members().find(|m| *m.id == id(1)).map(|m| m.status);
    assert!([0, 1, 2].iter().all(|host| old(*host) == Some(MemberStatus::Unreachable)), "it is found dead");
}

/// The same where the new run has written more than the old one had before anybody heard of it.
#[test]
fn gossip_5_a_restart_that_outran_its_past_unheard_mixes_nothing_up() {
    let mut net = Net::new(3, 9, Faults::NONE);
    net.set(1, "only before", b"");
    assert!(net.run_until(MINUTE, Net::converged));
    net.start(1, |_| ());
    for round in 0..30 {
        net.set(1, "key", &[round]);
    }
    assert!(net.run_until(Span::from_secs(3), |net| {
        [0, 2].iter().all(|h| net.held(*h, 1).len() == 1 && net.held(*h, 1).get("key") == Some(&vec![29]))
    }));
}

/// Gossip 6: Piko flags 54 % of its peers at N = 100.
#[test]
fn gossip_6_nobody_is_unreachable_after_a_joint_start() {
    let n = 60;
    let mut net = Net::new(n, 21, Faults { loss: 0.01, ..Faults::NONE });
    net.run(MINUTE);
    let flagged = net.hosts.iter().flat_map(|h| &h.events).filter(|e| matches!(e, Event::Unreachable { .. }));
    assert_eq!(flagged.count(), 0);
    let doubts =
        net.hosts.iter().flat_map(|h| h.core.detector_counters()).filter(|(name, _)| *name == "suspected");
    assert_eq!(doubts.map(|(_, count)| count).sum::<u64>(), 0, "nor even suspected for a moment");
    // And a dead one is found by all.
    net.hosts[30].up = false;
    let found = |net: &Net| {
        (0..n).filter(|h| *h != 30).all(|h| {
            net.hosts[h].core.members().any(|m| *m.id == id(30) && m.status == MemberStatus::Unreachable)
        })
    };
    let start = net.now;
    assert!(net.run_until(Span::from_secs(5), found));
    println!("dead to all {n} after {}", net.now - start);
}

/// Gossip 7, Piko 8: one bad compact value drops the rest of a node's delta, or its state.
#[test]
fn gossip_7_compaction_up_to_a_version_that_does_not_exist_voids_nothing() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for (value, version) in [(&b"9"[..], 2), (b"2", 2), (b"nonsense", 2), (b"\xff", 2)] {
        let name = format!("n{value:?}");
        let compact = Entry { value, internal: true, ..entry(COMPACT_KEY, version) };
        let entries = [entry("k", 1), compact, entry("l", 3)];
        hand(&mut net, &delta("a", &head(&name, 0, 3), &entries)).0.unwrap();
        assert_eq!(net.hosts[0].core.entries(&name).filter(|e| !e.internal).count(), 2, "{value:?}");
    }
    assert_eq!(net.hosts[0].core.counters().bad_compact, 4);
    let compact = Entry { value: b"1", internal: true, ..entry(COMPACT_KEY, 3) };
    hand(&mut net, &delta("a", &head("m", 0, 3), &[entry("k", 1), entry("l", 2), compact])).0.unwrap();
    let kept: Vec<_> = net.hosts[0].core.entries("m").filter(|e| !e.internal).map(|e| e.key).collect();
    assert_eq!(kept, ["l"]);
}

/// Gossip 8, Piko 2: a forged source makes a node send more than it got to somebody else.
#[test]
fn gossip_8_strangers_are_sent_no_more_than_they_sent() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for key in 0..40 {
        net.set(0, &format!("key {key}"), &[0; 100]);
    }
    for n in 0..30 {
        hand(&mut net, &delta("a", &head(&format!("n{n}"), 0, 4), &[entry("k", 4)])).0.unwrap();
    }
    let all = StateSum::default();
    // A stranger, and one that others told of: nothing yet came from there that a packet of this node's set off.
    for (from, name) in [(7, "x"), (1, "n0")] {
        let mut answered = 0;
        for request in [
            digest_by(name, None, Step::Request, all, &[]),
            digest_by(name, None, Step::Pull, all, &[("node-0", 0), ("n1", 0), ("n2", 0)]),
            digest_by(name, None, Step::Answer, all, &[("node-0", 0), ("n1", 0)]),
            v0_digest(from, name, true, &[]),
            v0_digest(from, name, true, &[("node-0", 0), ("n1", 0), ("n2", 0), ("unknown", 5)]),
            v0_digest(from, name, false, &[("node-0", 0)]),
        ] {
            let (result, out) = hand_from(&mut net, from, &request);
            let bytes: usize = out.transmits().iter().map(|t| out.bytes(t).len()).sum();
            assert!(result.is_ok() && bytes <= request.len(), "{bytes} for {} to {name}", request.len());
            answered += out.transmits().len();
        }
        assert!(answered > 0, "but it is answered");
    }
}

/// Gossip 10: after both sides forgot each other, only seeds can bring them together.
#[test]
fn gossip_10_a_split_longer_than_memory_heals() {
    let mut net = Net::new(4, 8, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    for a in [0, 1] {
        for b in [2, 3] {
            net.paths.extend([((a, b), None), ((b, a), None)]);
        }
    }
    net.run(Span::from_secs(200));
    assert!((0..4).all(|h| net.hosts[h].core.member_count() == 2), "forgotten");
    net.paths.clear();
    net.set(0, "key", b"from one side");
    net.set(3, "key", b"from the other");
    assert!(net.run_until(Span::from_secs(35), Net::converged));
}

/// Gossip 11: what is counted is what was sent.
#[test]
fn gossip_11_counters_tell_what_was_sent_and_what_was_cut() {
    for max_version in [0, 1] {
        let mut net = Net::empty(31, Faults::NONE);
        for host in 0..4 {
            net.start(host, |config| config.max_version = max_version);
        }
        assert!(net.run_until(MINUTE, Net::converged));
        let before: Vec<_> = net.hosts.iter().map(|h| *h.core.counters()).collect();
        net.sent.clear();
        for key in 0..40 {
            net.set(1, &format!("key {key}"), &[0; 300]);
        }
        net.run(Span::from_secs(5));
        let (mut listed, mut entries, mut packets) = ([0; 4], [0; 4], [0; 4]);
        for (from, _, bytes) in &net.sent {
            packets[*from] += 1;
            match v0::decode(bytes) {
                Ok(v0::Packet::Digest { digest, .. }) => listed[*from] += digest.len() as u64,
                Ok(v0::Packet::Delta { delta, .. }) => {
                    entries[*from] += delta.nodes().map(|n| n.len() as u64).sum::<u64>();
                }
                Err(_) => {
                    let packet = v1::decode(bytes).unwrap();
                    listed[*from] += packet.digest.map_or(0, |d| d.listed().count() as u64);
                    entries[*from] +=
                        packet.delta.map_or(0, |d| d.nodes().map(|n| n.len() as u64).sum::<u64>());
                }
            }
        }
        for (host, before) in before.iter().enumerate() {
            let now = net.hosts[host].core.counters();
            assert_eq!(
                now.digest_entries_sent - before.digest_entries_sent,
                listed[host],
                "v{max_version} {host}"
            );
            assert_eq!(
                now.delta_entries_sent - before.delta_entries_sent,
                entries[host],
                "v{max_version} {host}"
            );
            assert!(packets[host] > 0);
        }
        assert!(net.hosts.iter().map(|h| h.core.counters().left_out).sum::<u64>() > 0, "some had to wait");
    }
}

/// Piko 1: only deltas count as signs of life.
#[test]
fn piko_1_every_v0_digest_is_answered_with_a_delta_first_and_requests_with_a_digest_too() {
    let mut net = v0_cluster(2, 3);
    for (request, kinds) in [(true, vec![2, 1]), (false, vec![2])] {
        let shown =
            v0_digest(1, "node-1", request, &[("node-1", net.version(0, 1)), ("node-0", net.version(0, 0))]);
        let (_, out) = hand_from(&mut net, 1, &shown);
        let sent: Vec<u8> = out.transmits().iter().map(|t| out.bytes(t)[0]).collect();
        assert_eq!(sent, kinds);
    }
}

/// Piko 8: `_internal:left` means something only as the protocol's own entry, and only about its own node.
#[test]
fn piko_8_left_needs_the_internal_flag_and_another_node() {
    let mut net = Net::new(1, 1, Faults::NONE);
    hand(&mut net, &delta("a", &head("b", 0, 2), &[entry("k", 1), entry(LEFT_KEY, 2)])).0.unwrap();
    let status =
        |net: &Net, name: &str| net.hosts[0].core.members().find(|m| m.id.as_str() == name).map(|m| m.status);
    assert_eq!(status(&net, "b"), Some(MemberStatus::Alive));
    let own = Entry { internal: true, ..entry(LEFT_KEY, 900) };
    hand(&mut net, &delta("a", &head("node-0", 0, 900), &[own])).0.unwrap();
    assert_eq!(status(&net, "node-0"), Some(MemberStatus::Alive));
    let left = Entry { internal: true, ..entry(LEFT_KEY, 3) };
    hand(&mut net, &delta("a", &head("b", 2, 3), &[left])).0.unwrap();
    assert_eq!(status(&net, "b"), Some(MemberStatus::Left));
}
