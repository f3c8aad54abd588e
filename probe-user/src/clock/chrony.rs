//! chronyd's tracking report: request and reply of its command protocol, version 6.
//!
//! chrony documents tracking as a stable command that any local user may send to UDP port 323. Both packets
//! are 104 bytes, big-endian:
//!
//! ```text
//! request  0 u8 version = 6, u8 type = 1, u8 0, u8 0      reply  0 u8 version = 6, u8 type = 2, 2 unused
//!          4 u16 command = 33                                    4 u16 command = 33
//!          6 u16 attempt                                         6 u16 reply = 5
//!          8 u32 sequence                                        8 u16 status = 0, 6 unused
//!         12 zeros                                              16 u32 sequence, 8 unused
//!                                                               28 u32 reference id, 20 bytes of address
//!                                                               52 u16 stratum, u16 leap
//!                                                               56 u32 seconds (high), u32 seconds (low), u32 ns
//!                                                               68 nine floats, see [`Tracking`]
//! ```
//!
//! A reply that reports an error ends after its 28 bytes of header. Floats have a format of their own:
//! [`float`].

mod daemon;
pub mod judge;
pub mod query;

pub use daemon::Chronyd;

use std::time::Duration;

use probe_ebpf::time::{Span, UtcNs};

/// Bytes of a tracking request, and of a successful reply.
pub const PACKET_LEN: usize = 104;
/// Up to here a reply says which request it answers.
const SEQUENCE_END: usize = 20;

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const COMMAND_TRACKING: u16 = 33;
const REPLY_TRACKING: u16 = 5;

/// No clock is off by more than this many seconds (126 years), and no delay is longer.
const SANE_SECONDS: f64 = 4e9;

/// Why there is no tracking report.
#[derive(Debug, thiserror::Error)]
pub enum ChronyError {
    /// No reply to this request came in time.
    #[error("does not answer (timed out after {} ms{})", after.as_millis(), ignored_clause(*ignored))]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// Packets with another sequence number that came meanwhile.
        ignored: u32,
    },
    /// The kernel says that nothing listens on that port.
    #[error("does not run (the port is closed)")]
    Refused,
    /// There is no such unix socket, or nobody listens on it.
    #[error("does not run (nobody listens on that socket)")]
    Absent,
    /// The socket failed.
    #[error("cannot be asked ({doing}: {source})")]
    Io {
        /// The call.
        doing: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// Not the length of a tracking reply.
    #[error("sent a reply of {got} bytes instead of {PACKET_LEN}")]
    Length {
        /// Bytes received.
        got: usize,
    },
    /// The reply is to some other request.
    #[error("sent a reply with sequence number {got:#010x} instead of {expected:#010x}")]
    Sequence {
        /// In the reply.
        got: u32,
        /// In the request.
        expected: u32,
    },
    /// Not a reply in version 6 of the protocol.
    #[error("sent version {version}, packet type {kind}, instead of version {VERSION}, type {REPLY}")]
    Version {
        /// The version byte.
        version: u8,
        /// The type byte.
        kind: u8,
    },
    /// The reply is to another command.
    #[error("answered command {got} instead of {COMMAND_TRACKING} (tracking)")]
    Command {
        /// In the reply.
        got: u16,
    },
    /// chronyd refused the request.
    #[error("refused the request with status {status}: {}", status_meaning(*status))]
    Status {
        /// As received; never 0.
        status: u16,
    },
    /// The reply holds something other than a tracking report.
    #[error("sent reply code {got} instead of {REPLY_TRACKING} (tracking)")]
    Reply {
        /// In the reply.
        got: u16,
    },
    /// A field holds what no clock can report.
    #[error("reports the absurd value {value} as {field}")]
    Absurd {
        /// Which.
        field: &'static str,
        /// As received.
        value: f64,
    },
}

fn ignored_clause(ignored: u32) -> String {
    if ignored == 0 { String::new() } else { format!("; {ignored} packets that answer something else came") }
}

/// Meanings of the status codes that chronyd 4.3 was seen to send.
fn status_meaning(status: u16) -> &'static str {
    match status {
        1 => "the command failed",
        2 => "not authorised",
        3 => "unknown command",
        18 => "it speaks another version of the protocol",
        19 => "the request's length is wrong",
        _ => "a code that pikoscope does not know",
    }
}

/// A tracking report. Floats that take part in the offset are spans; the rest are as chronyd sends them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// Which source chronyd follows: an IPv4 address, a hash of an IPv6 address, or a name in ASCII.
    pub reference_id: u32,
    /// Distance from a primary clock; 0 when not synchronised.
    pub stratum: u16,
    /// 0 to 2: normal or a leap second to come; 3: not synchronised.
    pub leap: u16,
    /// When chronyd last updated its clock, in its own view of true time; 0 when never.
    pub ref_time: UtcNs,
    /// What is to be *added* to the system clock: `-theta`.
    pub correction: Span,
    /// Offset of the last update, seconds.
    pub last_offset: f64,
    /// Long-term mean of the offsets, seconds.
    pub rms_offset: f64,
    /// Rate of the clock without discipline, ppm; positive = fast.
    pub frequency_ppm: f64,
    /// How far the last measurement disagrees with that, ppm.
    pub residual_ppm: f64,
    /// Bound of the frequency, ppm.
    pub skew_ppm: f64,
    /// Round trip to the primary clock.
    pub root_delay: Span,
    /// Accumulated dispersion, aged by chronyd to the time of the reply.
    pub root_dispersion: Span,
    /// Time between the last two updates; 0 after the first.
    pub update_interval: Span,
}

/// The request with this sequence number.
pub fn encode_request(sequence: u32) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[..4].copy_from_slice(&[VERSION, REQUEST, 0, 0]);
    packet[4..6].copy_from_slice(&COMMAND_TRACKING.to_be_bytes());
    packet[8..12].copy_from_slice(&sequence.to_be_bytes());
    packet
}

/// Decodes chrony's float: a signed 7-bit exponent `e` above a signed 25-bit coefficient `c`, value
/// `c * 2^(e - 25)`. Every bit pattern is a finite number, and all of them are exact in an `f64`.
pub fn float(bits: u32) -> f64 {
    let exponent = i64::from((bits as i32) >> 25) - 25;
    let coefficient = ((bits << 7) as i32) >> 7;
    // 2^exponent, exponent in -89..=38, put together from its bits: `powi` does not promise to be exact.
    f64::from(coefficient) * f64::from_bits(((1023 + exponent) as u64) << 52)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Tracking {
    /// Reads the reply to the request with sequence number `expected`.
    pub fn decode(bytes: &[u8], expected: u32) -> Result<Self, ChronyError> {
        let got = bytes.len();
        if got < SEQUENCE_END {
            return Err(ChronyError::Length { got });
        }
        // First of all: what does not repeat our number is not ours to judge.
        let sequence = u32_at(bytes, 16);
        if sequence != expected {
            return Err(ChronyError::Sequence { got: sequence, expected });
        }
        let [version, kind] = [bytes[0], bytes[1]];
        if (version, kind) != (VERSION, REPLY) {
            return Err(ChronyError::Version { version, kind });
        }
        let command = u16_at(bytes, 4);
        if command != COMMAND_TRACKING {
            return Err(ChronyError::Command { got: command });
        }
        // Before the length: replies with an error status are short.
        let status = u16_at(bytes, 8);
        if status != 0 {
            return Err(ChronyError::Status { status });
        }
        let reply = u16_at(bytes, 6);
        if reply != REPLY_TRACKING {
            return Err(ChronyError::Reply { got: reply });
        }
        let bytes: &[u8; PACKET_LEN] = bytes.try_into().map_err(|_| ChronyError::Length { got })?;
        Self::fields(bytes)
    }

    fn fields(bytes: &[u8; PACKET_LEN]) -> Result<Self, ChronyError> {
        let signed = |index: usize, field| {
            let value = float(u32_at(bytes, 68 + 4 * index));
            if value.abs() > SANE_SECONDS { Err(ChronyError::Absurd { field, value }) } else { Ok(value) }
        };
        let length = |index, field| match signed(index, field)? {
            value if value < 0.0 => Err(ChronyError::Absurd { field, value }),
            value => Ok(Span::from_secs_f64(value)),
        };
        let small = |at, most, field| match u16_at(bytes, at) {
            value if value > most => Err(ChronyError::Absurd { field, value: f64::from(value) }),
            value => Ok(value),
        };
        Ok(Self {
            reference_id: u32_at(bytes, 28),
            stratum: small(52, 16, "stratum")?,
            leap: small(54, 3, "leap status")?,
            ref_time: ref_time(u32_at(bytes, 56), u32_at(bytes, 60), u32_at(bytes, 64))?,
            correction: Span::from_secs_f64(signed(0, "correction")?),
            last_offset: signed(1, "last offset")?,
            rms_offset: signed(2, "RMS offset")?,
            frequency_ppm: signed(3, "frequency")?,
            residual_ppm: signed(4, "residual frequency")?,
            skew_ppm: signed(5, "skew")?,
            root_delay: length(6, "root delay")?,
            root_dispersion: length(7, "root dispersion")?,
            update_interval: length(8, "update interval")?,
        })
    }
}

fn ref_time(high: u32, low: u32, nanos: u32) -> Result<UtcNs, ChronyError> {
    let seconds = u64::from(high) << 32 | u64::from(low);
    // Beyond 2262 it does not fit the nanoseconds that time is counted in here.
    let ns = i64::try_from(u128::from(seconds) * 1_000_000_000 + u128::from(nanos));
    match ns {
        Ok(ns) if nanos < 1_000_000_000 => Ok(UtcNs::from_nanos(ns)),
        _ => Err(ChronyError::Absurd {
            field: "reference time",
            value: seconds as f64 + f64::from(nanos) / 1e9,
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
