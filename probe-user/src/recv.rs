//! Batched receive: many datagrams, their senders and their stamps with one `recvmmsg`.

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use crate::timestamping::{self, CONTROL_LEN, HardwareStamp};
use probe_ebpf::time::RealNs;

/// One received datagram, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The bytes, as far as they fit the slot.
    pub payload: &'a [u8],
    /// Length on the wire; larger than `payload` when it was cut.
    pub wire_len: usize,
    /// Sender; `None` for an address family that is neither IPv4 nor IPv6.
    pub from: Option<SocketAddr>,
    /// T4 as the kernel reports it.
    pub received: Option<RealNs>,
    /// T4 by the NIC, where its stamps are asked for.
    pub hardware: Option<HardwareStamp>,
}

impl Datagram<'_> {
    /// Did it not fit the slot?
    pub fn is_cut(&self) -> bool {
        self.wire_len > self.payload.len()
    }
}

/// Reusable memory for a batch. Allocates only in [`new`](Self::new).
pub struct RecvBatch {
    payloads: Box<[u8]>,
    slot_len: usize,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[[u64; CONTROL_LEN / 8]]>,
    vectors: Box<[libc::iovec]>,
    /// They point into the other boxes, which stay where they are when the batch moves.
    headers: Box<[libc::mmsghdr]>,
    /// By the last call.
    filled: usize,
    dropped: u32,
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").field("slots", &self.headers.len()).field("filled", &self.filled).finish()
    }
}

impl RecvBatch {
    /// Room for `slots` datagrams of up to `slot_len` bytes each.
    pub fn new(slots: usize, slot_len: usize) -> Self {
        // SAFETY: plain C structures for which all zeros is a valid value.
        let (vector, header, name) = unsafe {
            (zeroed::<libc::iovec>(), zeroed::<libc::mmsghdr>(), zeroed::<libc::sockaddr_storage>())
        };
        let mut batch = Self {
            payloads: vec![0; slots * slot_len].into(),
            slot_len,
            names: vec![name; slots].into(),
            controls: vec![[0; CONTROL_LEN / 8]; slots].into(),
            vectors: vec![vector; slots].into(),
            headers: vec![header; slots].into(),
            filled: slots,
            dropped: 0,
        };
        let payloads = batch.payloads.as_mut_ptr();
        for (i, header) in batch.headers.iter_mut().enumerate() {
            batch.vectors[i] =
                libc::iovec { iov_base: payloads.wrapping_add(i * slot_len).cast(), iov_len: slot_len };
            let h = &mut header.msg_hdr;
            h.msg_name = (&raw mut batch.names[i]).cast();
            h.msg_iov = &raw mut batch.vectors[i];
            h.msg_iovlen = 1;
            h.msg_control = batch.controls[i].as_mut_ptr().cast();
        }
        batch.renew();
        batch
    }

    /// Puts back what the kernel changed in headers: only those that it filled, mostly one or two of many.
    fn renew(&mut self) {
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        self.filled = 0;
    }

    /// How many datagrams one call can take.
    pub fn slots(&self) -> usize {
        self.headers.len()
    }

    /// Receives what is there, without waiting; the number of datagrams, or `WouldBlock`.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.renew();
        // SAFETY: every header points at memory of the length it names, all owned by `self` and not moved
        // while the call runs. MSG_TRUNC makes the kernel report a datagram's real length.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        self.filled = n as usize;
        Ok(self.filled)
    }

    /// The `i`-th datagram of the last call.
    pub fn get(&mut self, i: usize) -> Option<Datagram<'_>> {
        let header = self.headers[..self.filled].get(i)?;
        let control = timestamping::control(&header.msg_hdr);
        if let Some(dropped) = control.dropped {
            self.dropped = dropped;
        }
        let wire_len = header.msg_len as usize;
        let start = i * self.slot_len;
        Some(Datagram {
            payload: &self.payloads[start..start + wire_len.min(self.slot_len)],
            wire_len,
            from: socket_addr(&self.names[i]),
            received: control.received,
            hardware: control.hardware,
        })
    }

    /// Datagrams dropped at the socket so far, as the newest datagram told (wraps at 2^32).
    pub fn dropped(&self) -> u32 {
        self.dropped
    }
}

/// An address as the kernel wrote it.
fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure it is; sockaddr_storage is larger and aligned for all.
            let a = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(a.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let a = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(a.sin6_port), 0, a.sin6_scope_id)))
        }
        _ => None,
    }
}
