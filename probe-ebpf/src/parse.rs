//! The fixed bytes that both sides read: the UDP header and the v1 prelude (DESIGN section 4).
//!
//! ```text
//! 0      message type: 1 digest, 2 delta (UDP); 3 join, 4 leave (TCP)
//! 1      protocol version: 0 Piko, 1 pikoscope
//! 2..3   flags, u16 big-endian (bit 0: body sealed)
//! 4..11  packet id, u64 big-endian: random 32-bit incarnation, then a counter per destination
//! ```

/// Bytes of a UDP header (RFC 768). Inside a socket filter on a UDP socket, offset 0 is this header.
pub const UDP_HEADER_LEN: usize = 8;
/// Bytes of the v1 prelude.
pub const PRELUDE_LEN: usize = 12;
/// How much of the payload's start is kept in a [`PacketKey`](crate::event::PacketKey).
pub const HEAD_LEN: usize = 16;

/// A v1 packet's id: which run of the sender, and the how-many-eth packet to this destination.
///
/// The counter makes a gap a loss; the random incarnation keeps a restarted sender apart from its past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId {
    /// Random, drawn once at start.
    pub incarnation: u32,
    /// Starts at 1 for each destination and wraps.
    pub counter: u32,
}

impl PacketId {
    /// Both halves as they travel.
    pub const fn to_u64(self) -> u64 {
        (self.incarnation as u64) << 32 | self.counter as u64
    }
    /// From the travelling form.
    pub const fn from_u64(id: u64) -> Self {
        Self { incarnation: (id >> 32) as u32, counter: id as u32 }
    }
}

/// What the first twelve bytes of a v1 packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// Message type byte, unchecked.
    pub kind: u8,
    /// Protocol version byte: 1.
    pub version: u8,
    /// Flags; bit 0 means that the body is sealed.
    pub flags: u16,
    /// The packet id.
    pub id: PacketId,
}

impl Prelude {
    /// Reads a prelude; `None` when `payload` is shorter than [`PRELUDE_LEN`]. Does not judge the values.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let p: &[u8; PRELUDE_LEN] = payload.first_chunk()?;
        Some(Self {
            kind: p[0],
            version: p[1],
            flags: u16::from_be_bytes([p[2], p[3]]),
            id: PacketId::from_u64(u64::from_be_bytes([p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]])),
        })
    }
    /// The bytes that [`parse`](Self::parse) reads back.
    pub const fn to_bytes(self) -> [u8; PRELUDE_LEN] {
        let f = self.flags.to_be_bytes();
        let i = self.id.to_u64().to_be_bytes();
        [self.kind, self.version, f[0], f[1], i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prelude_bytes_are_as_documented() {
        let p = Prelude {
            kind: 2,
            version: 1,
            flags: 0x8001,
            id: PacketId { incarnation: 0xdead_beef, counter: 7 },
        };
        let bytes = [2, 1, 0x80, 0x01, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7];
        assert_eq!(p.to_bytes(), bytes);
        assert_eq!(Prelude::parse(&bytes), Some(p));
        assert_eq!(Prelude::parse(&bytes[..11]), None);
    }
}
