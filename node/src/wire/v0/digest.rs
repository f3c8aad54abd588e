//! Which versions a node knows.

use super::header::{Sender, Third, as_addr, as_id};
use super::{DIGEST, VERSION};
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, put_bool, put_map, put_raw, put_uint};

/// A digest as received.
#[derive(Clone, Copy, Debug)]
pub struct Digest<'a> {
    /// At the first entry.
    entries: Reader<'a>,
    /// Number of items in it, refused ones included.
    items: usize,
    refused: usize,
}

/// One node in a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestEntry<'a> {
    /// The node.
    pub id: &'a str,
    /// Its address as text, [as the header's](super::Header::addr).
    pub addr: &'a str,
    /// The newest of its versions that the sender knows.
    pub version: u64,
    /// It has left the cluster.
    pub left: bool,
}

impl<'a> DigestEntry<'a> {
    /// `None` when id or address are no such things.
    fn read(r: &mut Reader<'a>) -> Result<Option<Self>, WireError> {
        let (mut id, mut addr, mut version, mut left): (&[u8], &[u8], _, _) = (&[], &[], 0, false);
        r.fields(&["id", "addr", "version", "left"], |index, r| {
            match index {
                0 => id = r.bytes_or_nil()?,
                1 => addr = r.bytes_or_nil()?,
                2 => version = r.uint_or_nil()?,
                _ => left = r.bool_or_nil()?,
            }
            Ok(())
        })?;
        Ok(as_id(id).zip(as_addr(addr)).map(|(id, addr)| Self { id, addr, version, left }))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_map(out, 4);
        put_raw(out, b"id");
        put_raw(out, self.id.as_bytes());
        put_raw(out, b"addr");
        put_raw(out, self.addr.as_bytes());
        put_raw(out, b"version");
        put_uint(out, self.version);
        put_raw(out, b"left");
        put_bool(out, self.left);
    }
}

impl<'a> Digest<'a> {
    /// All that comes, up to the last that is complete.
    pub(super) fn read(mut r: Reader<'a>) -> Result<Self, WireError> {
        let mut digest = Self { entries: r, items: 0, refused: 0 };
        while !r.rest().is_empty() {
            match DigestEntry::read(&mut r) {
                Ok(entry) => digest.count(entry.is_some()),
                Err(WireError::Truncated) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(digest)
    }
    /// An array of `items`, all of which must be there.
    pub(super) fn read_array(r: &mut Reader<'a>, items: usize) -> Result<Self, WireError> {
        let mut digest = Self { entries: *r, items: 0, refused: 0 };
        for _ in 0..items {
            digest.count(DigestEntry::read(r)?.is_some());
        }
        Ok(digest)
    }
    fn count(&mut self, good: bool) {
        self.items += 1;
        self.refused += usize::from(!good);
    }

    /// Number of nodes in it.
    pub const fn len(&self) -> usize {
        self.items - self.refused
    }
    /// Lists it no node?
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Items left out because of their id (not 1 to 255 bytes of UTF-8) or address (not UTF-8, or overlong).
    pub const fn refused(&self) -> usize {
        self.refused
    }
    /// Its nodes, in the order sent.
    pub fn entries(&self) -> impl Iterator<Item = DigestEntry<'a>> + use<'a> {
        let mut r = self.entries;
        // All were read once already, so none is an error.
        (0..self.items).map_while(move |_| DigestEntry::read(&mut r).ok()).flatten()
    }
}

/// Writes a digest packet at the end of a buffer.
#[derive(Debug)]
pub struct DigestWriter<'b> {
    out: &'b mut Vec<u8>,
    packet_start: usize,
    max_packet: usize,
    count: usize,
}

impl<'b> DigestWriter<'b> {
    /// Starts a packet of at most `max_packet` bytes at the end of `out`.
    pub fn new(out: &'b mut Vec<u8>, max_packet: usize, sender: &Sender<'_>, request: bool) -> Self {
        let packet_start = out.len();
        out.extend_from_slice(&[DIGEST, VERSION]);
        sender.write(out, Third::Request(request));
        Self { out, packet_start, max_packet, count: 0 }
    }
    /// Adds a node; `false`, and nothing added, when it does not fit.
    pub fn push(&mut self, entry: &DigestEntry<'_>) -> bool {
        let before = self.out.len();
        entry.write(self.out);
        let fits = self.size() <= self.max_packet;
        if fits {
            self.count += 1
        } else {
            self.out.truncate(before)
        }
        fits
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
