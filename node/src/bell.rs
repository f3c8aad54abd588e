//! Channels that wake the gossip thread.
//!
//! It waits in one `ppoll` for datagrams, for its next round, and for this bell: an eventfd (eventfd(2)) that
//! whoever puts something into one of its channels rings. A datagram then costs no more calls than it must, and
//! nothing is paid for what did not come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::{self, Receiver, error::SendError};

/// Wakes the one who waits for it.
#[derive(Clone, Debug)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// A bell that has not been rung.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes the waiting thread, now or when it waits next.
    pub fn ring(&self) {
        // Refused only when it has been rung 2^64 - 2 times and not been heard: then it rings already.
        let _ = self.0.write(1);
    }

    /// It has been heard: what was put into a channel before this is there now.
    pub fn hush(&self) {
        // Refused only when it was not rung.
        let _ = self.0.read();
    }

    /// A bounded channel whose sender rings.
    pub fn channel<T>(&self, capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (queue, receiver) = mpsc::channel(capacity);
        (Sender { queue, bell: self.clone() }, receiver)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Puts values into a channel and rings.
#[derive(Debug)]
pub struct Sender<T> {
    queue: mpsc::Sender<T>,
    bell: Bell,
}

// Derived, it would ask for `T: Clone`.
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<T> Sender<T> {
    /// Waits for room and puts `value` there.
    ///
    /// # Errors
    /// Nobody receives any more; the value comes back.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.queue.send(value).await?;
        self.bell.ring();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn rings(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[tokio::test]
    async fn every_value_rings_until_it_is_heard() {
        let bell = Bell::new().unwrap();
        let (sender, mut receiver) = bell.channel(2);
        assert!(!rings(&bell));
        sender.send(1).await.unwrap();
        sender.clone().send(2).await.unwrap();
        assert!(rings(&bell));
        bell.hush();
        assert!(!rings(&bell));
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Ok(1), Ok(2)));
        drop(receiver);
        assert!(sender.send(3).await.is_err());
        assert!(!rings(&bell), "nothing came");
    }
}
