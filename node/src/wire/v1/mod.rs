//! Version 1, pikoscope's own format (DESIGN section 4).
//!
//! A packet is the 12-byte [`Prelude`] and one MessagePack array. Structures are arrays; elements after those
//! listed here are skipped, so that a later version can add some.
//!
//! ```text
//! digest  [header, summary, reports]
//! delta   [header, eager bool, [[id, addr, from_version, known_version, [entry...]]...], summary or nil, reports]
//! summary [step, sum, suspects, listed]         step: 0 request, 1 answer, 2 pull, 3 offer
//!         listed: bytes, pairs of node (6 bytes) and version (LEB128); suspects: the same, each with its accuser
//! header  [id, sent_wall_ns, t1_minus_t0_ns, [theta_ns, bound_ns, state, source, epoch],
//!          packet id that this answers, or nil]        epoch: of the wall clock, modulo 128
//! reports bytes: timing reports, see [`Report`]
//! entry   [key or its number, value, version, flags, stamp or nil]    flags: 1 internal, 2 deleted, 4 re-versioned
//! stamp   [created_ms, created_sub_ms_ns, theta_ns, bound_ns, hops, network, kernel, trace_id or nil, egress]
//!         egress, of senders' T1 to T3, left out when 0: 1 some estimated, 2 some inside of network
//!         network, kernel: [value_ns, bound_ns], or nil where some hop could not measure it
//! addr    bytes: IPv4 (4) or IPv6 (16), then the port, big-endian (2)
//! ```
//!
//! The five numbers of the header's clock and the two times before it always take the same space, so that
//! [`stamp()`] can overwrite them in a finished packet at the last moment before it is sent.

mod delta;
mod digest;
mod entry;
mod header;
mod node_ref;
mod reports;
mod writer;

pub use delta::{Delta, DeltaNode, NodeHead, value_limit};
pub use digest::{Digest, Listed, Step, Suspect};
pub use entry::{Egress, Entry, EntryStamp};
pub use header::{Header, Sender, stamp};
pub use node_ref::{NodeRef, StateSum};
pub use reports::{LossReport, REPORTS_MAX, Receipt, Report, Reports, Sending, Tail};
pub use writer::{NodeWritten, PacketWriter, SUMMARY_MAX};

use probe_ebpf::parse::{PRELUDE_LEN, PacketId, Prelude};

use super::msgpack::Reader;
use super::{PACKET_MAX, WireError};

/// The version byte.
pub const VERSION: u8 = 1;
/// Bit 0 of the prelude's flags: the body is sealed.
const SEALED: u16 = 1;

/// What a packet is; the number is its type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Which versions the sender knows.
    Digest = 1,
    /// Entries that the receiver lacks.
    Delta = 2,
}

/// A packet, checked to its last byte; borrows from the datagram.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The sender's id for it.
    pub id: PacketId,
    /// Who sent it and when.
    pub header: Header<'a>,
    /// Entries that the receiver lacks; `None` in a packet that is only a digest.
    pub delta: Option<Delta<'a>>,
    /// Which versions the sender knows; always there in a packet without a delta.
    pub digest: Option<Digest<'a>>,
    /// What the sender tells of earlier packets between the two.
    pub reports: Reports<'a>,
}

impl Kind {
    const fn fields(self) -> u8 {
        match self {
            Self::Digest => 3,
            Self::Delta => 5,
        }
    }
}

impl Packet<'_> {
    /// Which of the two it is.
    pub const fn kind(&self) -> Kind {
        if self.delta.is_some() { Kind::Delta } else { Kind::Digest }
    }
}

/// Reads a datagram. All of it is checked before anything is returned.
///
/// # Errors
/// See [`WireError`].
pub fn decode(datagram: &[u8]) -> Result<Packet<'_>, WireError> {
    if datagram.len() > PACKET_MAX {
        return Err(WireError::TooLarge("longer than a UDP datagram"));
    }
    if let Some(&version) = datagram.get(1)
        && version != VERSION
    {
        return Err(WireError::WrongVersion(version));
    }
    let prelude = Prelude::parse(datagram).ok_or(WireError::Truncated)?;
    let kind = match prelude.kind {
        1 => Kind::Digest,
        2 => Kind::Delta,
        other => return Err(WireError::UnknownType(other)),
    };
    if prelude.flags & SEALED != 0 {
        return Err(WireError::Sealed);
    }
    let mut r = Reader::new(&datagram[PRELUDE_LEN..]);
    let unknown = r.structure(kind.fields().into())?;
    let header = Header::read(&mut r)?;
    let (delta, digest) = match kind {
        Kind::Digest => (None, Some(Digest::read(&mut r)?)),
        Kind::Delta => (Some(Delta::read(&mut r)?), if r.nil() { None } else { Some(Digest::read(&mut r)?) }),
    };
    let reports = Reports::read(r.bytes()?)?;
    r.skip(unknown)?;
    if r.rest().is_empty() {
        Ok(Packet { id: prelude.id, header, delta, digest, reports })
    } else {
        Err(WireError::Trailing)
    }
}

#[cfg(test)]
mod tests;
