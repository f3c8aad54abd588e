use super::*;
use proptest::prelude::*;

/// The nearest chrony float, by search over the exponents from the finest: only for tests.
pub(crate) fn encode_float(value: f64) -> u32 {
    for exponent in -64i32..64 {
        let coefficient = (value * 2f64.powi(25 - exponent)).round();
        if coefficient.abs() < f64::from(1 << 24) {
            return (exponent as u32) << 25 | (coefficient as i32 as u32) & 0x01ff_ffff;
        }
    }
    panic!("{value} does not fit");
}

/// A good reply with chosen fields; `floats` in wire order.
pub(crate) fn encode_reply(
    sequence: u32,
    id: u32,
    stratum: u16,
    leap: u16,
    time: [u32; 3],
    floats: [f64; 9],
) -> Vec<u8> {
    let mut out = vec![6, 2, 0, 0, 0, 33, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(sequence.to_be_bytes());
    out.extend([0; 8]);
    out.extend(id.to_be_bytes());
    out.extend([0; 20]);
    out.extend(stratum.to_be_bytes());
    out.extend(leap.to_be_bytes());
    out.extend(time.iter().flat_map(|t| t.to_be_bytes()));
    out.extend(floats.iter().flat_map(|f| encode_float(*f).to_be_bytes()));
    out
}

/// A synchronised chronyd that wants 50 ms added.
pub(crate) fn good_reply(sequence: u32) -> Vec<u8> {
    let floats = [0.05, 1e-6, 2e-6, -20.0, 0.5, 0.25, 0.002, 0.001, 64.0];
    encode_reply(sequence, 0x7f00_0001, 2, 0, [0, 1_700_000_000, 5], floats)
}

#[test]
fn request_bytes() {
    let mut expected = vec![6, 1, 0, 0, 0, 33, 0, 0, 0xde, 0xad, 0xbe, 0xef];
    expected.resize(104, 0);
    assert_eq!(encode_request(0xdead_beef).as_slice(), expected);
}

/// Every byte by hand from the table; floats are `coefficient * 2^(exponent - 25)`.
#[test]
fn reply_bytes() {
    #[rustfmt::skip]
    let bytes = [
        6, 2, 0xaa, 0xaa,  0, 33,  0, 5,  0, 0,  9, 9, 9, 9, 9, 9, // version .. status, six bytes of noise
        0xde, 0xad, 0xbe, 0xef,  8, 8, 8, 8, 8, 8, 8, 8,           // sequence, noise up to 28
        0x7f, 0, 0, 1,  7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        0, 2,  0, 1,                                               // stratum 2, leap 1
        0, 0, 0, 0,  0x65, 0x53, 0xf1, 0x00,  0, 0, 0, 5,          // 1_700_000_000 s and 5 ns
        0x02, 0x80, 0x00, 0x00,                                    // e 1, c 2^23: 2^23 * 2^-24 = 0.5
        0x01, 0x80, 0x00, 0x00,                                    // e 0, c -2^23: -0.25
        0x00, 0x00, 0x00, 0x00,                                    // 0
        0x0a, 0xa0, 0x00, 0x00,                                    // e 5, c 10 * 2^20: 10 * 2^20 * 2^-20 = 10
        0x01, 0xff, 0xff, 0xff,                                    // e 0, c -1: -2^-25
        0xfe, 0x80, 0x00, 0x00,                                    // e -1, c 2^23: 0.125
        0xf8, 0x80, 0x00, 0x00,                                    // e -4, c 2^23: 2^-6
        0xf0, 0x80, 0x00, 0x00,                                    // e -8, c 2^23: 2^-10
        0x10, 0x80, 0x00, 0x00,                                    // e 8, c 2^23: 2^6
    ];
    let expected = Tracking {
        reference_id: 0x7f00_0001,
        stratum: 2,
        leap: 1,
        ref_time: UtcNs::from_nanos(1_700_000_000_000_000_005),
        correction: Span::from_millis(500),
        last_offset: -0.25,
        rms_offset: 0.0,
        frequency_ppm: 10.0,
        residual_ppm: -(1.0 / 33_554_432.0),
        skew_ppm: 0.125,
        root_delay: Span::from_micros(15_625),
        root_dispersion: Span::from_nanos(976_563), // 976 562.5
        update_interval: Span::from_secs(64),
    };
    assert_eq!(Tracking::decode(&bytes, 0xdead_beef).expect("a good reply"), expected);
}

/// Each kind of bad reply gives its own error, and says what was wrong.
#[test]
fn bad_replies() {
    let with = |at: usize, bytes: &[u8]| {
        let mut reply = good_reply(7);
        reply[at..at + bytes.len()].copy_from_slice(bytes);
        Tracking::decode(&reply, 7).map_err(|e| e.to_string())
    };
    assert!(with(0, &[6]).is_ok());
    let float_at = |index: usize, value: f64| with(68 + 4 * index, &encode_float(value).to_be_bytes());
    for (got, wanted) in [
        (with(0, &[5]), "sent version 5, packet type 2, instead of version 6, type 2"),
        (with(1, &[1]), "sent version 6, packet type 1, instead of version 6, type 2"),
        (with(4, &[0, 44]), "answered command 44 instead of 33 (tracking)"),
        (with(6, &[0, 1]), "sent reply code 1 instead of 5 (tracking)"),
        (with(8, &[0, 2]), "refused the request with status 2: not authorised"),
        (with(8, &[0, 18]), "refused the request with status 18: it speaks another version of the protocol"),
        (with(8, &[1, 0]), "refused the request with status 256: a code that pikoscope does not know"),
        (with(16, &[1]), "sent a reply with sequence number 0x01000007 instead of 0x00000007"),
        (with(52, &[0, 17]), "reports the absurd value 17 as stratum"),
        (with(54, &[0, 4]), "reports the absurd value 4 as leap status"),
        (with(56, &[0, 0, 0, 3]), "reports the absurd value 14584901888 as reference time"),
        (with(64, &[0x7f]), "reports the absurd value 1700000002.1307065 as reference time"),
        (float_at(0, -5e9), "reports the absurd value -5000000000 as correction"),
        (float_at(5, 2f64.powi(33)), "reports the absurd value 8589934592 as skew"),
        (float_at(6, -0.5), "reports the absurd value -0.5 as root delay"),
        (float_at(7, -0.5), "reports the absurd value -0.5 as root dispersion"),
        (float_at(8, -0.5), "reports the absurd value -0.5 as update interval"),
        // The bits of an IEEE NaN are a number like any other here, and a silly one.
        (with(96, &[0x7f, 0xc0, 0, 0]), "reports the absurd value -1152921504606847000 as root dispersion"),
    ] {
        assert_eq!(got, Err(wanted.to_owned()));
    }
}

#[test]
fn bad_lengths() {
    let mut reply = good_reply(7);
    for got in [0, 19, 20, 28, 103] {
        assert!(
            matches!(Tracking::decode(&reply[..got], 7), Err(ChronyError::Length { got: g }) if g == got)
        );
    }
    reply.push(0);
    assert!(matches!(Tracking::decode(&reply, 7), Err(ChronyError::Length { got: 105 })));
    // As chronyd really refuses: nothing but a header.
    let mut refusal = good_reply(7)[..28].to_vec();
    refusal[6..10].copy_from_slice(&[0, 1, 0, 2]);
    assert!(matches!(Tracking::decode(&refusal, 7), Err(ChronyError::Status { status: 2 })));
}

proptest! {
    #[test]
    fn floats_are_what_the_table_says(exponent in -64i32..64, coefficient in -(1i32 << 24)..1 << 24) {
        let bits = (exponent as u32) << 25 | (coefficient as u32) & 0x01ff_ffff;
        let reference = f64::from(coefficient) * (f64::from(exponent) - 25.0).exp2();
        prop_assert_eq!(float(bits), reference);
    }

    #[test]
    fn every_float_is_finite(bits: u32) {
        prop_assert!(float(bits).is_finite());
    }

    #[test]
    fn floats_survive_encoding(value in prop_oneof![-4e9f64..4e9, -1.0f64..1.0, -1e-6f64..1e-6]) {
        let back = float(encode_float(value));
        prop_assert!((back - value).abs() <= value.abs() / f64::from(1 << 22) + 1e-26, "{value} became {back}");
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), as_reply: bool, exact: bool) {
        if as_reply {
            if exact { bytes.resize(PACKET_LEN, 0x5a); }
            let head = [6, 2, 0, 0, 0, 33, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
            let n = head.len().min(bytes.len());
            bytes[..n].copy_from_slice(&head[..n]);
        }
        // Whatever passes is within what the rest of the crate can calculate with.
        if let Ok(t) = Tracking::decode(&bytes, 7) {
            prop_assert!(!t.root_delay.is_negative() && !t.root_dispersion.is_negative() && !t.update_interval.is_negative());
            prop_assert!(t.correction.abs() <= Span::from_secs(4_000_000_000));
        }
    }

    #[test]
    fn replies_round_trip(sequence: u32, id: u32, stratum in 0u16..=16, leap in 0u16..4, low: u32, nanos in 0u32..1_000_000_000, c in -1e6f64..1e6, d in 0.0f64..16.0, e in 0.0f64..16.0, u in 0.0f64..1e5) {
        let reply = encode_reply(sequence, id, stratum, leap, [0, low, nanos], [c, c, 0.0, c, c, c, d, e, u]);
        let t = Tracking::decode(&reply, sequence).expect("a good reply");
        let near = |span: Span, value: f64| (span.as_secs_f64() - value).abs() <= value.abs() * 2.5e-7 + 1e-9;
        prop_assert_eq!((t.reference_id, t.stratum, t.leap), (id, stratum, leap));
        prop_assert_eq!(t.ref_time.as_nanos(), i64::from(low) * 1_000_000_000 + i64::from(nanos));
        prop_assert!(near(t.correction, c) && near(t.root_delay, d) && near(t.root_dispersion, e) && near(t.update_interval, u), "{:?}", t);
        prop_assert_eq!(t.frequency_ppm, t.last_offset);
    }
}
