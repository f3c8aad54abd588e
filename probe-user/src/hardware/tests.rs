//! From the bytes that the kernel puts beside a datagram to T4, with a NIC's clock that is simulated.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use probe_ebpf::time::PhcNs;

use super::*;
use crate::timestamping::{self, CONTROL_LEN};

const NIC: u32 = 3;
/// What the NIC's clock showed at the epoch of REALTIME.
const ZERO: i64 = -1_699_999_000_000_000_000;
const START: i64 = 1_700_000_000_000_000_000;

/// A NIC's clock that gains 20 ppm since [`START`].
fn phc_at(real: i64) -> i64 {
    real + ZERO + (real - START) / 50_000
}

#[derive(Debug)]
struct Simulated(Arc<AtomicI64>);

impl NicClock for Simulated {
    fn read(&mut self) -> Result<PhcReading, HardwareError> {
        let now = self.0.load(Ordering::Relaxed);
        let (before, after) = (RealNs::from_nanos(now - 400), RealNs::from_nanos(now + 600));
        Ok(PhcReading::between(before, PhcNs::from_nanos(phc_at(now)), after).expect("time goes on"))
    }
}

/// Stamps whose clock was read three times, a second apart, and what REALTIME shows now.
fn settled() -> (HardwareStamps, i64) {
    let now = Arc::new(AtomicI64::new(START));
    let mut stamps = HardwareStamps::with_clock(NIC, 0, Box::new(Simulated(Arc::clone(&now))));
    for _ in 0..3 {
        now.fetch_add(1_000_000_000, Ordering::Relaxed);
        stamps.read_clock().expect("it can be read");
    }
    (stamps, now.load(Ordering::Relaxed))
}

/// One control message, as the kernel lays it out.
fn message(out: &mut Vec<u8>, kind: libc::c_int, data: &[u8]) {
    // SAFETY: arithmetic only.
    let (len, space) = unsafe { (libc::CMSG_LEN(data.len() as u32), libc::CMSG_SPACE(data.len() as u32)) };
    let end = out.len() + space as usize;
    out.extend((len as usize).to_ne_bytes());
    out.extend(libc::SOL_SOCKET.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(end, 0);
}

/// What is beside a datagram: its software and hardware stamps, and the NIC that it came by.
fn beside(software: Option<i64>, hardware: Option<i64>, interface: Option<u32>) -> timestamping::Control {
    let time = |ns: Option<i64>| {
        let ns = ns.unwrap_or(0);
        [(ns / 1_000_000_000).to_ne_bytes(), (ns % 1_000_000_000).to_ne_bytes()].concat()
    };
    let mut bytes = Vec::new();
    if let Some(interface) = interface {
        // SCM_TIMESTAMPING_PKTINFO: interface, the packet's length, two that are reserved.
        message(&mut bytes, 58, &[interface, 200, 0, 0].map(u32::to_ne_bytes).concat());
    }
    message(&mut bytes, libc::SCM_TIMESTAMPING, &[time(software), time(None), time(hardware)].concat());
    message(&mut bytes, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes());
    assert!(bytes.len() <= CONTROL_LEN);
    let mut aligned = [0_u64; CONTROL_LEN / 8];
    for (to, from) in aligned.iter_mut().zip(bytes.chunks(8)) {
        *to = u64::from_ne_bytes(from.try_into().expect("messages are padded"));
    }
    // SAFETY: a plain C structure for which all zeros is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_control = aligned.as_mut_ptr().cast();
    header.msg_controllen = bytes.len() as _;
    timestamping::control(&header)
}

/// T4 less what the NIC's stamp really means, its error, and what became of the stamp.
fn t4(stamps: &mut HardwareStamps, beside: timestamping::Control) -> (Option<(RealNs, Span)>, Outcome) {
    let before = stamps.outcomes();
    let t4 = stamps.received(beside.hardware, beside.received);
    let counted: Vec<Outcome> = Outcome::ALL
        .into_iter()
        .filter(|outcome| stamps.outcomes()[*outcome as usize] > before[*outcome as usize])
        .collect();
    assert_eq!(counted.len(), 1, "every datagram is counted once");
    (t4, counted[0])
}

#[test]
fn the_kernels_bytes_become_the_nics_t4() {
    let (mut stamps, now) = settled();
    for (arrived, waited) in
        [(now + 300_000_000, 9_000), (now + 900_000_000, 40_000_000), (now - 5_000, 90_000)]
    {
        let beside = beside(Some(arrived + waited), Some(phc_at(arrived)), Some(NIC));
        assert_eq!((beside.received, beside.dropped), (Some(RealNs::from_nanos(arrived + waited)), Some(7)));
        let hardware = HardwareStamp { at: PhcNs::from_nanos(phc_at(arrived)), interface: NIC };
        assert_eq!(beside.hardware, Some(hardware));
        let (Some((at, error)), Outcome::Used) = t4(&mut stamps, beside) else { panic!("{beside:?}") };
        let off = at - RealNs::from_nanos(arrived);
        assert!(off.abs() <= error && error <= Span::from_micros(50), "off by {off}, bound {error}");
        assert!(off.abs() <= Span::from_micros(2), "{off}");
        assert_eq!(stamps.error(), Some(error));
    }
}

#[test]
fn where_it_cannot_be_the_nics_it_is_the_kernels() {
    let (mut stamps, now) = settled();
    let (second, arrived) = (1_000_000_000, now + 1_000);
    let nic = Some(phc_at(arrived));
    let kernel = Some(arrived + 10_000);
    for (beside, expected) in [
        (beside(kernel, None, None), Outcome::Missing),
        (beside(kernel, nic, Some(NIC + 1)), Outcome::OtherNic),
        (beside(kernel, nic, None), Outcome::OtherNic),
        (beside(kernel, nic, Some(0)), Outcome::OtherNic),
        (beside(kernel, Some(phc_at(arrived + 10 * second)), Some(NIC)), Outcome::NoMapping),
        // Later than the kernel's, and so long before it as nothing waits.
        (beside(kernel, Some(phc_at(arrived + 100_000)), Some(NIC)), Outcome::Implausible),
        (beside(Some(arrived + second + 100_000), nic, Some(NIC)), Outcome::Implausible),
    ] {
        let software = beside.received;
        assert_eq!(t4(&mut stamps, beside), (software.map(|at| (at, Span::ZERO)), expected));
    }
    assert_eq!(t4(&mut stamps, beside(None, nic, Some(NIC))), (None, Outcome::Unchecked));
    assert_eq!(t4(&mut stamps, beside(None, None, None)), (None, Outcome::Missing));
    assert_eq!(stamps.outcomes(), [0, 2, 3, 1, 1, 2]);
}

/// Errors of both are allowed for, and not a microsecond more.
#[test]
fn plausible_is_not_after_the_kernels_stamp_nor_long_before() {
    let (us, error) = (Span::from_micros, Span::from_micros(20));
    for (waited, expected) in [
        (us(-21), false),
        (us(-20), true),
        (us(0), true),
        (us(1_000_000), true),
        (us(1_000_020), true),
        (us(1_000_021), false),
        (Span::MAX, false),
    ] {
        assert_eq!(is_plausible(waited, error), expected, "{waited}");
    }
}

#[test]
fn a_step_of_realtime_voids_what_was_known() {
    let (mut stamps, now) = settled();
    stamps.void();
    let (t4, outcome) = t4(&mut stamps, beside(Some(now + 10), Some(phc_at(now)), Some(NIC)));
    assert_eq!((t4, outcome), (Some((RealNs::from_nanos(now + 10), Span::ZERO)), Outcome::NoMapping));
}

/// The real kernel, on an interface that every host has.
#[test]
fn what_is_not_possible_is_one_sentence_and_says_what_holds() {
    for (interface, part) in
        [("lo", "lo has no clock"), ("no-such-nic", "no network interface \"no-such-nic\"")]
    {
        for error in [HardwareStamps::begin(interface).map(drop), examine(interface).map(drop)] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("T4 is the kernel's own stamp"), "{error}");
            assert!(!error.contains('\n') && !error.contains(". "), "{error}");
        }
    }
}

/// The flags of receive and transmit stamps share one number: neither may switch the other off.
#[test]
fn hardware_stamps_stay_on_when_transmit_stamps_begin_anew() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    timestamping::enable_receive_stamps(&socket).expect("stamps");
    let software = timestamping::receive_flags(&socket).expect("flags");
    assert_eq!(software, timestamping::RECEIVE);
    crate::transmit::enable(&socket).expect("stamps");
    assert_eq!(timestamping::receive_flags(&socket).expect("flags"), software, "not unasked");
    timestamping::add_hardware_stamps(&socket).expect("stamps");
    let both = timestamping::receive_flags(&socket).expect("flags");
    let added = libc::SOF_TIMESTAMPING_RX_HARDWARE
        | libc::SOF_TIMESTAMPING_RAW_HARDWARE
        | libc::SOF_TIMESTAMPING_OPT_PKTINFO;
    assert_eq!(both, software | added);
    crate::transmit::enable(&socket).expect("stamps");
    assert_eq!(timestamping::receive_flags(&socket).expect("flags"), both);
}
