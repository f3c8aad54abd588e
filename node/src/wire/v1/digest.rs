//! Which versions a node knows.

use super::node_ref::{NodeRef, StateSum};
use crate::wire::msgpack::{Reader, put_array, put_bytes, put_u64, put_uint};
use crate::wire::{WireError, leb128};

/// What a digest is for: its place in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Step {
    /// Begins an exchange; to be answered.
    Request = 0,
    /// Answers a request: what is newer here than listed there is in the delta that carries it, what is older here
    /// is listed, and if that does not explain the difference, more.
    Answer = 1,
    /// Asks for what is listed, and wants nothing else.
    Pull = 2,
    /// Says what changed lately: whoever knows less asks for it.
    Offer = 3,
}

impl Step {
    const ALL: [Self; 4] = [Self::Request, Self::Answer, Self::Pull, Self::Offer];
}

/// A digest as received.
#[derive(Clone, Copy, Debug)]
pub struct Digest<'a> {
    /// Its place in an exchange.
    pub step: Step,
    /// Over all nodes that the sender knows.
    pub sum: StateSum,
    suspects: &'a [u8],
    listed: &'a [u8],
}

/// A node in a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The node.
    pub node: NodeRef,
    /// The newest of its versions that the sender knows; 0 for an unknown one that it asks for.
    pub version: u64,
}

/// A node that is suspected to be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The node.
    pub node: NodeRef,
    /// The newest of its versions that the accuser knows: a newer one clears it.
    pub version: u64,
    /// Who asked it in vain.
    pub by: NodeRef,
}

/// Reads `(node, number)` pairs: 6 bytes, then a number in 7-bit groups, least first (LEB128).
#[derive(Clone, Debug)]
struct Pairs<'a>(&'a [u8]);

impl Pairs<'_> {
    fn read(&mut self) -> Result<Option<(NodeRef, u64)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (node, mut rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        let number = leb128::take(&mut rest)?;
        self.0 = rest;
        Ok(Some((NodeRef::from_bytes(*node), number)))
    }

    /// A pair with the accuser's name behind it.
    fn next_suspect(&mut self) -> Result<Option<Suspect>, WireError> {
        let Some((node, version)) = self.read()? else { return Ok(None) };
        let (by, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(Some(Suspect { node, version, by: NodeRef::from_bytes(*by) }))
    }
}

impl Iterator for Pairs<'_> {
    type Item = (NodeRef, u64);

    fn next(&mut self) -> Option<Self::Item> {
        // All were read once already, so none is an error.
        self.read().ok().flatten()
    }
}

fn put_pair(out: &mut Vec<u8>, node: NodeRef, number: u64) {
    out.extend_from_slice(&node.to_bytes());
    leb128::put(out, number);
}

impl<'a> Digest<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let unknown = r.structure(4)?;
        let step = r.uint()?;
        let step = (Step::ALL.into_iter().find(|s| *s as u64 == step))
            .ok_or(WireError::Malformed("an unknown step of an exchange"))?;
        let sum = StateSum::from_u64(r.uint()?);
        let (suspects, listed) = (r.bytes()?, r.bytes()?);
        r.skip(unknown)?;
        let (mut checked, mut accused) = (Pairs(listed), Pairs(suspects));
        while checked.read()?.is_some() {}
        while accused.next_suspect()?.is_some() {}
        Ok(Self { step, sum, suspects, listed })
    }
    /// Its nodes, in the order sent.
    pub fn listed(&self) -> impl Iterator<Item = Listed> + Clone + use<'a> {
        Pairs(self.listed).map(|(node, version)| Listed { node, version })
    }
    /// Who may be dead.
    pub fn suspects(&self) -> impl Iterator<Item = Suspect> + use<'a> {
        let mut pairs = Pairs(self.suspects);
        std::iter::from_fn(move || pairs.next_suspect().ok().flatten())
    }
    /// Lists it no node?
    pub const fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }
}

/// Bytes of a digest that lists nobody, at most, apart from suspects.
pub(super) const EMPTY_MAX: usize = 1 + 1 + 9 + 3 + 3;
/// Bytes of one pair, at most.
const PAIR_MAX: usize = NodeRef::LEN + leb128::MAX;

/// Appends a digest to a packet: nodes are added one by one as far as there is room.
#[derive(Debug)]
pub(super) struct DigestPart {
    listed_at: usize,
    pub(super) count: u16,
}

impl DigestPart {
    /// Starts it, with as many of the suspects as fit `suspect_room` bytes: the rest goes with another packet.
    pub(super) fn begin(
        out: &mut Vec<u8>,
        step: Step,
        sum: StateSum,
        suspects: &[Suspect],
        suspect_room: usize,
    ) -> Self {
        put_array(out, 4);
        put_uint(out, step as u64);
        put_u64(out, sum.to_u64());
        let at = out.len();
        put_bytes(out, &[]);
        for suspect in suspects {
            if out.len() - at - 2 + PAIR_MAX + NodeRef::LEN > suspect_room.min(0xff) {
                break;
            }
            put_pair(out, suspect.node, suspect.version);
            out.extend_from_slice(&suspect.by.to_bytes());
        }
        out[at + 1] = (out.len() - at - 2) as u8;
        let listed_at = out.len();
        out.extend_from_slice(&[0xc5, 0, 0]);
        Self { listed_at, count: 0 }
    }
    /// Adds a node; `false`, and nothing added, when `out` would be longer than `end`.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, listed: Listed, end: usize) -> bool {
        let before = out.len();
        put_pair(out, listed.node, listed.version);
        let fits = out.len() <= end && out.len() - self.listed_at - 3 <= 0xffff;
        if fits {
            self.count += 1
        } else {
            out.truncate(before)
        }
        fits
    }
    /// Completes it.
    pub(super) fn finish(&self, out: &mut [u8]) {
        let len = (out.len() - self.listed_at - 3) as u16;
        out[self.listed_at + 1..self.listed_at + 3].copy_from_slice(&len.to_be_bytes());
    }
}
