//! Entries that a receiver lacks, node by node.

use super::entry::{Entry, OVERHEAD_MAX};
use super::header::{Sender, Third, as_addr, as_id, key_size, size_max};
use super::{DELTA, VERSION};
use crate::wire::msgpack::{Reader, put_map, put_raw, put_signed, raw_size};
use crate::wire::{ID_MAX, WireError};

/// A delta as received.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// At the first node.
    nodes: Reader<'a>,
    /// How nodes are laid out.
    layout: Layout,
    /// Number of items in it, refused ones included.
    items: usize,
    refused: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// A map with the number of entries, and the entries behind it.
    Datagram,
    /// A map with the array of entries in it.
    Stream,
}

/// What a delta says of a node, its entries aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHead<'a> {
    /// The node.
    pub id: &'a str,
    /// Its address as text, [as the header's](super::Header::addr).
    pub addr: &'a str,
}

/// One node of a received delta.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNode<'a> {
    /// Which node.
    pub head: NodeHead<'a>,
    /// How many entries the sender had for the receiver, by its word: more than [`len`](Self::len) when the packet
    /// was full. Negative means that all of the packet's rest are entries.
    pub declared: i64,
    /// The entries, and nothing else.
    entries: Reader<'a>,
    len: usize,
}

impl<'a> Delta<'a> {
    /// All that comes, up to the last that is complete.
    pub(super) fn read(mut r: Reader<'a>) -> Result<Self, WireError> {
        let mut delta = Self { nodes: r, layout: Layout::Datagram, items: 0, refused: 0 };
        while !r.rest().is_empty() {
            match DeltaNode::read_datagram(&mut r) {
                Ok(node) => delta.count(node.is_some()),
                Err(WireError::Truncated) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(delta)
    }
    /// An array of `items`, all of which must be there, and the number of their entries.
    pub(super) fn read_array(
        r: &mut Reader<'a>,
        items: usize,
        max_entries: usize,
    ) -> Result<Self, WireError> {
        let mut delta = Self { nodes: *r, layout: Layout::Stream, items: 0, refused: 0 };
        let mut left = max_entries;
        for _ in 0..items {
            delta.count(DeltaNode::read_stream(r, &mut left)?.is_some());
        }
        Ok(delta)
    }
    fn count(&mut self, good: bool) {
        self.items += 1;
        self.refused += usize::from(!good);
    }

    /// Number of nodes in it.
    pub const fn len(&self) -> usize {
        self.items - self.refused
    }
    /// Has it no node? Then it is but a heartbeat.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Nodes left out, with their entries, because of their id (not 1 to 255 bytes of UTF-8) or address (not UTF-8,
    /// or overlong). Entries beyond the number that their node declares count as well: they are read as nodes
    /// without an id.
    pub const fn refused(&self) -> usize {
        self.refused
    }
    /// Its nodes, in the order sent.
    pub fn nodes(&self) -> impl Iterator<Item = DeltaNode<'a>> + use<'a> {
        let (mut r, layout) = (self.nodes, self.layout);
        // All were read once already, so none is an error.
        let next = move |_| match layout {
            Layout::Datagram => DeltaNode::read_datagram(&mut r).ok(),
            Layout::Stream => DeltaNode::read_stream(&mut r, &mut { usize::MAX }).ok(),
        };
        (0..self.items).map_while(next).flatten()
    }
}

impl<'a> DeltaNode<'a> {
    /// A node and its entries up to the last that is complete; `None` when id or address are no such things.
    fn read_datagram(r: &mut Reader<'a>) -> Result<Option<Self>, WireError> {
        let (mut id, mut addr, mut declared): (&[u8], &[u8], _) = (&[], &[], 0);
        r.fields(&["node_id", "addr", "entries"], |index, r| {
            match index {
                0 => id = r.bytes_or_nil()?,
                1 => addr = r.bytes_or_nil()?,
                _ => declared = r.int_or_nil()?,
            }
            Ok(())
        })?;
        let start = *r;
        let mut len = 0;
        while !r.rest().is_empty() && usize::try_from(declared).map_or(true, |declared| len < declared) {
            let before = *r;
            match Entry::read(r) {
                Ok(_) => len += 1,
                Err(WireError::Truncated) => {
                    // Nothing can follow an entry that was cut.
                    *r = Reader::new(&[]);
                    return Ok(Self::new(id, addr, declared, start.until(&before), len));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self::new(id, addr, declared, start.until(r), len))
    }

    /// A node with its entries, of which there may be as many as are `left`.
    fn read_stream(r: &mut Reader<'a>, left: &mut usize) -> Result<Option<Self>, WireError> {
        let (mut id, mut addr): (&[u8], &[u8]) = (&[], &[]);
        let (mut entries, mut len) = (Reader::new(&[]), 0);
        r.fields(&["id", "addr", "entries"], |index, r| {
            match index {
                0 => id = r.bytes_or_nil()?,
                1 => addr = r.bytes_or_nil()?,
                _ => {
                    len = r.array_or_nil()?;
                    *left = left.checked_sub(len).ok_or(WireError::TooLarge("too many entries"))?;
                    let start = *r;
                    for _ in 0..len {
                        Entry::read(r)?;
                    }
                    entries = start.until(r);
                }
            }
            Ok(())
        })?;
        Ok(Self::new(id, addr, len as i64, entries, len))
    }

    fn new(id: &'a [u8], addr: &'a [u8], declared: i64, entries: Reader<'a>, len: usize) -> Option<Self> {
        let head = NodeHead { id: as_id(id)?, addr: as_addr(addr)? };
        Some(Self { head, declared, entries, len })
    }

    /// Number of its entries that are there.
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Has it no entry?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Its entries, in the order sent. Nothing is said about their versions: a sender's mistakes are all in there.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut r = self.entries;
        (0..self.len).map_while(move |_| Entry::read(&mut r).ok())
    }
}

/// What a [`DeltaWriter`] does with a node of which no entry fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Writes its head if that fits, and ends the packet.
    AsPiko,
    /// Does not mention it; a node with smaller entries may still follow.
    Whole,
}

/// Writes a delta packet at the end of a buffer.
#[derive(Debug)]
pub struct DeltaWriter<'b> {
    out: &'b mut Vec<u8>,
    packet_start: usize,
    max_packet: usize,
    cut: Cut,
    /// Length of a packet without any node.
    empty: usize,
    count: usize,
    /// A node was cut. What came next would be taken for one of its entries.
    full: bool,
}

/// What became of one node's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeWritten {
    /// The node is mentioned.
    pub head: bool,
    /// Entries written: always the first ones.
    pub entries: usize,
    /// Entries that found no room.
    pub left_out: usize,
    /// The first of those does not even fit an empty packet: nothing of this node above it can travel.
    pub oversized: bool,
}

impl<'b> DeltaWriter<'b> {
    /// Starts a packet of at most `max_packet` bytes at the end of `out`.
    pub fn new(out: &'b mut Vec<u8>, max_packet: usize, sender: &Sender<'_>, cut: Cut) -> Self {
        let packet_start = out.len();
        out.extend_from_slice(&[DELTA, VERSION]);
        sender.write(out, Third::NoEntries);
        let empty = out.len() - packet_start;
        Self { out, packet_start, max_packet, cut, empty, count: 0, full: false }
    }

    /// Adds as many of a node's `entries` as fit, from the first on. They must be all changes above the receiver's
    /// version, by rising version. The node's head says how many they are, even if fewer fit; then the packet is
    /// full. A node without entries is mentioned.
    pub fn node<'e, I>(&mut self, head: &NodeHead<'_>, entries: I) -> NodeWritten
    where
        I: IntoIterator<Item = Entry<'e>>,
        I::IntoIter: Clone,
    {
        let entries = entries.into_iter();
        let declared = entries.clone().count();
        let mut written = NodeWritten { left_out: declared, ..NodeWritten::default() };
        if self.full {
            return written;
        }
        let before = self.out.len();
        put_map(self.out, 3);
        put_raw(self.out, b"node_id");
        put_raw(self.out, head.id.as_bytes());
        put_raw(self.out, b"addr");
        put_raw(self.out, head.addr.as_bytes());
        put_raw(self.out, b"entries");
        put_signed(self.out, i64::try_from(declared).unwrap_or(i64::MAX));
        let head_len = self.out.len() - before;
        written.head = self.size() <= self.max_packet;

        for entry in entries {
            let at = self.out.len();
            entry.write(self.out);
            if self.size() > self.max_packet {
                written.oversized = self.empty + head_len + (self.out.len() - at) > self.max_packet;
                self.out.truncate(at);
                break;
            }
            written.entries += 1;
        }
        written.left_out -= written.entries;
        let cut = written.left_out > 0;
        if !written.head || (cut && written.entries == 0 && self.cut == Cut::Whole) {
            written.head = false;
            self.out.truncate(before);
        }
        self.full = cut && (written.head || self.cut == Cut::AsPiko);
        self.count += usize::from(written.head);
        written
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.out.len() - self.packet_start
    }
    /// Number of nodes in it; it needs no completion.
    pub fn finish(self) -> usize {
        self.count
    }
}

/// The longest value that fits a packet of `max_packet` bytes under a key of `key_len` bytes of a node whose id has
/// `id_len` and whose address has `addr_len`, whoever relays it and however large its numbers have grown by then. 0
/// when there is none.
pub const fn value_limit(max_packet: usize, id_len: usize, addr_len: usize, key_len: usize) -> usize {
    /// A host name and a port.
    const RELAY_ADDR_MAX: usize = 253 + 6;
    let packet = 2 + size_max(ID_MAX, RELAY_ADDR_MAX);
    let node = 1
        + (key_size("node_id") + raw_size(id_len))
        + (key_size("addr") + raw_size(addr_len))
        + (key_size("entries") + 5);
    let fixed = packet + node + OVERHEAD_MAX + raw_size(key_len);
    // A length that needs more bytes than the limit leaves is no length: those between two forms are left unused.
    let room = max_packet.saturating_sub(fixed);
    if room <= 32 {
        room.saturating_sub(1)
    } else if room <= 3 + 0xffff {
        let long = room - 3;
        if long < 32 { 31 } else { long }
    } else {
        let longest = room - 5;
        if longest < 0x1_0000 { 0xffff } else { longest }
    }
}
