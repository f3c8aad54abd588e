//! How a conversation can fail, and saying so without flooding the log.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::WireError;

/// Failures are told about once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("more connections of that source than are served at a time")]
    TooMany,
    #[error("it said nothing")]
    Idle,
    #[error("it ended before its first byte")]
    Empty,
    #[error("its message took too long")]
    Slow,
    #[error("it does not read")]
    NotReading,
    #[error("it ended inside a message")]
    Ended,
    #[error("no memory is left for its message: others hold too much")]
    Crowded,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("its message was refused ({0})")]
    Refused(&'static str),
    #[error("nothing answers")]
    ConnectTimeout,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("this node is shutting down")]
    ShuttingDown,
}

impl Failure {
    /// A label for metrics; never changes.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Idle => "idle",
            Self::Empty => "empty",
            Self::Slow => "slow",
            Self::NotReading => "not_reading",
            Self::Ended => "ended",
            Self::Crowded => "crowded",
            Self::Wire(error) => error.reason(),
            Self::Refused(reason) => reason,
            Self::ConnectTimeout => "connect_timeout",
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => "connection_refused",
            Self::Connect(_) => "connect_error",
            Self::Io(_) => "io",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Tells of the first failure at once, then of the latest once in [`QUIET`].
#[derive(Debug)]
pub(super) struct Teller {
    what: &'static str,
    told: Option<Instant>,
    untold: u64,
}

impl Teller {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, told: None, untold: 0 }
    }

    pub(super) fn tell(&mut self, with: SocketAddr, failure: &Failure) {
        if matches!(failure, Failure::Empty) {
            // Whoever looks whether the port is open: nothing to be told.
            return;
        }
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < QUIET) {
            return;
        }
        self.told = Some(Instant::now());
        let n = std::mem::take(&mut self.untold);
        if n == 1 {
            tracing::warn!("{} {with}: {failure}", self.what);
        } else {
            tracing::warn!("{} {with}: {failure}; {n} such failures since the last one told of", self.what);
        }
    }
}
