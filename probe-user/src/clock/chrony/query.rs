//! Asks a chronyd over UDP.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};

use super::{ChronyError, PACKET_LEN, Tracking, encode_request};
use crate::clock::mapping::mono_now;

/// Asks the chronyd at `addr` for its tracking report; blocks for at most `timeout`. Also says when the reply
/// was here.
///
/// The socket is connected, so that the kernel lets through nothing but packets from `addr`, and the sequence
/// number is random. A packet without that number is somebody else's or forged: it is counted and ignored.
pub fn query(addr: SocketAddr, timeout: Duration) -> Result<(Tracking, MonoNs), ChronyError> {
    let failed = |doing| move |source| ChronyError::Io { doing, source };
    let deadline = mono_now() + Span::from_nanos(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX));
    let sequence = random().map_err(failed("getrandom"))?;

    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(failed("bind"))?;
    socket.connect(addr).map_err(failed("connect"))?;
    socket.send(&encode_request(sequence)).map_err(failed("send"))?;

    // Longer than a reply, so that a longer one shows.
    let mut buffer = [0; 2 * PACKET_LEN];
    let mut ignored = 0u32;
    loop {
        let left = (deadline - mono_now()).as_nanos();
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
            return Err(ChronyError::Timeout { after: timeout, ignored });
        };
        socket.set_read_timeout(Some(Duration::from_nanos(left))).map_err(failed("set_read_timeout"))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Err(ChronyError::Refused),
            Err(e) => return Err(failed("recv")(e)),
        };
        let read_at = mono_now();
        match Tracking::decode(&buffer[..length], sequence) {
            Err(ChronyError::Sequence { .. }) => ignored = ignored.saturating_add(1),
            reply => return reply.map(|tracking| (tracking, read_at)),
        }
    }
}

/// Four bytes that nobody can guess.
fn random() -> std::io::Result<u32> {
    let mut bytes = [0u8; 4];
    // SAFETY: the buffer is valid and writable for the length that is passed, and outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes are never cut short once the pool is seeded (getrandom(2)).
    if got == bytes.len() as isize {
        Ok(u32::from_ne_bytes(bytes))
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::chrony::tests::{encode_float, good_reply};
    use std::thread::JoinHandle;

    /// Answers one request with the packets that `replies` makes from its sequence number.
    fn server(replies: impl FnOnce(u32) -> Vec<Vec<u8>> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let addr = socket.local_addr().expect("bound");
        let thread = std::thread::spawn(move || {
            let mut request = [0; 512];
            let (n, from) = socket.recv_from(&mut request).expect("a request");
            let sequence = u32::from_be_bytes([request[8], request[9], request[10], request[11]]);
            assert_eq!(request[..n], encode_request(sequence));
            for reply in replies(sequence) {
                socket.send_to(&reply, from).expect("send");
            }
        });
        (addr, thread)
    }
    fn ask(
        timeout: u64,
        replies: impl FnOnce(u32) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Result<Tracking, ChronyError> {
        let (addr, thread) = server(replies);
        let before = mono_now();
        let result = query(addr, Duration::from_millis(timeout)).map(|(tracking, read_at)| {
            assert!(before <= read_at && read_at <= mono_now());
            tracking
        });
        thread.join().expect("the server saw what it should");
        result
    }
    fn patched(sequence: u32, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut reply = good_reply(sequence);
        reply[at..at + bytes.len()].copy_from_slice(bytes);
        reply
    }

    #[test]
    fn a_good_reply_is_found_among_wrong_ones() {
        let tracking = ask(5_000, |s| vec![good_reply(s ^ 1), good_reply(0), good_reply(s), good_reply(s)])
            .expect("a reply");
        assert!((tracking.correction - Span::from_millis(50)).abs() <= Span::from_nanos(2));
    }

    #[test]
    fn hostile_replies_give_their_errors() {
        let error = |replies: fn(u32) -> Vec<Vec<u8>>| ask(5_000, replies).expect_err("hostile");
        assert!(matches!(error(|s| vec![good_reply(s)[..28].to_vec()]), ChronyError::Length { got: 28 }));
        assert!(matches!(error(|_| vec![Vec::new()]), ChronyError::Length { got: 0 }));
        assert!(matches!(
            error(|s| vec![[good_reply(s), vec![0; 500]].concat()]),
            ChronyError::Length { got: 208 }
        ));
        assert!(matches!(error(|s| vec![patched(s, 8, &[0, 3])]), ChronyError::Status { status: 3 }));
        assert!(matches!(error(|s| vec![patched(s, 0, &[9])]), ChronyError::Version { version: 9, kind: 2 }));
        assert!(matches!(error(|s| vec![patched(s, 4, &[0, 9])]), ChronyError::Command { got: 9 }));
        assert!(matches!(error(|s| vec![patched(s, 6, &[0, 9])]), ChronyError::Reply { got: 9 }));
        assert!(matches!(
            error(|s| vec![patched(s, 68, &encode_float(-1e12).to_be_bytes())]),
            ChronyError::Absurd { field: "correction", .. }
        ));
        assert!(matches!(
            error(|s| vec![patched(s, 92, &f32::NAN.to_bits().to_be_bytes())]),
            ChronyError::Absurd { field: "root delay", .. }
        ));
    }

    #[test]
    fn wrong_sequence_numbers_are_counted_until_the_timeout() {
        let error =
            ask(150, |s| (1..=3).map(|i| good_reply(s.wrapping_add(i))).collect()).expect_err("no reply");
        assert!(matches!(error, ChronyError::Timeout { ignored: 3, .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "does not answer (timed out after 150 ms; 3 packets that answer something else came)"
        );
    }

    #[test]
    fn silence_times_out_in_time_and_a_closed_port_is_told_apart() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = silent.local_addr().expect("bound");
        let start = mono_now();
        let error = query(addr, Duration::from_millis(80)).expect_err("silence");
        assert!(matches!(error, ChronyError::Timeout { ignored: 0, .. }), "{error:?}");
        assert!(mono_now() - start >= Span::from_millis(80));
        drop(silent);
        let error = query(addr, Duration::from_secs(5)).expect_err("closed");
        assert!(matches!(error, ChronyError::Refused), "{error:?}");
    }

    #[test]
    fn sequence_numbers_differ() {
        let drawn: std::collections::HashSet<u32> = (0..8).map(|_| random().expect("random")).collect();
        assert!(drawn.len() > 1);
    }
}
