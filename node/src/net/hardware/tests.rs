//! A real socket with real datagrams, beside which a NIC's stamps are put that has a simulated clock.

use std::net::{Ipv4Addr, UdpSocket};

use probe_ebpf::time::PhcNs;
use probe_user::clock::mapping::{MappingReader, mono_now, real_now};
use probe_user::hardware::mapping::PhcReading;
use probe_user::hardware::{HardwareError, NicClock};
use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use probe_user::timestamping::HardwareStamp;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::config::ProbeMode;
use crate::net::stamping::Stamping;

const NIC: u32 = 7;
const BEHIND: i64 = 1_000_000_000_000_000_000;
const WIRE_TO_KERNEL: Span = Span::from_micros(500);

fn phc(real: RealNs) -> PhcNs {
    PhcNs::from_nanos(real.as_nanos() - BEHIND)
}

/// Is read when its owner says so, to within a tenth of a microsecond.
#[derive(Debug)]
struct Simulated(Vec<RealNs>);

impl NicClock for Simulated {
    fn read(&mut self) -> Result<PhcReading, HardwareError> {
        let what = "reading";
        let gone = || std::io::Error::from_raw_os_error(libc::ENODEV);
        let real =
            self.0.pop().ok_or_else(|| HardwareError::Failed { what, on: "sim".into(), source: gone() })?;
        Ok(PhcReading { phc: phc(real), real, error: Span::from_nanos(100) })
    }
}

/// Of a NIC whose clock was read thrice lately, and then is gone.
fn settled() -> Hardware {
    let now = real_now();
    let readings = (0..3).map(|ago| now - Span::from_secs(ago)).collect();
    let stamps = HardwareStamps::with_clock(NIC, 0, Box::new(Simulated(readings)));
    let mut hardware = Hardware::of("eth7", Ok(stamps));
    (0..3).for_each(|_| hardware.read_clock());
    hardware
}

/// A socket with the best stamps that are possible here, one that sends to it, and a batch.
fn bench() -> (Stamping, Socket, UdpSocket, RecvBatch) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    let stamping =
        Stamping::prepare(&socket, ProbeMode::Auto, false, Some("lo"), &Options::default()).expect("stamps");
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    sender.connect(socket.local_addr().expect("bound").as_socket().expect("IP")).expect("loopback");
    (stamping, socket, sender, RecvBatch::new(1, 100))
}

/// The kernel matches its event with the datagram by its own stamp; T4 is the NIC's all the same.
#[test]
fn the_nics_stamp_is_t4_and_the_kernels_finds_the_event() {
    let (mut stamping, socket, sender, mut batch) = bench();
    let reason = stamping.hardware.as_ref().and_then(Hardware::reason).expect("loopback has no clock");
    assert!(reason.starts_with("lo has no clock"), "{reason}");
    stamping.hardware = Some(settled());
    let mapping = MappingReader::new(Span::ZERO).read();
    // (NIC of the stamp, is T4 the NIC's?)
    let mut cases = [(Some(NIC), true), (None, false), (Some(NIC + 1), false)].into_iter().peekable();
    let give_up = mono_now() + Span::from_secs(20);
    while let Some((nic, is_nics)) = cases.peek().copied() {
        assert!(mono_now() < give_up, "the kernel does not stamp");
        sender.send(b"sixteen bytes and more").expect("loopback");
        while batch.receive(&socket).is_err() {
            assert!(mono_now() < give_up, "nothing comes");
            std::thread::yield_now();
        }
        let read = mono_now();
        stamping.drain(read);
        let mut datagram = batch.get(0).expect("one");
        assert_eq!(datagram.hardware, None, "nobody makes any here");
        let software = datagram.received;
        if let (Some(at), Some(interface)) = (software, nic) {
            datagram.hardware = Some(HardwareStamp { at: phc(at - WIRE_TO_KERNEL), interface });
        }
        let receipt = stamping.receipt(&datagram, read, &mapping);
        // The kernel begins to stamp some time after it was asked to.
        let Some(software) = software else { continue };
        let expected = if is_nics { software - WIRE_TO_KERNEL } else { software };
        let t4 = receipt.received.expect("there is one");
        assert!((t4.at - mapping.mono_of_real(expected)).abs() <= t4.error, "{t4:?} {nic:?}");
        assert_eq!(t4.error > mapping.error, is_nics, "the NIC's is less exact: {t4:?}");
        if stamping.tier() == Some(1) {
            let ingress = receipt.ingress_stack().expect("the event was found");
            assert_eq!(ingress.value + ingress.bound >= WIRE_TO_KERNEL, is_nics, "{ingress}");
        }
        cases.next();
    }
    let accounting = stamping.accounting();
    assert!(stamping.tier() != Some(1) || accounting.matched >= 3, "{accounting:?}");
    let report = stamping.hardware.as_ref().map(Hardware::report).expect("it was asked for");
    assert_eq!((report.phc, report.outcomes["used"], report.outcomes["other_nic"]), (Some(0), 1, 1));
}

#[test]
fn a_step_and_a_clock_that_is_gone_leave_the_kernels() {
    let mut hardware = settled();
    let (arrived, software) = (real_now(), Some(real_now()));
    let stamp = Some(HardwareStamp { at: phc(arrived), interface: NIC });
    let datagram = Datagram { payload: &[], wire_len: 0, from: None, received: software, hardware: stamp };
    let (t4, error) = hardware.received(&datagram, software).expect("there is one");
    assert!((t4 - arrived).abs() <= error && error > Span::ZERO);
    hardware.read_clock();
    assert!(hardware.report().reason.is_some_and(|why| why.contains("reading failed on sim")));
    assert!(hardware.reason().is_none(), "it may come back");
    assert!(
        hardware.received(&datagram, software).is_some_and(|(_, error)| error > Span::ZERO),
        "it holds a while"
    );
    hardware.stepped();
    assert_eq!(hardware.received(&datagram, software), software.map(|at| (at, Span::ZERO)));
    assert_eq!(hardware.report().outcomes, [("no_mapping".to_owned(), 1), ("used".to_owned(), 2)].into());
}

/// What is wrong is told until it is right again, and not only in the second in which it was noticed.
#[test]
fn a_clock_that_was_set_is_told_of_until_it_can_be_relied_on() {
    let now = real_now();
    let seconds = |n: i64| now + Span::from_secs(n);
    // The last are read first. From the fourth on the NIC's clock has lost ten seconds.
    let readings = vec![seconds(15), seconds(14), seconds(13), seconds(2), seconds(1), now];
    let clock = Behind(Simulated(readings), 0);
    let mut hardware = Hardware::of("eth7", Ok(HardwareStamps::with_clock(NIC, 0, Box::new(clock))));
    let told: Vec<bool> = (0..6)
        .map(|_| {
            hardware.read_clock();
            hardware
                .report()
                .reason
                .is_some_and(|why| why.contains("the clock of eth7") && !why.contains('\n'))
        })
        .collect();
    assert_eq!(told, [false, false, false, true, true, false]);
    assert_eq!(hardware.report().breaks, 1);
}

/// Loses ten seconds before its fourth reading.
#[derive(Debug)]
struct Behind(Simulated, u32);

impl NicClock for Behind {
    fn read(&mut self) -> Result<PhcReading, HardwareError> {
        let lost = Span::from_secs(if self.1 < 3 { 0 } else { 10 });
        self.1 += 1;
        self.0.read().map(|reading| PhcReading { phc: reading.phc - lost, ..reading })
    }
}

#[test]
fn a_node_that_cannot_counts_what_it_misses() {
    let mut hardware = Hardware::switched_off("eth0");
    let software = Some(real_now());
    let datagram = Datagram { payload: &[], wire_len: 0, from: None, received: software, hardware: None };
    hardware.read_clock();
    assert_eq!(hardware.received(&datagram, software), software.map(|at| (at, Span::ZERO)));
    assert_eq!(hardware.outcomes(), [0, 1, 0, 0, 0, 0]);
    assert!(hardware.report().reason.is_some_and(|why| why.contains("probe = \"off\"")));
}
