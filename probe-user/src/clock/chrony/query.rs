//! Asks a chronyd, over UDP or its unix socket.

use std::fs::{Permissions, set_permissions};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use probe_ebpf::time::MonoNs;

use super::{ChronyError, Tracking, encode_request};
use crate::clock::ask::{AskError, Socket, random};

/// Where a chronyd takes commands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChronyAddr {
    /// Its `cmdport`: tracking may be asked for without privilege.
    Udp(SocketAddr),
    /// Its `bindcmdaddress`, a path: root or chronyd's own user only, since it lies in a closed directory. The question
    /// needs a socket with a name, and that goes into the same directory, for the moment of the question.
    Unix(PathBuf),
}

impl From<SocketAddr> for ChronyAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Udp(addr)
    }
}

impl std::fmt::Display for ChronyAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(addr) => addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Asks the chronyd at `addr` for its tracking report; blocks for at most `timeout`. Also says when the reply
/// was here.
///
/// The socket is connected, so that the kernel lets through nothing but packets from `addr`, and the sequence
/// number is random. A packet without that number is somebody else's or forged: it is counted and ignored.
pub fn query(addr: &ChronyAddr, timeout: Duration) -> Result<(Tracking, MonoNs), ChronyError> {
    let failed = |error| told(error, timeout, 0);
    let sequence = u32::from_ne_bytes(random().map_err(failed)?);
    let named;
    let socket = match addr {
        ChronyAddr::Udp(addr) => Socket::udp(*addr).map_err(failed)?,
        ChronyAddr::Unix(path) => {
            named = Named::connected_to(path)?;
            Socket::Unix(&named.socket)
        }
    };
    let mut ignored = 0u32;
    let answer = socket.ask(&encode_request(sequence), timeout, |packet, received| {
        match Tracking::decode(packet, sequence) {
            Err(ChronyError::Sequence { .. }) => {
                ignored = ignored.saturating_add(1);
                ControlFlow::Continue(())
            }
            reply => ControlFlow::Break(reply.map(|tracking| (tracking, received.mono))),
        }
    });
    answer.map_err(|error| told(error, timeout, ignored))?.0
}

fn told(error: AskError, after: Duration, ignored: u32) -> ChronyError {
    match error {
        AskError::Timeout => ChronyError::Timeout { after, ignored },
        AskError::Refused => ChronyError::Refused,
        AskError::Io { doing, source } => ChronyError::Io { doing, source },
    }
}

/// A datagram socket with a name in the file system, to which chronyd can answer; the name goes with it.
struct Named {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Named {
    fn connected_to(chronyd: &Path) -> Result<Self, ChronyError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let failed = |doing| {
            move |source: std::io::Error| match source.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => ChronyError::Absent,
                _ => ChronyError::Io { doing, source },
            }
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = chronyd.with_file_name(format!("pikoscope.{}.{number}.sock", std::process::id()));
        // A node that was killed in the middle of a question may have left this name behind, and had this pid.
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ChronyError::Io { doing: "unlink", source }),
        }
        let socket = UnixDatagram::bind(&path).map_err(failed("bind"))?;
        let named = Self { socket, path };
        // chronyd has given up root by now and must be able to answer; the directory keeps others out.
        set_permissions(&named.path, Permissions::from_mode(0o666)).map_err(failed("chmod"))?;
        named.socket.connect(chronyd).map_err(failed("connect"))?;
        Ok(named)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // Nothing to be done if it fails: the next one of this name replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::chrony::tests::{encode_float, good_reply};
    use crate::clock::mapping::mono_now;
    use probe_ebpf::time::Span;
    use std::net::UdpSocket;
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
        let result = query(&addr.into(), Duration::from_millis(timeout)).map(|(tracking, read_at)| {
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
            ChronyError::Length { got: 604 }
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

    /// A forger who even knows the number, but cannot send from chronyd's port.
    #[test]
    fn a_reply_from_another_port_is_not_heard() {
        let forger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let daemon = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        daemon.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let addr = daemon.local_addr().expect("bound");
        let thread = std::thread::spawn(move || {
            for is_answered in [false, true] {
                let mut request = [0; 512];
                let (_, from) = daemon.recv_from(&mut request).expect("a request");
                let sequence = u32::from_be_bytes([request[8], request[9], request[10], request[11]]);
                forger.send_to(&patched(sequence, 52, &[0, 9]), from).expect("send");
                if is_answered {
                    daemon.send_to(&good_reply(sequence), from).expect("send");
                }
            }
        });
        let error = query(&addr.into(), Duration::from_millis(150)).expect_err("forged");
        assert!(matches!(error, ChronyError::Timeout { ignored: 0, .. }), "{error:?}");
        let (tracking, _) = query(&addr.into(), Duration::from_secs(5)).expect("a reply");
        assert_eq!(tracking.stratum, 2, "chronyd's own reply, though the forged one came first");
        thread.join().expect("the server saw what it should");
    }

    #[test]
    fn silence_times_out_in_time_and_a_closed_port_is_told_apart() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = silent.local_addr().expect("bound");
        let start = mono_now();
        let error = query(&addr.into(), Duration::from_millis(80)).expect_err("silence");
        assert!(matches!(error, ChronyError::Timeout { ignored: 0, .. }), "{error:?}");
        assert!(mono_now() - start >= Span::from_millis(80));
        drop(silent);
        let error = query(&addr.into(), Duration::from_secs(5)).expect_err("closed");
        assert!(matches!(error, ChronyError::Refused), "{error:?}");
    }

    /// A daemon of ours behind a path: the question comes from a name beside it, which is gone afterwards.
    #[test]
    fn a_unix_socket_is_asked_from_a_name_of_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("chronyd.sock");
        let addr = ChronyAddr::Unix(path.clone());
        let absent = query(&addr, Duration::from_secs(1)).expect_err("nothing there");
        assert!(matches!(absent, ChronyError::Absent), "{absent:?}");

        let daemon = UnixDatagram::bind(&path).expect("bind");
        let thread = std::thread::spawn(move || {
            let mut request = [0; 512];
            let (_, from) = daemon.recv_from(&mut request).expect("a request");
            let sequence = u32::from_be_bytes([request[8], request[9], request[10], request[11]]);
            let from = from.as_pathname().expect("a name");
            daemon.send_to(&good_reply(sequence ^ 1), from).expect("send");
            daemon.send_to(&good_reply(sequence), from).expect("send");
        });
        let (tracking, _) = query(&addr, Duration::from_secs(5)).expect("a reply");
        assert_eq!(tracking.stratum, 2);
        thread.join().expect("the daemon saw what it should");
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["chronyd.sock"]);
        let stale = query(&addr, Duration::from_secs(1)).expect_err("nobody listens any more");
        assert!(matches!(stale, ChronyError::Absent), "{stale:?}");
    }
}
