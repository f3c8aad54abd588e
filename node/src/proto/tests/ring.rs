//! Ring neighbours are in touch every second, however many nodes there are, and that costs nothing.

use std::collections::HashMap;

use probe_ebpf::time::Span;

use super::net::{Faults, Net, address, id};

const MINUTE: Span = Span::from_secs(60);

fn ring(net: &Net, host: usize) -> Vec<String> {
    net.hosts[host].core.ring().map(|id| id.as_str().to_owned()).collect()
}

#[test]
fn neighbours_exchange_packets_every_second_at_no_cost() {
    let mut sent = Vec::new();
    for neighbours in [0, 4] {
        let mut net = Net::empty(9, Faults::NONE);
        for host in 0..60 {
            net.start(host, |config| config.ring_neighbours = neighbours);
        }
        assert!(net.run_until(MINUTE, Net::converged));
        net.run(Span::from_secs(3));
        net.sent.clear();
        for _ in 0..10 {
            let before = net.sent.len();
            // A round is a tenth early or late.
            net.run(Span::from_millis(1_100));
            let mut between: HashMap<(usize, usize), u32> = HashMap::new();
            for (from, to, _) in &net.sent[before..] {
                if let Some(to) = (0..60).find(|host| address(*host) == *to) {
                    *between.entry((*from, to)).or_default() += 1;
                }
            }
            for host in (0..60).filter(|_| neighbours > 0) {
                let ring = ring(&net, host);
                assert_eq!(ring.len(), 4, "{ring:?}");
                for other in (0..60).filter(|other| ring.contains(&id(*other).as_str().to_owned())) {
                    assert!(between.contains_key(&(host, other)), "{host} to {other}");
                }
            }
        }
        sent.push(net.sent.len());
    }
    assert!(sent[1] * 100 <= sent[0] * 105, "{sent:?} packets without and with a ring");
}

#[test]
fn the_ring_is_the_living_by_id_and_closes_over_the_dead() {
    let mut net = Net::new(8, 3, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(2));
    let named = |hosts: [usize; 4]| hosts.map(|host| id(host).as_str().to_owned()).to_vec();
    assert_eq!(ring(&net, 3), named([4, 5, 2, 1]));
    assert_eq!(ring(&net, 7), named([0, 1, 6, 5]), "it has no end");
    net.hosts[4].up = false;
    net.run(Span::from_secs(20));
    assert_eq!(ring(&net, 3), named([5, 6, 2, 1]));
}

#[test]
fn with_few_nodes_everybody_else_is_a_neighbour_once() {
    let mut net = Net::new(3, 3, Faults::NONE);
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(2));
    assert_eq!(ring(&net, 1).len(), 2, "{:?}", ring(&net, 1));
}
