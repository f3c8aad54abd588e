//! A key with its value and its version.

use super::header::key_size;
use crate::wire::msgpack::{Reader, put_bool, put_map, put_raw, put_uint, raw_size};
use crate::wire::{KEY_MAX, WireError};

/// An entry on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Piko takes a key of any bytes, also of none; [`key_str`](Self::key_str) is what can be held here.
    pub key: &'a [u8],
    /// Any bytes.
    pub value: &'a [u8],
    /// The origin's version of this change.
    pub version: u64,
    /// Not an application's entry but the protocol's own.
    pub internal: bool,
    /// A tombstone.
    pub deleted: bool,
}

/// The longest entry without its key and value and their lengths.
pub(super) const OVERHEAD_MAX: usize = 1
    + key_size("key")
    + key_size("value")
    + (key_size("version") + 9)
    + (key_size("internal") + 1)
    + (key_size("deleted") + 1);

impl<'a> Entry<'a> {
    /// The key, if it is one that this program can hold and pass on.
    ///
    /// # Errors
    /// When it is not 1 to 255 bytes of UTF-8. The entry is no reason to refuse its packet: any Piko node may pass
    /// on such a one, and it goes on in every packet.
    pub fn key_str(&self) -> Result<&'a str, WireError> {
        match std::str::from_utf8(self.key) {
            Ok("") => Err(WireError::Malformed("an empty key")),
            Ok(key) if key.len() <= KEY_MAX => Ok(key),
            Ok(_) => Err(WireError::TooLarge("a key of more than 255 bytes")),
            Err(_) => Err(WireError::Malformed("a key that is not UTF-8")),
        }
    }

    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let mut entry = Self { key: &[], value: &[], version: 0, internal: false, deleted: false };
        r.fields(&["key", "value", "version", "internal", "deleted"], |index, r| {
            match index {
                0 => entry.key = r.bytes_or_nil()?,
                1 => entry.value = r.bytes_or_nil()?,
                2 => entry.version = r.uint_or_nil()?,
                3 => entry.internal = r.bool_or_nil()?,
                _ => entry.deleted = r.bool_or_nil()?,
            }
            Ok(())
        })?;
        Ok(entry)
    }

    /// All fields, also those that are zero: where Piko decodes over something older, a missing one would keep the
    /// older value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_map(out, 5);
        put_raw(out, b"key");
        put_raw(out, self.key);
        put_raw(out, b"value");
        put_raw(out, self.value);
        put_raw(out, b"version");
        put_uint(out, self.version);
        put_raw(out, b"internal");
        put_bool(out, self.internal);
        put_raw(out, b"deleted");
        put_bool(out, self.deleted);
    }

    /// Upper limit of what [`write`](Self::write) writes, for any version.
    pub(super) const fn size_max(&self) -> usize {
        OVERHEAD_MAX + raw_size(self.key.len()) + raw_size(self.value.len())
    }
}
