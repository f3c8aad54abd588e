//! Waiting for a datagram, a message or a moment, whichever comes first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use probe_ebpf::time::Span;
use probe_user::clock::watch::StepWatch;
use smallvec::{SmallVec, smallvec};

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// The socket has something: a datagram or an error.
    pub(super) socket: bool,
    /// Its error queue has something, or a sender's: stamps of packets that left.
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
pub(super) fn wait<'a>(
    socket: impl AsFd,
    bell: impl AsFd,
    clock: Option<&StepWatch>,
    senders: impl Iterator<Item = BorrowedFd<'a>>,
    time: Span,
) -> io::Result<Ready> {
    let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds: SmallVec<[PollFd<'_>; 10]> = smallvec![of(socket.as_fd()), of(bell.as_fd())];
    let clock = clock.map(|clock| {
        fds.push(of(clock.as_fd()));
        fds.len() - 1
    });
    let first_sender = fds.len();
    // Errors are told unasked, and reading tells which.
    fds.extend(senders.map(|sender| PollFd::new(sender, PollFlags::empty())));
    let time = std::time::Duration::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(0));
    match ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None) {
        Ok(_) => {
            let any = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let departures = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
                || fds[first_sender..].iter().any(any);
            let clock = clock.is_some_and(|clock| any(&fds[clock]));
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
    fn each_of_them_ends_it() {
        let (socket, bell) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Bell::new().unwrap());
        let watch = StepWatch::new().ok();
        let watch = watch.as_ref();
        let none = std::iter::empty;
        let before = mono_now();
        assert_eq!(wait(&socket, &bell, watch, none(), Span::from_micros(300)).unwrap(), Ready::default());
        assert!(mono_now() - before >= Span::from_micros(300));
        assert_eq!(wait(&socket, &bell, watch, none(), Span::from_secs(-1)).unwrap(), Ready::default());

        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        probe_user::transmit::enable(&sender).unwrap();
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        let senders = || std::iter::once(sender.as_fd());
        let ready = wait(&bell, &bell, watch, senders(), Span::from_secs(600)).unwrap();
        assert_eq!(ready, Ready { departures: true, ..Ready::default() });
        socket.recv(&mut [0; 1]).unwrap();

        let forever = Span::from_secs(600);
        bell.ring();
        assert_eq!(
            wait(&socket, &bell, watch, none(), forever).unwrap(),
            Ready { bell: true, ..Ready::default() }
        );
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(
            wait(&socket, &bell, watch, none(), forever).unwrap(),
            Ready { socket: true, bell: true, ..Ready::default() }
        );
        bell.hush();
        assert_eq!(
            wait(&socket, &bell, watch, none(), forever).unwrap(),
            Ready { socket: true, ..Ready::default() }
        );
    }
}
