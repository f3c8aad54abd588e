//! Entries that a receiver lacks, node by node.

use std::net::SocketAddr;

use probe_ebpf::parse::{PRELUDE_LEN, PacketId};

use super::entry::{Entry, OVERHEAD_MAX};
use super::header::{ADDR_MAX, HEADER_MAX, Sender, put_addr, read_addr, read_id};
use super::{Kind, start};
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, patch_len16, put_array, put_array16, put_str, put_uint};

/// A delta as received.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
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
        let len = r.array()?;
        let nodes = *r;
        for _ in 0..len {
            DeltaNode::read(r)?;
        }
        Ok(Self { nodes, len })
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

/// Writes a delta packet at the end of a buffer.
#[derive(Debug)]
pub struct DeltaWriter<'b> {
    out: &'b mut Vec<u8>,
    packet_start: usize,
    max_packet: usize,
    /// Length of a packet without any node.
    empty: usize,
    count_at: usize,
    count: u16,
}

/// What became of one node's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeWritten {
    /// Entries written: always the first ones.
    pub entries: usize,
    /// Entries that found no room.
    pub left_out: usize,
    /// The first of those does not even fit an empty packet: nothing of this node above it can travel.
    pub oversized: bool,
}

impl<'b> DeltaWriter<'b> {
    /// Starts a packet of at most `max_packet` bytes at the end of `out`.
    pub fn new(out: &'b mut Vec<u8>, max_packet: usize, id: PacketId, sender: &Sender<'_>) -> Self {
        let packet_start = out.len();
        start(out, Kind::Delta, 2, id, sender);
        let count_at = out.len();
        put_array16(out);
        let empty = out.len() - packet_start;
        Self { out, packet_start, max_packet, empty, count_at, count: 0 }
    }

    /// Adds as many of a node's `entries` as fit, from the first on. They must be all changes above
    /// `head.from_version` by rising version. A node of which no entry fits is not mentioned.
    pub fn node<'e>(
        &mut self,
        head: &NodeHead<'_>,
        entries: impl IntoIterator<Item = Entry<'e>>,
    ) -> NodeWritten {
        let before = self.out.len();
        put_array(self.out, 5);
        put_str(self.out, head.id);
        put_addr(self.out, head.addr);
        put_uint(self.out, head.from_version);
        put_uint(self.out, head.known_version);
        let entries_at = self.out.len();
        put_array16(self.out);
        let head_len = self.out.len() - before;

        let mut written = NodeWritten::default();
        let mut entries = entries.into_iter();
        for entry in entries.by_ref() {
            let at = self.out.len();
            entry.write(self.out);
            let full = written.entries == usize::from(u16::MAX) || self.count == u16::MAX;
            if full || self.out.len() - self.packet_start > self.max_packet {
                written.oversized = self.empty + head_len + (self.out.len() - at) > self.max_packet;
                written.left_out = 1;
                self.out.truncate(at);
                break;
            }
            written.entries += 1;
        }
        written.left_out += entries.count();
        if written.entries == 0 {
            self.out.truncate(before);
        } else {
            patch_len16(self.out, entries_at, written.entries as u16);
            self.count += 1;
        }
        written
    }

    /// Completes the packet; returns the number of nodes in it.
    pub fn finish(self) -> u16 {
        patch_len16(self.out, self.count_at, self.count);
        self.count
    }
}

/// The longest value that fits a packet of `max_packet` bytes under a key of `key_len` bytes of a node whose
/// id has `id_len`, whoever relays it and however large its numbers have grown by then. 0 when there is none.
pub const fn value_limit(max_packet: usize, id_len: usize, key_len: usize) -> usize {
    let packet = PRELUDE_LEN + 1 + HEADER_MAX + 3;
    let node = 1 + (2 + id_len) + ADDR_MAX + 9 + 9 + 3;
    max_packet.saturating_sub(packet + node + OVERHEAD_MAX + key_len)
}
