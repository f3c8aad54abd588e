use super::*;
use crate::clock::mapping::real_now;
use crate::clock::sntp::tests::reply;
use crate::clock::{ClockSource, ClockState};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// A server whose answers `answer` makes from the request's number, until it is told to stop by an empty packet.
struct Server {
    addr: SocketAddr,
    asked: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(u32, u64, u64) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let (addr, asked) = (socket.local_addr().expect("bound"), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            let mut request = [0; 512];
            loop {
                let (n, from) = socket.recv_from(&mut request).expect("a request");
                if n == 0 {
                    return;
                }
                let now = super::super::timestamp(real_now());
                let nonce = u64::from_be_bytes(*request[40..].first_chunk().expect("long enough"));
                assert_eq!(request[..n], encode_request(nonce));
                for packet in answer(count.fetch_add(1, Ordering::SeqCst), nonce, now) {
                    socket.send_to(&packet, from).expect("send");
                }
            }
        });
        Self { addr, asked, thread: Some(thread) }
    }
    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
    fn source(&self, pace: Pace) -> Sntp {
        Sntp::new(self.addr.ip().to_string(), self.addr.port()).paced(pace)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.send_to(&[], self.addr).expect("send");
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the server saw what it should");
        }
    }
}

/// As often as it is read.
const EAGER: Pace =
    Pace { poll: Span::ZERO, burst: 0, slowest: Span::from_secs(3600), timeout: Duration::from_secs(5) };
/// Of seconds: nothing becomes due during a test.
const SLOW: Pace = Pace { poll: Span::from_secs(1000), ..EAGER };

fn kiss(code: &[u8; 4], nonce: u64, now: u64) -> Vec<u8> {
    let mut bytes = reply(nonce, now, now);
    (bytes[0], bytes[1]) = (0xe4, 0);
    bytes[12..16].copy_from_slice(code);
    bytes
}
/// 50 ms in NTP's fractions of a second.
const FIFTY_MS: u64 = (1 << 32) / 20;

#[test]
fn a_good_reply_is_found_among_wrong_ones_and_has_our_sign() {
    // A server that is 50 ms ahead: this clock is slow.
    let server = Server::start(|_, nonce, now| {
        let ahead = now + FIFTY_MS;
        vec![reply(nonce ^ 1, now, now), vec![1, 2, 3], reply(0, now, now), reply(nonce, ahead, ahead)]
    });
    let mut source = server.source(SLOW);
    let before = mono_now();
    let opinion = source.read().expect("an offset");
    let offset = opinion.offset;
    assert_eq!((offset.source, offset.state), (ClockSource::Sntp, ClockState::Synchronised));
    assert!(before <= offset.read_at && offset.read_at <= mono_now());
    assert_eq!((opinion.doubt, opinion.leap), (None, Some(crate::clock::Leap::None)));
    // 1 ms of root delay / 2, 1 ms of dispersion, and this machine's round trip.
    assert!(offset.bound_at_read > Span::from_millis(2), "{}", offset.bound_at_read);
    assert!((offset.theta + Span::from_millis(50)).abs() < offset.bound_at_read, "{}", offset.theta);
    assert_eq!(source.name(), format!("NTP server {}", server.addr));
}

/// A forger who even knows the number, but cannot send from the server's port: neither his time nor his kiss counts.
#[test]
fn a_reply_from_another_port_is_not_heard() {
    let forger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let addr = server.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        for is_answered in [false, true] {
            let mut request = [0; 512];
            let (_, from) = server.recv_from(&mut request).expect("a request");
            let nonce = u64::from_be_bytes(*request[40..].first_chunk().expect("long enough"));
            let now = super::super::timestamp(real_now());
            forger.send_to(&kiss(b"DENY", nonce, now), from).expect("send");
            forger.send_to(&reply(nonce, now + FIFTY_MS, now + FIFTY_MS), from).expect("send");
            if is_answered {
                server.send_to(&reply(nonce, now, now), from).expect("send");
            }
        }
    });
    let quick = Pace { timeout: Duration::from_millis(150), ..EAGER };
    let error = Sntp::new(addr.ip().to_string(), addr.port()).paced(quick).read().expect_err("forged");
    assert!(error.to_string().contains("timed out after 150 ms, 0 packets"), "{error}");
    let opinion = Sntp::new(addr.ip().to_string(), addr.port()).paced(SLOW).read().expect("an offset");
    assert!(opinion.offset.theta.abs() < Span::from_millis(40), "{}", opinion.offset.theta);
    thread.join().expect("the server saw what it should");
}

#[test]
fn the_pace_is_kept_and_a_burst_ends() {
    let server = Server::start(|_, nonce, now| vec![reply(nonce, now, now)]);
    let mut source = server.source(Pace { burst: 4, ..SLOW });
    let readings: Vec<_> = (0..20).map(|_| source.read().expect("an offset").offset.read_at).collect();
    assert_eq!(server.asked(), 4);
    assert_eq!(readings[5], readings[19], "the same sample again");
    source.stepped();
    assert!(source.read().expect("measured at once").offset.read_at > readings[19]);
    assert_eq!(server.asked(), 5);
}

#[test]
fn denied_is_obeyed_for_good() {
    for code in [b"DENY", b"RSTR"] {
        let server = Server::start(move |n, nonce, now| {
            vec![if n == 0 { kiss(code, nonce, now) } else { reply(nonce, now, now) }]
        });
        let mut source = server.source(EAGER);
        for _ in 0..5 {
            let error = source.read().expect_err("denied").to_string();
            let wanted = format!("sent a kiss-o'-death, {}: it is not asked again", code.escape_ascii());
            assert!(error.ends_with(&wanted), "{error}");
        }
        source.stepped();
        assert!(source.read().is_err());
        assert_eq!(server.asked(), 1);
    }
}

#[test]
fn rate_is_obeyed_by_asking_less_often() {
    let server = Server::start(|n, nonce, now| {
        vec![if n == 1 { kiss(b"RATE", nonce, now) } else { reply(nonce, now, now) }]
    });
    let mut source = server.source(Pace { burst: 10, ..SLOW });
    assert!(source.read().expect("an offset").doubt.is_none());
    for _ in 0..5 {
        let opinion = source.read().expect("the offset from before");
        let doubt = opinion.doubt.expect("the kiss");
        assert!(doubt.contains("RATE: it is asked less often from now on; its last word is "), "{doubt}");
        assert_eq!(opinion.offset.state, ClockState::Synchronised);
    }
    assert_eq!((server.asked(), source.poll), (2, Span::from_secs(2000)));
}

#[test]
fn failures_slow_the_asking_down() {
    let server = Server::start(|_, nonce, now| vec![kiss(b"INIT", nonce, now)]);
    let mut source = server.source(Pace { poll: Span::from_secs(16), ..SLOW });
    let mut waits = Vec::new();
    for _ in 0..10 {
        source.next_at = None;
        let before = mono_now();
        assert!(source.read().is_err());
        waits.push((source.next_at.expect("planned") - before).as_nanos() / 1_000_000_000);
    }
    assert_eq!(waits, [16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
    assert_eq!(server.asked(), 10);
}

#[test]
fn a_closed_port_a_silent_one_and_no_name_are_told_apart() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let error = |host: &str| {
        let pace = Pace { timeout: Duration::from_millis(50), ..SLOW };
        Sntp::new(host.to_owned(), addr.port()).paced(pace).read().expect_err("nothing").to_string()
    };
    let at = format!("NTP server 127.0.0.1:{} ", addr.port());
    assert_eq!(
        error("127.0.0.1"),
        format!("{at}does not answer (timed out after 50 ms, 0 packets that answer something else)")
    );
    drop(silent);
    assert_eq!(error("127.0.0.1"), format!("{at}does not serve time (the port is closed)"));
    assert!(error("no-such-host.invalid").contains(" has no address ("), "{}", error("no-such-host.invalid"));
}
