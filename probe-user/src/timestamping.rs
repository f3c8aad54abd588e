//! Receive stamps from `SO_TIMESTAMPING` (Documentation/networking/timestamping.rst): tier 0, and the other
//! half of tier 1's matching, since the kernel reports the same `skb->tstamp` that the filter read.
//!
//! Asking for software receive stamps on one socket turns stamping on for the whole host: one clock read
//! (about 25 ns) per received packet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use probe_ebpf::time::RealNs;

/// Room for the control messages that are asked for: one `scm_timestamping` and one drop counter.
pub(crate) const CONTROL_LEN: usize = 128;

/// Asks for a software receive stamp with every datagram.
pub fn enable_receive_stamps(socket: impl AsFd) -> io::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    set_int(socket, libc::SO_TIMESTAMPING, flags as libc::c_int)
}

/// Asks for the count of datagrams dropped at this socket (`SO_RXQ_OVFL`, socket(7)) with every datagram.
pub fn enable_drop_count(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SO_RXQ_OVFL, 1)
}

fn set_int(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the borrow's lifetime, and the value is a c_int of the size given.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What came with a datagram besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// T4.
    pub(crate) received: Option<RealNs>,
    /// Drops at this socket so far (the kernel's counter, wrapping); absent until the first drop.
    pub(crate) dropped: Option<u32>,
}

/// Reads the control messages of a received datagram.
pub(crate) fn control(header: &libc::msghdr) -> Control {
    let mut out = Control::default();
    // SAFETY: `header` was filled in by recvmmsg, its control pointer and length describe valid memory.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: not null, and inside the control buffer by CMSG_FIRSTHDR/CMSG_NXTHDR.
        let (level, kind, data) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type, libc::CMSG_DATA(cmsg)) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
                // SAFETY: the kernel puts three timespecs there; the software stamp is the first. CMSG_DATA
                // may be unaligned for timespec.
                let stamp = unsafe { data.cast::<libc::timespec>().read_unaligned() };
                if stamp.tv_sec != 0 || stamp.tv_nsec != 0 {
                    out.received = Some(RealNs::from_nanos(
                        stamp.tv_sec.saturating_mul(1_000_000_000).saturating_add(stamp.tv_nsec),
                    ));
                }
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                // SAFETY: the kernel puts a u32 there.
                out.dropped = Some(unsafe { data.cast::<u32>().read_unaligned() });
            }
            _ => {}
        }
        // SAFETY: `cmsg` is a valid header of this message.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    out
}
