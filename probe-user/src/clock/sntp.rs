//! NTP servers, asked directly: request and reply of RFC 5905 (section 7.3), used as RFC 4330 describes.
//!
//! In-house because the packet is 48 bytes and the crates on offer do not give what a bound needs: `sntpc` tells its
//! offset in whole microseconds, `rsntp` hides root delay and root dispersion.
//!
//! ```text
//!  0 u8 leap << 6 | version << 3 | mode     16 u64 reference timestamp: when the server was last set
//!  1 u8 stratum                             24 u64 origin timestamp: repeats what the client sent at 40
//!  2 i8 poll, log2 seconds                  32 u64 receive timestamp, T2
//!  3 i8 precision, log2 seconds             40 u64 transmit timestamp, T3
//!  4 u32 root delay, 16.16 seconds
//!  8 u32 root dispersion, 16.16 seconds     timestamps: 32.32 seconds since 1900, modulo 2^32 seconds
//! 12 u32 reference id, or the kiss code
//! ```
//!
//! A request carries a random number where its own transmit time would be: the reply repeats it, so that nobody who
//! has not seen the request can answer, and the server learns nothing of our clock.

pub mod client;
pub mod filter;

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use probe_ebpf::time::{RealNs, Span};

use super::Leap;

/// Bytes of a request, and of a reply without extensions.
pub const PACKET_LEN: usize = 48;
/// Seconds from 1900 to 1970.
const TO_UNIX: u64 = 2_208_988_800;
const VERSION: u8 = 4;
const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
/// `MAXDISP` of RFC 5905: beyond it a server knows nothing.
const MOST_DISTANCE: Span = Span::from_secs(16);

/// What a server says instead of the time (RFC 5905, section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kiss {
    /// `DENY`, `RSTR`: do not ask any more. Obeyed until the node ends.
    Denied([u8; 4]),
    /// `RATE`: ask less often. Obeyed.
    TooOften,
    /// Any other: it is not ready, or says something that only other modes need.
    Other([u8; 4]),
}

impl fmt::Display for Kiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(code) => write!(f, "{}: it is not asked again", code.escape_ascii()),
            Self::TooOften => f.write_str("RATE: it is asked less often from now on"),
            Self::Other(code) => write!(f, "{}", code.escape_ascii()),
        }
    }
}

/// Why a server's answer is no reading of the clock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SntpError {
    /// Its name has no address.
    #[error("has no address ({0})")]
    Unresolved(String),
    /// No reply to this request came in time.
    #[error("does not answer (timed out after {} ms, {ignored} packets that answer something else)", after.as_millis())]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// Replies with another origin timestamp that came meanwhile.
        ignored: u32,
    },
    /// The server's host says that nothing listens on that port.
    #[error("does not serve time (the port is closed)")]
    Refused,
    /// The socket failed.
    #[error("cannot be asked ({doing}: {kind})")]
    Io {
        /// The call.
        doing: &'static str,
        /// What it said.
        kind: ErrorKind,
    },
    /// Too short for a reply.
    #[error("sent {got} bytes, fewer than the {PACKET_LEN} of a reply")]
    Length {
        /// Bytes received.
        got: usize,
    },
    /// The reply is to some other request, or forged.
    #[error("sent a reply to another request")]
    Origin,
    /// Not a server's reply in version 3 or 4.
    #[error("sent version {version}, mode {mode}, instead of version {VERSION}, mode {MODE_SERVER}")]
    Kind {
        /// The version.
        version: u8,
        /// The mode.
        mode: u8,
    },
    /// A kiss-o'-death packet.
    #[error("sent a kiss-o'-death, {0}")]
    Kiss(Kiss),
    /// It has no time to give: leap indicator 3, or a stratum above 15.
    #[error("is not synchronised itself (leap indicator {leap}, stratum {stratum})")]
    Unsynchronised {
        /// As received.
        leap: u8,
        /// As received.
        stratum: u8,
    },
    /// Times that cannot be.
    #[error("sent absurd times: {0}")]
    Absurd(&'static str),
}

/// A server's reply that may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The leap second it announces.
    pub leap: Leap,
    /// Distance from a primary clock, 1 to 15.
    pub stratum: u8,
    /// Resolution of its clock.
    pub precision: Span,
    /// Round trip to the primary clock.
    pub root_delay: Span,
    /// Accumulated dispersion.
    pub root_dispersion: Span,
    /// T2 and T3, as NTP timestamps.
    receive: u64,
    transmit: u64,
}

/// A request with this number in the place of its transmit time.
pub fn encode_request(nonce: u64) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[0] = VERSION << 3 | MODE_CLIENT;
    packet[40..].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// 32.32 seconds in nanoseconds, below 2^63.
fn nanos(fixed: u64) -> i64 {
    let ns = (u128::from(fixed) * 1_000_000_000 + (1 << 31)) >> 32;
    ns as i64
}

/// 16.16 seconds, rounded up: these go into bounds.
fn short(fixed: u32) -> Span {
    Span::from_nanos((u64::from(fixed) * 1_000_000_000).div_ceil(1 << 16) as i64)
}

/// An instant of the local clock as an NTP timestamp.
fn timestamp(at: RealNs) -> u64 {
    let since_1970 = at.as_nanos();
    let seconds = since_1970.div_euclid(1_000_000_000) as u64;
    let fraction = ((since_1970.rem_euclid(1_000_000_000) as u64) << 32) / 1_000_000_000;
    (seconds.wrapping_add(TO_UNIX) << 32) | fraction
}

/// `a - b` of two NTP timestamps, where the two are within 68 years of each other: that settles the era (RFC 5905, section 6).
pub(super) fn between_timestamps(a: u64, b: u64) -> Span {
    let apart = a.wrapping_sub(b) as i64;
    let size = Span::from_nanos(nanos(apart.unsigned_abs()));
    if apart < 0 { -size } else { size }
}

/// Time since an NTP timestamp, at `now` on the local clock; negative when it lies in the future.
pub(super) fn timestamp_age(since: u64, now: RealNs) -> Span {
    between_timestamps(timestamp(now), since)
}

impl Reply {
    /// Reads the reply to the request with this `nonce`.
    pub fn decode(bytes: &[u8], nonce: u64) -> Result<Self, SntpError> {
        // What follows the 48 bytes are extensions and signatures that were not asked for.
        let Some(packet) = bytes.first_chunk::<PACKET_LEN>() else {
            return Err(SntpError::Length { got: bytes.len() });
        };
        let u32_at =
            |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        // First of all: what does not repeat our number is not ours to judge.
        if u64_at(24) != nonce {
            return Err(SntpError::Origin);
        }
        let (leap, version, mode) = (packet[0] >> 6, packet[0] >> 3 & 7, packet[0] & 7);
        if !(3..=VERSION).contains(&version) || mode != MODE_SERVER {
            return Err(SntpError::Kind { version, mode });
        }
        let stratum = packet[1];
        if stratum == 0 {
            let code = [packet[12], packet[13], packet[14], packet[15]];
            return Err(SntpError::Kiss(match &code {
                b"DENY" | b"RSTR" => Kiss::Denied(code),
                b"RATE" => Kiss::TooOften,
                _ => Kiss::Other(code),
            }));
        }
        let unsynchronised = SntpError::Unsynchronised { leap, stratum };
        let leap = Leap::from_code(leap.into()).filter(|_| stratum < 16).ok_or(unsynchronised)?;

        let (reference, receive, transmit) = (u64_at(16), u64_at(32), u64_at(40));
        if receive == 0 || transmit == 0 {
            return Err(SntpError::Absurd("its times are missing"));
        }
        if between_timestamps(transmit, receive) < Span::ZERO {
            return Err(SntpError::Absurd("it sent the reply before the request came"));
        }
        if reference == 0 || between_timestamps(transmit, reference) < Span::ZERO {
            return Err(SntpError::Absurd("its clock was last set in the future, or never"));
        }
        let (root_delay, root_dispersion) = (short(u32_at(4)), short(u32_at(8)));
        if root_delay.half_up() + root_dispersion >= MOST_DISTANCE {
            return Err(SntpError::Absurd("its root distance is 16 s or more"));
        }
        let precision = i32::from(packet[3] as i8);
        if precision > 0 {
            return Err(SntpError::Absurd("its clock is no more precise than a second"));
        }
        let precision = Span::from_secs_f64(f64::from(precision).exp2()) + Span::from_nanos(1);
        Ok(Self { leap, stratum, precision, root_delay, root_dispersion, receive, transmit })
    }

    /// What the exchange measured: `theta` (local clock minus server's), and the round trip without the server's own
    /// time. `sent` and `received` are T1 and T4 on the local clock.
    ///
    /// The offset of RFC 5905 section 8, `((T2 - T1) + (T3 - T4)) / 2`, is what is to be *added*: `-theta`.
    pub fn exchange(&self, sent: RealNs, received: RealNs) -> (Span, Span) {
        let forth = between_timestamps(self.receive, timestamp(sent)).as_nanos();
        let back = between_timestamps(self.transmit, timestamp(received)).as_nanos();
        let theta = -((i128::from(forth) + i128::from(back)) / 2);
        let delay = (received - sent) - between_timestamps(self.transmit, self.receive);
        // Half the sum of two i64: it fits.
        (Span::from_nanos(theta as i64), delay)
    }
}

#[cfg(test)]
pub(crate) mod tests;
