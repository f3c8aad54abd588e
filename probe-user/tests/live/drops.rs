//! Drops at a real socket, held against the socket's own count.

use std::collections::HashSet;
use std::net::UdpSocket;

use probe_ebpf::event::PacketKey;
use probe_user::drops::{Dropped, Drops, DropsError, Hook, Options};
use probe_user::load::{self, LoadError, Probe};
use probe_user::timestamping;

use super::{numbered, pair, permitted, wait_until};

const SENT: u32 = 2000;

fn attach(socket: &UdpSocket, options: &Options) -> Option<Drops> {
    match Drops::attach(socket, options) {
        Ok(drops) => Some(drops),
        Err(error @ DropsError::Load(LoadError::NotPermitted { .. } | LoadError::NoObject))
            if std::env::var_os("CI").is_none() =>
        {
            eprintln!("SKIPPED, nothing was tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A receiver whose buffer is too small for what is sent to it, and how many were dropped by the socket's own count.
fn overflow(probe: &mut Probe, options: &Options) -> Option<(UdpSocket, Drops, u64)> {
    let (receiver, sender) = pair(probe, "127.0.0.1:0");
    let drops = attach(&receiver, options)?;
    // Another socket's drops are not this one's.
    let other = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for n in 0..SENT {
        sender.send(&numbered(n, 512)).expect("send");
        sender.send_to(&numbered(n, 512), other.local_addr().expect("bound")).expect("send");
    }
    assert!(wait_until(|| probe.counters().seen == u64::from(SENT)), "not all were filtered");
    let (mut buffer, mut received, mut dropped) = ([0; 1024], 0, 0);
    let settled = wait_until(|| {
        while receiver.recv(&mut buffer).is_ok() {
            received += 1;
        }
        dropped = u64::from(timestamping::dropped(&receiver).expect("SO_MEMINFO"));
        received + dropped == u64::from(SENT)
    });
    assert!(settled, "{received} received and {dropped} dropped of {SENT}");
    assert!(dropped > 0 && timestamping::dropped(&other).expect("SO_MEMINFO") > 0, "nothing was dropped");
    Some((receiver, drops, dropped))
}

#[test]
fn every_drop_is_told_by_reason() {
    let Some(mut probe) = permitted(&load::Options::default()) else { return };
    let Some((_receiver, mut drops, dropped)) = overflow(&mut probe, &Options::default()) else { return };
    println!("{dropped} of {SENT} dropped, seen by {:?}: {:?}", drops.hook(), drops.lacking());
    let mut told: Vec<Dropped> = Vec::new();
    let counts = drops.counts(|drop| told.push(drop)).expect("the map");
    assert_eq!(counts.keys().map(|k| &**k).collect::<Vec<_>>(), ["SOCKET_RCVBUFF"], "{counts:?}");
    assert_eq!(counts["SOCKET_RCVBUFF"].total, dropped);
    assert_eq!(drops.lacking().is_some(), drops.hook() == Hook::QueueFailed);
    if drops.hook() == Hook::QueueFailed {
        assert_eq!((told.len(), counts["SOCKET_RCVBUFF"].by_number), (0, dropped));
        return;
    }
    assert!(told.iter().all(|drop| &*drop.reason == "SOCKET_RCVBUFF"));
    assert_eq!(told.len() as u64, dropped);
    assert_eq!(counts["SOCKET_RCVBUFF"].by_number, 0);
    // Each drop has the key of an event of the socket filter, and all others were received.
    let mut events: HashSet<PacketKey> = HashSet::new();
    probe.ring.drain(|event| assert!(events.insert(event.key()), "two events of one key"));
    assert_eq!(events.len(), SENT as usize);
    for drop in &told {
        assert!(events.remove(&drop.packet.key()), "no event of {drop:?}");
    }
    assert_eq!(events.len() as u64, u64::from(SENT) - dropped, "neither dropped nor received");
}

#[test]
fn a_kernel_without_the_socket_argument_tells_of_the_queue() {
    let Some(mut probe) = permitted(&load::Options::default()) else { return };
    let options = Options { queue_only: true, ..Options::default() };
    let Some((_receiver, mut drops, dropped)) = overflow(&mut probe, &options) else { return };
    assert_eq!(drops.hook(), Hook::QueueFailed);
    assert!(drops.lacking().expect("a reason").contains("udp_fail_queue_rcv_skb"));
    let counts = drops.counts(|drop| panic!("told: {drop:?}")).expect("the map");
    assert_eq!((counts.len(), counts["SOCKET_RCVBUFF"].total), (1, dropped), "{counts:?}");
}

#[test]
fn a_short_datagram_and_one_of_the_protocol_are_told_too() {
    let Some(mut probe) = permitted(&load::Options::default()) else { return };
    let (receiver, sender) = pair(&mut probe, "[::1]:0");
    let Some(mut drops) = attach(&receiver, &Options::default()) else { return };
    if drops.hook() == Hook::QueueFailed {
        return;
    }
    let total = 4000;
    for _ in 0..total {
        sender.send(b"short").expect("send");
    }
    assert!(wait_until(|| probe.counters().seen == total), "not all were filtered");
    let mut told = 0;
    assert!(wait_until(|| {
        drops.drain(|drop| {
            told += 1;
            let key = drop.packet.key();
            assert_eq!((key.payload_len, key.head), (5, [0; 16]));
            assert_eq!(key.source_port, sender.local_addr().expect("bound").port());
        });
        told > 0 && told == u64::from(timestamping::dropped(&receiver).expect("SO_MEMINFO"))
    }));
}

#[test]
fn without_btf_there_is_a_reason_and_no_program() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let options = Options { btf: "/nonexistent/btf".into(), ..Options::default() };
    match Drops::attach(&socket, &options) {
        Err(DropsError::Load(LoadError::NoObject)) if std::env::var_os("CI").is_none() => {}
        result => assert!(result.expect_err("no BTF").to_string().contains("/nonexistent/btf")),
    }
}
