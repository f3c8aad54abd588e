//! Clusters of v0 and v1 nodes.

use probe_ebpf::time::Span;

use super::net::{Faults, Net, address, id};
use crate::proto::{EntryKind, NotSample, Protocol};

const MINUTE: Span = Span::from_secs(60);
const FIVE: Span = Span::from_secs(5);

/// Hosts below `v0` are plain v0 nodes.
fn mixed(n: usize, v0: usize, seed: u64, faults: Faults) -> Net {
    let mut net = Net::empty(seed, faults);
    for host in 0..n {
        net.start(host, |config| config.max_version = u8::from(host >= v0));
    }
    net
}

fn protocol(net: &Net, host: usize, of: usize) -> Protocol {
    net.hosts[host].core.members().find(|m| *m.id == id(of)).unwrap().protocol
}
/// Packets since the last look, between two hosts, by version byte.
fn versions(net: &mut Net, from: usize, to: usize) -> [usize; 2] {
    let mut count = [0; 2];
    for (sender, destination, bytes) in &net.sent {
        if *sender == from && *destination == address(to) {
            count[usize::from(bytes[1])] += 1;
        }
    }
    net.sent.clear();
    count
}

#[test]
fn v0_v1_and_mixed_clusters_converge() {
    for v0 in [0, 1, 3, 5] {
        let mut net = mixed(5, v0, 3 + v0 as u64, Faults::NONE);
        for host in 0..5 {
            net.set(host, "name", format!("host {host}").as_bytes());
        }
        assert!(net.run_until(FIVE, Net::converged), "{v0} of 5 speak v0");
        net.run(FIVE);
        for host in 0..5 {
            net.set(host, "name", b"changed");
        }
        assert!(net.run_until(FIVE, Net::converged), "{v0} of 5 speak v0: a change");
        assert!(net.hosts.iter().all(|h| h.rejected.is_empty()), "{v0} of 5 speak v0");
        for host in v0..5 {
            for of in 0..5 {
                let expected = if of >= v0 { Protocol::V1 } else { Protocol::V0 };
                assert_eq!(protocol(&net, host, of), expected, "{of} as {host} sees it");
            }
        }
    }
}

/// Gossip 12: a v0 node logs a warning for each v1 packet, so only those get any that said that they speak it.
#[test]
fn gossip_12_v0_nodes_never_get_v1_packets_and_v1_nodes_soon_get_nothing_else() {
    let mut net = mixed(3, 1, 7, Faults::NONE);
    net.run(FIVE);
    net.sent.clear();
    net.run(MINUTE);
    let sent = net.sent.clone();
    for (from, to) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
        net.sent.clone_from(&sent);
        let [v0, v1] = versions(&mut net, from, to);
        assert!(v0 > 100 && v1 == 0, "{from} to {to}: {v0} {v1}");
    }
    for (from, to) in [(1, 2), (2, 1)] {
        net.sent.clone_from(&sent);
        let [v0, v1] = versions(&mut net, from, to);
        assert!(v0 == 0 && v1 > 100, "{from} to {to}: {v0} {v1}");
    }
}

#[test]
fn a_v0_node_restarted_as_v1_and_back_is_spoken_to_correctly_within_5_s() {
    let mut net = mixed(3, 1, 11, Faults::NONE);
    for round in 0..30 {
        net.set(0, "key", &[round]);
    }
    net.run(FIVE);
    for (version, expected) in [(1, Protocol::V1), (0, Protocol::V0), (1, Protocol::V1), (0, Protocol::V0)] {
        net.start(0, |config| {
            config.max_version = version;
            config.seeds = vec![address(1)];
        });
        net.set(0, "key", &[100 + version]);
        let correct = |net: &Net| (1..3).all(|host| protocol(net, host, 0) == expected);
        assert!(net.run_until(FIVE, correct), "restarted to speak {version}");
        let known = |net: &Net| (1..3).all(|host| net.held(host, 0).get("key") == Some(&vec![100 + version]));
        assert!(net.run_until(FIVE, known), "restarted to speak {version}: its state");
        net.run(FIVE);
        assert!(correct(&net) && known(&net), "and it stays so");
        net.sent.clear();
        net.run(FIVE);
        let [v0, v1] = versions(&mut net, 1, 0);
        let (right, wrong) = if version == 1 { (v1, v0) } else { (v0, v1) };
        assert!(right > 10 && wrong == 0, "speaks {version}: {v0} v0, {v1} v1 packets");
        // A v0 node of the same id takes nothing over from the run before; ours does not count on it.
        net.set(0, "key", &[100 + version]);
    }
}

#[test]
fn under_heavy_loss_nobody_falls_back_to_v0() {
    let mut net = mixed(4, 0, 13, Faults::NONE);
    net.run(FIVE);
    net.faults = Faults { loss: 0.5, copies: 0.1, delay_us: (100, 400_000) };
    for _ in 0..60 {
        net.sent.clear();
        net.run(FIVE);
        assert!(net.sent.iter().all(|(_, _, bytes)| bytes[1] == 1));
    }
    assert!(net.lost > 1000);
}

/// Two v1 nodes that meet only through a v0 node.
#[test]
fn entries_relayed_through_v0_lose_their_stamps_but_not_their_data() {
    let mut net = Net::v0_between(17);
    net.hosts[2].entries.clear();
    net.set(1, "key", b"value");
    assert!(net.run_until(FIVE, |net| net.held(2, 1).get("key") == Some(&b"value".to_vec())));
    let arrival = net.hosts[2].entries.iter().find(|e| &*e.key == "key").unwrap();
    assert_eq!((arrival.kind, arrival.propagation), (EntryKind::Entry, Err(NotSample::Unstamped)));
}
