//! What everybody ends up knowing.

use std::collections::BTreeMap;

use probe_ebpf::time::Span;
use proptest::prelude::*;

use super::net::{Faults, Net, address, id};
use crate::proto::StreamKind;
use crate::proto::{Config, Limits, WriteError};
use crate::wire::{v0, v1};

const MINUTE: Span = Span::from_secs(60);

#[test]
fn small_clusters_converge_within_a_second() {
    for n in [2, 3, 5] {
        let mut net = Net::new(n, n as u64, Faults::NONE);
        for host in 0..n {
            net.set(host, "name", format!("host {host}").as_bytes());
        }
        assert!(net.run_until(Span::from_secs(1), Net::converged), "{n} nodes");
        net.set(0, "name", b"changed");
        assert!(net.run_until(Span::from_secs(1), Net::converged), "{n} nodes, a change");
        assert!(net.hosts.iter().all(|h| h.rejected.is_empty()));
    }
}

#[test]
fn deletes_travel_as_tombstones() {
    let mut net = Net::new(3, 1, Faults::NONE);
    net.set(1, "key", b"value");
    assert!(net.run_until(MINUTE, |net| net.held(2, 1).len() == 1));
    let (now, host) = (net.now, &mut net.hosts[1]);
    host.core.delete("key", now, &host.clock).unwrap();
    assert_eq!(host.core.delete("key", now, &host.clock), Err(WriteError::NotFound));
    assert!(net.run_until(MINUTE, |net| net.held(2, 1).is_empty() && net.held(0, 1).is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The invariant itself: whoever knows a node up to version v holds every change up to v, unless the node
    /// has replaced it since; at every moment and whatever the network does.
    #[test]
    fn no_holes_ever(seed: u64, writes in prop::collection::vec((0usize..3, 0u8..6, 0usize..600), 10..60)) {
        let mut net = Net::new(3, seed, Faults::BAD);
        let mut latest: [BTreeMap<String, (u64, Vec<u8>)>; 3] = Default::default();
        for (host, key, len) in writes {
            let (key, value) = (format!("key {key}"), vec![len as u8; len]);
            let version = net.set(host, &key, &value);
            latest[host].insert(key, (version, value));
            net.run(Span::from_millis(40));
            for (of, written) in latest.iter().enumerate() {
                for host in 0..3 {
                    let (known, held) = (net.version(host, of), net.held(host, of));
                    for (key, (version, value)) in written {
                        let complete = *version > known || held.get(key) == Some(value);
                        prop_assert!(complete, "{host} knows {of} up to {known}, but not {key} of {version}");
                    }
                }
            }
        }
        net.run(Span::from_secs(5));
        prop_assert!(net.lost > 0 && net.copied > 0, "the network was bad");
        let restarts: u64 = net.hosts.iter().map(|h| h.core.counters().restarts_found).sum();
        prop_assert_eq!(restarts, 0, "nobody took its own news for an earlier run's");
        prop_assert!(net.run_until(MINUTE, Net::converged));
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let sent = |seed| {
        let mut net = Net::new(5, seed, Faults::BAD);
        net.set(3, "key", b"value");
        net.run(Span::from_secs(20));
        net.sent
    };
    let first = sent(11);
    assert!(first.len() > 1000);
    assert!(first == sent(11));
    assert!(first != sent(12));
}

#[test]
fn state_larger_than_a_packet_arrives_in_order() {
    let mut net = Net::new(2, 5, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    for key in 0..100 {
        net.set(0, &format!("key {key}"), &[key; 200]);
    }
    assert!(net.run_until(MINUTE, Net::converged));
    assert_eq!(net.held(1, 0).len(), 100);
    assert!(net.hosts[0].core.counters().left_out > 0, "it did not fit one packet");
    let packets = net.sent.iter().map(|(_, _, bytes)| bytes.len());
    assert!(packets.max().unwrap() <= 1400);
}

/// About 25 nodes fit a digest of 1000 bytes. Without recency order and targeted pull this takes rounds in
/// proportion to the number of nodes.
#[test]
fn a_change_spreads_fast_beyond_what_a_digest_can_list() {
    let n = 150;
    let mut net = Net::empty(3, Faults::NONE);
    for host in 0..n {
        net.start(host, |config| config.max_packet = Config::MAX_PACKET_MIN);
    }
    let everybody = |net: &Net| (0..n).all(|host| net.hosts[host].core.members().count() == n);
    assert!(net.run_until(MINUTE, everybody), "joined");
    net.run(Span::from_secs(2));
    for change in 0..3 {
        let value = [change; 10];
        net.set(usize::from(change) * 40, "key", &value);
        let known = |net: &Net| (0..n).all(|host| net.hosts[host].core.get("key").any(|e| e.value == value));
        let start = net.now;
        assert!(net.run_until(Span::from_secs(2), known), "change {change}");
        println!("change {change} known to all {n} after {}", net.now - start);
    }
}

#[test]
fn a_restart_under_the_same_id_is_noticed_and_repaired() {
    let mut net = Net::new(3, 9, Faults::NONE);
    for round in 0..20 {
        net.set(1, "key", &[round]);
    }
    net.set(1, "old", b"from before");
    assert!(net.run_until(MINUTE, Net::converged));
    let before = net.version(0, 1);

    net.start(1, |_| ());
    net.set(1, "key", b"anew");
    assert!(net.version(1, 1) < before);
    for host in [0, 2] {
        net.hosts[host].entries.clear();
    }
    let anew =
        |net: &Net| [0, 2].iter().all(|host| net.held(*host, 1).get("key").is_some_and(|v| v == b"anew"));
    assert!(net.run_until(Span::from_secs(2), anew));
    assert!(net.version(1, 1) > before);
    assert_eq!(net.hosts[1].core.counters().restarts_found, 1);
    let found = net.hosts[2].entries.iter().find(|e| &*e.key == "key").unwrap();
    assert_eq!(found.propagation, Err(crate::proto::NotSample::Resync));

    // And it is heard from then on.
    net.set(1, "key", b"again");
    assert!(net.run_until(Span::from_secs(2), |net| net.held(2, 1)["key"] == b"again"));
}

#[test]
fn a_node_that_moved_is_found_at_its_new_address() {
    let mut net = Net::new(3, 4, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.hosts[2].up = false;
    net.start(3, |config| config.id = id(2));
    let moved = |net: &Net| {
        let at = |host: usize| net.hosts[host].core.members().find(|m| *m.id == id(2)).unwrap().addr;
        at(0) == address(3) && at(1) == address(3)
    };
    assert!(net.run_until(MINUTE, moved));
}

#[test]
fn parts_of_a_split_cluster_find_each_other_again() {
    let mut net = Net::new(4, 8, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    for a in [0, 1] {
        for b in [2, 3] {
            net.paths.extend([((a, b), None), ((b, a), None)]);
        }
    }
    net.run(Span::from_secs(120));
    net.set(0, "key", b"from one side");
    net.set(3, "key", b"from the other");
    net.run(Span::from_secs(5));
    assert!(!net.converged());
    net.paths.clear();
    assert!(net.run_until(Span::from_secs(35), Net::converged));
}

#[test]
fn dead_peers_are_asked_ever_less_often() {
    let mut net = Net::new(4, 2, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    for dead in [2, 3] {
        net.hosts[dead].up = false;
    }
    net.sent.clear();
    net.run(MINUTE);
    let requests = |to: usize| {
        net.sent
            .iter()
            .filter(|(from, addr, bytes)| {
                let asks = v1::decode(bytes).unwrap().digest.is_some_and(|d| d.step == v1::Step::Request);
                *from == 1 && *addr == address(to) && asks
            })
            .count()
    };
    assert!(requests(2) < 90 && requests(3) < 90, "{} {}", requests(2), requests(3));
    assert!(requests(0) > 540, "the rounds go to the living: {}", requests(0));
}

#[test]
fn a_seed_that_does_not_answer_is_tried_now_and_then_once_others_are_known() {
    let mut net = Net::new(2, 2, Faults::NONE);
    net.start(2, |config| config.seeds = vec![address(0), address(77)]);
    assert!(net.run_until(MINUTE, Net::converged));
    net.streams.clear();
    net.run(MINUTE);
    let tries = net.streams.iter().filter(|tried| **tried == (2, address(77), StreamKind::Join)).count();
    assert!((4..=8).contains(&tries), "{tries} a minute");
}

#[test]
fn beacons_thin_out_as_the_cluster_grows() {
    let beacons = |n: usize| {
        let mut net = Net::empty(1, Faults::NONE);
        for host in 0..n {
            net.start(host, |config| config.beacon_rate = 2);
        }
        net.run(Span::from_secs(10));
        let before: u64 = (0..n).map(|h| net.version(h, h)).sum();
        net.run(MINUTE);
        (0..n).map(|h| net.version(h, h)).sum::<u64>() - before
    };
    assert!((22..=26).contains(&beacons(2)), "one in five seconds each: {}", beacons(2));
    assert!((100..=130).contains(&beacons(20)), "two a second all together: {}", beacons(20));
}

#[test]
fn writes_that_could_not_travel_or_be_held_are_refused() {
    let mut net = Net::empty(1, Faults::NONE);
    let limits = Limits { entries_per_node: 10, bytes_per_node: 4000, ..Limits::default() };
    net.start(0, |config| config.limits = limits);
    let (now, host) = (net.now, &mut net.hosts[0]);
    let mut set = |key: &str, value: &[u8]| host.core.set(key, value, None, now, &host.clock);
    let (id, addr, key) = ("node-0".len(), address(0).to_string().len(), "key".len());
    let limit = v1::value_limit(1400, id, key).min(v0::value_limit(1400, id, addr, key));
    assert_eq!(set("key", &vec![0; limit + 1]), Err(WriteError::TooLarge { len: limit + 1, limit }));
    assert_eq!(set("", b""), Err(WriteError::Key { len: 0 }));
    assert_eq!(set(&"k".repeat(256), b""), Err(WriteError::Key { len: 256 }));
    assert_eq!(set("_internal:left", b""), Err(WriteError::Reserved));
    assert!(set("key", &vec![0; limit]).is_ok());
    assert!(set("key", &vec![1; limit]).is_ok(), "replacing takes no more room");
    for key in 0..6 {
        assert!(set(&key.to_string(), b"").is_ok());
    }
    let refused = set("big", &vec![0; limit]);
    assert!(matches!(refused, Err(WriteError::TooManyBytes { limit: 4000, .. })), "{refused:?}");
    assert!(set("8", b"").is_ok());
    assert_eq!(set("9", b""), Err(WriteError::TooManyEntries { limit: 10 }));
    let version = host.core.members().next().unwrap().version;
    assert_eq!(version, 2 + 2 + 6 + 1, "refused writes left no trace");
}
