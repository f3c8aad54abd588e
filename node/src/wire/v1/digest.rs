//! Which versions a node knows.

use std::net::SocketAddr;

use probe_ebpf::parse::PacketId;

use super::header::{Sender, put_addr, read_addr, read_id};
use super::{Kind, start};
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, patch_len16, put_array, put_array16, put_bool, put_str, put_uint};

/// A digest as received.
#[derive(Clone, Copy, Debug)]
pub struct Digest<'a> {
    /// Does the sender want a digest in return?
    pub request: bool,
    /// At the first entry.
    entries: Reader<'a>,
    len: usize,
}

/// One node in a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestEntry<'a> {
    /// The node.
    pub id: &'a str,
    /// Its address.
    pub addr: SocketAddr,
    /// The newest of its versions that the sender knows.
    pub version: u64,
    /// It has left the cluster.
    pub left: bool,
}

impl<'a> DigestEntry<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let unknown = r.structure(4)?;
        let entry = Self { id: read_id(r)?, addr: read_addr(r)?, version: r.uint()?, left: r.bool()? };
        r.skip(unknown)?;
        Ok(entry)
    }
}

impl<'a> Digest<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let request = r.bool()?;
        let len = r.array()?;
        let entries = *r;
        for _ in 0..len {
            DigestEntry::read(r)?;
        }
        Ok(Self { request, entries, len })
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
    pub fn entries(&self) -> impl Iterator<Item = DigestEntry<'a>> + use<'a> {
        let mut r = self.entries;
        // All were read once already, so none is an error.
        (0..self.len).map_while(move |_| DigestEntry::read(&mut r).ok())
    }
}

/// Writes a digest packet at the end of a buffer.
#[derive(Debug)]
pub struct DigestWriter<'b> {
    out: &'b mut Vec<u8>,
    packet_start: usize,
    max_packet: usize,
    count_at: usize,
    count: u16,
}

impl<'b> DigestWriter<'b> {
    /// Starts a packet of at most `max_packet` bytes at the end of `out`.
    pub fn new(
        out: &'b mut Vec<u8>,
        max_packet: usize,
        id: PacketId,
        sender: &Sender<'_>,
        request: bool,
    ) -> Self {
        let packet_start = out.len();
        start(out, Kind::Digest, 3, id, sender);
        put_bool(out, request);
        let count_at = out.len();
        put_array16(out);
        Self { out, packet_start, max_packet, count_at, count: 0 }
    }
    /// Adds a node; `false`, and nothing added, when it does not fit.
    pub fn push(&mut self, entry: &DigestEntry<'_>) -> bool {
        let before = self.out.len();
        put_array(self.out, 4);
        put_str(self.out, entry.id);
        put_addr(self.out, entry.addr);
        put_uint(self.out, entry.version);
        put_bool(self.out, entry.left);
        let fits = self.out.len() - self.packet_start <= self.max_packet && self.count < u16::MAX;
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
    /// Completes the packet; returns the number of nodes in it.
    pub fn finish(self) -> u16 {
        patch_len16(self.out, self.count_at, self.count);
        self.count
    }
}
