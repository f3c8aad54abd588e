use super::*;
use proptest::prelude::*;
use std::net::UdpSocket;

const READ: MonoNs = MonoNs::from_nanos(5);

/// A fragment as ntpd sends it.
fn fragment(sequence: u16, flags: u8, offset: usize, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x16, 0x82 | flags];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x06, 0x15, 0, 0]);
    packet.extend((offset as u16).to_be_bytes());
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
    packet.resize(packet.len().next_multiple_of(4), 0);
    packet
}
/// Synchronised, updated 40 s ago, and 50 ms are to be added.
const GOOD: &str = "leap=0, stratum=2, rootdelay=2.000, rootdisp=1.500,\r\nreftime=0xeeaf9304.80000000, tc=6, \
                    offset=50.000000,\r\nclock=0xeeaf932c.80000000\r\n";

fn with(name: &str, value: &str) -> String {
    let mut items: Vec<String> = GOOD.split(',').map(|item| item.trim().to_owned()).collect();
    items.retain(|item| !item.starts_with(&format!("{name}=")));
    items.push(format!("{name}={value}"));
    items.join(", ")
}
fn decode(text: &str) -> Result<Variables, String> {
    Variables::decode(text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn request_bytes() {
    let mut expected = vec![0x16, 2, 0xab, 0xcd, 0, 0, 0, 0, 0, 0, 0, 55];
    expected.extend(b"leap,stratum,rootdelay,rootdisp,offset,reftime,clock,tc\0");
    assert_eq!(encode_request(0xabcd), expected);
}

/// What an ntpsec 1.2.2 really sent before it was synchronised; its version byte has the leap indicator in it.
#[test]
fn a_real_answer() {
    let mut packet = vec![0xd6, 0x82, 0x00, 0x07, 0xc0, 0x16, 0x00, 0x00, 0x00, 0x00, 0x00, 0x86];
    packet.extend(
        b"leap=3, stratum=16, rootdelay=0.000, rootdisp=0.015,\r\nreftime=0x00000000.00000000, tc=0, \
          offset=0.000000,\r\nclock=0xeeaf9303.e26178d0\r\n\0\0",
    );
    let text = Answer::default().take(&packet, 7).expect("an answer").expect("whole");
    assert_eq!(text.len(), 0x86);
    let variables = Variables::decode(&text).expect("variables");
    assert_eq!((variables.leap, variables.stratum, variables.age), (None, 16, None));
    assert_eq!((variables.root_dispersion, variables.poll), (Span::from_micros(15), Span::from_secs(1)));
    let (offset, doubt) = variables.judge(READ);
    assert_eq!((offset.state, offset.bound_at_read), (ClockState::Unsynchronised, Span::MAX));
    assert_eq!(doubt, Some("is not synchronised to any server"));
}

/// And its refusal of a variable that it does not know.
#[test]
fn a_real_refusal() {
    let packet = [0xd6, 0xc2, 0x00, 0x08, 0x05, 0, 0, 0, 0, 0, 0, 0];
    let error = Answer::default().take(&packet, 8).expect_err("refused");
    assert_eq!(error.to_string(), "refused the request with error 5: unknown variable");
}

#[test]
fn sign_bound_and_state() {
    let variables = decode(GOOD).expect("good");
    let (offset, doubt) = variables.judge(READ);
    assert_eq!((offset.theta, offset.read_at), (Span::from_millis(-50), READ));
    // 2 / 2 + 1.5 ms, all of the 50 ms that may have been slewed away, 50 ppm of 40 s.
    assert_eq!(offset.bound_at_read, Span::from_micros(1_000 + 1_500 + 50_000 + 2_000));
    assert_eq!((offset.source, offset.state, doubt), (ClockSource::Ntpd, ClockState::Synchronised, None));
    assert_eq!(variables.leap, Some(Leap::None));
    let state = |name, value| decode(&with(name, value)).expect("good").judge(READ).0.state;
    assert_eq!(state("leap", "3"), ClockState::Unsynchronised);
    assert_eq!(state("stratum", "16"), ClockState::Unsynchronised);
    assert_eq!(state("stratum", "0"), ClockState::Unsynchronised);
    assert_eq!(state("leap", "2"), ClockState::Synchronised);
    // 16 polls of 2^1 s are 32 s.
    assert_eq!(state("tc", "1"), ClockState::FreeRunning);
    assert_eq!(state("tc", "2"), ClockState::Synchronised);
}

#[test]
fn bad_variables() {
    for (name, value) in [
        ("leap", "4"),
        ("leap", "-1"),
        ("stratum", "17"),
        ("tc", "18"),
        ("tc", "x"),
        ("offset", "nan"),
        ("offset", "inf"),
        ("offset", "-inf"),
        ("offset", "1e300"),
        ("offset", ""),
        ("rootdelay", "-1"),
        ("rootdisp", "-0.5"),
        ("reftime", "0xeeaf9304"),
        ("reftime", "eeaf9304.0"),
        ("reftime", "0xeeaf932d.0"),
        ("clock", "0xeeaf93040.0"),
        ("clock", "0x.0"),
    ] {
        let error = decode(&with(name, value)).expect_err(value);
        assert!(error.starts_with("reports the absurd value `"), "{name}={value}: {error}");
    }
    for name in ["leap", "stratum", "rootdelay", "rootdisp", "offset", "reftime", "clock", "tc"] {
        let text = GOOD.replace(&format!("{name}="), "other=");
        assert_eq!(decode(&text), Err(format!("does not tell `{name}`")));
    }
    assert!(decode("").is_err() && decode(",,=,=x,").is_err());
}

#[test]
fn packets_that_answer_something_else_are_told_apart() {
    let good = fragment(7, 0, 0, GOOD.as_bytes());
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        Answer::default().take(&packet, 7)
    };
    assert!(matches!(with(0, 0x16), Ok(Some(_))));
    for (at, byte) in [(0, 0x17), (0, 0x24), (1, 0x02), (1, 0x81), (1, 0x83), (3, 8)] {
        assert_eq!(with(at, byte), Err(NtpdError::Other), "{at} {byte}");
    }
    assert_eq!(Answer::default().take(&good[..11], 7), Err(NtpdError::Other));
    assert_eq!(Answer::default().take(&good[..40], 7), Err(NtpdError::Length { got: 40 }));
    assert_eq!(with(10, 0xff), Err(NtpdError::Length { got: good.len() }));
}

#[test]
fn fragments_come_in_any_order_and_must_fit() {
    let (a, b) = GOOD.as_bytes().split_at(64);
    let (first, second) = (fragment(7, MORE, 0, a), fragment(7, 0, 64, b));
    for order in [[&first, &second], [&second, &first]] {
        let mut answer = Answer::default();
        assert_eq!(answer.take(order[0], 7), Ok(None));
        assert_eq!(answer.take(order[0], 7), Ok(None), "repeated");
        assert_eq!(answer.take(order[1], 7), Ok(Some(GOOD.as_bytes().to_vec())));
    }
    for hostile in [
        fragment(7, MORE, 0, b"other"),
        fragment(7, MORE, 63, b"overlaps"),
        fragment(7, MORE, 4090, b"too far"),
        fragment(7, MORE, 64, b""),
    ] {
        let mut answer = Answer::default();
        assert_eq!(answer.take(&first, 7), Ok(None));
        let then = answer.take(&hostile, 7).and_then(|_| answer.take(&second, 7));
        assert_eq!(then, Err(NtpdError::Fragments));
    }
    let mut two_ends = Answer::default();
    assert_eq!(two_ends.take(&second, 7), Ok(None));
    assert_eq!(two_ends.take(&fragment(7, 0, 70, b"x"), 7), Err(NtpdError::Fragments));
}

proptest! {
    #[test]
    fn no_bytes_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8), text: String) {
        let mut answer = Answer::default();
        for mut packet in packets {
            if packet.len() >= HEADER {
                let kind = 0x82 | packet[1] & MORE;
                packet[..4].copy_from_slice(&[0x16, kind, 0, 7]);
                (packet[8], packet[10]) = (0, 0);
            }
            if let Ok(Some(text)) = answer.take(&packet, 7) {
                let _ = Variables::decode(&text);
            }
        }
        let _ = decode(&text);
    }

    #[test]
    fn variables_round_trip(leap in 0u8..4, stratum in 0u8..=16, delay in 0.0f64..1e4, disp in 0.0f64..1e4, offset in -1e6f64..1e6, age in 0u32..1 << 30, tc in 0u8..=17) {
        let text = format!(
            "leap={leap}, stratum={stratum}, rootdelay={delay:.6}, rootdisp={disp:.6}, offset={offset:.6}, \
             reftime=0x{:08x}.00000000, clock=0x{:08x}.00000000, tc={tc}",
            0xf000_0000u32, 0xf000_0000u32.wrapping_add(age),
        );
        let variables = Variables::decode(text.as_bytes()).expect("good");
        let near = |span: Span, millis: f64| (span.as_secs_f64() * 1e3 - millis).abs() <= 1e-5;
        prop_assert!(near(variables.root_delay, delay) && near(variables.root_dispersion, disp) && near(variables.correction, offset));
        prop_assert_eq!(variables.age, Some(Span::from_secs(age.into())));
        let (judged, _) = variables.judge(READ);
        prop_assert_eq!(judged.theta, -variables.correction);
        prop_assert!(judged.bound_at_read >= variables.correction.abs());
    }
}

/// Over a real socket: strangers' packets are skipped, and a closed port is told apart.
#[test]
fn a_daemon_is_asked() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = socket.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let mut request = [0; 512];
        let (n, from) = socket.recv_from(&mut request).expect("a request");
        let sequence = u16::from_be_bytes([request[2], request[3]]);
        assert_eq!(request[..n], encode_request(sequence));
        for packet in
            [fragment(sequence ^ 1, 0, 0, b"leap=3"), vec![1], fragment(sequence, 0, 0, GOOD.as_bytes())]
        {
            socket.send_to(&packet, from).expect("send");
        }
    });
    let mut source = Ntpd { addr, timeout: Duration::from_secs(10) };
    let opinion = source.read().expect("an offset");
    assert_eq!((opinion.offset.theta, opinion.leap), (Span::from_millis(-50), Some(Leap::None)));
    thread.join().expect("the daemon saw what it should");
    assert_eq!(source.ask().expect_err("closed"), NtpdError::Refused);
    let error = source.read().expect_err("closed").to_string();
    assert_eq!(error, format!("ntpd at {addr} does not run (the port is closed)"));
}
