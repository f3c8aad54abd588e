//! How a conversation can fail, and saying so without flooding the log.

use std::fmt;
use std::io;
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
    #[error("it ended before its message did")]
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

    pub(super) fn tell(&mut self, with: &dyn fmt::Display, failure: &Failure) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn every_reason_has_its_own_series() {
        let metrics = Metrics::new().unwrap();
        let io = || io::Error::from(io::ErrorKind::TimedOut);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let both = [
            Failure::Slow,
            Failure::Ended,
            Failure::Crowded,
            Failure::Wire(WireError::Trailing),
            Failure::Refused("own_id"),
            Failure::Io(io()),
            Failure::ShuttingDown,
        ];
        let inbound = [Failure::TooMany, Failure::Idle, Failure::Empty, Failure::NotReading];
        let outbound =
            [Failure::ConnectTimeout, Failure::Connect(io()), Failure::Connect(refused), Failure::Idle];
        for failure in both.iter().chain(&inbound).chain(&outbound) {
            // A new variant must be added to the lists above, and to the metrics' own.
            match failure {
                Failure::TooMany | Failure::Idle | Failure::Empty | Failure::Slow | Failure::NotReading => {}
                Failure::Ended | Failure::Crowded | Failure::Wire(_) | Failure::Refused(_) => {}
                Failure::ConnectTimeout | Failure::Connect(_) | Failure::Io(_) | Failure::ShuttingDown => {}
            }
        }
        let streams = &metrics.streams;
        both.iter().chain(&inbound).for_each(|failure| streams.inbound_failed.inc(failure.reason()));
        both.iter().chain(&outbound).for_each(|failure| streams.outbound_failed.inc(failure.reason()));
        for reasons in [&streams.inbound_failed, &streams.outbound_failed] {
            assert!(reasons.counts().all(|(reason, n)| reason != "other" && n == 1), "{reasons:?}");
        }
        assert_eq!(streams.inbound_failed.counts().count(), both.len() + inbound.len());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_once_in_a_while() {
        let mut teller = Teller::new("TCP from");
        teller.tell(&"a", &Failure::Slow);
        (0..100).for_each(|_| teller.tell(&"a", &Failure::Slow));
        assert_eq!(teller.untold, 100);
        tokio::time::sleep(QUIET).await;
        teller.tell(&"a", &Failure::Slow);
        assert_eq!(teller.untold, 0);
        tokio::time::sleep(QUIET).await;
        teller.tell(&"a", &Failure::Empty);
        assert!(teller.told.is_some_and(|told| told.elapsed() >= QUIET), "not worth a word");
    }
}
