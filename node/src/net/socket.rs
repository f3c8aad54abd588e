//! The gossip socket.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::ProbeMode;

use super::NetError;
use super::stamping::Stamping;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 128;
/// Tries to find a port that is free for both UDP and TCP.
const TRIES: u32 = 16;

/// A bound UDP socket that never waits.
#[derive(Debug)]
pub(super) struct GossipSocket {
    socket: UdpSocket,
    bound: SocketAddr,
}

impl GossipSocket {
    /// Prepares stamping on a fresh socket and then binds it: in this order no datagram comes unstamped. The listener
    /// is bound to the same port for TCP.
    pub(super) fn open(
        address: SocketAddr,
        rcvbuf_bytes: Option<usize>,
        marks: &Marks,
        mode: ProbeMode,
        tx_stamps: bool,
        hardware_stamps: Option<&str>,
        options: &Options,
    ) -> Result<(Self, Stamping, TcpListener), NetError> {
        let bind = |source| NetError::Bind { address, source };
        let socket = datagrams(address, marks)?;
        if let Some(bytes) = rcvbuf_bytes {
            socket.set_recv_buffer_size(bytes).map_err(bind)?;
        }
        let stamping = Stamping::prepare(&socket, mode, tx_stamps, hardware_stamps, options)?;
        let listener = bind_both(&socket, address)?;
        let socket = UdpSocket::from(socket);
        let bound = socket.local_addr().map_err(bind)?;
        Ok((Self { socket, bound }, stamping, listener))
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Reads one batch of what is queued; 0 when nothing is.
    pub(super) fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        match batch.receive(&self.socket) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// To send from.
    pub(super) fn sender(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }
}

/// What all packets of a node carry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// Differentiated services code point.
    pub(super) dscp: Option<u8>,
}

/// Sends without waiting: a full send buffer is like a lost packet, and counted by the caller.
/// The packet may come in two parts; the second may be empty.
pub(super) fn send(from: &Socket, [head, tail]: [&[u8]; 2], to: SocketAddr) -> io::Result<()> {
    let sent = match tail {
        [] => from.send_to(head, &to.into()),
        tail => from.send_to_vectored(&[head, tail].map(io::IoSlice::new), &to.into()),
    };
    sent.map(drop)
}

/// A socket that never waits, not bound yet.
pub(super) fn datagrams(address: SocketAddr, marks: &Marks) -> Result<Socket, NetError> {
    let bind = |source| NetError::Bind { address, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(bind)?;
    socket.set_nonblocking(true).map_err(bind)?;
    if let Some(dscp) = marks.dscp {
        mark(&socket, address, dscp).map_err(|source| NetError::Os { what: "marking packets", source })?;
    }
    Ok(socket)
}

impl AsFd for GossipSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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

/// Has all that is sent carry this code point. The two bits below it are the congestion notification's.
fn mark(socket: &Socket, address: SocketAddr, dscp: u8) -> io::Result<()> {
    let class = i32::from(dscp) << 2;
    match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4Tos, &class)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6TClass, &class)?,
    }
    Ok(())
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
