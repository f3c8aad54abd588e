//! What a source of clock offsets is.

use probe_ebpf::time::Span;

use super::chrony::ChronyError;
use super::clockbound::ClockBoundError;
use super::ntpd::NtpdError;
use super::ntpd_rs::NtpdRsError;
use super::sntp::SntpError;
use super::{ClockOffset, ClockState, Leap};

/// Why a source gives no offset at all. Its text is a whole clause, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// chronyd.
    #[error("chronyd at {at} {source}: start chronyd, or give its address with --chrony")]
    Chrony {
        /// Who was asked: an address or a path.
        at: String,
        /// What went wrong.
        source: ChronyError,
    },
    /// ClockBound.
    #[error("ClockBound at {at} {source}")]
    ClockBound {
        /// The segment's file.
        at: String,
        /// What went wrong.
        source: ClockBoundError,
    },
    /// ntpd-rs.
    #[error("ntpd-rs at {at} {source}")]
    NtpdRs {
        /// The socket's path.
        at: String,
        /// What went wrong.
        source: NtpdRsError,
    },
    /// ntpd or ntpsec.
    #[error("ntpd at {at} {source}")]
    Ntpd {
        /// Who was asked.
        at: String,
        /// What went wrong.
        source: NtpdError,
    },
    /// An NTP server.
    #[error("NTP server {at} {source}")]
    Sntp {
        /// Who was asked, as configured.
        at: String,
        /// What went wrong.
        source: SntpError,
    },
    /// The kernel.
    #[error("adjtimex is not allowed here ({0})")]
    Adjtimex(#[source] std::io::Error),
}

/// What a source says.
#[derive(Clone, Debug)]
pub struct Opinion {
    /// The offset.
    pub offset: ClockOffset,
    /// What keeps it from being synchronised, as a clause.
    pub doubt: Option<String>,
    /// The leap second that it announces, where it knows.
    pub leap: Option<Leap>,
}

/// Anything that can tell the local clock's offset.
pub trait OffsetSource: Send {
    /// What it is, for messages: `chronyd at 127.0.0.1:323`.
    fn name(&self) -> String;

    /// Asks it now, or repeats what it said within its own polling interval. May block for a fraction of a second.
    fn read(&mut self) -> Result<Opinion, SourceError>;

    /// The wall clock was stepped: whatever was measured before no longer holds.
    fn stepped(&mut self) {}
}

/// Two sources whose intervals do not meet: at least one of them is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The source whose offset is used.
    pub used: String,
    /// The one that contradicts it.
    pub other: String,
    /// Its `theta` minus that of the source in use, at the same instant.
    pub apart: Span,
    /// By how much that is more than the two bounds together.
    pub beyond: Span,
}

impl Disagreement {
    /// Compares two readings of the same clock, at the instant of the first. `None`: they can both be right.
    pub fn between(used: (&str, &ClockOffset), other: (&str, &ClockOffset)) -> Option<Self> {
        let known = |offset: &ClockOffset| offset.state != ClockState::Unsynchronised;
        if !known(used.1) || !known(other.1) {
            return None;
        }
        let apart = other.1.at(used.1.read_at) - used.1.at(used.1.read_at);
        let beyond = apart.value.abs() - apart.bound;
        (beyond > Span::ZERO).then(|| Self {
            used: used.0.to_owned(),
            other: other.0.to_owned(),
            apart: apart.value,
            beyond,
        })
    }
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { used, other, apart, beyond } = self;
        let size = apart.abs();
        write!(
            f,
            "{other} contradicts {used} by {size}, {beyond} more than both can be off: one of them is wrong"
        )
    }
}
