//! The lab's switch between real kernels: what it is asked to do is what hosts see, and nothing else.

#![allow(clippy::unwrap_used, reason = "tests, helpers included, fail by panicking")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use probe_ebpf::time::{MonoNs, Span};
use xtask::lab::switch::clock::mono_now;
use xtask::lab::switch::truth::{self, Closing, Journey};
use xtask::lab::switch::yardstick::{Tick, Yardstick};
use xtask::lab::switch::{
    Capture, Cause, Class, Counts, Jitter, LinkSpec, Loss, Outcome, Port, Rate, Reorder, Settings, Switch,
};
use xtask::rig::{Hosts, Namespace, can_make_hosts, wait_for};

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
fn socket(at: &Namespace, ip: impl Into<IpAddr>) -> (UdpSocket, SocketAddr) {
    let ip = ip.into();
    let socket = at.within(|| UdpSocket::bind((ip, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // What the switch delivers at once must not be lost behind it.
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
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
    let capture = Capture::start(&hosts, 10_000).unwrap();
    let delay = Span::from_millis(20);
    let yardstick = Yardstick::start(100).unwrap();
    let mut slow = Vec::new();
    for [a, b, hub] in families {
        let (a, a_at) = socket(hosts[0].namespace(), a);
        let (b, b_at) = socket(hosts[1].namespace(), b);
        let (hub, hub_at) = socket(hosts.switch(), hub);
        passage(&a, &hub, hub_at);
        passage(&hub, &b, b_at);
        let from = switch.set(host(0), host(1), LinkSpec::delay(delay)).unwrap();
        for _ in 0..50 {
            yardstick.wake(mono_now() + delay);
            assert!(passage(&a, &b, b_at) >= delay, "to {b_at}");
            passage(&b, &a, a_at);
        }
        slow.push((from, switch.set(host(0), host(1), LinkSpec::default()).unwrap()));
        for _ in 0..50 {
            passage(&a, &b, b_at);
        }
    }
    let (journeys, closing) = truth_of(capture, switch);
    assert!(closing.closes() && closing.ordered == 0, "{closing:?}");
    assert_eq!(closing.sent, 2 * (2 + 150));
    let is_delayed = |journey: &&Journey| {
        let arrival = journey.record.unwrap().arrival;
        (journey.from, journey.to) == (host(0), host(1))
            && slow.iter().any(|(from, to)| (*from..*to).contains(&arrival))
    };
    let (delayed, direct): (Vec<&Journey>, Vec<&Journey>) = journeys.iter().partition(is_delayed);
    assert_eq!(delayed.len(), 100);
    let took = |journeys: &[&Journey]| median(journeys.iter().map(|j| j.network().unwrap()).collect());
    let (delayed, direct) = (took(&delayed), took(&direct));
    // A hypervisor may wake an idle CPU late for minutes on end: nobody on it is in time then.
    let bare = median(yardstick.stop().unwrap().iter().map(Tick::late).collect());
    println!("asked {delay}: {delayed} (a bare thread is {bare} late); asked nothing: {direct}");
    let limit = Span::from_micros(300) + bare;
    assert!((delayed - delay).abs() < limit, "asked {delay}, took {delayed}, a bare thread is {bare} late");
    assert!(direct < Span::from_micros(300), "asked nothing, took {direct}");
}

#[test]
fn a_partition_cuts_and_heals() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(3).unwrap();
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    let sockets: Vec<_> = hosts.iter().map(|host| socket(host.namespace(), host.v4())).collect();
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
    let (a, _) = socket(hosts[0].namespace(), hosts[0].v4());
    let (b, b_at) = socket(hosts[1].namespace(), hosts[1].v4());
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
    // A child that another test just forked has a copy of every descriptor until it is another program.
    let gone = || Ok((!has_eth0(0) && !has_eth0(1)).then_some(()));
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    assert!(has_eth0(0) && has_eth0(1));
    drop(switch);
    wait_for("the devices to go", PATIENCE, gone).unwrap();
    // And the place is free for the next.
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    switch.stop().unwrap();
    wait_for("the devices to go again", PATIENCE, gone).unwrap();
}

/// Waits until the switch has decided about as many packets of a link and has none of them left.
fn settled(switch: &Switch, from: Port, to: Port, arrived: u64) -> Counts {
    wait_for("all fates", PATIENCE, || {
        let counts = switch.totals()?.link(from, to);
        Ok((counts.arrived >= arrived && counts.queued == 0).then_some(counts))
    })
    .unwrap()
}

/// Ends both and puts together what they know.
fn truth_of(capture: Capture, switch: Switch) -> (Vec<Journey>, Closing) {
    let captured = capture.stop().unwrap();
    assert_eq!((captured.omitted, captured.missed, captured.unstamped), (0, 0, 0), "the truth is whole");
    assert!(captured.error < Span::from_millis(1), "stamps may be off by {}", captured.error);
    let done = switch.stop().unwrap();
    assert!(done.totals.all.closes() && done.log.omitted() == 0, "{:?}", done.totals);
    truth::join(&captured.stamps, done.log.records())
}

#[test]
fn the_truth_closes_under_every_trouble_at_once() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(2).unwrap();
    let link = LinkSpec {
        delay: Span::from_millis(3),
        jitter: Some(Jitter::Normal { mean: Span::from_millis(1), sigma: Span::from_millis(1) }),
        loss: Some(Loss::Bursty { enter: 0.02, leave: 0.3, good: 0.0, bad: 1.0 }),
        reorder: Some(Reorder { share: 0.05, late: Span::from_millis(4) }),
        duplicate: 0.05,
        rate: Some(Rate { bits_per_second: 20_000_000, queue_bytes: 20_000 }),
        partition: false,
        source_port: None,
    };
    let switch = Switch::start(&hosts, Settings { link, ..Settings::default() }).unwrap();
    let capture = Capture::start(&hosts, 100_000).unwrap();
    let (a, _) = socket(hosts[0].namespace(), hosts[0].v6());
    let (_b, b_at) = socket(hosts[1].namespace(), hosts[1].v6());
    // As fast as it goes: far more than the rate. All datagrams are equal, and so share one key.
    for _ in 0..3_000 {
        a.send_to(&[7; 100], b_at).unwrap();
    }
    settled(&switch, host(0), host(1), 3_000);
    let (journeys, closing) = truth_of(capture, switch);
    println!("{closing:?}");
    assert!(closing.closes(), "{closing:?}");
    assert_eq!(closing.sent, 3_000);
    let count = |cause| {
        let dropped =
            |journey: &&Journey| journey.record.is_some_and(|r| r.outcome == Outcome::Dropped(cause));
        journeys.iter().filter(dropped).count()
    };
    assert!(count(Cause::Loss) > 0 && count(Cause::Queue) > 0 && closing.copied > 0 && closing.delivered > 0);
    for journey in journeys.iter().filter(|journey| journey.received.is_some()) {
        assert!(journey.network().unwrap() >= link.delay, "faster than the wire: {journey:?}");
    }
}

/// An account that always closes would say nothing: here the kernel itself loses packets, behind the switch's back.
#[test]
fn the_truth_does_not_close_when_packets_vanish_before_the_switch() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(2).unwrap();
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    let capture = Capture::start(&hosts, 100_000).unwrap();
    let (a, _) = socket(hosts[0].namespace(), hosts[0].v4());
    let (_b, b_at) = socket(hosts[1].namespace(), hosts[1].v4());
    let gate = Arc::new(Barrier::new(2));
    thread::scope(|scope| {
        let held = Arc::clone(&gate);
        let switch = &switch;
        scope.spawn(move || {
            let hold = move |spec| {
                held.wait();
                held.wait();
                spec
            };
            switch.change(&[(host(0), host(1))], hold).unwrap();
        });
        gate.wait();
        // Nobody reads now, and the device keeps 4096 frames.
        for i in 0..6_000u32 {
            a.send_to(&i.to_be_bytes(), b_at).unwrap();
        }
        gate.wait();
    });
    settled(&switch, host(0), host(1), 4_000);
    let (_, closing) = truth_of(capture, switch);
    println!("{closing:?}");
    assert!(!closing.closes(), "{closing:?}");
    assert_eq!((closing.sent, closing.sent - closing.unread), (6_000, closing.read));
    assert!((1_800..2_000).contains(&closing.unread), "{closing:?}");
}

/// The sender's edge is behind its own queue: waiting there is no time on the wire.
#[test]
fn a_local_queue_is_not_the_wire() {
    if !can_make_hosts() {
        return;
    }
    let _alone = alone();
    let hosts = Hosts::unlinked(2).unwrap();
    let switch = Switch::start(&hosts, Settings::default()).unwrap();
    let capture = Capture::start(&hosts, 10_000).unwrap();
    let (a, _) = socket(hosts[0].namespace(), hosts[0].v4());
    let (b, b_at) = socket(hosts[1].namespace(), hosts[1].v4());
    let mut tc = hosts[0].namespace().command("tc");
    tc.args("qdisc add dev eth0 root tbf rate 1mbit burst 2kb limit 100kb".split(' '));
    xtask::exec::output(&mut tc).unwrap();
    let before = mono_now();
    for _ in 0..21 {
        a.send_to(&[0; 958], b_at).unwrap(); // frames of 1000 bytes, 8 ms each
    }
    for _ in 0..21 {
        b.recv_from(&mut [0; 1000]).unwrap();
    }
    let whole = mono_now() - before;
    let (journeys, closing) = truth_of(capture, switch);
    assert!(closing.closes() && journeys.len() == 21, "{closing:?}");
    let wire = median(journeys.iter().map(|journey| journey.network().unwrap()).collect());
    println!("all took {whole}, the wire took {wire}");
    assert!(whole > Span::from_millis(120), "the queue did not queue: {whole}");
    assert!(wire < Span::from_millis(1), "{wire}");
}
