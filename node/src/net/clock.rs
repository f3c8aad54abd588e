//! The thread that asks NTP daemons for the clock's offset, so that the packet path never waits for one.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use probe_user::clock::reader::{ClockReader, Reading};
use tokio::sync::watch;

/// Time between readings. A chronyd answers in some 50 us, and each second that passes until the next reading costs
/// 50 us of bound at either end of a path. A rate is known after two seconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// The newest reading, kept up to date until this is dropped.
#[derive(Debug)]
pub(super) struct ClockThread {
    latest: watch::Receiver<Reading>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ClockThread {
    /// Takes a first reading, then four a second.
    pub(super) fn start(mut reader: ClockReader) -> std::io::Result<Self> {
        let (publish, latest) = watch::channel(reader.read());
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("pikoscope-clock".into()).spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                publish.send_replace(reader.read());
            }
        })?;
        Ok(Self { latest, stop: Some(stop), thread: Some(thread) })
    }

    /// The newest reading, if it is new since the last call.
    pub(super) fn changed(&mut self) -> Option<Reading> {
        self.latest.has_changed().unwrap_or(false).then(|| self.latest.borrow_and_update().clone())
    }

    /// The newest reading.
    pub(super) fn latest(&mut self) -> Reading {
        self.latest.borrow_and_update().clone()
    }
}

impl Drop for ClockThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported already; nothing here depends on it.
            let _ = thread.join();
        }
    }
}
