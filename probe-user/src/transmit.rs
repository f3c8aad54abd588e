//! Transmit stamps from `SO_TIMESTAMPING` (Documentation/networking/timestamping.rst): T2 and T3 at tiers 0 and 1.
//!
//! For every datagram that a socket sends, the kernel puts two small records on the socket's error queue: when the
//! packet was about to enter the queueing discipline, and when the driver took it. On a device whose driver takes the
//! packet at once (loopback, veth, an idle NIC) both are there when `sendmsg` returns, so one read after a batch of
//! sends gets them all. Later ones make `poll` report `POLLERR` and wake its caller; they are no error of the socket.
//!
//! The records are charged to the socket's receive buffer (net/core/skbuff.c, `sock_queue_err_skb`), close to a
//! kilobyte each. While that is full they are lost without a trace, and while they lie there datagrams have less room:
//! read after every [`SENDS_PER_READ`] sends at the latest.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};

use probe_ebpf::time::RealNs;

use crate::timestamping;

/// How many sends may go out before the stamps are read: they fit into one call, and take up at most a fifth of the
/// default receive buffer.
pub const SENDS_PER_READ: usize = StampBatch::SLOTS / 2;

/// Calls for one read at most: whoever sends faster than this thread reads must not keep it here.
const CALLS: usize = 8;

/// Room for one `scm_timestamping` (64 bytes with its header) and one `sock_extended_err` with an address (64).
const CONTROL_LEN: usize = 192;

/// Where on its way out the packet was stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// T2: about to enter the queueing discipline (`SCM_TSTAMP_SCHED`). Once for each device of a stack.
    Sched,
    /// T3: the driver takes it (`SCM_TSTAMP_SND`, software).
    Software,
}

/// One transmit stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxStamp {
    /// The kernel's count of the socket's sends, from 0 when the stamps were switched on; wraps.
    pub id: u32,
    /// Which stamp.
    pub stage: Stage,
    /// When.
    pub at: RealNs,
}

/// Asks for receive stamps, and for both transmit stamps of every datagram, with ids that count from 0. The NIC's
/// receive stamps stay on if they are.
///
/// On a socket that has them already the ids begin at 0 again: stamps of earlier sends that are still to come have
/// old ids.
pub fn enable(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    // The count starts when OPT_ID is switched on, and only then (net/core/sock.c, `sock_set_timestamping`).
    let receive = timestamping::RECEIVE | timestamping::receive_flags(socket)?;
    timestamping::set_flags(socket, receive)?;
    let transmit = libc::SOF_TIMESTAMPING_TX_SCHED
        | libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_ID
        // Without it the whole packet comes back, and sysctl net.core.tstamp_allow_data can forbid that.
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    timestamping::set_flags(socket, receive | transmit)
}

/// What was in the error queue besides good stamps. Both stay zero on a socket without `IP_RECVERR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StampFaults {
    /// Records that did not fit the control buffer (`MSG_CTRUNC`): a kernel that tells more than was asked for.
    pub truncated: u64,
    /// Records that are no transmit stamps of ours: ICMP errors, or stamps of another kind.
    pub foreign: u64,
}

/// Reusable memory to read stamps with. Allocates only in [`new`](Self::new).
pub struct StampBatch {
    controls: Box<[[u64; CONTROL_LEN / 8]]>,
    headers: Box<[libc::mmsghdr]>,
    /// By the last call.
    filled: usize,
    faults: StampFaults,
}

// SAFETY: the raw pointers in `headers` point into a box of the same batch, which stays where it is when the batch
// moves.
unsafe impl Send for StampBatch {}

impl std::fmt::Debug for StampBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StampBatch").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl Default for StampBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl StampBatch {
    /// Records taken by one system call.
    pub const SLOTS: usize = 128;

    /// Memory for [`SLOTS`](Self::SLOTS) records, about 32 kB.
    pub fn new() -> Self {
        // SAFETY: a plain C structure for which all zeros is a valid value.
        let header = unsafe { zeroed::<libc::mmsghdr>() };
        let mut batch = Self {
            controls: vec![[0; CONTROL_LEN / 8]; Self::SLOTS].into(),
            headers: vec![header; Self::SLOTS].into(),
            filled: Self::SLOTS,
            faults: StampFaults::default(),
        };
        for (header, control) in batch.headers.iter_mut().zip(&mut batch.controls) {
            // Neither name nor payload: with OPT_TSONLY there is none.
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        }
        batch.renew();
        batch
    }

    /// Puts back what the kernel changed in headers: only those that it filled, mostly a few of many.
    fn renew(&mut self) {
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        self.filled = 0;
    }

    /// Calls `each` with the stamps that are there, without waiting, and returns how many there were.
    ///
    /// One `recvmmsg`, as long as there are fewer than [`SLOTS`](Self::SLOTS) of them.
    pub fn read(&mut self, socket: impl AsFd, mut each: impl FnMut(TxStamp)) -> io::Result<usize> {
        let (socket, mut stamps) = (socket.as_fd(), 0);
        for _ in 0..CALLS {
            let records = self.take(socket, Self::SLOTS, |stamp| {
                stamps += 1;
                each(stamp);
            })?;
            if records < Self::SLOTS {
                break;
            }
        }
        Ok(stamps)
    }

    /// The same with one `recvmmsg` for so many records at most, and returns how many it took. Whoever knows how many
    /// there are saves the kernel the look for one more; what it leaves there makes `poll` report `POLLERR`.
    pub fn take(
        &mut self,
        socket: impl AsFd,
        most: usize,
        mut each: impl FnMut(TxStamp),
    ) -> io::Result<usize> {
        let filled = match self.receive(socket.as_fd().as_raw_fd(), most.min(Self::SLOTS)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            filled => filled?,
        };
        for header in &self.headers[..filled] {
            if header.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0 {
                self.faults.truncated += 1;
            } else if let Some(stamp) = stamp(&header.msg_hdr) {
                each(stamp);
            } else {
                self.faults.foreign += 1;
            }
        }
        Ok(filled)
    }

    /// What could not be understood so far.
    pub fn faults(&self) -> StampFaults {
        self.faults
    }

    fn receive(&mut self, socket: libc::c_int, most: usize) -> io::Result<usize> {
        self.renew();
        // SAFETY: there are `most` headers at least, each points at control memory of the length it names, owned by
        // `self` and not moved while the call runs; all other pointers are null with length zero.
        let n = unsafe {
            libc::recvmmsg(
                socket,
                self.headers.as_mut_ptr(),
                most as libc::c_uint,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }
}

/// The stamp in a record of the error queue, if it is one of those that [`enable`] asks for.
fn stamp(header: &libc::msghdr) -> Option<TxStamp> {
    let (mut at, mut what) = (None, None);
    // SAFETY: `header` was filled in by recvmmsg, its control pointer and length describe valid memory.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: not null, and inside the control buffer by CMSG_FIRSTHDR/CMSG_NXTHDR.
        let (level, kind, data) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type, libc::CMSG_DATA(cmsg)) };
        match (level, kind) {
            // SAFETY: the kernel puts three timespecs there.
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => at = unsafe { timestamping::software_stamp(data) },
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
                // SAFETY: the kernel puts a sock_extended_err there; CMSG_DATA may be unaligned for it.
                what = Some(unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() });
            }
            _ => {}
        }
        // SAFETY: `cmsg` is a valid header of this message.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    let what = what.filter(|what| what.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING)?;
    // linux/errqueue.h, SCM_TSTAMP_*.
    let stage = match what.ee_info {
        0 => Stage::Software,
        1 => Stage::Sched,
        _ => return None,
    };
    Some(TxStamp { id: what.ee_data, stage, at: at? })
}
