//! ntpd-rs, by its observation socket: a unix stream that says everything once, as JSON, to whoever connects.
//!
//! The message is its length (u64, big-endian), then an object; of that, this is used:
//!
//! ```json
//! { "system": { "stratum": 2, "leap_indicator": "NoWarning" },
//!   "sources": [ { "offset": 0.05, "uncertainty": 1e-6, "delay": 2e-4, "remote_delay": 0.01,
//!     "remote_uncertainty": 0.001, "last_update": { "timestamp": 17009385430000000000 },
//!     "unanswered_polls": 0, "poll_interval": 4, "name": "..." } ] }
//! ```
//!
//! Times are in seconds; an offset is what is to be *added*, `-theta`. There is no offset of the whole, only one per
//! source. And an uncertainty is a standard deviation, not a bound: three of them are taken, for this host's filter
//! and for the server's own, plus half of each delay.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, RealNs, Span};
use serde::Deserialize;

use super::ask::Moment;
use super::mapping::mono_now;
use super::sntp::timestamp_age;
use super::source::{OffsetSource, Opinion, SourceError};
use super::{ClockOffset, ClockSource, ClockState, DRIFT_PPB, Leap};

/// ntpd-rs itself reads no longer ones.
const MOST_BYTES: u64 = 1 << 20;
/// How long the daemon may take for all of its message.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Unanswered polls after which a server counts as silent.
const MISSED_POLLS: u32 = 8;
/// No clock is off by more than this many seconds, and no delay is longer.
const SANE_SECONDS: f64 = 4e9;

/// Why ntpd-rs tells no offset.
#[derive(Debug, thiserror::Error)]
pub enum NtpdRsError {
    /// There is no such socket.
    #[error(
        "does not run, or without `observation-path` in its configuration (nobody listens on that socket)"
    )]
    Absent,
    /// The socket failed.
    #[error("cannot be asked ({0})")]
    Io(#[source] io::Error),
    /// The message did not come in time.
    #[error("did not finish its message within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// No message has this length.
    #[error("announced a message of {0} bytes")]
    Length(u64),
    /// Not the JSON that is expected.
    #[error("sent something that is not understood ({0})")]
    Malformed(#[source] serde_json::Error),
    /// A field holds what no clock can report.
    #[error("reports the absurd value {value} as {field}")]
    Absurd {
        /// Which.
        field: &'static str,
        /// As received.
        value: f64,
    },
    /// It follows nobody.
    #[error("has no measurement of any server yet")]
    NoSource,
}

#[derive(Debug, Deserialize)]
struct State {
    system: System,
    sources: Vec<Source>,
}

/// `time_snapshot` is flattened into it by ntpd-rs, or not, by version.
#[derive(Debug, Deserialize)]
struct System {
    stratum: u8,
    leap_indicator: Option<LeapIndicator>,
    time_snapshot: Option<Snapshot>,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    leap_indicator: LeapIndicator,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum LeapIndicator {
    NoWarning,
    Leap61,
    Leap59,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
struct Source {
    offset: f64,
    uncertainty: f64,
    delay: f64,
    remote_delay: f64,
    remote_uncertainty: f64,
    last_update: Timestamp,
    unanswered_polls: u32,
}

#[derive(Debug, Deserialize)]
struct Timestamp {
    timestamp: u64,
}

/// What ntpd-rs says, made into an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The offset by the server that bounds it best.
    pub offset: ClockOffset,
    /// The leap second that is announced.
    pub leap: Option<Leap>,
    /// It says that it is not synchronised, or its server has been silent for too long.
    pub doubt: Option<&'static str>,
}

/// Reads the object, received at `read_at` when the kernel's clock showed `now`. Pure.
///
/// # Errors
/// When it is not what ntpd-rs writes, or holds no measurement.
pub fn decode(json: &[u8], read_at: MonoNs, now: RealNs) -> Result<Observed, NtpdRsError> {
    let state: State = serde_json::from_slice(json).map_err(NtpdRsError::Malformed)?;
    let mut best: Option<(&Source, Span, Span)> = None;
    for source in &state.sources {
        // Nothing has been measured yet.
        if source.last_update.timestamp == 0 {
            continue;
        }
        let theta = -sane("offset", source.offset)?;
        let length = |field, value| match sane(field, value)? {
            span if span.is_negative() => Err(NtpdRsError::Absurd { field, value }),
            span => Ok(span),
        };
        let (delay, remote_delay) =
            (length("delay", source.delay)?, length("remote delay", source.remote_delay)?);
        let sigma = length("uncertainty", source.uncertainty)?;
        let remote_sigma = length("remote uncertainty", source.remote_uncertainty)?;
        let age = timestamp_age(source.last_update.timestamp, now).abs();
        let three = |span: Span| span + span + span;
        let bound = three(sigma)
            + three(remote_sigma)
            + delay.half_up()
            + remote_delay.half_up()
            + age.drift(DRIFT_PPB);
        if best.is_none_or(|(_, _, least)| bound < least) {
            best = Some((source, theta, bound));
        }
    }
    let (source, theta, bound) = best.ok_or(NtpdRsError::NoSource)?;
    let indicator = state.system.leap_indicator.or(state.system.time_snapshot.map(|s| s.leap_indicator));
    let leap = match indicator {
        Some(LeapIndicator::NoWarning) => Some(Leap::None),
        Some(LeapIndicator::Leap61) => Some(Leap::Insert),
        Some(LeapIndicator::Leap59) => Some(Leap::Delete),
        Some(LeapIndicator::Unknown) | None => None,
    };
    let (state, bound_at_read, doubt) = if leap.is_none() || !(1..16).contains(&state.system.stratum) {
        (ClockState::Unsynchronised, Span::MAX, Some("is not synchronised to any server"))
    } else if source.unanswered_polls >= MISSED_POLLS {
        (ClockState::FreeRunning, bound, Some("has had no answer from its server for eight polls"))
    } else {
        (ClockState::Synchronised, bound, None)
    };
    let offset =
        ClockOffset { theta, bound_at_read, read_at, source: ClockSource::NtpdRs, state, rate: None };
    Ok(Observed { offset, leap, doubt })
}

fn sane(field: &'static str, value: f64) -> Result<Span, NtpdRsError> {
    // NaN compares false.
    if value.abs() <= SANE_SECONDS {
        Ok(Span::from_secs_f64(value))
    } else {
        Err(NtpdRsError::Absurd { field, value })
    }
}

/// ntpd-rs as a source.
#[derive(Debug)]
pub struct NtpdRs {
    path: PathBuf,
    timeout: Duration,
}

impl NtpdRs {
    /// The one whose `observation-path` this is.
    pub fn new(path: PathBuf) -> Self {
        Self { path, timeout: TIMEOUT }
    }

    fn ask(&self) -> Result<Observed, NtpdRsError> {
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => NtpdRsError::Absent,
            _ => NtpdRsError::Io(error),
        })?;
        let deadline =
            mono_now() + Span::from_nanos(i64::try_from(self.timeout.as_nanos()).unwrap_or(i64::MAX));
        let mut length = [0; 8];
        read_exact(&mut stream, &mut length, deadline)?;
        let length = u64::from_be_bytes(length);
        if length == 0 || length > MOST_BYTES {
            return Err(NtpdRsError::Length(length));
        }
        let mut json = vec![0; length as usize];
        read_exact(&mut stream, &mut json, deadline)?;
        let now = Moment::now();
        decode(&json, now.mono, now.real)
    }
}

/// All of `buffer`, until the deadline: a sender that trickles must not hold up the clock.
fn read_exact(stream: &mut UnixStream, buffer: &mut [u8], deadline: MonoNs) -> Result<(), NtpdRsError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = u64::try_from((deadline - mono_now()).as_nanos()).ok().filter(|left| *left > 0);
        let left = left.ok_or(NtpdRsError::Timeout)?;
        stream.set_read_timeout(Some(Duration::from_nanos(left))).map_err(NtpdRsError::Io)?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(NtpdRsError::Io(ErrorKind::UnexpectedEof.into())),
            Ok(more) => filled += more,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(NtpdRsError::Io(error)),
        }
    }
    Ok(())
}

impl OffsetSource for NtpdRs {
    fn name(&self) -> String {
        format!("ntpd-rs at {}", self.path.display())
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        let Observed { offset, leap, doubt } = self
            .ask()
            .map_err(|source| SourceError::NtpdRs { at: self.path.display().to_string(), source })?;
        let doubt = doubt.map(|doubt| format!("{} {doubt}", self.name()));
        Ok(Opinion { offset, doubt, leap })
    }
}

#[cfg(test)]
mod tests;
