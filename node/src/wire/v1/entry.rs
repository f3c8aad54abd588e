//! A key with its value, its version and its history of times.

use probe_ebpf::time::{Bounded, Span, UtcNs, WallNs};
use probe_user::clock::correct;

use super::header::read_bound;
use crate::wire::msgpack::{Reader, put_array, put_bytes, put_int, put_nil, put_str, put_uint};
use crate::wire::{BEACON_KEY, KEY_MAX, PROTO_KEY, WireError};

/// An entry on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// 1 to [`KEY_MAX`] bytes.
    pub key: &'a str,
    /// Any bytes; empty when deleted.
    pub value: &'a [u8],
    /// The origin's version of this change.
    pub version: u64,
    /// Not an application's entry but the protocol's own.
    pub internal: bool,
    /// A tombstone.
    pub deleted: bool,
    /// An old change under a new version (its origin started anew, or tidied up): no news.
    pub reversioned: bool,
    /// Its history; `None` when it came by a way that does not carry it.
    pub stamp: Option<EntryStamp>,
}

/// When an entry was created, and what it met on its way so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryStamp {
    /// Creation by the origin's wall clock, uncorrected.
    pub created: WallNs,
    /// The origin's clock offset at that time.
    pub theta: Span,
    /// Its bound.
    pub bound: Span,
    /// Packets that carried it; 0 at the origin.
    pub hops: u8,
    /// Sum of those packets' one-way times; `None` once one of them is unknown.
    pub network: Option<Bounded>,
    /// Sum of the receiving kernels' times (`ingress_stack`); `None` once one of them is unknown.
    pub kernel: Option<Bounded>,
    /// The application's trace, if it gave one.
    pub trace_id: Option<[u8; 16]>,
    /// Where the senders' own parts are in these sums.
    pub egress: Egress,
}

/// What is known of the time that the packets took in their senders' kernels and queues (T1 to T3), over all hops. A
/// sender knows it only when the packet is gone, and tells of it later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// On some hop it is an estimate, by what that sender's packets took lately: in `kernel`, and not in `network`.
    pub estimated: bool,
    /// On some hop nothing is known of it: it is in `network`.
    pub in_network: bool,
}

impl Egress {
    const ESTIMATED: u64 = 1;
    const IN_NETWORK: u64 = 2;

    /// Of one hop, of which there is such an estimate or not.
    pub const fn of_hop(estimated: bool) -> Self {
        Self { estimated, in_network: !estimated }
    }

    /// Of hops here and hops there.
    pub const fn and(self, other: Self) -> Self {
        Self { estimated: self.estimated || other.estimated, in_network: self.in_network || other.in_network }
    }

    fn bits(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.estimated, Self::ESTIMATED) | bit(self.in_network, Self::IN_NETWORK)
    }

    fn of_bits(bits: u64) -> Self {
        Self { estimated: bits & Self::ESTIMATED != 0, in_network: bits & Self::IN_NETWORK != 0 }
    }
}

impl EntryStamp {
    /// Creation on the true timeline, with bound.
    pub fn created_utc(&self) -> (UtcNs, Span) {
        (correct(self.created, self.theta), self.bound)
    }

    /// Its longest form: creation, offset and bound, hops, two times with bound, trace, the senders' parts.
    const SIZE_MAX: usize = 1 + (9 + 5) + (9 + 9) + 2 + 2 * (1 + 9 + 9) + (2 + 16) + 1;

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let further = r.structure(8)?;
        let ms = r.int()?;
        let sub_ms = r.int()?;
        if !(0..NS_PER_MS).contains(&sub_ms) {
            return Err(WireError::Malformed("a part of a millisecond beyond it"));
        }
        let created = ms
            .checked_mul(NS_PER_MS)
            .and_then(|ns| ns.checked_add(sub_ms))
            .map(WallNs::from_nanos)
            .ok_or(WireError::TooLarge("a time beyond the year 2262"))?;
        let mut stamp = Self {
            created,
            theta: Span::from_nanos(r.int()?),
            bound: read_bound(r)?,
            hops: u8::try_from(r.uint()?).map_err(|_| WireError::TooLarge("more than 255 hops"))?,
            network: read_bounded(r)?,
            kernel: read_bounded(r)?,
            trace_id: if r.nil() {
                None
            } else {
                Some(r.bytes()?.try_into().map_err(|_| WireError::Malformed("a trace id not of 16 bytes"))?)
            },
            egress: Egress::default(),
        };
        let unknown = further.checked_sub(1);
        if unknown.is_some() {
            stamp.egress = Egress::of_bits(r.uint()?);
        }
        r.skip(unknown.unwrap_or(0))?;
        Ok(stamp)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let ns = self.created.as_nanos();
        let egress = self.egress.bits();
        put_array(out, if egress == 0 { 8 } else { 9 });
        put_int(out, ns.div_euclid(NS_PER_MS));
        put_int(out, ns.rem_euclid(NS_PER_MS));
        put_int(out, self.theta.as_nanos());
        put_int(out, self.bound.abs().as_nanos());
        put_uint(out, u64::from(self.hops));
        put_bounded(out, self.network);
        put_bounded(out, self.kernel);
        match &self.trace_id {
            Some(id) => put_bytes(out, id),
            None => put_nil(out),
        }
        if egress != 0 {
            put_uint(out, egress);
        }
    }
}

const NS_PER_MS: i64 = 1_000_000;

const INTERNAL: u64 = 1;
const DELETED: u64 = 2;
const REVERSIONED: u64 = 4;

/// The longest entry without its key and value: array, their lengths, version, flags, stamp.
pub(super) const OVERHEAD_MAX: usize = 1 + 2 + 3 + 9 + 1 + EntryStamp::SIZE_MAX;

impl<'a> Entry<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let unknown = r.structure(5)?;
        let key = read_key(r)?;
        let value = r.bytes()?;
        let version = r.uint()?;
        let flags = r.uint()?;
        let entry = Self {
            key,
            value,
            version,
            internal: flags & INTERNAL != 0,
            deleted: flags & DELETED != 0,
            reversioned: flags & REVERSIONED != 0,
            stamp: if r.nil() { None } else { Some(EntryStamp::read(r)?) },
        };
        r.skip(unknown)?;
        Ok(entry)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        put_array(out, 5);
        match FREQUENT.iter().position(|key| *key == self.key) {
            Some(number) => put_uint(out, number as u64),
            None => put_str(out, self.key),
        }
        put_bytes(out, self.value);
        put_uint(out, self.version);
        put_uint(
            out,
            flag(self.internal, INTERNAL) | flag(self.deleted, DELETED) | flag(self.reversioned, REVERSIONED),
        );
        match &self.stamp {
            Some(stamp) => stamp.write(out),
            None => put_nil(out),
        }
    }
}

/// Keys that travel so often that they have a number: their place here. Later versions may add some at the end.
const FREQUENT: [&str; 2] = [BEACON_KEY, PROTO_KEY];

fn read_key<'a>(r: &mut Reader<'a>) -> Result<&'a str, WireError> {
    if r.at_integer() {
        let number = usize::try_from(r.uint()?).ok();
        return number
            .and_then(|number| FREQUENT.get(number).copied())
            .ok_or(WireError::Malformed("a key's number that is not in use"));
    }
    let key = std::str::from_utf8(r.bytes()?).map_err(|_| WireError::Malformed("a key that is not UTF-8"))?;
    match key.len() {
        0 => Err(WireError::Malformed("an empty key")),
        1..=KEY_MAX => Ok(key),
        _ => Err(WireError::TooLarge("a key of more than 255 bytes")),
    }
}

fn read_bounded(r: &mut Reader<'_>) -> Result<Option<Bounded>, WireError> {
    if r.nil() {
        return Ok(None);
    }
    let unknown = r.structure(2)?;
    let time = Bounded::new(Span::from_nanos(r.int()?), read_bound(r)?);
    r.skip(unknown)?;
    Ok(Some(time))
}

fn put_bounded(out: &mut Vec<u8>, time: Option<Bounded>) {
    match time {
        Some(time) => {
            put_array(out, 2);
            put_int(out, time.value.as_nanos());
            put_int(out, time.bound.as_nanos());
        }
        None => put_nil(out),
    }
}
