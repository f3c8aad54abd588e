//! Tier 2's hooks on real sends, and the self-check.

use std::net::UdpSocket;
use std::path::Path;

use probe_ebpf::departure::DepartureEvent;
use probe_user::btf::VMLINUX;
use probe_user::clock::mapping::mono_now;
use probe_user::departures::{Departure, DepartureCounts, HookDepartures};
use probe_user::hooks::{HookError, Hooks};
use probe_user::load::LoadError;
use probe_user::self_check::{self, Options, SelfCheckError};

fn permitted(socket: &UdpSocket) -> Option<Hooks> {
    match Hooks::attach(socket, Path::new(VMLINUX)) {
        Ok(hooks) => Some(hooks),
        Err(error @ HookError::Load(LoadError::NotPermitted { .. } | LoadError::NoObject))
            if std::env::var_os("CI").is_none() =>
        {
            eprintln!("SKIPPED, nothing was tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn pair(bind: &str) -> (UdpSocket, UdpSocket) {
    let (sender, receiver) = (UdpSocket::bind(bind).expect("a port"), UdpSocket::bind(bind).expect("a port"));
    sender.connect(receiver.local_addr().expect("bound")).expect("connect");
    receiver.set_nonblocking(true).expect("nonblocking");
    (sender, receiver)
}

/// Sends so many, with T1, and takes what is known of them.
fn send(
    socket: &UdpSocket,
    hooks: &mut Hooks,
    joiner: &mut HookDepartures,
    cookies: std::ops::Range<u64>,
) -> Vec<Departure> {
    for cookie in cookies {
        let t1 = mono_now();
        match socket.send(&[1; 200]) {
            Ok(_) => joiner.push(cookie, t1),
            Err(_) => joiner.push_failed(t1),
        }
    }
    let mut done = Vec::new();
    hooks.drain(|event| joiner.take(event));
    joiner.finish(|departure| done.push(departure));
    done
}

fn every_send_is_seen(bind: &str) {
    let (sender, receiver) = pair(bind);
    let Some(mut hooks) = permitted(&sender) else { return };
    let mut joiner = HookDepartures::default();
    let mut done = Vec::new();
    for chunk in 0..50 {
        done.extend(send(&sender, &mut hooks, &mut joiner, chunk * 40..chunk * 40 + 40));
        let now = mono_now();
        let last = done.last().expect("loopback's driver has it before sendmsg returns");
        assert!(last.t3.expect("T3").at <= now);
        while receiver.recv(&mut [0; 256]).is_ok() {}
    }
    assert!(done.iter().map(|d| d.cookie).eq(0..2000), "{} of 2000", done.len());
    for (departure, next) in done.iter().zip(done.iter().skip(1)) {
        let (t2, t3) = (departure.t2.expect("T2").at, departure.t3.expect("T3").at);
        assert!(departure.t1 <= t2 && t2 <= t3 && t3 <= next.t1, "{departure:?} before {next:?}");
    }
    assert_eq!(joiner.counts(), DepartureCounts { complete: 2000, ..Default::default() });
    assert_eq!((hooks.lost(), hooks.malformed(), joiner.pending()), ([0, 0], 0, 0));
}

#[test]
fn every_send_is_seen_over_ipv4() {
    every_send_is_seen("127.0.0.1:0");
}

#[test]
fn every_send_is_seen_over_ipv6() {
    every_send_is_seen("[::1]:0");
}

/// Other sockets of the same process and cgroup, by both families, and the answers to the own one.
#[test]
fn packets_of_other_sockets_are_not_seen() {
    let (own, other) = pair("127.0.0.1:0");
    let Some(mut hooks) = permitted(&own) else { return };
    other.connect(own.local_addr().expect("bound")).expect("connect");
    let (stranger, _receiver) = pair("[::1]:0");
    for _ in 0..100 {
        other.send(b"answer").expect("send");
        stranger.send(b"stranger").expect("send");
    }
    let mut events: Vec<DepartureEvent> = Vec::new();
    hooks.drain(|event| events.push(event));
    assert_eq!(events, []);
    own.send(b"own").expect("send");
    hooks.drain(|event| events.push(event));
    assert_eq!(events.iter().map(|event| event.hook).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(events[0].skb, events[1].skb, "both hooks name the packet alike");
}

#[test]
fn a_full_ring_is_counted_by_hook() {
    let (sender, receiver) = pair("127.0.0.1:0");
    let Some(mut hooks) = permitted(&sender) else { return };
    let total = 3000u64;
    for _ in 0..total {
        sender.send(&[1; 10]).expect("send");
        while receiver.recv(&mut [0; 16]).is_ok() {}
    }
    let mut seen = [0u64; 2];
    hooks.drain(|event| seen[event.hook as usize - 1] += 1);
    let lost = hooks.lost();
    assert!(lost[0] > 0 && lost[1] > 0, "a ring of 64 kB held {seen:?}");
    assert_eq!([seen[0] + lost[0], seen[1] + lost[1]], [total; 2]);
}

/// What is taken off with the process goes with the value too.
#[test]
fn dropping_takes_the_hooks_off() {
    let (sender, _receiver) = pair("127.0.0.1:0");
    let Some(hooks) = permitted(&sender) else { return };
    drop(hooks);
    sender.send(b"unseen").expect("send");
    let Some(mut hooks) = permitted(&sender) else { return };
    hooks.drain(|event| panic!("from before it was attached: {event:?}"));
}

#[test]
fn without_btf_there_is_no_tier_2_and_the_reason_is_said() {
    let (sender, _receiver) = pair("127.0.0.1:0");
    let error = Hooks::attach(&sender, Path::new("/nonexistent/btf")).expect_err("must fail");
    let said = error.to_string();
    assert!(
        said.contains("/nonexistent/btf") || matches!(error, HookError::Load(LoadError::NoObject)),
        "{said}"
    );
}

/// Both tiers on the same packets. How close the stamps are on a quiet machine is for `pikoscope self-check` to tell:
/// here a packet may have been interrupted between the two.
#[test]
fn self_check_finds_the_same_stamps_at_both_tiers() {
    let found = match self_check::run(&Options { packets: 2000, ..Options::default() }) {
        Ok(found) => found,
        Err(SelfCheckError::Probe(error @ (LoadError::NotPermitted { .. } | LoadError::NoObject)))
            if std::env::var_os("CI").is_none() =>
        {
            eprintln!("SKIPPED, nothing was tested: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    eprintln!("{found:?}");
    assert_eq!((found.packets, found.t4_unequal, found.t4.pairs), (2000, 0, 2000), "{found:?}");
    assert_eq!((found.t4.max_magnitude_ns, found.receive_order_broken), (0, 0), "{found:?}");
    let transmit = found.tier_2.as_ref().expect("tier 2");
    assert_eq!((transmit.t3.pairs, transmit.order_broken), (2000, 0), "{found:?}");
    // The hook comes first, and the median is not of the interrupted ones.
    assert!(transmit.t3.p50_ns < 0 && transmit.t3.p50_ns > -100_000, "{found:?}");
}
