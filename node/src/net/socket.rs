//! The gossip socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::ProbeMode;

use super::NetError;
use super::stamping::Stamping;

/// A bound UDP socket in tokio's reactor.
#[derive(Debug)]
pub(super) struct GossipSocket {
    fd: AsyncFd<UdpSocket>,
    bound: SocketAddr,
}

impl GossipSocket {
    /// Prepares stamping on a fresh socket and then binds it: in this order no datagram comes unstamped.
    pub(super) fn open(
        address: SocketAddr,
        rcvbuf_bytes: Option<usize>,
        mode: ProbeMode,
        options: &Options,
    ) -> Result<(Self, Stamping), NetError> {
        let bind = |source| NetError::Bind { address, source };
        let socket =
            Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        if let Some(bytes) = rcvbuf_bytes {
            socket.set_recv_buffer_size(bytes).map_err(bind)?;
        }
        let stamping = Stamping::prepare(&socket, mode, options)?;
        socket.bind(&address.into()).map_err(bind)?;
        let socket = UdpSocket::from(socket);
        let bound = socket.local_addr().map_err(bind)?;
        // Readable only: tokio's own socket would also be woken whenever a sent packet left the send buffer.
        #[expect(
            deprecated,
            reason = "a std socket keeps its descriptor open, which is the contract of the unsafe successor"
        )]
        let fd = AsyncFd::with_interest(socket, Interest::READABLE).map_err(bind)?;
        Ok((Self { fd, bound }, stamping))
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Waits until something can be read, then reads one batch; 0 when it was a false alarm.
    ///
    /// A batch that is not full emptied the queue, so readiness is cleared without another call to find out:
    /// the reactor is edge-triggered, a datagram that came meanwhile makes a new edge.
    pub(super) async fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let mut guard = self.fd.readable().await?;
        match batch.receive(guard.get_inner()) {
            Ok(n) => {
                if n < batch.slots() {
                    guard.clear_ready();
                }
                Ok(n)
            }
            Err(e) => {
                guard.clear_ready();
                if e.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(e) }
            }
        }
    }

    /// Reads what is queued, without waiting.
    pub(super) fn receive_now(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.receive(self.fd.get_ref())
    }

    /// Sends without waiting: a full send buffer is like a lost packet, and counted by the caller.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.fd.get_ref().send_to(bytes, to).map(|_| ())
    }
}
