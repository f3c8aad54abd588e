//! Waiting for a datagram, a message or a moment, whichever comes first.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use probe_ebpf::time::Span;
use probe_user::clock::watch::StepWatch;

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// The socket has something: a datagram or an error.
    pub(super) socket: bool,
    /// Its error queue has something: stamps of packets that left.
    pub(super) departures: bool,
    /// The bell rang.
    pub(super) bell: bool,
    /// Somebody set the wall clock.
    pub(super) clock: bool,
}

/// Waits at most for `time`; not at all when that is not positive. A signal ends it early, with nothing.
///
/// In nanoseconds, so that a round is not up to a millisecond late. What is ready stays so until it is read, the
/// socket's error queue too: whoever has the kernel put something there must take it out.
pub(super) fn wait(
    socket: impl AsFd,
    bell: impl AsFd,
    clock: Option<&StepWatch>,
    time: Span,
) -> io::Result<Ready> {
    let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
    // Without a watch the bell stands twice, and is looked at once.
    let third = clock.map_or(bell.as_fd(), AsFd::as_fd);
    let mut fds = [of(socket.as_fd()), of(bell.as_fd()), of(third)];
    let watched = 2 + usize::from(clock.is_some());
    let time = std::time::Duration::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(0));
    match ppoll(&mut fds[..watched], Some(TimeSpec::from_duration(time)), None) {
        Ok(_) => {
            // Errors are told unasked, and reading tells which.
            let any = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let departures = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
            let clock = clock.is_some() && any(&fds[2]);
            Ok(Ready { socket: any(&fds[0]), departures, bell: any(&fds[1]), clock })
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
        let watch = StepWatch::new().ok();
        let watch = watch.as_ref();
        let before = mono_now();
        assert_eq!(wait(&socket, &bell, watch, Span::from_micros(300)).unwrap(), Ready::default());
        assert!(mono_now() - before >= Span::from_micros(300));
        assert_eq!(wait(&socket, &bell, watch, Span::from_secs(-1)).unwrap(), Ready::default());

        let forever = Span::from_secs(600);
        bell.ring();
        assert_eq!(wait(&socket, &bell, watch, forever).unwrap(), Ready { bell: true, ..Ready::default() });
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(
            wait(&socket, &bell, watch, forever).unwrap(),
            Ready { socket: true, bell: true, ..Ready::default() }
        );
        bell.hush();
        assert_eq!(wait(&socket, &bell, watch, forever).unwrap(), Ready { socket: true, ..Ready::default() });
    }
}
