//! Packets that nobody should have sent.

use probe_ebpf::time::Span;
use proptest::prelude::*;

use super::craft::{ANSWERS, delta, digest, digest_by, entry, hand, hand_from, head, last_digest};
use super::net::{Faults, Net, address, id};
use crate::proto::{Limits, Outbox, Rejected};
use crate::wire::WireError;
use crate::wire::v1::{self, Entry, NodeRef, StateSum, Step};

const MINUTE: Span = Span::from_secs(60);

fn hand_digest(
    net: &mut Net,
    from: &str,
    step: Step,
    nodes: &[(&str, u64)],
) -> (Result<(), Rejected>, Outbox) {
    let bytes = digest(net, from, step, nodes);
    hand(net, &bytes)
}

/// Everything that must not change.
fn fingerprint(net: &Net) -> String {
    format!("{:?}", net.hosts[0].core.state)
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), plausible: bool, kind in 1u8..=2) {
        let mut net = Net::new(1, 1, Faults::NONE);
        let before = fingerprint(&net);
        let mut bytes = bytes;
        if plausible && bytes.len() >= 4 { bytes[..4].copy_from_slice(&[kind, 1, 0, 0]); }
        let (result, out) = hand(&mut net, &bytes);
        prop_assert!(result.is_err() && out.transmits().is_empty() && out.packet.is_none());
        prop_assert_eq!(fingerprint(&net), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Real packets with a few bytes changed: refused without a trace, or (where the change hit a value) still
    /// within every limit; and the cluster goes on.
    #[test]
    fn mutated_packets_of_a_running_cluster_do_no_harm(seed: u64, hits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 100)) {
        let mut net = Net::new(3, seed, Faults::NONE);
        net.set(1, "key", b"value");
        net.run(Span::from_secs(3));
        let mut refused = 0;
        for (packet, at, byte) in hits {
            let mut bytes = net.sent[packet.index(net.sent.len())].2.clone();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let before = fingerprint(&net);
            let (result, _) = hand(&mut net, &bytes);
            if result.is_err() {
                refused += 1;
                prop_assert_eq!(fingerprint(&net), before);
            }
            let limits = Limits::default();
            prop_assert!(net.hosts[0].core.state.bytes <= limits.bytes);
        }
        prop_assert!(refused > 0);
        net.set(2, "after", b"all");
        prop_assert!(net.run_until(MINUTE, |net| net.held(0, 2).contains_key("after")));
    }
}

#[test]
fn a_delta_above_what_is_known_is_counted_and_not_applied() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let before = fingerprint(&net);
    hand(&mut net, &delta("a", &head("b", 3, 5), &[entry("k", 5)])).0.unwrap();
    assert_eq!((net.hosts[0].core.counters().gap, fingerprint(&net)), (1, before));

    hand(&mut net, &delta("a", &head("b", 0, 9), &[entry("k", 2), entry("l", 4)])).0.unwrap();
    let held = fingerprint(&net);
    hand(&mut net, &delta("a", &head("b", 5, 9), &[entry("k", 8)])).0.unwrap();
    assert_eq!((net.hosts[0].core.counters().gap, fingerprint(&net)), (2, held.clone()));
    hand(&mut net, &delta("a", &head("b", 0, 9), &[entry("k", 2), entry("l", 4)])).0.unwrap();
    assert_eq!(fingerprint(&net), held, "known ones are passed over");

    // Overlapping is fine: above 3, and 4 is known.
    let (_, out) = hand(&mut net, &delta("a", &head("b", 3, 9), &[entry("l", 4), entry("k", 8)]));
    assert_eq!(out.entries.iter().map(|e| e.version).collect::<Vec<_>>(), [8]);
}

#[test]
fn nobody_else_writes_this_nodes_state() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let before = fingerprint(&net);
    hand(&mut net, &delta("a", &head("node-0", 0, 900), &[entry("k", 900)])).0.unwrap();
    assert_eq!((net.hosts[0].core.counters().about_self, fingerprint(&net)), (1, before.clone()));
    let (result, out) = hand_digest(&mut net, "node-0", Step::Request, &[]);
    assert_eq!(result, Err(Rejected::OwnId));
    assert_eq!(
        (result.unwrap_err().reason(), out.transmits().len(), fingerprint(&net)),
        ("own_id", 0, before)
    );
}

#[test]
fn answers_go_to_the_source_and_not_to_the_address_inside() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let (_, out) = hand_digest(&mut net, "a", Step::Request, &[("a", 7)]);
    assert_eq!(out.transmits().len(), 1);
    let answer = &out.transmits()[0];
    assert!(answer.to == address(9) && answer.destination.is_none() && answer.id.counter == 0);
}

#[test]
fn an_answer_lists_just_what_is_asked_for_when_the_rest_is_equal() {
    let mut net = Net::new(1, 1, Faults::NONE);
    hand(&mut net, &delta("a", &head("b", 0, 4), &[entry("k", 4)])).0.unwrap();
    let (_, out) = hand_digest(&mut net, "a", Step::Request, &[("b", 4), ("c", 1)]);
    assert_eq!(last_digest(&out), [(NodeRef::of("c"), 0)]);
    // Nothing new: nothing listed. Both know the same, and say so in two small packets.
    let (_, out) = hand_digest(&mut net, "a", Step::Request, &[]);
    assert_eq!((out.transmits().len(), last_digest(&out).len()), (1, 0));
    assert!(out.bytes(&out.transmits()[0]).len() < 110);
    // An offer of nothing new is not answered at all.
    let (_, out) = hand_digest(&mut net, "a", Step::Offer, &[("b", 4)]);
    assert!(out.transmits().is_empty());
    let (_, out) = hand_digest(&mut net, "a", Step::Offer, &[("b", 5)]);
    assert_eq!(last_digest(&out), [(NodeRef::of("b"), 4)]);
    // A pull is answered by what it asks for.
    let (_, out) = hand_digest(&mut net, "a", Step::Pull, &[("b", 0), ("d", 9)]);
    let packet = v1::decode(out.bytes(&out.transmits()[0])).unwrap();
    let nodes: Vec<_> = packet.delta.unwrap().nodes().map(|n| n.head.id).collect();
    assert_eq!((nodes, packet.digest.is_none()), (vec!["b"], true));
}

#[test]
fn a_node_that_shows_itself_older_than_it_is_known_is_told() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let mut about_itself = delta("b", &head("b", 0, 90), &[entry("k", 90)]);
    hand_from(&mut net, 1, &about_itself).0.unwrap();
    about_itself.clear();
    for step in [Step::Request, Step::Offer] {
        let shown = digest(&net, "b", step, &[("b", 2)]);
        let (_, out) = hand_from(&mut net, 1, &shown);
        assert!(last_digest(&out).contains(&(NodeRef::of("b"), 90)));
    }
    let (_, out) = hand_digest(&mut net, "a", Step::Pull, &[("b", 2)]);
    assert!(v1::decode(out.bytes(&out.transmits()[0])).unwrap().digest.is_none(), "others get the news");
}

#[test]
fn when_the_rest_differs_the_lately_changed_are_listed_first_and_then_any() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let names: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    for name in &names {
        hand(&mut net, &delta("a", &head(name, 0, 4), &[entry("k", 4)])).0.unwrap();
    }
    for changed in ["n7", "n200"] {
        hand(&mut net, &delta("a", &head(changed, 4, 5), &[entry("k", 5)])).0.unwrap();
    }
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let other_sum = StateSum::from_u64(77);
        let nodes = [("n100", 9), ("new", 3)];
        let request = digest_by("n9", ANSWERS, Step::Request, other_sum, &nodes);
        let (_, out) = hand(&mut net, &request);
        assert!(out.transmits().iter().all(|t| out.bytes(t).len() <= 1400));
        let listed = last_digest(&out);
        assert_eq!(
            listed[..4],
            [("n100", 4), ("new", 0), ("n200", 5), ("n7", 5)].map(|(id, v)| (NodeRef::of(id), v))
        );
        let distinct: std::collections::BTreeSet<_> = listed.iter().map(|(node, _)| node).collect();
        assert_eq!(distinct.len(), listed.len(), "nobody twice");
        assert!(listed.len() > 25);
        let answer = digest_by("n9", ANSWERS, Step::Answer, other_sum, &nodes);
        let (_, out) = hand(&mut net, &answer);
        others.extend(last_digest(&out));
    }
    assert!(others.len() > 200, "the rest takes turns: {} of 300", others.len());
}

#[test]
fn unbelievable_versions_are_counted_and_left_alone() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let before = fingerprint(&net);
    let jumps = |net: &Net| net.hosts[0].core.counters().version_jump;
    hand(&mut net, &delta("a", &head("b", 0, u64::MAX), &[entry("k", u64::MAX)])).0.unwrap();
    assert_eq!(jumps(&net), 1);
    hand_digest(&mut net, "a", Step::Offer, &[("node-0", u64::MAX)]).0.unwrap();
    assert_eq!(jumps(&net), 2);
    let (_, out) = hand_digest(&mut net, "a", Step::Offer, &[("b", u64::MAX)]);
    assert_eq!((jumps(&net), out.transmits().len()), (3, 0));
    assert_eq!(fingerprint(&net), before);
}

#[test]
fn a_forged_restart_cannot_make_this_node_rewrite_itself_all_the_time() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for version in (10..10_000).step_by(10) {
        hand_digest(&mut net, "a", Step::Offer, &[("node-0", version)]).0.unwrap();
    }
    assert_eq!(net.hosts[0].core.counters().restarts_found, 1);
}

#[test]
fn the_state_stays_within_its_limits() {
    let mut net = Net::empty(1, Faults::NONE);
    let limits =
        Limits { nodes: 4, entries_per_node: 5, bytes_per_node: 2000, bytes: 6000, ..Limits::default() };
    net.start(0, |config| config.limits = limits);
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    for name in &names {
        let keys: Vec<_> = (1..=9).map(|version| entry(&names[version as usize], version)).collect();
        hand(&mut net, &delta(name, &head(name, 0, 9), &keys)).0.unwrap();
    }
    let core = &net.hosts[0].core;
    assert_eq!(core.members().count(), 4);
    for member in core.members().skip(1) {
        assert_eq!((member.entries, member.version), (5, 5), "a prefix, without holes");
    }
    assert_eq!((core.counters().node_limit, core.counters().entry_limit), (47, 3));
    assert_eq!(core.counters().entries_applied, 15);

    let big = Entry { value: &[0; 1000], ..entry("n1", 6) };
    hand(&mut net, &delta("a", &head("n0", 5, 6), &[big])).0.unwrap();
    assert_eq!(net.hosts[0].core.counters().byte_limit, 1);
    assert!(net.hosts[0].core.state.bytes <= limits.bytes);
}

#[test]
fn all_nodes_together_stay_within_their_limit() {
    let mut net = Net::empty(1, Faults::NONE);
    let limits = Limits { bytes: 3000, ..Limits::default() };
    net.start(0, |config| config.limits = limits);
    for node in 0..10 {
        let name = format!("n{node}");
        hand(&mut net, &delta("a", &head(&name, 0, 1), &[Entry { value: &[0; 600], ..entry("k", 1) }]))
            .0
            .unwrap();
    }
    assert_eq!((net.hosts[0].core.counters().byte_limit, net.hosts[0].core.members().count()), (8, 3));
    assert!(net.hosts[0].core.state.bytes <= limits.bytes);
}

#[test]
fn packet_ids_of_strangers_are_not_remembered() {
    let mut net = Net::new(1, 1, Faults::NONE);
    for stranger in 0..1000 {
        let (result, out) = hand_digest(&mut net, &format!("s{stranger}"), Step::Request, &[]);
        assert!(result.is_ok() && out.packet.is_none());
    }
    assert_eq!(net.hosts[0].core.members().count(), 1);
}

#[test]
fn a_copy_is_not_handled_twice() {
    let mut net = Net::new(2, 1, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(1));
    let packet = net.sent.iter().rfind(|(from, to, _)| *from == 1 && *to == address(0)).unwrap().2.clone();
    net.run(Span::from_millis(1));
    let (result, out) = hand(&mut net, &packet);
    assert_eq!(result, Ok(()));
    let copy = out.packet.as_ref().unwrap();
    assert!(copy.sequence.unwrap().duplicate && copy.from == id(1));
    assert!(out.transmits().is_empty() && out.entries.is_empty());
    assert_eq!(net.hosts[0].core.counters().duplicates, 1);
}

#[test]
fn a_datagram_of_the_wrong_version_is_refused_by_name() {
    let mut net = Net::new(1, 1, Faults::NONE);
    let (result, _) = hand(&mut net, &[1, 2, 0x83]);
    assert_eq!(result, Err(Rejected::Wire(WireError::WrongVersion(2))));
    assert_eq!(hand(&mut net, &[1; 65_508]).0.unwrap_err().reason(), "too_large");
}
