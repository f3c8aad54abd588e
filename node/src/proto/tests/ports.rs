//! Nodes that send from several ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use probe_ebpf::time::Span;

use super::craft::{delta, entry, hand, head};
use super::net::{Faults, Net, address, clock, id};
use crate::proto::{Config, ConfigError, Core, Event, PacketArrival, place};
use crate::wire::PORTS_KEY;
use crate::wire::v1::Entry;

const PORTS: [u16; 3] = [7001, 7002, 7003];

/// Three hosts, of which the first has further ports.
fn with_ports(seed: u64, adjust: impl Fn(usize, &mut Config)) -> Net {
    let mut net = Net::empty(seed, Faults::NONE);
    for host in 0..3 {
        net.start(host, |config| {
            if host == 0 {
                config.source_ports = PORTS.into();
            }
            adjust(host, config);
        });
    }
    net
}

/// How many packets came at a host from each place among host 0's ports, by their counters.
fn by_place(net: &Net, host: usize) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for packet in
        net.hosts[host].packets.iter().filter(|packet| packet.from == id(0) && packet.ports.len() > 1)
    {
        *counts.entry(place(packet.id.counter, packet.ports.len())).or_default() += 1;
    }
    counts
}

/// Did every packet go to an address that somebody advertises?
fn nothing_went_to_further_ports(net: &Net) {
    assert!(net.sent.iter().all(|(_, to, _)| to.port() == address(0).port()));
    assert!(net.hosts.iter().all(|host| host.rejected.is_empty()), "{:?}", net.hosts[1].rejected);
}

#[test]
fn packets_go_from_all_ports_and_are_answered_at_the_advertised_one() {
    let mut net = with_ports(1, |_, _| ());
    net.run(Span::from_secs(20));
    net.set(0, "key", b"value");
    net.run(Span::from_secs(1));
    assert!(net.converged());
    nothing_went_to_further_ports(&net);
    for host in [1, 2] {
        let counts = by_place(&net, host);
        assert!(counts.len() == 4 && counts.values().all(|n| *n > 20), "{counts:?}");
        let last = net.hosts[host].packets.iter().rfind(|packet| packet.from == id(0)).unwrap();
        assert_eq!(last.ports[..], [7000, 7001, 7002, 7003]);
        let gone = |event: &Event| matches!(event, Event::Unreachable { .. });
        assert!(!net.hosts[host].events.iter().any(gone));
    }
    let from_others = |packet: &PacketArrival| packet.ports.is_empty();
    assert!(net.hosts[0].packets.iter().all(from_others), "the others have no further ports");
}

#[test]
fn the_ports_of_a_dead_path_lose_their_packets_and_the_others_carry_the_gossip() {
    let mut net = with_ports(2, |_, _| ());
    net.run(Span::from_secs(3));
    net.dead_ports = [7001, 7003].into();
    let before = net.hosts[1].packets.len();
    net.run(Span::from_secs(20));
    net.set(0, "key", b"value");
    assert!(net.run_until(Span::from_secs(2), Net::converged));
    nothing_went_to_further_ports(&net);
    net.hosts[1].packets.drain(..before);
    let counts = by_place(&net, 1);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 2], "{counts:?}");
    let lost: u32 = (net.hosts[1].packets.iter().filter(|packet| packet.from == id(0)))
        .filter_map(|packet| packet.sequence)
        .map(|sequence| sequence.lost_before)
        .sum();
    assert!(lost as usize + 2 >= counts.values().sum(), "{lost} {counts:?}");
}

#[test]
fn v0_nodes_are_spoken_to_from_the_advertised_port_alone() {
    let mut net = with_ports(3, |host, config| config.max_version = u8::from(host != 1));
    net.dead_ports = PORTS.into();
    net.run(Span::from_secs(10));
    net.set(0, "key", b"value");
    assert!(net.run_until(Span::from_secs(2), |net| net.held(1, 0) == net.held(0, 0)));
    assert!(net.hosts[0].rejected.is_empty() && net.hosts[1].rejected.is_empty());
}

#[test]
fn whoever_began_anew_is_spoken_to_from_the_advertised_port_until_it_has_the_ports_again() {
    for seed in 0..20 {
        let mut net = with_ports(seed, |_, _| ());
        net.run(Span::from_secs(5));
        net.set(0, "key", b"value");
        net.start(1, |_| ());
        assert!(net.run_until(Span::from_secs(2), Net::converged), "seed {seed}");
        net.hosts[1].packets.clear();
        net.run(Span::from_secs(10));
        assert_eq!(by_place(&net, 1).len(), 4, "seed {seed}");
    }
}

#[test]
fn nobody_but_the_node_itself_has_ports_at_its_address() {
    let mut net = with_ports(5, |_, _| ());
    net.run(Span::from_secs(5));
    let core = &net.hosts[1].core;
    let at = |host: usize, port: u16| SocketAddr::new(address(host).ip(), port);
    let (node, neighbour) = (core.state.find("node-0"), core.state.find("node-2"));
    assert_eq!(core.advertised_of(node, at(0, 7001)), address(0));
    for (who, from) in
        [(node, at(0, 7004)), (node, at(2, 7001)), (neighbour, at(2, 7001)), (None, at(0, 7001))]
    {
        assert_eq!(core.advertised_of(who, from), from);
    }
}

#[test]
fn what_is_no_list_of_ports_is_counted_and_gives_no_ports() {
    let mut net = Net::new(1, 6, Faults::NONE);
    for (version, value) in [(1, &b"7001 7001"[..]), (2, b"7001")] {
        let entry = Entry { value, internal: true, ..entry(PORTS_KEY, version) };
        hand(&mut net, &delta("b", &head("b", version - 1, version), &[entry])).0.unwrap();
        let core = &net.hosts[0].core;
        let b = &core.state[core.state.find("b").unwrap()];
        assert_eq!(
            (b.source_ports().len(), core.counters().bad_ports),
            (if version == 1 { 0 } else { 2 }, 1)
        );
    }
}

#[test]
fn ports_that_cannot_be_are_refused_at_the_start() {
    let mut net = Net::empty(7, Faults::NONE);
    for bad in [vec![7000], vec![0], vec![7001, 7001], (7001..=7008).collect()] {
        let config = Config { source_ports: bad.clone(), ..net.config(0) };
        let refused = Core::new(config, net.now, &clock(Span::ZERO)).unwrap_err();
        assert_eq!(refused, ConfigError::SourcePorts { got: bad });
    }
}
