//! One question to a daemon over a datagram socket.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, RealNs, Span};

use super::mapping::{mono_now, real_now};

/// Longer than any reply that is asked for, so that a longer one shows.
const BUFFER: usize = 2048;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// In time.
    Timeout,
    /// The kernel says that nobody listens there.
    Refused,
    /// A call failed.
    Io { doing: &'static str, source: io::Error },
}

/// A connected socket: the kernel lets through nothing but packets from the peer.
pub(super) enum Socket<'a> {
    Udp(UdpSocket),
    Unix(&'a UnixDatagram),
}

/// When something happened, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) mono: MonoNs,
    pub(super) real: RealNs,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { mono: mono_now(), real: real_now() }
    }
}

impl Socket<'_> {
    /// A UDP socket that hears `peer` only.
    pub(super) fn udp(peer: SocketAddr) -> Result<Self, AskError> {
        let failed = |doing| move |source| AskError::Io { doing, source };
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).map_err(failed("bind"))?;
        socket.connect(peer).map_err(failed("connect"))?;
        Ok(Self::Udp(socket))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(bytes),
            Self::Unix(socket) => socket.send(bytes),
        }
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.recv(buffer),
            Self::Unix(socket) => socket.recv(buffer),
        }
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.set_read_timeout(Some(timeout)),
            Self::Unix(socket) => socket.set_read_timeout(Some(timeout)),
        }
    }

    /// Sends `request` and shows every packet that comes to `take`, with the moment when it was here, until that has
    /// what it wants or `timeout` is over. Also gives the moment just before the request was sent.
    pub(super) fn ask<T>(
        &self,
        request: &[u8],
        timeout: Duration,
        mut take: impl FnMut(&[u8], Moment) -> ControlFlow<T>,
    ) -> Result<(T, Moment), AskError> {
        let failed = |doing| move |source| AskError::Io { doing, source };
        let deadline = mono_now() + Span::from_nanos(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX));
        let sent = Moment::now();
        self.send(request).map_err(|source| refused("send", source))?;
        let mut buffer = [0; BUFFER];
        loop {
            let left = (deadline - mono_now()).as_nanos();
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
                return Err(AskError::Timeout);
            };
            self.set_read_timeout(Duration::from_nanos(left)).map_err(failed("set_read_timeout"))?;
            let length = match self.recv(&mut buffer) {
                Ok(length) => length,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(source) => return Err(refused("recv", source)),
            };
            let received = Moment::now();
            if let ControlFlow::Break(answer) = take(&buffer[..length], received) {
                return Ok((answer, sent));
            }
        }
    }
}

fn refused(doing: &'static str, source: io::Error) -> AskError {
    if source.kind() == ErrorKind::ConnectionRefused {
        AskError::Refused
    } else {
        AskError::Io { doing, source }
    }
}

/// Bytes that nobody can guess; at most 256.
pub(super) fn random<const N: usize>() -> Result<[u8; N], AskError> {
    const { assert!(N <= 256) };
    let mut bytes = [0u8; N];
    // SAFETY: the buffer is valid and writable for the length that is passed, and outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Up to 256 bytes are never cut short once the pool is seeded (getrandom(2)).
    if got == N as isize {
        Ok(bytes)
    } else {
        Err(AskError::Io { doing: "getrandom", source: io::Error::last_os_error() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        let drawn: std::collections::HashSet<[u8; 8]> = (0..8).map(|_| random().expect("random")).collect();
        assert_eq!(drawn.len(), 8);
    }
}
