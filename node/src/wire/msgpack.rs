//! The part of MessagePack that is spoken here: a strict reader over a slice, and writers into a `Vec`.
//!
//! Format: the MessagePack specification (spec.md of msgpack/msgpack). Reading never recurses and never
//! allocates, so no nesting and no announced length can hurt; every announced length is checked against the
//! bytes that are there.

use super::WireError;

mod lenient;
#[cfg(test)]
mod tests;

/// Reads items off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// What has not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }
    fn byte(&mut self) -> Result<u8, WireError> {
        let (&first, tail) = self.rest.split_first().ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(first)
    }
    /// A big-endian number of `N` bytes, at most 8.
    fn number<const N: usize>(&mut self) -> Result<u64, WireError> {
        Ok(self.take(N)?.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    }
    fn length<const N: usize>(&mut self) -> Result<usize, WireError> {
        usize::try_from(self.number::<N>()?).map_err(|_| WireError::Truncated)
    }

    /// An array's number of elements. Each takes at least one byte, so more of them than bytes are refused.
    pub(crate) fn array(&mut self) -> Result<usize, WireError> {
        let n = match self.byte()? {
            m @ 0x90..=0x9f => usize::from(m & 0x0f),
            0xdc => self.length::<2>()?,
            0xdd => self.length::<4>()?,
            _ => return Err(WireError::Malformed("expected an array")),
        };
        if n > self.rest.len() { Err(WireError::Truncated) } else { Ok(n) }
    }
    /// An array that stands for a structure of `known` fields; returns how many follow that this version does
    /// not know, to be [`skip`](Self::skip)ped after the known ones.
    pub(crate) fn structure(&mut self, known: usize) -> Result<usize, WireError> {
        self.array()?.checked_sub(known).ok_or(WireError::Malformed("a structure lacks fields"))
    }
    /// The bytes of a string or of a binary.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let n = match self.byte()? {
            m @ 0xa0..=0xbf => usize::from(m & 0x1f),
            0xc4 | 0xd9 => self.length::<1>()?,
            0xc5 | 0xda => self.length::<2>()?,
            0xc6 | 0xdb => self.length::<4>()?,
            _ => return Err(WireError::Malformed("expected a string or bytes")),
        };
        self.take(n)
    }
    /// A non-negative integer of any width.
    pub(crate) fn uint(&mut self) -> Result<u64, WireError> {
        match self.integer()? {
            Integer::Unsigned(n) => Ok(n),
            Integer::Negative(_) => Err(WireError::Malformed("expected a number of zero or more")),
        }
    }
    /// An integer of any width that fits 64 bits with sign.
    pub(crate) fn int(&mut self) -> Result<i64, WireError> {
        self.integer()?.signed()
    }
    fn integer(&mut self) -> Result<Integer, WireError> {
        let signed = |n: i64| u64::try_from(n).map_or(Integer::Negative(n), Integer::Unsigned);
        Ok(match self.byte()? {
            m @ 0x00..=0x7f => Integer::Unsigned(u64::from(m)),
            m @ 0xe0..=0xff => signed(i64::from(m as i8)),
            0xcc => Integer::Unsigned(self.number::<1>()?),
            0xcd => Integer::Unsigned(self.number::<2>()?),
            0xce => Integer::Unsigned(self.number::<4>()?),
            0xcf => Integer::Unsigned(self.number::<8>()?),
            0xd0 => signed(i64::from(self.number::<1>()? as i8)),
            0xd1 => signed(i64::from(self.number::<2>()? as i16)),
            0xd2 => signed(i64::from(self.number::<4>()? as i32)),
            0xd3 => signed(self.number::<8>()? as i64),
            _ => return Err(WireError::Malformed("expected an integer")),
        })
    }
    /// True or false.
    pub(crate) fn bool(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0xc2 => Ok(false),
            0xc3 => Ok(true),
            _ => Err(WireError::Malformed("expected true or false")),
        }
    }
    /// Takes a nil if one is next.
    pub(crate) fn nil(&mut self) -> bool {
        let next = self.rest.first() == Some(&0xc0);
        if next {
            self.rest = &self.rest[1..];
        }
        next
    }

    /// Is an integer of the shortest form next?
    pub(crate) fn at_integer(&self) -> bool {
        self.rest.first().is_some_and(|marker| *marker < 0x80)
    }

    /// What has been read of this reader's bytes by `later`, which began as a copy of it.
    pub(crate) fn until(&self, later: &Self) -> Self {
        Self { rest: &self.rest[..self.rest.len().saturating_sub(later.rest.len())] }
    }

    /// Skips `items` items of any kind, whatever is nested in them.
    pub(crate) fn skip(&mut self, items: usize) -> Result<(), WireError> {
        if items > self.rest.len() || !Skipping::of(items).advance(self)? {
            return Err(WireError::Truncated);
        }
        Ok(())
    }

    /// Skips one item without those that are nested in it; returns how many these are.
    fn skip_one(&mut self) -> Result<usize, WireError> {
        let (inner, payload) = match self.byte()? {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0),
            m @ 0x80..=0x8f => (2 * usize::from(m & 0x0f), 0),
            m @ 0x90..=0x9f => (usize::from(m & 0x0f), 0),
            m @ 0xa0..=0xbf => (0, usize::from(m & 0x1f)),
            0xc1 => return Err(WireError::Malformed("byte 0xc1")),
            0xc4 | 0xd9 => (0, self.length::<1>()?),
            0xc5 | 0xda => (0, self.length::<2>()?),
            0xc6 | 0xdb => (0, self.length::<4>()?),
            0xc7 => (0, self.length::<1>()?.saturating_add(1)),
            0xc8 => (0, self.length::<2>()?.saturating_add(1)),
            0xc9 => (0, self.length::<4>()?.saturating_add(1)),
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            m @ 0xd4..=0xd8 => (0, 1 + (1 << (m - 0xd4))),
            0xdc => (self.length::<2>()?, 0),
            0xdd => (self.length::<4>()?, 0),
            0xde => (self.length::<2>()?.saturating_mul(2), 0),
            0xdf => (self.length::<4>()?.saturating_mul(2), 0),
        };
        self.take(payload)?;
        Ok(inner)
    }
}

/// Skips items of which not all bytes may be there yet. A count of what is still to come takes the place of a
/// stack, so that no nesting can exhaust one.
#[derive(Clone, Debug)]
pub(crate) struct Skipping {
    left: usize,
}

impl Skipping {
    /// Of `items` items.
    pub(crate) const fn of(items: usize) -> Self {
        Self { left: items }
    }
    /// Skips as many items as are complete; `false` when more bytes are needed, from where the reader is then.
    pub(crate) fn advance(&mut self, r: &mut Reader<'_>) -> Result<bool, WireError> {
        while self.left > 0 {
            let before = *r;
            match r.skip_one() {
                Ok(inner) => self.left = (self.left - 1).saturating_add(inner),
                Err(WireError::Truncated) => {
                    *r = before;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

enum Integer {
    Unsigned(u64),
    Negative(i64),
}

impl Integer {
    fn signed(self) -> Result<i64, WireError> {
        match self {
            Self::Unsigned(n) => i64::try_from(n).map_err(|_| WireError::TooLarge("a number beyond 63 bits")),
            Self::Negative(n) => Ok(n),
        }
    }
}

/// Marker of a 64-bit integer with sign, whatever its value.
pub(crate) const INT64: u8 = 0xd3;
/// Marker of an unsigned number of fixed length, as it can be overwritten in place.
pub(crate) const UINT32: u8 = 0xce;
/// Marker of a string with an 8-bit length.
const STR8: u8 = 0xd9;

/// A number that needs no more bytes than its value.
pub(crate) fn put_uint(out: &mut Vec<u8>, n: u64) {
    let be = n.to_be_bytes();
    match n {
        0..=0x7f => out.push(be[7]),
        0x80..=0xff => out.extend_from_slice(&[0xcc, be[7]]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&be[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&be[4..]);
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&be);
        }
    }
}
/// A number with sign that needs no more bytes than its value.
pub(crate) fn put_int(out: &mut Vec<u8>, n: i64) {
    let be = n.to_be_bytes();
    match n {
        0.. => put_uint(out, n.unsigned_abs()),
        -0x20..=-1 => out.push(be[7]),
        -0x80..=-0x21 => out.extend_from_slice(&[0xd0, be[7]]),
        -0x8000..=-0x81 => {
            out.push(0xd1);
            out.extend_from_slice(&be[6..]);
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2);
            out.extend_from_slice(&be[4..]);
        }
        _ => put_int64(out, n),
    }
}
/// A number with sign that always takes nine bytes, so that it can be overwritten in place.
pub(crate) fn put_int64(out: &mut Vec<u8>, n: i64) {
    out.push(INT64);
    out.extend_from_slice(&n.to_be_bytes());
}
/// A number that always takes nine bytes: sums and ids are spread over all 64 bits anyway.
pub(crate) fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.push(0xcf);
    out.extend_from_slice(&n.to_be_bytes());
}
/// True or false.
pub(crate) fn put_bool(out: &mut Vec<u8>, b: bool) {
    out.push(if b { 0xc3 } else { 0xc2 });
}
/// Nil.
pub(crate) fn put_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}
/// A number with sign as Go's encoders write it: a negative or a small one in one byte, others with a marker for
/// numbers with sign, although they have none.
pub(crate) fn put_signed(out: &mut Vec<u8>, n: i64) {
    let be = n.to_be_bytes();
    match n {
        0x80..=0x7fff => {
            out.push(0xd1);
            out.extend_from_slice(&be[6..]);
        }
        0x8000..=0x7fff_ffff => {
            out.push(0xd2);
            out.extend_from_slice(&be[4..]);
        }
        0x8000_0000.. => put_int64(out, n),
        _ => put_int(out, n),
    }
}
/// A string of any bytes in the forms that MessagePack had before it knew binaries: no 8-bit length.
pub(crate) fn put_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        n @ 0..=31 => out.push(0xa0 | n as u8),
        n @ 32..=0xffff => {
            out.push(0xda);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            debug_assert!(u32::try_from(n).is_ok(), "a string of more than 4 GiB");
            out.push(0xdb);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}
/// Length of what [`put_raw`] writes of `len` bytes.
pub(crate) const fn raw_size(len: usize) -> usize {
    match len {
        0..=31 => 1 + len,
        32..=0xffff => 3 + len,
        _ => 5 + len,
    }
}
/// The start of a map of up to 15 pairs.
pub(crate) fn put_map(out: &mut Vec<u8>, len: u8) {
    debug_assert!(len < 16, "longer maps need another marker");
    out.push(0x80 | len);
}
/// The start of an array of any length.
pub(crate) fn put_list(out: &mut Vec<u8>, len: u32) {
    match len {
        0..=15 => put_array(out, len as u8),
        16..=0xffff => {
            out.push(0xdc);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}
/// The start of an array of up to 15 elements.
pub(crate) fn put_array(out: &mut Vec<u8>, len: u8) {
    debug_assert!(len < 16, "longer arrays need another marker");
    out.push(0x90 | len);
}
/// The start of an array whose 16-bit length is written later with [`patch_len16`].
pub(crate) fn put_array16(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xdc, 0, 0]);
}
/// A string of at most 255 bytes.
pub(crate) fn put_str(out: &mut Vec<u8>, s: &str) {
    debug_assert!(s.len() <= 0xff, "ids, keys and addresses are limited to 255 bytes");
    match s.len() as u8 {
        n @ 0..=31 => out.push(0xa0 | n),
        n => out.extend_from_slice(&[STR8, n]),
    }
    out.extend_from_slice(s.as_bytes());
}
/// Bytes, at most 65,535.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= 0xffff, "larger than any packet");
    match bytes.len() {
        n @ 0..=0xff => out.extend_from_slice(&[0xc4, n as u8]),
        n => {
            out.push(0xc5);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}
/// Sets the length of the array whose marker [`put_array16`] wrote at `at`.
pub(crate) fn patch_len16(out: &mut [u8], at: usize, len: u16) {
    out[at + 1..at + 3].copy_from_slice(&len.to_be_bytes());
}
