//! Something else than a chronyd or an NTP server answers where one should: the node says what is wrong with it,
//! believes none of it, and goes on.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use probe_user::clock::mapping::real_now;
use support::alone;
use support::local::Local;
use xtask::rig::{can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where nodes ask by default.
const CHRONYD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 323);

/// A reply to a tracking request by the field table of the protocol (research: big-endian, 104 bytes): a clock that is
/// exactly right by a server of stratum 1.
fn good(sequence: [u8; 4]) -> Vec<u8> {
    let mut reply = vec![0; 104];
    reply[..2].copy_from_slice(&[6, 2]);
    reply[4..8].copy_from_slice(&[0, 33, 0, 5]);
    reply[16..20].copy_from_slice(&sequence);
    reply[28..32].copy_from_slice(&[192, 0, 2, 1]);
    reply[52..54].copy_from_slice(&[0, 2]);
    #[expect(clippy::disallowed_methods, reason = "a server of time tells the time")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply[56..64].copy_from_slice(&now.as_secs().to_be_bytes());
    reply[64..68].copy_from_slice(&now.subsec_nanos().to_be_bytes());
    reply
}

/// The same with other bytes at one place.
fn but(sequence: [u8; 4], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut reply = good(sequence);
    reply[at..at + bytes.len()].copy_from_slice(bytes);
    reply
}

/// A way to answer, and what the node says of it.
type Trick = (fn([u8; 4]) -> Vec<u8>, &'static str);

const TRICKS: [Trick; 8] = [
    (|sequence| but(sequence, 16, &[!sequence[0]]), "does not answer (timed out"),
    (|sequence| good(sequence)[..28].to_vec(), "sent a reply of 28 bytes"),
    (|_| Vec::new(), "sent a reply of 0 bytes"),
    (|sequence| but(sequence, 0, &[9]), "sent version 9"),
    (|sequence| but(sequence, 8, &[0, 3]), "refused the request with status 3"),
    // The largest number that its floats have as the correction: three hundred thousand million years.
    (|sequence| but(sequence, 68, &[0x7e, 0xff, 0xff, 0xff]), "reports the absurd value"),
    // A root delay below nothing.
    (|sequence| but(sequence, 88, &[0x03, 0x80, 0, 0]), "reports the absurd value"),
    (|sequence| but(sequence, 54, &[0, 3]), "is not synchronised to any source"),
];

/// Answers as it is told for as long as the test runs.
fn answer(socket: &UdpSocket, trick: &AtomicUsize) {
    let mut request = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut request) {
        let Some(sequence) = request[..length].get(8..12).and_then(|bytes| bytes.try_into().ok()) else {
            continue;
        };
        let make = TRICKS.get(trick.load(Ordering::SeqCst)).map_or(good as fn(_) -> _, |(make, _)| *make);
        let _ = socket.send_to(&make(sequence), from);
    }
}

#[test]
fn whatever_answers_in_chronyds_place_is_named_and_not_believed() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(0, |_, _| {})?;
    let socket = local.namespace.within(|| UdpSocket::bind(CHRONYD))??;
    let trick = Arc::new(AtomicUsize::new(usize::MAX));
    std::thread::spawn({
        let trick = Arc::clone(&trick);
        move || answer(&socket, &trick)
    });
    for _ in 0..2 {
        local.add(|_| {})?;
    }
    let synchronised = |local: &Local| {
        wait_for("the good replies to be believed", PATIENCE, || {
            let clock = &local.nodes[0].status()?["clock"];
            ensure!(clock["state"] == "synchronised" && clock["source"] == "chrony", "{clock}");
            Ok(Some(()))
        })
    };
    synchronised(&local)?;
    for (number, (_, said)) in TRICKS.iter().enumerate() {
        trick.store(number, Ordering::SeqCst);
        wait_for(&format!("the node to say that chronyd {said}"), PATIENCE, || {
            let clock = &local.nodes[0].status()?["clock"];
            let note = clock["note"].as_str().context("no note")?;
            ensure!(note.contains(said) && clock["state"] != "synchronised", "{clock}");
            ensure!(
                clock["source"] != "chrony" || clock["bound_ns"].is_null(),
                "a bound from a liar: {clock}"
            );
            Ok(Some(()))
        })?;
    }
    trick.store(usize::MAX, Ordering::SeqCst);
    synchronised(&local)?;
    local.nodes[0].set("k", "v")?;
    wait_for("gossip to go on", PATIENCE, || {
        Ok((local.nodes[1].get("k")?.as_array().map_or(0, Vec::len) == 1).then_some(()))
    })
}

/// A reply to an NTP request by RFC 5905, figure 8: a server of stratum 2 that agrees with this clock, which shows
/// `now`; `nonce` is the request's transmit timestamp.
fn ntp(nonce: [u8; 8], now: u64) -> Vec<u8> {
    let now = now.to_be_bytes();
    let mut reply = vec![0x24, 2, 4, 0xec];
    // 1 ms of root delay and of root dispersion.
    reply.extend([0, 0, 0, 66, 0, 0, 0, 66, 192, 0, 2, 1]);
    reply.extend([now, nonce, now, now].concat());
    reply
}

fn ntp_but(nonce: [u8; 8], now: u64, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut reply = ntp(nonce, now);
    reply[at..at + bytes.len()].copy_from_slice(bytes);
    reply
}

fn kiss(nonce: [u8; 8], now: u64, code: &[u8; 4]) -> Vec<u8> {
    let reply = ntp_but(nonce, now, 0, &[0xe4, 0]);
    [&reply[..12], code, &reply[16..]].concat()
}

/// What a hostile server is called, how it answers, and what the node says of it.
type NtpTrick = (&'static str, fn([u8; 8], u64) -> Vec<u8>, &'static str);

const NTP_TRICKS: [NtpTrick; 9] = [
    ("wrong number", |nonce, now| ntp([!nonce[0]; 8], now), "timed out after 500 ms, 1 packets"),
    ("spoofed source", ntp, "timed out after 500 ms, 0 packets"),
    ("cut short", |nonce, now| ntp(nonce, now)[..47].to_vec(), "timed out after 500 ms, 1 packets"),
    ("DENY", |nonce, now| kiss(nonce, now, b"DENY"), "sent a kiss-o'-death, DENY"),
    ("RATE", |nonce, now| kiss(nonce, now, b"RATE"), "sent a kiss-o'-death, RATE"),
    ("no server", |nonce, now| ntp_but(nonce, now, 0, &[0x23]), "sent version 4, mode 3"),
    ("no time", |nonce, now| ntp_but(nonce, now, 1, &[16]), "is not synchronised itself"),
    ("far away", |nonce, now| ntp_but(nonce, now, 4, &[0, 32]), "its root distance is 16 s or more"),
    ("backwards", |nonce, now| ntp_but(nonce, now, 40, &[0xe0]), "sent the reply before the request came"),
];

/// Answers like this for as long as the test runs; from `elsewhere` if that is what is wrong.
fn serve(socket: &UdpSocket, elsewhere: Option<&UdpSocket>, make: fn([u8; 8], u64) -> Vec<u8>) {
    let mut request = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut request) {
        let Some(nonce) = request[..length].get(40..48).and_then(|bytes| bytes.try_into().ok()) else {
            continue;
        };
        let now = u64::try_from(real_now().as_nanos()).unwrap_or_default();
        let (seconds, nanos) = (now / 1_000_000_000, now % 1_000_000_000);
        let now = ((seconds + 2_208_988_800) << 32) | ((nanos << 32) / 1_000_000_000);
        let _ = elsewhere.unwrap_or(socket).send_to(&make(nonce, now), from);
    }
}

#[test]
fn whatever_answers_in_an_ntp_servers_place_is_named_and_not_believed() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(0, |_, _| {})?;
    // The last one is an honest server, without which the rest would prove nothing.
    let all = NTP_TRICKS.iter().copied().chain([("honest", ntp as fn(_, _) -> _, "")]);
    for (name, make, said) in all {
        let bind = || UdpSocket::bind("127.0.0.1:0");
        let (socket, elsewhere) = local.namespace.within(|| bind().and_then(|one| Ok((one, bind()?))))??;
        let source = format!("sntp:{}", socket.local_addr()?);
        std::thread::spawn(move || {
            serve(&socket, Some(&elsewhere).filter(|_| name == "spoofed source"), make);
        });
        let i = local.add(|spec| spec.extra.extend(["--clock-source".into(), source.clone().into()]))?;
        wait_for(&format!("the node to say of {name}: {said}"), PATIENCE, || {
            let clock = &local.nodes[i].status()?["clock"];
            if said.is_empty() {
                let known = clock["bound_ns"].as_i64().is_some_and(|bound| bound < 100_000_000);
                ensure!(clock["state"] == "synchronised" && clock["source"] == "sntp" && known, "{clock}");
                return Ok(Some(()));
            }
            let note = clock["note"].as_str().context("no note")?;
            ensure!(note.contains(said) && clock["state"] == "unsynchronised", "{clock}");
            ensure!(clock["bound_ns"].is_null(), "a bound from a liar: {clock}");
            Ok(Some(()))
        })?;
    }
    local.nodes[0].set("k", "v")?;
    wait_for("gossip to go on at all of them", PATIENCE, || {
        let known = |i: usize| Ok(local.nodes[i].get("k")?.as_array().map_or(0, Vec::len) == 1);
        let all: Vec<bool> = (0..local.nodes.len()).map(known).collect::<Result<_>>()?;
        Ok(all.into_iter().all(|known| known).then_some(()))
    })
}
