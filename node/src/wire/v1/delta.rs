//! Entries that a receiver lacks, node by node.

use std::net::SocketAddr;

use probe_ebpf::parse::PRELUDE_LEN;

use super::digest::EMPTY_MAX;
use super::entry::{Entry, OVERHEAD_MAX};
use super::header::{ADDR_MAX, HEADER_MAX, read_addr, read_id};
use super::reports;
use crate::wire::WireError;
use crate::wire::msgpack::Reader;

/// A delta as received.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// Fresh changes that nobody asked for: to be passed on at once.
    pub eager: bool,
    /// At the first node.
    nodes: Reader<'a>,
    len: usize,
}

/// What a delta says of a node, its entries aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHead<'a> {
    /// The node.
    pub id: &'a str,
    /// Its address.
    pub addr: SocketAddr,
    /// The entries are all changes above this version, up to the last of them: whoever knows less than this
    /// must not apply them, or there would be a hole.
    pub from_version: u64,
    /// The newest version that the sender knows: more than the last entry's when the packet was full.
    pub known_version: u64,
}

/// One node of a received delta.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNode<'a> {
    /// Which node.
    pub head: NodeHead<'a>,
    /// At the first entry.
    entries: Reader<'a>,
    len: usize,
}

impl<'a> Delta<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let eager = r.bool()?;
        let len = r.array()?;
        let nodes = *r;
        for _ in 0..len {
            DeltaNode::read(r)?;
        }
        Ok(Self { eager, nodes, len })
    }
    /// Number of nodes in it.
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Lists it no node?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Its nodes, in the order sent.
    pub fn nodes(&self) -> impl Iterator<Item = DeltaNode<'a>> + use<'a> {
        let mut r = self.nodes;
        // All were read once already, so none is an error.
        (0..self.len).map_while(move |_| DeltaNode::read(&mut r).ok())
    }
}

impl<'a> DeltaNode<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let unknown = r.structure(5)?;
        let head = NodeHead {
            id: read_id(r)?,
            addr: read_addr(r)?,
            from_version: r.uint()?,
            known_version: r.uint()?,
        };
        let len = r.array()?;
        let entries = *r;
        let mut last = head.from_version;
        for _ in 0..len {
            let version = Entry::read(r)?.version;
            if version <= last || version > head.known_version {
                return Err(WireError::Malformed(
                    "versions that do not rise from the first to the known one",
                ));
            }
            last = version;
        }
        r.skip(unknown)?;
        Ok(Self { head, entries, len })
    }
    /// Number of its entries.
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Has it no entry?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Its entries, by rising version.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut r = self.entries;
        (0..self.len).map_while(move |_| Entry::read(&mut r).ok())
    }
}

/// The longest value that fits a packet of `max_packet` bytes under a key of `key_len` bytes of a node whose
/// id has `id_len`, whoever relays it and however large its numbers have grown by then. 0 when there is none.
pub const fn value_limit(max_packet: usize, id_len: usize, key_len: usize) -> usize {
    let packet = PRELUDE_LEN + 1 + HEADER_MAX + 1 + 3 + EMPTY_MAX + reports::EMPTY;
    let node = 1 + (2 + id_len) + ADDR_MAX + 9 + 9 + 3;
    max_packet.saturating_sub(packet + node + OVERHEAD_MAX + key_len)
}
