//! Writing packets.

use probe_ebpf::parse::{PacketId, Prelude};

use super::digest::{DigestPart, EMPTY_MAX, Listed, Step, Suspect};
use super::header::{Sender, put_addr};
use super::node_ref::StateSum;
use super::reports;
use super::{Entry, Kind, NodeHead, VERSION};
use crate::wire::msgpack::{
    patch_len16, put_array, put_array16, put_bool, put_bytes, put_nil, put_str, put_uint,
};

/// Writes one packet at the end of a buffer, never beyond its limit: first a delta's nodes, then a digest.
#[derive(Debug)]
pub struct PacketWriter<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    max_packet: usize,
    /// Where a delta's array of nodes begins.
    nodes_at: Option<usize>,
    nodes: u16,
    /// Length without any node.
    empty: usize,
    digest: Option<DigestPart>,
}

/// Room that a summary needs which lists nobody, at most.
pub const SUMMARY_MAX: usize = EMPTY_MAX;
/// Room that its absence needs.
const NIL: usize = 1;

/// What became of one node's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeWritten {
    /// Entries written: always the first ones.
    pub entries: usize,
    /// Entries that found no room.
    pub left_out: usize,
    /// The first of those does not even fit an empty packet: nothing of this node above it can travel.
    pub oversized: bool,
    /// Version of the last one written.
    pub last_version: Option<u64>,
}

impl<'b> PacketWriter<'b> {
    fn start(out: &'b mut Vec<u8>, max_packet: usize, kind: Kind, id: PacketId, sender: &Sender<'_>) -> Self {
        let start = out.len();
        out.extend_from_slice(&Prelude { kind: kind as u8, version: VERSION, flags: 0, id }.to_bytes());
        put_array(out, kind.fields());
        sender.write(out);
        let max_packet = max_packet.saturating_sub(reports::EMPTY);
        Self { out, start, max_packet, nodes_at: None, nodes: 0, empty: 0, digest: None }
    }

    /// A packet that is a digest and nothing else, of at most `max_packet` bytes.
    pub fn digest(
        out: &'b mut Vec<u8>,
        max_packet: usize,
        id: PacketId,
        sender: &Sender<'_>,
        step: Step,
        sum: StateSum,
        suspects: &[Suspect],
    ) -> Self {
        let mut w = Self::start(out, max_packet, Kind::Digest, id, sender);
        w.begin_digest(step, sum, suspects);
        w
    }

    /// A delta of at most `max_packet` bytes; `eager`: fresh changes that nobody asked for.
    pub fn delta(
        out: &'b mut Vec<u8>,
        max_packet: usize,
        id: PacketId,
        sender: &Sender<'_>,
        eager: bool,
    ) -> Self {
        let mut w = Self::start(out, max_packet, Kind::Delta, id, sender);
        put_bool(w.out, eager);
        w.nodes_at = Some(w.out.len());
        put_array16(w.out);
        w.empty = w.size();
        w
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.out.len() - self.start
    }

    /// Adds as many of a node's `entries` to a delta as fit, from the first on, and leaves `reserve` bytes free.
    /// They must be all changes above `head.from_version` by rising version. A node of which no entry fits is not
    /// mentioned. In a digest, or after one was begun, nothing is added.
    pub fn node<'e>(
        &mut self,
        head: &NodeHead<'_>,
        entries: impl IntoIterator<Item = Entry<'e>>,
        reserve: usize,
    ) -> NodeWritten {
        let mut written = NodeWritten::default();
        let mut entries = entries.into_iter();
        if self.nodes_at.is_none() || self.digest.is_some() {
            written.left_out = entries.count();
            return written;
        }
        let end = self.start + self.max_packet.saturating_sub(reserve.max(NIL));
        let before = self.out.len();
        put_array(self.out, 5);
        put_str(self.out, head.id);
        put_addr(self.out, head.addr);
        put_uint(self.out, head.from_version);
        put_uint(self.out, head.known_version);
        let entries_at = self.out.len();
        put_array16(self.out);
        let head_len = self.out.len() - before;

        for entry in entries.by_ref() {
            let at = self.out.len();
            entry.write(self.out);
            let full = written.entries == usize::from(u16::MAX) || self.nodes == u16::MAX;
            if full || self.out.len() > end {
                written.oversized =
                    self.empty + head_len + (self.out.len() - at) + SUMMARY_MAX > self.max_packet;
                written.left_out = 1;
                self.out.truncate(at);
                break;
            }
            written.entries += 1;
            written.last_version = Some(entry.version);
        }
        written.left_out += entries.count();
        if written.entries == 0 {
            self.out.truncate(before);
        } else {
            patch_len16(self.out, entries_at, written.entries as u16);
            self.nodes += 1;
        }
        written
    }

    /// After a delta's nodes: a digest in the same packet.
    pub fn begin_digest(&mut self, step: Step, sum: StateSum, suspects: &[Suspect]) {
        if self.digest.is_none() {
            let room = self.max_packet.saturating_sub(self.size() + EMPTY_MAX);
            self.digest = Some(DigestPart::begin(self.out, step, sum, suspects, room / 4));
        }
    }

    /// Adds a node to the digest; `false`, and nothing added, when it does not fit.
    pub fn list(&mut self, listed: Listed) -> bool {
        let end = self.start + self.max_packet;
        self.digest.as_mut().is_some_and(|digest| digest.push(self.out, listed, end))
    }

    /// Nodes listed so far.
    pub fn listed(&self) -> u16 {
        self.digest.as_ref().map_or(0, |digest| digest.count)
    }

    /// Completes the packet; returns its length in bytes.
    pub fn finish(self) -> usize {
        if let Some(at) = self.nodes_at {
            patch_len16(self.out, at, self.nodes);
        }
        match &self.digest {
            Some(digest) => digest.finish(self.out),
            None => put_nil(self.out),
        }
        put_bytes(self.out, &[]);
        self.out.len() - self.start
    }
}
