//! Version 0: the gossip format of Piko (github.com/andydunstall/piko, `pkg/gossip`), byte for byte.
//!
//! A datagram is two bytes, message type and version, and then MessagePack maps one after the other, with no array
//! around them. Writers put keys in the order below and never leave one out.
//!
//! ```text
//! digest  01 00 header {id addr version left}...
//! delta   02 00 header [{node_id addr entries} {key value version internal deleted}...]...
//! header  {node_id addr request} of a digest, {node_id addr entries} of a delta (entries = 0)
//! ```
//!
//! A node's `entries` is how many follow, or would have, had the packet not been full: the end of the data, wherever
//! it comes after the header, is a clean end of the packet. `value` is a MessagePack string of any bytes. A header
//! may have the field `max_version` behind the others, which is ours: Piko skips fields that it does not know.
//!
//! Reading takes what Piko's decoder takes, which is much ([`decode`]); what one node of a packet has wrong does not
//! cost the others: it is left out and counted as refused. Messages over TCP are in [`stream`].

mod delta;
mod digest;
mod entry;
mod header;
pub mod stream;
#[cfg(test)]
mod tests;

pub use delta::{Cut, Delta, DeltaNode, DeltaWriter, NodeHead, NodeWritten, value_limit};
pub use digest::{Digest, DigestEntry, DigestWriter};
pub use entry::Entry;
pub use header::{Header, Sender};

use super::WireError;
use super::msgpack::Reader;

/// The version byte.
pub const VERSION: u8 = 0;
/// Longest address that is taken, in bytes: no name of a host with a port needs as many.
pub const ADDR_MAX: usize = 512;

/// Type bytes.
const DIGEST: u8 = 1;
const DELTA: u8 = 2;

/// A datagram, checked to its last byte; borrows from it.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// Which versions the sender knows.
    Digest {
        /// Who sent it.
        header: Header<'a>,
        /// Does the sender want a digest in return? (It wants a delta in any case: to it, that is the heartbeat.)
        request: bool,
        /// What it knows.
        digest: Digest<'a>,
    },
    /// Entries that the receiver lacks; without any, a heartbeat.
    Delta {
        /// Who sent it.
        header: Header<'a>,
        /// The entries, node by node.
        delta: Delta<'a>,
    },
}

impl<'a> Packet<'a> {
    /// Who sent it.
    pub const fn header(&self) -> &Header<'a> {
        match self {
            Self::Digest { header, .. } | Self::Delta { header, .. } => header,
        }
    }
}

/// Reads a datagram, as leniently as Piko does: keys in any order, unknown ones skipped, missing ones zero, of
/// repeated ones the last; structures as arrays; nil for any value; any width of integer, whole floats, 0 and 1 as
/// booleans; any form of string or binary; a clean end anywhere after the header.
///
/// # Errors
/// `Truncated` when it ends within the header, `BadId` and `BadAddress` for the sender's, `Malformed` and `TooLarge`
/// for an item of another type or beyond 64 bits wherever it is; see [`WireError`].
pub fn decode(datagram: &[u8]) -> Result<Packet<'_>, WireError> {
    let (kind, body) = prelude(datagram)?;
    let mut r = Reader::new(body);
    match kind {
        DIGEST => {
            let (header, request) = Header::read_of_digest(&mut r)?;
            Ok(Packet::Digest { header, request, digest: Digest::read(r)? })
        }
        DELTA => {
            let header = Header::read(&mut r)?;
            Ok(Packet::Delta { header, delta: Delta::read(r)? })
        }
        other => Err(WireError::UnknownType(other)),
    }
}

/// The type byte, and what comes after the version byte.
fn prelude(bytes: &[u8]) -> Result<(u8, &[u8]), WireError> {
    match bytes {
        [kind, VERSION, body @ ..] => Ok((*kind, body)),
        [_, version, ..] => Err(WireError::WrongVersion(*version)),
        _ => Err(WireError::Truncated),
    }
}
