use super::*;
use proptest::prelude::*;

pub(crate) const NONCE: u64 = 0x0123_4567_89ab_cdef;
/// 2023-11-14 22:13:20 UTC.
const NOW: RealNs = RealNs::from_nanos(1_700_000_000_000_000_000);

/// A good reply of a server whose clock shows `receive` and `transmit`.
pub(crate) fn reply(nonce: u64, receive: u64, transmit: u64) -> Vec<u8> {
    let mut bytes = vec![0x24, 2, 6, 0xe9]; // no leap, version 4, mode 4; stratum 2; 64 s; 2^-23 s
    bytes.extend(0x0000_0083u32.to_be_bytes()); // 2 ms, about
    bytes.extend(0x0000_0042u32.to_be_bytes()); // 1 ms, about
    bytes.extend([127, 0, 0, 1]);
    bytes.extend((transmit.wrapping_sub(30 << 32)).to_be_bytes());
    bytes.extend(nonce.to_be_bytes());
    bytes.extend(receive.to_be_bytes());
    bytes.extend(transmit.to_be_bytes());
    bytes
}
/// An instant as an NTP timestamp.
pub(crate) fn stamp_of(at: RealNs) -> u64 {
    timestamp(at)
}
fn good() -> Vec<u8> {
    reply(NONCE, timestamp(NOW), timestamp(NOW + Span::from_micros(20)))
}

#[test]
fn request_bytes() {
    let mut expected = vec![0x23];
    expected.resize(40, 0);
    expected.extend([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
    assert_eq!(encode_request(NONCE).as_slice(), expected);
}

/// Every field by hand.
#[test]
fn reply_bytes() {
    #[rustfmt::skip]
    let bytes = [
        0x64, 3, 10, 0xec,                                  // leap 1, version 4, mode 4; stratum 3; 2^-20 s
        0x00, 0x01, 0x80, 0x00,  0x00, 0x00, 0x40, 0x00,    // 1.5 s, 0.25 s
        b'G', b'P', b'S', 0,
        0xe8, 0xfe, 0x6f, 0x80, 0, 0, 0, 0,                 // reference: 2023-11-14 22:13:20
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
        0xe8, 0xfe, 0x6f, 0x81, 0x80, 0, 0, 0,              // T2: 1.5 s later
        0xe8, 0xfe, 0x6f, 0x81, 0xc0, 0, 0, 0,              // T3: 1.75 s later
    ];
    let reply = Reply::decode(&bytes, NONCE).expect("a good reply");
    assert_eq!((reply.leap, reply.stratum), (Leap::Insert, 3));
    assert_eq!((reply.root_delay, reply.root_dispersion), (Span::from_millis(1500), Span::from_millis(250)));
    assert_eq!(reply.precision, Span::from_nanos(955)); // 953.67 rounded, and one more
    // Sent at :21.000, received at :21.450 local: 250 ms of that at the server, 100 ms there and back each. So the
    // server's clock is 400 ms ahead of ours: ours is slow.
    let second = NOW + Span::from_secs(1);
    let (theta, delay) = reply.exchange(second, second + Span::from_millis(450));
    assert_eq!((theta, delay), (Span::from_millis(-400), Span::from_millis(200)));
}

/// As a chronyd 4.3 really answered, which served a time some 44 ms ahead of this clock; it was sent at `SENT`.
#[test]
fn a_real_reply() {
    const SENT: RealNs = RealNs::from_nanos(1_795_495_090_088_323_703);
    #[rustfmt::skip]
    let bytes = [
        0x24, 0x02, 0x00, 0xe7, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x7f, 0x00, 0x00, 0x09,
        0xee, 0xaf, 0x93, 0x31, 0x09, 0x69, 0x05, 0x2f, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
        0xee, 0xaf, 0x93, 0x32, 0x21, 0xf0, 0xac, 0xff, 0xee, 0xaf, 0x93, 0x32, 0x23, 0x64, 0x9e, 0x8e,
    ];
    let reply = Reply::decode(&bytes, NONCE).expect("a real reply");
    assert_eq!((reply.leap, reply.stratum), (Leap::None, 2));
    assert_eq!(
        (reply.root_delay, reply.root_dispersion),
        (Span::from_nanos(15_259), Span::from_nanos(15_259))
    );
    assert_eq!(reply.precision, Span::from_nanos(31)); // 2^-25 s is 29.8 ns
    // 5.7 ms at the server, and half a millisecond on the way.
    let (theta, delay) = reply.exchange(SENT, SENT + Span::from_micros(6_200));
    assert!((theta + Span::from_micros(44_200)).abs() < Span::from_millis(1), "{theta}");
    assert!((delay - Span::from_micros(525)).abs() < Span::from_micros(10), "{delay}");
}

#[test]
fn timestamps_count_from_1900() {
    assert_eq!(timestamp(NOW) >> 32, 0xe8fe_6f80);
    assert_eq!(timestamp(RealNs::from_nanos(500_000_000)), TO_UNIX << 32 | 1 << 31);
}

/// Each kind of bad reply gives its own error.
#[test]
fn bad_replies() {
    let with = |at: usize, bytes: &[u8]| {
        let mut reply = good();
        reply[at..at + bytes.len()].copy_from_slice(bytes);
        Reply::decode(&reply, NONCE)
    };
    let kiss = |code: &[u8; 4]| {
        let mut reply = good();
        (reply[0], reply[1]) = (0xe4, 0);
        reply[12..16].copy_from_slice(code);
        Reply::decode(&reply, NONCE)
    };
    assert!(with(0, &[0x24]).is_ok() && with(0, &[0x1c]).is_ok(), "versions 4 and 3");
    for (got, wanted) in [
        (with(24, &[9]), SntpError::Origin),
        (with(0, &[0x23]), SntpError::Kind { version: 4, mode: 3 }),
        (with(0, &[0x25]), SntpError::Kind { version: 4, mode: 5 }),
        (with(0, &[0x14]), SntpError::Kind { version: 2, mode: 4 }),
        (with(0, &[0x2c]), SntpError::Kind { version: 5, mode: 4 }),
        (with(0, &[0xe4]), SntpError::Unsynchronised { leap: 3, stratum: 2 }),
        (with(1, &[16]), SntpError::Unsynchronised { leap: 0, stratum: 16 }),
        (with(1, &[255]), SntpError::Unsynchronised { leap: 0, stratum: 255 }),
        (kiss(b"DENY"), SntpError::Kiss(Kiss::Denied(*b"DENY"))),
        (kiss(b"RSTR"), SntpError::Kiss(Kiss::Denied(*b"RSTR"))),
        (kiss(b"RATE"), SntpError::Kiss(Kiss::TooOften)),
        (kiss(b"INIT"), SntpError::Kiss(Kiss::Other(*b"INIT"))),
        (with(32, &[0; 8]), SntpError::Absurd("its times are missing")),
        (with(40, &[0; 8]), SntpError::Absurd("its times are missing")),
        (with(40, &[0xe8, 0xfe, 0x6f, 0x7f]), SntpError::Absurd("it sent the reply before the request came")),
        (with(16, &[0; 8]), SntpError::Absurd("its clock was last set in the future, or never")),
        (
            with(16, &[0xe8, 0xfe, 0x6f, 0x81]),
            SntpError::Absurd("its clock was last set in the future, or never"),
        ),
        (with(4, &[0, 32]), SntpError::Absurd("its root distance is 16 s or more")),
        (with(8, &[255, 255]), SntpError::Absurd("its root distance is 16 s or more")),
        (with(3, &[1]), SntpError::Absurd("its clock is no more precise than a second")),
    ] {
        assert_eq!(got, Err(wanted));
    }
    // A forged kiss does not count: it must repeat the number too.
    let mut forged = good();
    (forged[1], forged[31]) = (0, 0);
    assert_eq!(Reply::decode(&forged, NONCE), Err(SntpError::Origin));
    for got in [0, 47] {
        assert_eq!(Reply::decode(&good()[..got], NONCE), Err(SntpError::Length { got }));
    }
    assert!(
        Reply::decode(&[good(), vec![0; 20]].concat(), NONCE).is_ok(),
        "a signature that was not asked for"
    );
}

#[test]
fn eras_are_told_apart() {
    // 2036-02-07 06:28:16 UTC, when the seconds start again from zero.
    let turn = RealNs::from_nanos(2_085_978_496_000_000_000);
    assert_eq!(timestamp(turn), 0);
    let before = turn - Span::from_millis(10);
    let sent = timestamp(before);
    let reply = Reply::decode(
        &reply(NONCE, timestamp(turn + Span::from_millis(40)), timestamp(turn + Span::from_millis(40))),
        NONCE,
    );
    let (theta, delay) = reply.expect("good").exchange(before, before);
    assert!((theta + Span::from_millis(50)).abs() <= Span::from_nanos(1), "{theta}");
    assert_eq!(delay, Span::ZERO);
    assert!(sent > 1 << 63);
}

proptest! {
    /// Whatever the clocks and the two ways: `theta` is off by at most half the round trip, which is what the bound says.
    #[test]
    fn half_the_round_trip_bounds_the_error(
        theta in -(1i64 << 60)..1 << 60, forth in 0i64..1_000_000_000, served in 0i64..10_000_000, back in 0i64..1_000_000_000,
    ) {
        // The server tells true time; the local clock is `theta` fast.
        let truth = 1_700_000_000_000_000_000i64;
        let local = |at: i64| RealNs::from_nanos(at) + Span::from_nanos(theta);
        let (t2, t3) = (truth + forth, truth + forth + served);
        let bytes = reply(NONCE, timestamp(RealNs::from_nanos(t2)), timestamp(RealNs::from_nanos(t3)));
        let reply = Reply::decode(&bytes, NONCE).expect("good");
        let (measured, delay) = reply.exchange(local(truth), local(t3 + back));
        let slack = Span::from_nanos(3);
        prop_assert!((delay - Span::from_nanos(forth + back)).abs() <= slack, "{delay}");
        prop_assert!((measured - Span::from_nanos(theta)).abs() <= delay.half_up() + slack, "{measured}");
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100), sane: bool, t1: i64, t4: i64) {
        if sane && bytes.len() >= 48 {
            (bytes[0], bytes[1], bytes[3]) = (0x24, 2, 0xe9);
            bytes[24..32].copy_from_slice(&NONCE.to_be_bytes());
        }
        if let Ok(reply) = Reply::decode(&bytes, NONCE) {
            prop_assert!(!reply.root_delay.is_negative() && !reply.root_dispersion.is_negative() && reply.precision > Span::ZERO);
            let _ = reply.exchange(RealNs::from_nanos(t1), RealNs::from_nanos(t4));
        }
    }
}
