//! Transmit stamps of real sends over loopback.

use std::io::ErrorKind;
use std::net::UdpSocket;

use probe_ebpf::time::Span;
use probe_user::clock::mapping::{MappingReader, mono_now};
use probe_user::departures::{Departure, DepartureCounts, Departures};
use probe_user::recv::RecvBatch;
use probe_user::timestamping;
use probe_user::transmit::{self, SENDS_PER_READ, StampBatch, StampFaults};

/// A socket with stamps, connected to another.
fn pair(bind: &str) -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind(bind).expect("a free port");
    let sender = UdpSocket::bind(bind).expect("a free port");
    sender.connect(receiver.local_addr().expect("bound")).expect("connect");
    sender.set_nonblocking(true).expect("nonblocking");
    transmit::enable(&sender).expect("stamps");
    (sender, receiver)
}

/// Sends, stamped with T1.
fn send(
    socket: &UdpSocket,
    departures: &mut Departures,
    cookie: u64,
    bytes: &[u8],
) -> std::io::Result<usize> {
    let t1 = mono_now();
    let sent = socket.send(bytes);
    match &sent {
        Ok(_) => assert_eq!(departures.push(cookie, t1), None),
        Err(_) => departures.push_failed(),
    }
    sent
}

/// Reads the stamps that are there.
fn read(socket: &UdpSocket, batch: &mut StampBatch, departures: &mut Departures) -> Vec<Departure> {
    let mapping = MappingReader::new(Span::ZERO).read();
    let mut done = Vec::new();
    batch.read(socket, |stamp| done.extend(departures.stamp(stamp, &mapping))).expect("the error queue");
    done
}

/// The spans are as they must be.
fn check(departure: &Departure, read: probe_ebpf::time::MonoNs) {
    let (t2, t3) = (departure.t2.expect("T2"), departure.t3.expect("T3"));
    let slack = t2.error + Span::from_nanos(100);
    assert!(departure.t1 - t2.at <= slack, "T2 is {} before T1", departure.t1 - t2.at);
    assert!(t3.at - t2.at >= Span::ZERO, "one clock: T3 is {} before T2", t2.at - t3.at);
    assert!(t3.at - read <= slack, "T3 is after it was read");
}

fn every_send_is_stamped(bind: &str) {
    let (sender, receiver) = pair(bind);
    let (mut batch, mut departures) = (StampBatch::new(), Departures::default());
    let total = 2000;
    let mut done = Vec::new();
    for first in (0..total).step_by(SENDS_PER_READ) {
        let chunk = first..total.min(first + SENDS_PER_READ as u64);
        for n in chunk.clone() {
            send(&sender, &mut departures, n, &[1; 200]).expect("send");
        }
        // Loopback takes the packet at once: all stamps are there, and one read gets them.
        let part = read(&sender, &mut batch, &mut departures);
        assert_eq!(part.len() as u64, chunk.end - chunk.start);
        part.iter().for_each(|d| check(d, mono_now()));
        done.extend(part);
        receiver.set_nonblocking(true).expect("nonblocking");
        while receiver.recv(&mut [0; 256]).is_ok() {}
    }
    assert!(done.iter().map(|d| d.cookie).eq(0..total));
    assert_eq!(departures.counts(), DepartureCounts { complete: total, ..Default::default() });
    assert_eq!((departures.pending(), batch.faults()), (0, StampFaults::default()));
    assert_eq!(sender.recv(&mut [0; 8]).expect_err("no datagram").kind(), ErrorKind::WouldBlock);
}

#[test]
fn every_send_is_stamped_over_ipv4() {
    every_send_is_stamped("127.0.0.1:0");
}

#[test]
fn every_send_is_stamped_over_ipv6() {
    every_send_is_stamped("[::1]:0");
}

/// Sends that fail are counted by some kernels and not by others: the joiner finds out.
#[test]
fn ids_are_found_again_after_failed_sends() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let (sender, _receiver) = pair(bind);
        let (mut batch, mut departures) = (StampBatch::new(), Departures::default());
        let mut sent = 0;
        for round in 0..20 {
            for _ in 0..round % 4 {
                // Too large for a datagram, but not so large that it is refused before an id is drawn.
                send(&sender, &mut departures, 0, &[0; 65_530]).expect_err("too large");
            }
            for _ in 0..=round % 3 {
                send(&sender, &mut departures, sent, &[1; 100]).expect("send");
                sent += 1;
            }
            read(&sender, &mut batch, &mut departures).iter().for_each(|d| check(d, mono_now()));
        }
        let counts = departures.counts();
        assert_eq!(counts, DepartureCounts { complete: sent, slips: counts.slips, ..Default::default() });
        eprintln!("{bind}: the kernel counted failed sends {} times", counts.slips);
    }
}

/// The ids begin at 0 again: what the caller does when the count is lost.
#[test]
fn enabling_again_begins_the_count_anew() {
    let (sender, _receiver) = pair("127.0.0.1:0");
    let (mut batch, mut departures) = (StampBatch::new(), Departures::default());
    for n in 0..3 {
        send(&sender, &mut departures, n, &[1; 10]).expect("send");
    }
    assert_eq!(read(&sender, &mut batch, &mut departures).len(), 3);
    transmit::enable(&sender).expect("again");
    departures.restart();
    send(&sender, &mut departures, 9, &[1; 10]).expect("send");
    let done = read(&sender, &mut batch, &mut departures);
    assert_eq!(done.iter().map(|d| d.cookie).collect::<Vec<_>>(), [9]);
}

/// What poll says: stamps wake it with POLLERR alone, and reading them ends that.
#[test]
fn stamps_are_no_error_of_the_socket() {
    let (sender, _receiver) = pair("127.0.0.1:0");
    let poll = || {
        let mut fd =
            libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&sender), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, and no waiting.
        unsafe { libc::poll(&raw mut fd, 1, 0) };
        fd.revents
    };
    let (mut batch, mut departures) = (StampBatch::new(), Departures::default());
    assert_eq!(poll(), 0);
    send(&sender, &mut departures, 0, &[1; 10]).expect("send");
    assert_eq!(poll(), libc::POLLERR);
    assert_eq!(sender.take_error().expect("SO_ERROR").map(|e| e.to_string()), None);
    assert_eq!(read(&sender, &mut batch, &mut departures).len(), 1);
    assert_eq!(poll(), 0);
}

/// While the receive buffer is full, stamps are lost; that is seen, and it ends with the reading.
#[test]
fn stamps_that_nobody_reads_are_lost_and_counted() {
    let (sender, receiver) = pair("127.0.0.1:0");
    receiver.set_nonblocking(true).expect("nonblocking");
    let (mut batch, mut departures) = (StampBatch::new(), Departures::new(4096));
    let total = 2000;
    for n in 0..total {
        send(&sender, &mut departures, n, &[1; 10]).expect("send");
        while receiver.recv(&mut [0; 16]).is_ok() {}
    }
    let done = read(&sender, &mut batch, &mut departures).len() as u64;
    assert!(done > 0 && done < total, "{done} of {total}: nothing was lost, so nothing is shown");
    let after = mono_now() + Departures::PATIENCE;
    let lost = std::iter::from_fn(|| departures.expire(after)).count() as u64;
    assert_eq!((departures.counts().given_up, departures.pending()), (lost, 0));
    assert_eq!(done + lost, total);
    send(&sender, &mut departures, total, &[1; 10]).expect("send");
    assert_eq!(read(&sender, &mut batch, &mut departures).len(), 1, "and now there is room again");
}

/// A socket that asks for the NIC's stamps has all of the kernel's as before: loopback has no others.
#[test]
fn asking_for_the_nics_stamps_takes_nothing_away() {
    let (sender, receiver) = pair("127.0.0.1:0");
    for socket in [&sender, &receiver] {
        timestamping::enable_receive_stamps(socket).expect("stamps");
        timestamping::enable_drop_count(socket).expect("drop count");
        timestamping::add_hardware_stamps(socket).expect("this kernel knows them");
        transmit::enable(socket).expect("stamps");
    }
    let (mut stamps, mut batch, mut departures) =
        (StampBatch::new(), RecvBatch::new(1, 256), Departures::default());
    receiver.set_nonblocking(true).expect("nonblocking");
    let (total, give_up) = (200, mono_now() + Span::from_secs(10));
    let (mut done, mut stamped, mut sent) = (0, 0, 0);
    while sent < total || stamped < total - 50 {
        assert!(mono_now() < give_up, "{stamped} of {sent} have a receive stamp");
        send(&sender, &mut departures, sent, &[1; 200]).expect("send");
        sent += 1;
        let part = read(&sender, &mut stamps, &mut departures);
        part.iter().for_each(|departure| check(departure, mono_now()));
        done += part.len() as u64;
        while batch.receive(&receiver).is_ok() {
            let datagram = batch.get(0).expect("one");
            assert_eq!((datagram.hardware, datagram.wire_len), (None, 200));
            // The kernel begins to stamp some time after it was asked to.
            stamped += u64::from(datagram.received.is_some());
        }
    }
    assert_eq!((done, stamps.faults()), (sent, StampFaults::default()));
}
