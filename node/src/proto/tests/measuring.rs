//! What arrivals tell about times, loss and propagation.

use probe_ebpf::time::{Bounded, Span};
use probe_user::analysis::breakdown::Propagation as ProcessShare;

use super::craft::{delta, entry, hand, head};
use super::net::{Faults, KERNEL, Net, address, clock, id};
use crate::proto::{EntryArrival, EntryKind, NotSample, Propagation};
use crate::wire::BEACON_KEY;
use crate::wire::v1::{Egress, Entry, EntryStamp};

const MINUTE: Span = Span::from_secs(60);

/// Three hosts in a row: 0 and 2 only meet through 1. The way to the middle takes 3 ms, on from there 7 ms.
fn chain(seed: u64) -> Net {
    let mut net = Net::empty(seed, Faults::NONE);
    net.paths.extend([((0, 2), None), ((2, 0), None)]);
    for other in [0, 2] {
        net.paths.insert((other, 1), Some(Span::from_millis(3)));
        net.paths.insert((1, other), Some(Span::from_millis(7)));
    }
    for host in 0..3 {
        net.start(host, |config| config.seeds = vec![address(1)]);
    }
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(2));
    net
}

fn arrival<'a>(net: &'a Net, host: usize, key: &str) -> &'a EntryArrival {
    net.hosts[host].entries.iter().rev().find(|e| &*e.key == key).unwrap()
}
fn sample(net: &Net, host: usize, key: &str) -> Propagation {
    arrival(net, host, key).propagation.unwrap()
}
fn knows(host: usize, key: &'static str) -> impl Fn(&Net) -> bool {
    move |net| net.hosts[host].core.get(key).next().is_some()
}

#[test]
fn times_add_up_over_hops_across_skewed_clocks() {
    let mut net = chain(1);
    let created = net.now;
    net.set(0, "key", b"value");
    assert!(net.run_until(MINUTE, knows(2, "key")));
    let (near, far) = (sample(&net, 1, "key"), sample(&net, 2, "key"));
    assert_eq!((near.hops, far.hops), (1, 2));
    let network = |propagation: Propagation| propagation.network.unwrap();
    assert_eq!(network(near).value, Span::from_millis(3));
    assert_eq!(network(far).value, Span::from_millis(3 + 7));
    assert!(network(far).bound > network(near).bound && network(far).bound < Span::from_millis(1));
    assert_eq!(near.kernel, Some(Bounded::exact(KERNEL)));
    assert_eq!(far.kernel, Some(Bounded::exact(KERNEL + KERNEL)));
    // Only the origin sets it, and its clock error is taken out.
    let (utc, _) = clock(Span::ZERO).utc(created);
    assert_eq!((near.created, far.created), (utc, utc));
    assert_eq!(arrival(&net, 2, "key").origin, id(0));
}

/// The NIC's stamp is not as exact as the kernel's: what rests on it says so.
#[test]
fn an_inexact_arrival_makes_the_network_time_less_exact_by_as_much() {
    let error = Span::from_micros(45);
    let [exact, inexact] = [Span::ZERO, error].map(|error| {
        let mut net = chain(1);
        net.hosts[1].t4_error = error;
        net.set(0, "key", b"value");
        assert!(net.run_until(MINUTE, knows(1, "key")));
        sample(&net, 1, "key").network.unwrap()
    });
    assert_eq!(inexact, Bounded::new(exact.value, exact.bound + error));
}

#[test]
fn a_relay_without_kernel_stamps_makes_the_sum_unknown_not_smaller() {
    let mut net = chain(2);
    net.hosts[1].stamps = false;
    net.set(0, "key", b"value");
    assert!(net.run_until(MINUTE, knows(2, "key")));
    let far = sample(&net, 2, "key");
    assert_eq!((far.hops, far.network, far.kernel), (2, None, None));
}

#[test]
fn what_was_there_before_is_a_join_and_what_comes_after_a_sample() {
    let mut net = Net::new(2, 3, Faults::NONE);
    for key in 0..40 {
        // More than one packet: the later ones come in later rounds, and are no news either.
        net.set(0, &format!("old {key}"), &[0; 100]);
    }
    net.run(Span::from_secs(5));
    assert!(net.converged());
    let joined: Vec<_> = net.hosts[1].entries.iter().filter(|e| e.kind == EntryKind::Entry).collect();
    assert_eq!(joined.len(), 40);
    assert!(joined.iter().all(|e| e.propagation == Err(NotSample::Join)));

    net.hosts[1].entries.clear();
    net.set(0, "new", b"");
    net.set(0, "old 3", b"rewritten");
    assert!(net.run_until(MINUTE, Net::converged));
    assert_eq!(sample(&net, 1, "new").hops, 1);
    assert_eq!(sample(&net, 1, "old 3").hops, 1);
    assert_eq!(net.hosts[1].entries.iter().filter(|e| e.kind == EntryKind::Entry).count(), 2);
}

/// One node's entries, each with the time of creation against the first delta's arrival.
#[test]
fn versions_times_and_flags_decide_together_what_is_a_sample() {
    let mut net = Net::new(1, 1, Faults::NONE);
    net.run(Span::from_secs(1));
    let joined = clock(Span::ZERO).mapping.wall(net.now);
    let stamped = |ms: i64| {
        let (theta, bound, known) = (Span::ZERO, Span::from_micros(100), Some(Bounded::default()));
        let created = joined + Span::from_millis(ms);
        let egress = Egress::default();
        Some(EntryStamp {
            created,
            theta,
            bound,
            hops: 0,
            network: known,
            kernel: known,
            trace_id: None,
            egress,
        })
    };
    let mut arrive = |from: u64, entry: Entry<'_>| {
        let (_, out) = hand(&mut net, &delta("b", &head("b", from, entry.version), &[entry]));
        net.now = net.now + Span::from_secs(1);
        out.entries[0].propagation.map(|p| p.hops)
    };
    let at = |version, key, ms| Entry { stamp: stamped(ms), ..entry(key, version) };
    assert_eq!(arrive(0, at(1, "a", 0)), Err(NotSample::Join));
    assert_eq!(arrive(1, at(2, "b", -5)), Err(NotSample::Join), "written before we came, unseen until now");
    assert_eq!(arrive(2, at(3, "c", 0)), Err(NotSample::Join), "within the bounds");
    assert_eq!(arrive(3, at(4, "d", 1)), Ok(1));
    assert_eq!(arrive(4, at(5, "d", 1)), Err(NotSample::Resync), "created when the held one was");
    assert_eq!(arrive(5, at(6, "d", 2)), Ok(1));
    assert_eq!(arrive(6, Entry { reversioned: true, ..at(7, "d", 3) }), Err(NotSample::Resync));
    assert_eq!(arrive(7, entry("e", 8)), Err(NotSample::Unstamped));
}

#[test]
fn beacons_give_samples_in_an_idle_cluster() {
    let mut net = Net::new(3, 4, Faults::NONE);
    net.run(MINUTE);
    for host in 0..3 {
        let beacons = net.hosts[host].entries.iter().filter(|e| e.kind == EntryKind::Beacon);
        let (samples, others): (Vec<_>, Vec<_>) = beacons.partition(|e| e.propagation.is_ok());
        assert!((16..=24).contains(&samples.len()), "{} samples of two nodes' beacons", samples.len());
        assert!(others.len() <= 2 && others.iter().all(|e| e.propagation == Err(NotSample::Join)));
        let (now, _) = net.hosts[host].clock.utc(net.now);
        for member in net.hosts[host].core.members() {
            let (created, _) = member.beacon.unwrap();
            assert!(now - created < Span::from_secs(7), "{}: {}", member.id, now - created);
        }
    }
    assert!(net.hosts[0].entries.iter().any(|e| &*e.key == BEACON_KEY));
}

#[test]
fn with_unsynchronised_clocks_versions_tell_news_from_what_was_there() {
    let mut net = Net::new(2, 6, Faults::NONE);
    for host in &mut net.hosts {
        host.clock.offset.bound_at_read = Span::from_secs(16);
    }
    for key in 0..40 {
        net.set(0, &format!("old {key}"), &[0; 100]);
    }
    assert!(net.run_until(MINUTE, Net::converged));
    let old = net.hosts[1].entries.iter().filter(|e| e.key.starts_with("old"));
    assert_eq!(old.filter(|e| e.propagation == Err(NotSample::Join)).count(), 40);
    net.set(0, "key", b"");
    assert!(net.run_until(MINUTE, Net::converged));
    assert!(sample(&net, 1, "key").created_bound >= Span::from_secs(16));
}

#[test]
fn times_that_contradict_each_other_are_no_samples() {
    let mut net = Net::new(2, 7, Faults::NONE);
    net.run(Span::from_secs(5));
    // From now on host 0 believes in an offset that is wrong by far more than its bound.
    net.hosts[0].clock.offset.theta += Span::from_millis(50);
    net.set(0, "key", b"");
    assert!(net.run_until(MINUTE, Net::converged));
    // Its stamps say 50 ms more on the network both at creation and at sending, so only a wait shorter than
    // that gives it away: the other way round it is plain.
    net.set(1, "key", b"");
    assert!(net.run_until(MINUTE, Net::converged));
    assert_eq!(arrival(&net, 0, "key").propagation, Err(NotSample::Implausible));
}

#[test]
fn losses_and_copies_are_counted_from_packet_ids() {
    let mut net = Net::new(2, 8, Faults { loss: 0.0, copies: 0.0, delay_us: (100, 300_000) });
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(2));
    let sequences = |net: &Net| -> (i64, u64, u64) {
        let all = net.hosts.iter().flat_map(|h| &h.packets).filter_map(|p| p.sequence);
        all.fold((0, 0, 0), |(lost, late, copies), s| {
            let (reordered, duplicate) = (u64::from(s.reordered), u64::from(s.duplicate));
            (lost + i64::from(s.lost_before) - reordered as i64, late + reordered, copies + duplicate)
        })
    };
    for host in &mut net.hosts {
        host.packets.clear();
    }
    let before = (net.lost, net.copied);
    net.faults.loss = 0.2;
    net.faults.copies = 0.1;
    net.run(MINUTE);
    net.faults.loss = 0.0;
    net.faults.copies = 0.0;
    net.run(Span::from_secs(5));
    let (lost, late, copies) = sequences(&net);
    assert!(late > 100, "the network reorders");
    assert!(net.lost - before.0 > 200 && net.copied - before.1 > 100);
    // Packets in flight at either end of the window are the only difference.
    assert!((lost - (net.lost - before.0) as i64).abs() <= 6, "{lost} counted, {} lost", net.lost - before.0);
    assert!(copies.abs_diff(net.copied - before.1) <= 6, "{copies} counted, {} made", net.copied - before.1);
}

#[test]
fn packets_say_when_they_were_sent_and_how_long_they_took() {
    let mut net = chain(5);
    net.run(Span::from_secs(5));
    let packets: Vec<_> = net.hosts[1].packets.iter().filter(|p| p.from == id(0)).collect();
    assert!(packets.len() > 20);
    for packet in &packets {
        let one_way = packet.one_way.unwrap();
        assert_eq!(one_way.time.value, Span::from_millis(3));
        assert!(one_way.time.bound > Span::ZERO);
        assert_ne!(one_way.uncorrected, Span::from_millis(3), "the clocks differ");
        assert!(packet.send_queue >= Span::ZERO && packet.send_queue <= KERNEL);
    }
    assert!(packets.last().unwrap().sequence.is_some());
}

/// Four hosts of which each only reaches the next, with ways of unlike lengths.
#[test]
fn over_three_hops_network_kernel_and_application_are_the_whole_and_each_is_the_truth() {
    let ways = [Span::from_millis(3), Span::from_millis(7), Span::from_millis(11)];
    let mut net = Net::empty(9, Faults::NONE);
    for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to)
    {
        let way = if usize::abs_diff(from, to) == 1 { Some(ways[from.min(to)]) } else { None };
        net.paths.insert((from, to), way);
    }
    // Everybody joins by the one before; nobody else can be reached.
    for host in 0..4 {
        net.start(host, |config| config.seeds = vec![address(host.saturating_sub(1))]);
    }
    assert!(net.run_until(MINUTE, Net::converged));
    net.run(Span::from_secs(2));
    for n in 0..10 {
        let (key, created) = (format!("key {n}"), net.now);
        net.set(0, &key, b"value");
        assert!(net.run_until(MINUTE, |net| net.hosts[3].core.get(&key).next().is_some()));
        let far = sample(&net, 3, &key);
        let (network, kernel) = (far.network.unwrap(), far.kernel.unwrap());
        assert_eq!(far.hops, 3);
        assert!(network.covers(Span::from_millis(3 + 7 + 11)), "{network}");
        assert!(network.bound > Span::ZERO && network.bound < Span::from_millis(1), "{network}");
        assert_eq!(kernel.value, KERNEL + KERNEL + KERNEL);
        // These hosts have no stamps of what they send.
        assert_eq!(far.egress, Egress { estimated: false, in_network: true });
        // The rest is what the hosts took: their kernels and handling on the way, and waiting for rounds.
        let total = net.now - created;
        let way = ProcessShare::split(Bounded::new(total, far.created_bound), network, kernel);
        assert_eq!((way.network + way.kernel + way.application).value, total);
        assert!(way.application.value > Span::ZERO && way.application.value < Span::from_secs(4), "{way:?}");
    }
}
