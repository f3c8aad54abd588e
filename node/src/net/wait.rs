//! Waiting for a datagram, a message or a moment, whichever comes first.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use probe_ebpf::time::Span;

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// The socket has something: a datagram or an error.
    pub(super) socket: bool,
    /// The bell rang.
    pub(super) bell: bool,
}

/// Waits at most for `time`; not at all when that is not positive. A signal ends it early, with nothing.
///
/// In nanoseconds, so that a round is not up to a millisecond late. What is ready stays so until it is read, the
/// socket's error queue too: whoever has the kernel put something there must take it out.
pub(super) fn wait(socket: impl AsFd, bell: impl AsFd, time: Span) -> io::Result<Ready> {
    let mut fds =
        [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let time = std::time::Duration::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(0));
    match ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None) {
        Ok(_) => {
            // Errors are told unasked, and reading tells which.
            let any = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            Ok(Ready { socket: any(&fds[0]), bell: any(&fds[1]) })
        }
        Err(Errno::EINTR) => Ok(Ready::default()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::Bell;
    use probe_user::clock::mapping::mono_now;
    use std::net::UdpSocket;

    #[test]
    fn each_of_the_three_ends_it() {
        let (socket, bell) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Bell::new().unwrap());
        let before = mono_now();
        assert_eq!(wait(&socket, &bell, Span::from_micros(300)).unwrap(), Ready::default());
        assert!(mono_now() - before >= Span::from_micros(300));
        assert_eq!(wait(&socket, &bell, Span::from_secs(-1)).unwrap(), Ready::default());

        let forever = Span::from_secs(600);
        bell.ring();
        assert_eq!(wait(&socket, &bell, forever).unwrap(), Ready { socket: false, bell: true });
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(wait(&socket, &bell, forever).unwrap(), Ready { socket: true, bell: true });
        bell.hush();
        assert_eq!(wait(&socket, &bell, forever).unwrap(), Ready { socket: true, bell: false });
    }
}
