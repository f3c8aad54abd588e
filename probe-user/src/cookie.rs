//! The name by which the kernel's programs know a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The number by which the kernel knows the socket for as long as the host runs (`SO_COOKIE`, socket(7)).
pub(crate) fn cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's lifetime, and the value is a u64 of the size given.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
