//! Who sent a message.

use super::ADDR_MAX;
use crate::wire::msgpack::{Reader, put_bool, put_map, put_raw, put_signed, put_uint};
use crate::wire::{ID_MAX, WireError};

/// The header of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The sender's id.
    pub node_id: &'a str,
    /// Where the sender wants to be reached, as text: host and port, where the host may be a name, or nothing that
    /// makes sense. A claim; replies go to the packet's source.
    pub addr: &'a str,
    /// The newest protocol version that the sender speaks, if it says so: a Piko node does not.
    pub max_version: Option<u8>,
}

/// What a node says about itself in every message.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Its id, 1 to 255 bytes.
    pub node_id: &'a str,
    /// Its advertised address, `host:port`.
    pub addr: &'a str,
    /// The newest protocol version that it speaks; when left out, messages are Piko's to the byte.
    pub max_version: Option<u8>,
}

/// Length of a map's key and its string, or of a key alone with its length byte.
pub(super) const fn key_size(name: &str) -> usize {
    1 + name.len()
}

/// The third field, which depends on the kind of message.
#[derive(Clone, Copy)]
pub(super) enum Third {
    /// A digest's `request`.
    Request(bool),
    /// A delta's `entries`, always 0.
    NoEntries,
    /// None, in messages over TCP.
    None,
}

/// The longest header of a datagram by a sender with an id of `id_len` bytes and an address of `addr_len`.
pub(super) const fn size_max(id_len: usize, addr_len: usize) -> usize {
    use crate::wire::msgpack::raw_size;
    1 + key_size("node_id")
        + raw_size(id_len)
        + key_size("addr")
        + raw_size(addr_len)
        + key_size("entries")
        + 1
        + key_size("max_version")
        + 2
}

impl<'a> Header<'a> {
    /// Of a delta, or of a message over TCP.
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Self::read_with(r, "entries", |r| r.int_or_nil().map(drop))
    }

    /// Of a digest, and its `request`.
    pub(super) fn read_of_digest(r: &mut Reader<'a>) -> Result<(Self, bool), WireError> {
        let mut request = false;
        let header = Self::read_with(r, "request", |r| {
            request = r.bool_or_nil()?;
            Ok(())
        })?;
        Ok((header, request))
    }

    fn read_with(
        r: &mut Reader<'a>,
        third: &str,
        mut read_third: impl FnMut(&mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<Self, WireError> {
        let (mut node_id, mut addr, mut max_version): (&[u8], &[u8], _) = (&[], &[], None);
        r.fields(&["node_id", "addr", third, "max_version"], |index, r| {
            match index {
                0 => node_id = r.bytes_or_nil()?,
                1 => addr = r.bytes_or_nil()?,
                2 => read_third(r)?,
                _ => max_version = read_max_version(r)?,
            }
            Ok(())
        })?;
        Ok(Self {
            node_id: as_id(node_id).ok_or(WireError::BadId)?,
            addr: as_addr(addr).ok_or(WireError::BadAddress)?,
            max_version,
        })
    }
}

/// To Piko the field is unknown and may be anything; so whatever it is, it is no reason to refuse the message.
fn read_max_version(r: &mut Reader<'_>) -> Result<Option<u8>, WireError> {
    let mut number = *r;
    r.skip(1)?;
    Ok(number.uint().ok().map(|n| u8::try_from(n).unwrap_or(u8::MAX)))
}

impl Sender<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>, third: Third) {
        let fields = 2 + u8::from(!matches!(third, Third::None)) + u8::from(self.max_version.is_some());
        put_map(out, fields);
        put_raw(out, b"node_id");
        put_raw(out, self.node_id.as_bytes());
        put_raw(out, b"addr");
        put_raw(out, self.addr.as_bytes());
        match third {
            Third::Request(request) => {
                put_raw(out, b"request");
                put_bool(out, request);
            }
            Third::NoEntries => {
                put_raw(out, b"entries");
                put_signed(out, 0);
            }
            Third::None => (),
        }
        if let Some(version) = self.max_version {
            put_raw(out, b"max_version");
            put_uint(out, u64::from(version));
        }
    }
}

/// A node id: 1 to 255 bytes of UTF-8.
pub(super) fn as_id(bytes: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(bytes).ok()?;
    (1..=ID_MAX).contains(&id.len()).then_some(id)
}

/// An address: text that is not overlong.
pub(super) fn as_addr(bytes: &[u8]) -> Option<&str> {
    let addr = std::str::from_utf8(bytes).ok()?;
    (addr.len() <= ADDR_MAX).then_some(addr)
}
