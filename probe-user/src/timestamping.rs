//! Receive stamps from `SO_TIMESTAMPING` (Documentation/networking/timestamping.rst): tier 0, and the other
//! half of tier 1's matching, since the kernel reports the same `skb->tstamp` that the filter read.
//!
//! Asking for software receive stamps on one socket turns stamping on for the whole host: one clock read
//! (about 25 ns) per received packet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use probe_ebpf::time::{PhcNs, RealNs};

/// Room for the control messages that are asked for: one `scm_timestamping`, one `scm_ts_pktinfo` and one drop counter.
pub(crate) const CONTROL_LEN: usize = 128;
const _: () = {
    let lens = [size_of::<[libc::timespec; 3]>(), size_of::<[u32; 4]>(), size_of::<u32>()];
    // SAFETY: arithmetic only.
    let room = unsafe {
        libc::CMSG_SPACE(lens[0] as _) + libc::CMSG_SPACE(lens[1] as _) + libc::CMSG_SPACE(lens[2] as _)
    };
    assert!(room as usize <= CONTROL_LEN, "a control message would be cut off");
};

/// Software stamps are taken on receive, and reported.
pub(crate) const RECEIVE: libc::c_uint = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;

/// The NIC's receive stamps are reported too, as it wrote them, and which NIC it was.
const HARDWARE: libc::c_uint = libc::SOF_TIMESTAMPING_RX_HARDWARE
    | libc::SOF_TIMESTAMPING_RAW_HARDWARE
    | libc::SOF_TIMESTAMPING_OPT_PKTINFO;

/// asm-generic/socket.h; a `scm_ts_pktinfo` (linux/net_tstamp.h), which begins with the interface's index.
const SCM_TIMESTAMPING_PKTINFO: libc::c_int = 58;

/// Asks for a software receive stamp with every datagram, and for no other stamps.
pub fn enable_receive_stamps(socket: impl AsFd) -> io::Result<()> {
    set_flags(socket, RECEIVE)
}

/// Asks for the NIC's receive stamps as well, where it makes some ([`hardware`](crate::hardware)). Other flags stay.
pub fn add_hardware_stamps(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    set_flags(socket, flags(socket)? | HARDWARE)
}

/// The receive stamps that the socket asks for, in `SOF_TIMESTAMPING_*` flags.
pub(crate) fn receive_flags(socket: impl AsFd) -> io::Result<libc::c_uint> {
    Ok(flags(socket)? & (RECEIVE | HARDWARE))
}

/// The `SOF_TIMESTAMPING_*` flags. (Newer kernels keep a second number beside them, which is not asked for.)
fn flags(socket: impl AsFd) -> io::Result<libc::c_uint> {
    let mut flags: libc::c_uint = 0;
    let mut len = size_of_val(&flags) as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's lifetime; at most `len` bytes are written, which the number has.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPING,
            (&raw mut flags).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(flags) } else { Err(io::Error::last_os_error()) }
}

/// Sets the `SOF_TIMESTAMPING_*` flags, all others off.
pub(crate) fn set_flags(socket: impl AsFd, flags: libc::c_uint) -> io::Result<()> {
    set_int(socket, libc::SO_TIMESTAMPING, flags as libc::c_int)
}

/// Asks for the count of datagrams dropped at this socket (`SO_RXQ_OVFL`, socket(7)) with every datagram.
pub fn enable_drop_count(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SO_RXQ_OVFL, 1)
}

/// Values of `SO_MEMINFO`, and the places of those that are used (linux/sock_diag.h).
const MEMORY_VALUES: usize = 9;
const RECEIVE_ALLOCATED: usize = 0;
const RECEIVE_BUFFER: usize = 1;
const DROPS: usize = 8;

/// How full the socket's receive buffer is, as the kernel counts its memory, in thousandths. One system call.
///
/// # Errors
/// `getsockopt`'s, on kernels before 4.12.
pub fn receive_buffer_fill(socket: impl AsFd) -> io::Result<u16> {
    let memory = memory(socket)?;
    let share = u64::from(memory[RECEIVE_ALLOCATED]) * 1_000 / u64::from(memory[RECEIVE_BUFFER].max(1));
    Ok(u16::try_from(share).unwrap_or(u16::MAX))
}

/// Datagrams dropped at this socket so far (wraps at 2^32): the number that `SO_RXQ_OVFL` brings, without waiting for
/// the next datagram. One system call.
///
/// # Errors
/// As [`receive_buffer_fill`].
pub fn dropped(socket: impl AsFd) -> io::Result<u32> {
    Ok(memory(socket)?[DROPS])
}

/// What the kernel counts of a socket's memory (net/core/sock.c, `sk_get_meminfo`).
fn memory(socket: impl AsFd) -> io::Result<[u32; MEMORY_VALUES]> {
    let mut memory = [0_u32; MEMORY_VALUES];
    let mut len = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's lifetime; at most `len` bytes are written, which the array has.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // A kernel that knows fewer values writes fewer.
    if (len as usize) < size_of_val(&memory) {
        return Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT));
    }
    Ok(memory)
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

/// When a NIC received a datagram, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareStamp {
    /// When.
    pub at: PhcNs,
    /// Index of the NIC's interface; 0 where the kernel does not know it.
    pub interface: u32,
}

/// What came with a datagram besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// T4.
    pub(crate) received: Option<RealNs>,
    /// The NIC's stamp, if it was asked for and there is one.
    pub(crate) hardware: Option<HardwareStamp>,
    /// Drops at this socket so far (the kernel's counter, wrapping); absent until the first drop.
    pub(crate) dropped: Option<u32>,
}

/// Reads the control messages of a received datagram.
pub(crate) fn control(header: &libc::msghdr) -> Control {
    let mut out = Control::default();
    let (mut hardware, mut interface) = (None, 0);
    // SAFETY: `header` was filled in by recvmmsg, its control pointer and length describe valid memory.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: not null, and inside the control buffer by CMSG_FIRSTHDR/CMSG_NXTHDR.
        let (level, kind, data) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type, libc::CMSG_DATA(cmsg)) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
                // SAFETY: the kernel puts three timespecs there.
                (out.received, hardware) = unsafe { (software_stamp(data), hardware_stamp(data)) };
            }
            // It comes before the stamp that it belongs to (net/socket.c, `__sock_recv_timestamp`).
            (libc::SOL_SOCKET, SCM_TIMESTAMPING_PKTINFO) => {
                // SAFETY: the kernel puts four u32 there.
                interface = unsafe { data.cast::<u32>().read_unaligned() };
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
    out.hardware = hardware.map(|at| HardwareStamp { at, interface });
    out
}

/// The software stamp of an `scm_timestamping`: the first of its three; zero means that there is none.
///
/// # Safety
/// `data` points at a `timespec`, which may be unaligned.
pub(crate) unsafe fn software_stamp(data: *const u8) -> Option<RealNs> {
    // SAFETY: the caller says that it is one.
    unsafe { stamp(data.cast()) }.map(RealNs::from_nanos)
}

/// The NIC's own stamp of an `scm_timestamping`: the third. (The second is history.)
///
/// # Safety
/// `data` points at three `timespec`s, which may be unaligned.
unsafe fn hardware_stamp(data: *const u8) -> Option<PhcNs> {
    // SAFETY: the caller says that there are three.
    unsafe { stamp(data.cast::<libc::timespec>().add(2)) }.map(PhcNs::from_nanos)
}

/// A `timespec` in nanoseconds, unless it is zero.
///
/// # Safety
/// It may be unaligned, but not elsewhere.
unsafe fn stamp(time: *const libc::timespec) -> Option<i64> {
    // SAFETY: the caller says that there is one.
    let stamp = unsafe { time.read_unaligned() };
    (stamp.tv_sec != 0 || stamp.tv_nsec != 0)
        .then(|| stamp.tv_sec.saturating_mul(1_000_000_000).saturating_add(stamp.tv_nsec))
}
