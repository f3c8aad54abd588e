//! A small reader of BTF, the kernel's description of its own types (Documentation/bpf/btf.rst).
//!
//! rustc emits no CO-RE relocations, so offsets of kernel structure members are looked up here at load time
//! and handed to the programs as constants. A member that is missing makes its tier unavailable; nothing is
//! ever guessed.

use std::collections::HashMap;
use std::path::Path;

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why a type or member could not be found. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No file, or not readable.
    #[error("cannot read {path}: {source} (needs a kernel built with CONFIG_DEBUG_INFO_BTF)")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not BTF, or cut short.
    #[error("the kernel's BTF is malformed at byte {at}: {what}")]
    Malformed {
        /// Offset into the data.
        at: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// The kernel has no such structure.
    #[error("the kernel's BTF has no struct {name}")]
    NoStruct {
        /// The name looked for.
        name: String,
    },
    /// The structure has no such member, not even in an anonymous part.
    #[error("struct {strukt} has no member {member} in this kernel's BTF")]
    NoMember {
        /// The structure.
        strukt: String,
        /// The member looked for.
        member: String,
    },
    /// The member is a bit field or has another size than the program reads.
    #[error("struct {strukt}: member {member} is not a plain {want}-byte value in this kernel")]
    WrongShape {
        /// The structure.
        strukt: String,
        /// The member.
        member: String,
        /// Bytes that were expected.
        want: u32,
    },
}

/// Parsed BTF: the raw bytes and where each type starts in them.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Byte offset of each type; index 0 is `void` and unused.
    types: Vec<u32>,
    strings: std::ops::Range<usize>,
    structs: HashMap<String, u32>,
}

mod tracepoint;

pub use tracepoint::Argument;

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const TYPE_TAG: u32 = 18;
}

/// Bytes that follow a type's 12-byte head, by kind (btf.rst section 2.2).
fn trailing(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,             // INT, VAR, DECL_TAG
        2 | 7..=12 | 16 | 18 => 0,    // PTR, FWD..FUNC, FLOAT, TYPE_TAG
        3 => 12,                      // ARRAY
        4 | 5 | 15 | 19 => 12 * vlen, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => 8 * vlen,           // ENUM, FUNC_PROTO
        _ => return None,
    })
}

impl Btf {
    /// Reads the running kernel's BTF.
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(VMLINUX))
    }

    /// Reads BTF from a file.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path)
            .map_err(|source| BtfError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(data)
    }

    /// Parses raw BTF of this host's byte order.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let bad = |at, what| BtfError::Malformed { at, what };
        let word = |at: usize| read_u32(&data, at).ok_or(bad(at, "a header word"));
        if data.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()[..]) {
            return Err(bad(0, "the magic number 0xeb9f"));
        }
        let (header, types_off, types_len) = (word(4)? as usize, word(8)? as usize, word(12)? as usize);
        let (strings_off, strings_len) = (word(16)? as usize, word(20)? as usize);
        let strings = header.saturating_add(strings_off)..header.saturating_add(strings_off + strings_len);
        let (mut at, end) = (header.saturating_add(types_off), header.saturating_add(types_off + types_len));
        if end > data.len() || strings.end > data.len() || strings.start > strings.end {
            return Err(bad(8, "sections inside the file"));
        }
        let mut btf = Self { data, types: vec![0], strings, structs: HashMap::new() };
        while at < end {
            let head = btf.head(at).ok_or(bad(at, "a type"))?;
            let skip = trailing(head.kind, head.vlen).ok_or(bad(at, "a known kind of type"))?;
            let id = btf.types.len() as u32;
            btf.types.push(at as u32);
            if head.kind == kind::STRUCT
                && let Some(name) = btf.string(head.name)
                && !name.is_empty()
            {
                let name = name.to_owned();
                btf.structs.entry(name).or_insert(id);
            }
            at += 12 + skip;
        }
        Ok(btf)
    }

    /// Byte offset of `member` in `struct strukt`, also when it is inside anonymous structs or unions.
    /// The member must be a plain value of `size` bytes.
    pub fn offset_of(&self, strukt: &str, member: &str, size: u32) -> Result<u32, BtfError> {
        let id = *self.structs.get(strukt).ok_or_else(|| BtfError::NoStruct { name: strukt.to_owned() })?;
        let found = self
            .find(id, member, 0, 0)
            .ok_or_else(|| BtfError::NoMember { strukt: strukt.to_owned(), member: member.to_owned() })?;
        if found.bitfield || !found.bits.is_multiple_of(8) || self.size_of(found.type_id) != Some(size) {
            return Err(BtfError::WrongShape {
                strukt: strukt.to_owned(),
                member: member.to_owned(),
                want: size,
            });
        }
        Ok(found.bits / 8)
    }

    /// Byte offset of `member`, a `struct part`, in `struct strukt`.
    pub fn offset_of_part(&self, strukt: &str, member: &str, part: &str) -> Result<u32, BtfError> {
        let id = *self.structs.get(part).ok_or_else(|| BtfError::NoStruct { name: part.to_owned() })?;
        self.offset_of(strukt, member, self.size_of(id).unwrap_or(0))
    }

    fn find(&self, id: u32, member: &str, base_bits: u32, depth: u32) -> Option<Member> {
        // The kernel's own nesting is four deep; a cycle would be malformed data.
        if depth > 16 {
            return None;
        }
        let at = *self.types.get(id as usize)? as usize;
        let head = self.head(at)?;
        if !matches!(head.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        for i in 0..head.vlen {
            let m = at + 12 + 12 * i;
            let (name, type_id, offset) =
                (read_u32(&self.data, m)?, read_u32(&self.data, m + 4)?, read_u32(&self.data, m + 8)?);
            // With the kind flag, the top byte is the width of a bit field.
            let (bits, bitfield) =
                if head.kind_flag { (offset & 0x00ff_ffff, offset >> 24 != 0) } else { (offset, false) };
            let bits = base_bits.checked_add(bits)?;
            match self.string(name)? {
                "" => {
                    if let Some(found) = self.find(self.resolve(type_id)?, member, bits, depth + 1) {
                        return Some(found);
                    }
                }
                name if name == member => return Some(Member { bits, bitfield, type_id }),
                _ => {}
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..32 {
            let at = *self.types.get(id as usize)? as usize;
            match self.head(at)?.kind {
                kind::TYPEDEF..=kind::RESTRICT | kind::TYPE_TAG => id = read_u32(&self.data, at + 8)?,
                _ => return Some(id),
            }
        }
        None
    }

    /// Size of a plain integer, pointer or aggregate in bytes.
    fn size_of(&self, id: u32) -> Option<u32> {
        let at = *self.types.get(self.resolve(id)? as usize)? as usize;
        match self.head(at)?.kind {
            kind::INT | kind::STRUCT | kind::UNION => read_u32(&self.data, at + 8),
            // On this host: its BTF is of its own kernel.
            kind::PTR => Some(size_of::<usize>() as u32),
            _ => None,
        }
    }

    fn head(&self, at: usize) -> Option<Head> {
        let (name, info) = (read_u32(&self.data, at)?, read_u32(&self.data, at + 4)?);
        Some(Head {
            name,
            kind: info >> 24 & 0x1f,
            vlen: (info & 0xffff) as usize,
            kind_flag: info >> 31 == 1,
        })
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.data.get(self.strings.clone())?.get(offset as usize..)?;
        let end = bytes.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

struct Head {
    name: u32,
    kind: u32,
    vlen: usize,
    kind_flag: bool,
}

struct Member {
    bits: u32,
    bitfield: bool,
    type_id: u32,
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*data.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// struct outer { u32 a; union { struct { u64 inner; }; u32 x; }; u32 bits:3; } built by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0inner\0x\0bits\0u32\0u64\0alias\0";
        let name = |s: &str| {
            let needle = [b"\0", s.as_bytes(), b"\0"].concat();
            1 + strings.windows(needle.len()).position(|w| w == needle).expect("in the table") as u32
        };
        let mut t: Vec<u32> = Vec::new();
        t.extend([name("u32"), kind::INT << 24, 4, 0]); // 1
        t.extend([name("u64"), kind::INT << 24, 8, 0]); // 2
        t.extend([name("alias"), kind::TYPEDEF << 24, 2]); // 3
        t.extend([0, kind::STRUCT << 24 | 1, 8, name("inner"), 3, 0]); // 4
        t.extend([0, kind::UNION << 24 | 2, 8, 0, 4, 0, name("x"), 1, 0]); // 5
        let outer = [name("a"), 1, 0, 0, 5, 64, name("bits"), 1, 3 << 24 | 128];
        t.extend([name("outer"), 1 << 31 | kind::STRUCT << 24 | 3, 24]); // 6
        t.extend(outer);
        let types: Vec<u8> = t.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = 0xeb9f_u16.to_ne_bytes().to_vec();
        out.extend([1, 0]);
        for w in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn members_of_anonymous_parts_are_found_through_typedefs() {
        let btf = Btf::parse(sample()).expect("well formed");
        assert_eq!(btf.offset_of("outer", "a", 4).expect("a"), 0);
        assert_eq!(btf.offset_of("outer", "inner", 8).expect("inner"), 8);
        assert_eq!(btf.offset_of("outer", "x", 4).expect("x"), 8);
    }

    #[test]
    fn what_is_missing_or_misshapen_is_said() {
        let btf = Btf::parse(sample()).expect("well formed");
        let said = |s, m, n| btf.offset_of(s, m, n).expect_err("must fail").to_string();
        assert_eq!(said("nope", "a", 4), "the kernel's BTF has no struct nope");
        assert_eq!(said("outer", "nope", 4), "struct outer has no member nope in this kernel's BTF");
        assert!(said("outer", "bits", 4).contains("not a plain 4-byte value"));
        assert!(said("outer", "inner", 4).contains("not a plain 4-byte value"));
        assert!(matches!(Btf::parse(vec![1, 2, 3]), Err(BtfError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn broken_data_never_panics(cut in 0usize..300, at in 0usize..300, to: u8) {
            let mut data = sample();
            if let Some(b) = data.get_mut(at) { *b = to; }
            data.truncate(cut);
            if let Ok(btf) = Btf::parse(data) {
                let _ = btf.offset_of("outer", "inner", 8);
            }
        }
    }

    #[test]
    fn this_kernel_has_a_receive_stamp() {
        let offset = Btf::from_kernel().expect("BTF").offset_of("sk_buff", "tstamp", 8).expect("tstamp");
        assert!(offset > 0 && offset < 512, "implausible offset {offset}");
    }
}
