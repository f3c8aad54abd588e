//! The lab's switch between real kernels: what it is asked to do is what hosts see, and nothing else.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};
use xtask::lab::switch::clock::mono_now;
use xtask::lab::switch::{Cause, Class, LinkSpec, Loss, Outcome, Port, Settings, Switch};
use xtask::rig::{Host, Hosts, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(10);

/// Delays are measured here: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host(index: usize) -> Port {
    Port::host(index)
}

/// A socket of a host on a free port, and its address.
fn socket(at: &Host, ip: impl Into<IpAddr>) -> (UdpSocket, SocketAddr) {
    let ip = ip.into();
    let socket = at.namespace().within(|| UdpSocket::bind((ip, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// How long a datagram takes from before it is sent until it is received.
fn passage(from: &UdpSocket, to: &UdpSocket, at: SocketAddr) -> Span {
    let before: MonoNs = mono_now();
    from.send_to(b"how long?", at).unwrap();
    to.recv_from(&mut [0; 16]).unwrap();
    mono_now() - before
}

fn median(mut spans: Vec<Span>) -> Span {
    spans.sort();
    spans[spans.len() / 2]
}

#[test]
fn hosts_and_hub_reach_each_other_and_a_delay_is_what_was_asked_for() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(2).unwrap();
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    let families: [[IpAddr; 3]; 2] = [
        [hosts[0].v4().into(), hosts[1].v4().into(), hosts.switch_v4().into()],
        [hosts[0].v6().into(), hosts[1].v6().into(), hosts.switch_v6().into()],
    ];
    let delay = Span::from_millis(20);
    for [a, b, hub] in families {
        let ((a, a_at), (b, b_at)) = (socket(&hosts[0], a), socket(&hosts[1], b));
        let (hub, hub_at) = {
            let socket = hosts.switch().within(|| UdpSocket::bind((hub, 0)).unwrap()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let at = socket.local_addr().unwrap();
            (socket, at)
        };
        passage(&a, &hub, hub_at);
        passage(&hub, &b, b_at);
        let direct = median((0..50).map(|_| passage(&a, &b, b_at)).collect());
        switch.set(host(0), host(1), LinkSpec::delay(delay)).unwrap();
        let there = median((0..50).map(|_| passage(&a, &b, b_at)).collect());
        let back = median((0..50).map(|_| passage(&b, &a, a_at)).collect());
        switch.set(host(0), host(1), LinkSpec::default()).unwrap();
        println!("{b_at}: direct {direct}, with a delay of {delay} {there}, back {back}");
        assert!((there - delay).abs() < Span::from_micros(300), "asked {delay}, took {there}");
        assert!(direct < Span::from_micros(300) && back < Span::from_micros(300), "{direct} {back}");
    }
    let done = switch.stop().unwrap();
    assert!(done.totals.all.closes());
    assert_eq!(done.totals.all.ordered() + done.totals.all.unasked(), 0, "{:?}", done.totals);
}

#[test]
fn a_partition_cuts_and_heals() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(3).unwrap();
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    let sockets: Vec<_> = hosts.iter().map(|host| socket(host, host.v4())).collect();
    let reaches = |from: usize, to: usize| {
        let before = switch.totals().unwrap().link(host(from), host(to));
        sockets[from].0.send_to(b"x", sockets[to].1).unwrap();
        // The switch tells when it has decided: no time has to be waited out to know that nothing comes.
        let now = wait_for("the packet's fate", PATIENCE, || {
            let now = switch.totals()?.link(host(from), host(to));
            Ok((now.arrived > before.arrived && now.queued == 0).then_some(now))
        })
        .unwrap();
        sockets[to].0.set_nonblocking(true).unwrap();
        let received = match sockets[to].0.recv_from(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(received, now.delivered > before.delivered);
        assert_eq!(!received, now.dropped(Cause::Partition) > before.dropped(Cause::Partition));
        received
    };
    assert!(reaches(0, 1) && reaches(1, 0));
    switch.partition(&[host(0)], &[host(1), host(2)]).unwrap();
    assert!(!reaches(0, 1) && !reaches(1, 0) && !reaches(2, 0), "the cut");
    assert!(reaches(1, 2) && reaches(2, 1), "within a group");
    switch.heal(&[host(0)], &[host(1)]).unwrap();
    assert!(reaches(0, 1) && reaches(1, 0), "healed");
    assert!(!reaches(0, 2), "not healed");
    assert!(switch.set(host(0), host(3), LinkSpec::default()).is_err(), "a link that does not exist");
}

#[test]
fn loss_counted_is_loss_seen() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(2).unwrap();
    let link = LinkSpec { loss: Some(Loss::Random { share: 0.2 }), duplicate: 0.1, ..LinkSpec::default() };
    let switch = Switch::start(&hosts, Settings { link, ..Settings::default() }).unwrap();
    let (a, _) = socket(&hosts[0], hosts[0].v4());
    let (b, b_at) = socket(&hosts[1], hosts[1].v4());
    b.set_nonblocking(true).unwrap();
    let mut seen = 0;
    let receive = |seen: &mut u64| {
        while b.recv_from(&mut [0; 16]).is_ok() {
            *seen += 1;
        }
    };
    for i in 0..2_000u32 {
        a.send_to(&i.to_be_bytes(), b_at).unwrap();
        receive(&mut seen);
    }
    wait_for("all fates", PATIENCE, || {
        let counts = switch.totals()?.link(host(0), host(1));
        Ok((counts.arrived >= 2_000 && counts.queued == 0).then_some(()))
    })
    .unwrap();
    let done = switch.stop().unwrap();
    receive(&mut seen);
    assert!(done.totals.all.closes(), "{:?}", done.totals);
    // The kernels also speak of their own accord, of multicast groups; the datagrams are these.
    let datagrams = || done.log.records().iter().filter(|record| record.class == Class::Udp);
    let count = |outcome| datagrams().filter(|record| record.outcome == outcome).count() as u64;
    let (delivered, lost) = (count(Outcome::Delivered), count(Outcome::Dropped(Cause::Loss)));
    let copies = datagrams().filter(|record| record.copy).count() as u64;
    println!("delivered {delivered}, of which copies {copies}, lost {lost}; seen {seen}");
    assert_eq!(delivered, seen);
    assert_eq!(lost + delivered, 2_000 + copies);
    assert!((300..500).contains(&lost) && (100..220).contains(&copies));
}

#[test]
fn the_devices_go_with_the_switch() {
    if !can_make_hosts() {
        return;
    }
    let hosts = Hosts::unlinked(2).unwrap();
    let has_eth0 = |index: usize| {
        hosts[index].namespace().within(|| nix::net::if_::if_nametoindex("eth0").is_ok()).unwrap()
    };
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    assert!(has_eth0(0) && has_eth0(1));
    drop(switch);
    assert!(!has_eth0(0) && !has_eth0(1));
    // And the place is free for the next.
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    switch.stop().unwrap();
    assert!(!has_eth0(0) && !has_eth0(1));
}
