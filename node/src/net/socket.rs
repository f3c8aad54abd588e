//! The gossip socket.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::ProbeMode;

use super::NetError;
use super::stamping::Stamping;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 128;
/// Tries to find a port that is free for both UDP and TCP.
const TRIES: u32 = 16;

/// A bound UDP socket in tokio's reactor.
#[derive(Debug)]
pub(super) struct GossipSocket {
    fd: AsyncFd<UdpSocket>,
    bound: SocketAddr,
}

impl GossipSocket {
    /// Prepares stamping on a fresh socket and then binds it: in this order no datagram comes unstamped. The listener
    /// is bound to the same port for TCP.
    pub(super) fn open(
        address: SocketAddr,
        rcvbuf_bytes: Option<usize>,
        mode: ProbeMode,
        options: &Options,
    ) -> Result<(Self, Stamping, TcpListener), NetError> {
        let bind = |source| NetError::Bind { address, source };
        let socket =
            Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        if let Some(bytes) = rcvbuf_bytes {
            socket.set_recv_buffer_size(bytes).map_err(bind)?;
        }
        let stamping = Stamping::prepare(&socket, mode, options)?;
        let listener = bind_both(&socket, address)?;
        let socket = UdpSocket::from(socket);
        let bound = socket.local_addr().map_err(bind)?;
        // Readable only: tokio's own socket would also be woken whenever a sent packet left the send buffer.
        #[expect(
            deprecated,
            reason = "a std socket keeps its descriptor open, which is the contract of the unsafe successor"
        )]
        let fd = AsyncFd::with_interest(socket, Interest::READABLE).map_err(bind)?;
        Ok((Self { fd, bound }, stamping, listener))
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

/// Binds `udp` and a new listener to the same port; port 0 takes one that is free for both.
fn bind_both(udp: &Socket, address: SocketAddr) -> Result<TcpListener, NetError> {
    let mut tries = 0;
    loop {
        let tcp = listen(address).map_err(|source| NetError::Listen { address, source })?;
        let port = tcp.local_addr().map_err(|source| NetError::Listen { address, source })?.port();
        match udp.bind(&SocketAddr::new(address.ip(), port).into()) {
            Ok(()) => return Ok(tcp),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries < TRIES => {
                tries += 1
            }
            Err(source) => return Err(NetError::Bind { address, source }),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A connection of an earlier run that lingers must not keep this one from starting.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
