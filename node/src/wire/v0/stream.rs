//! Messages over TCP: a node joins, or leaves.
//!
//! ```text
//! join   03 00 header [node...] [{id addr version left}...]   ->  header [node...]
//! leave  04 00 header [node...]                               ->  header
//! header {node_id addr}      node {id addr [{key value version internal deleted}...]}
//! ```
//!
//! Lists without an element are nil. Nothing says how long a message is: [`Framing`] finds its end as bytes arrive,
//! then one of the decoders reads it at once.

use super::delta::{Delta, NodeHead};
use super::digest::{Digest, DigestEntry};
use super::entry::Entry;
use super::header::{Header, Sender, Third};
use super::{VERSION, prelude};
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, Skipping, put_list, put_map, put_nil, put_raw};

/// Type bytes.
const JOIN: u8 = 3;
const LEAVE: u8 = 4;

/// How much of a message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the message.
    pub bytes: usize,
    /// Nodes in its delta, and again in its digest.
    pub nodes: usize,
    /// Entries in its delta.
    pub entries: usize,
}

/// What a node asks for.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// To become a member.
    Join {
        /// Who.
        header: Header<'a>,
        /// Its own entries.
        delta: Delta<'a>,
        /// What it knows already; the answer is what it lacks.
        digest: Digest<'a>,
    },
    /// To be known to have left.
    Leave {
        /// Who.
        header: Header<'a>,
        /// Its own entries, with the one that says so.
        delta: Delta<'a>,
    },
}

/// The answer to a join: what the new member lacks.
#[derive(Clone, Copy, Debug)]
pub struct JoinResponse<'a> {
    /// Who answers.
    pub header: Header<'a>,
    /// Entries, node by node.
    pub delta: Delta<'a>,
}

/// A node with all that is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Which node.
    pub head: NodeHead<'a>,
    /// Its entries, by rising version.
    pub entries: Vec<Entry<'a>>,
}

/// Reads a whole request.
///
/// # Errors
/// `Truncated` when it is not whole, `Trailing` when it is not all, `TooLarge` beyond `limits`; see [`WireError`].
pub fn decode_request<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Request<'a>, WireError> {
    let (kind, body) = prelude(within(bytes, limits)?)?;
    let mut r = Reader::new(body);
    let request = match kind {
        JOIN => Request::Join {
            header: Header::read(&mut r)?,
            delta: read_delta(&mut r, limits)?,
            digest: read_digest(&mut r, limits)?,
        },
        LEAVE => Request::Leave { header: Header::read(&mut r)?, delta: read_delta(&mut r, limits)? },
        other => return Err(WireError::UnknownType(other)),
    };
    end(&r)?;
    Ok(request)
}

/// Reads the whole answer to a join.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_join_response<'a>(bytes: &'a [u8], limits: &Limits) -> Result<JoinResponse<'a>, WireError> {
    let mut r = Reader::new(within(bytes, limits)?);
    let response = JoinResponse { header: Header::read(&mut r)?, delta: read_delta(&mut r, limits)? };
    end(&r)?;
    Ok(response)
}

/// Reads the whole answer to a leave: who answers.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_leave_response<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Header<'a>, WireError> {
    let mut r = Reader::new(within(bytes, limits)?);
    let header = Header::read(&mut r)?;
    end(&r)?;
    Ok(header)
}

fn within<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a [u8], WireError> {
    if bytes.len() > limits.bytes { Err(WireError::TooLarge("too long a message")) } else { Ok(bytes) }
}
fn end(r: &Reader<'_>) -> Result<(), WireError> {
    if r.rest().is_empty() { Ok(()) } else { Err(WireError::Trailing) }
}
fn read_delta<'a>(r: &mut Reader<'a>, limits: &Limits) -> Result<Delta<'a>, WireError> {
    let nodes = read_len(r, limits)?;
    Delta::read_array(r, nodes, limits.entries)
}
fn read_digest<'a>(r: &mut Reader<'a>, limits: &Limits) -> Result<Digest<'a>, WireError> {
    let nodes = read_len(r, limits)?;
    Digest::read_array(r, nodes)
}
fn read_len(r: &mut Reader<'_>, limits: &Limits) -> Result<usize, WireError> {
    let nodes = r.array_or_nil()?;
    if nodes > limits.nodes { Err(WireError::TooLarge("too many nodes")) } else { Ok(nodes) }
}

/// Finds the end of a message whose bytes arrive bit by bit, in a time that grows with the bytes and not with the
/// number of pieces.
#[derive(Clone, Debug)]
pub struct Framing {
    /// Bytes at the start that have been judged.
    at: usize,
    /// The two bytes at the start are still to come.
    prelude: bool,
    items: Skipping,
    max: usize,
}

impl Framing {
    /// Of a request.
    pub const fn request(limits: &Limits) -> Self {
        Self { at: 0, prelude: true, items: Skipping::of(0), max: limits.bytes }
    }
    /// Of the answer to a join.
    pub const fn join_response(limits: &Limits) -> Self {
        Self { at: 0, prelude: false, items: Skipping::of(2), max: limits.bytes }
    }
    /// Of the answer to a leave.
    pub const fn leave_response(limits: &Limits) -> Self {
        Self { at: 0, prelude: false, items: Skipping::of(1), max: limits.bytes }
    }

    /// The length of the message, or `None` as long as its end is not in `bytes`, which are all that came so far.
    ///
    /// # Errors
    /// When more bytes cannot make it a message: wrong version or type, `TooLarge` beyond the limit, `Malformed`.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, WireError> {
        if self.prelude {
            let Some((&[kind, version], _)) = bytes.split_first_chunk() else { return Ok(None) };
            self.items = Skipping::of(match (kind, version) {
                (JOIN, VERSION) => 3,
                (LEAVE, VERSION) => 2,
                (_, VERSION) => return Err(WireError::UnknownType(kind)),
                _ => return Err(WireError::WrongVersion(version)),
            });
            (self.prelude, self.at) = (false, 2);
        }
        let mut r = Reader::new(bytes.get(self.at..).unwrap_or_default());
        let done = self.items.advance(&mut r)?;
        self.at = bytes.len() - r.rest().len();
        if self.at > self.max || (!done && bytes.len() >= self.max) {
            return Err(WireError::TooLarge("too long a message"));
        }
        Ok(done.then_some(self.at))
    }
}

/// Writes a request to join at the end of `out`: the node's own entries and what it knows.
pub fn put_join_request(
    out: &mut Vec<u8>,
    sender: &Sender<'_>,
    nodes: &[Node<'_>],
    digest: &[DigestEntry<'_>],
) {
    out.extend_from_slice(&[JOIN, VERSION]);
    sender.write(out, Third::None);
    put_nodes(out, nodes);
    if digest.is_empty() {
        put_nil(out);
    } else {
        put_list(out, digest.len() as u32);
        digest.iter().for_each(|entry| entry.write(out));
    }
}

/// Writes a request to leave at the end of `out`: the node's own entries.
pub fn put_leave_request(out: &mut Vec<u8>, sender: &Sender<'_>, nodes: &[Node<'_>]) {
    out.extend_from_slice(&[LEAVE, VERSION]);
    sender.write(out, Third::None);
    put_nodes(out, nodes);
}

/// Writes the answer to a join at the end of `out`, with as many `nodes`, from the first on, as fit `max` bytes;
/// returns how many. Their order should not favour any: the others have to wait for datagrams.
pub fn put_join_response(out: &mut Vec<u8>, max: usize, sender: &Sender<'_>, nodes: &[Node<'_>]) -> usize {
    let start = out.len();
    sender.write(out, Third::None);
    let mut size = out.len() - start + 5;
    let fitting = nodes
        .iter()
        .take_while(|node| {
            size = size.saturating_add(node.size_max());
            size <= max
        })
        .count();
    put_nodes(out, &nodes[..fitting]);
    fitting
}

/// Writes the answer to a leave at the end of `out`.
pub fn put_leave_response(out: &mut Vec<u8>, sender: &Sender<'_>) {
    sender.write(out, Third::None);
}

fn put_nodes(out: &mut Vec<u8>, nodes: &[Node<'_>]) {
    if nodes.is_empty() {
        put_nil(out);
        return;
    }
    put_list(out, nodes.len() as u32);
    for node in nodes {
        put_map(out, 3);
        put_raw(out, b"id");
        put_raw(out, node.head.id.as_bytes());
        put_raw(out, b"addr");
        put_raw(out, node.head.addr.as_bytes());
        put_raw(out, b"entries");
        if node.entries.is_empty() {
            put_nil(out);
        } else {
            put_list(out, node.entries.len() as u32);
            node.entries.iter().for_each(|entry| entry.write(out));
        }
    }
}

impl Node<'_> {
    /// Upper limit of its length on the wire.
    fn size_max(&self) -> usize {
        let head = "id".len() + "addr".len() + "entries".len() + 4;
        let strings = self.head.id.len() + self.head.addr.len() + 2 * 5 + 5;
        self.entries.iter().map(Entry::size_max).fold(head + strings, usize::saturating_add)
    }
}
