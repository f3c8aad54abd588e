//! Who sends to whom in the self-test.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use probe_ebpf::time::{MonoNs, Span};

use super::super::Port;
use super::super::clock::mono_now;
use crate::rig::Host;

const DATAGRAM: usize = 200;

/// Who sends the `i`-th datagram, and to whom: all directed pairs in turn.
pub(super) fn pair(i: u64, sockets: &[Socket]) -> (&Socket, &Socket) {
    let count = sockets.len();
    let from = i as usize % count;
    let to = (from + 1 + (i as usize / count) % (count - 1)) % count;
    (&sockets[from], &sockets[to])
}

/// A UDP socket inside a host's namespace.
pub(super) struct Socket {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Socket {
    pub(super) fn open(host: &Host, port: Port) -> Result<Self> {
        let socket = host.namespace().within(|| UdpSocket::bind((port.v4(), 9_000)))??;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    pub(super) fn send(&self, to: &Self, number: u64) -> Result<()> {
        let mut datagram = [0xa5; DATAGRAM];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        self.socket.send_to(&datagram, to.address).with_context(|| format!("sending to {}", to.address))?;
        Ok(())
    }

    /// Receives all there is; how many.
    pub(super) fn drain(&self) -> u64 {
        let mut received = 0;
        while self.socket.recv_from(&mut [0; DATAGRAM]).is_ok() {
            received += 1;
        }
        received
    }
}

/// The pace of the load.
pub(super) fn sleep_until(due: MonoNs) {
    let left = due - mono_now();
    if left > Span::ZERO {
        thread::sleep(Duration::from_nanos(left.as_nanos().unsigned_abs()));
    }
}
