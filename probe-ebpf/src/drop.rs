//! What the drop programs tell of a datagram that the kernel dropped at the node's own socket.

use crate::event::PacketEvent;
use crate::parse::{HEAD_LEN, UDP_HEADER_LEN};

/// Program on `kfree_skb` as it is since 6.11, with the receiving socket among its arguments.
pub const KFREE_SKB: &str = "pikoscope_drop";
/// Program on `udp_fail_queue_rcv_skb`: only datagrams that found no room in the socket, but on every kernel.
pub const QUEUE_FAILED: &str = "pikoscope_no_room";
/// Ring buffer of [`DropEvent`]s.
pub const DROPS: &str = "DROPS";
/// Per-CPU hash map: how many were dropped, as `u64`, by reason (`u32`).
pub const DROP_COUNTS: &str = "DROP_COUNTS";
/// Read-only constant: cookie of the node's socket.
pub const DROP_COOKIE: &str = "DROP_COOKIE";
/// Read-only constant: where things are in `struct sk_buff`, a [`SkbOffsets`].
pub const SKB_OFFSETS: &str = "SKB_OFFSETS";

/// Key of [`DROP_COUNTS`] under which reasons are counted that found no room there.
pub const OTHER_REASONS: u32 = u32::MAX;

/// Byte offsets of members of `struct sk_buff`; all zero when one of them is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkbOffsets {
    /// `unsigned char *head`.
    pub head: u32,
    /// `__u16 transport_header`, from `head` on.
    pub transport_header: u32,
    /// `unsigned int len`.
    pub len: u32,
    /// `unsigned int data_len`: how much of it is not in the linear part.
    pub data_len: u32,
    /// `ktime_t tstamp`.
    pub tstamp: u32,
}

/// One dropped datagram. Native byte order: both sides run on the same host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropEvent {
    /// `enum skb_drop_reason` of the running kernel.
    pub reason: u32,
    /// Keeps what follows aligned; zero.
    pub reserved: u32,
    /// `skb->tstamp`, as in [`PacketEvent`].
    pub tstamp: u64,
    /// The UDP header.
    pub udp: [u8; UDP_HEADER_LEN],
    /// First payload bytes; all zero when the payload is shorter than [`HEAD_LEN`].
    pub head: [u8; HEAD_LEN],
}

/// Size of a [`DropEvent`] in the ring: as large as a [`PacketEvent`], so that a ring of the same size has room for the
/// drop of every datagram of which the other one holds the event.
pub const DROP_LEN: usize = size_of::<DropEvent>();
const _: () = assert!(DROP_LEN == size_of::<PacketEvent>() && align_of::<DropEvent>() == 8);

impl DropEvent {
    /// Reads an event from ring bytes; `None` unless there are exactly [`DROP_LEN`] of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; DROP_LEN] = bytes.try_into().ok()?;
        let (reason, rest) = bytes.split_first_chunk()?;
        let (reserved, rest) = rest.split_first_chunk()?;
        let (tstamp, rest) = rest.split_first_chunk()?;
        let (udp, rest) = rest.split_first_chunk()?;
        Some(Self {
            reason: u32::from_ne_bytes(*reason),
            reserved: u32::from_ne_bytes(*reserved),
            tstamp: u64::from_ne_bytes(*tstamp),
            udp: *udp,
            head: *rest.first_chunk()?,
        })
    }

    /// What the socket filter told of the same datagram; the time at which it ran is not known here.
    pub const fn packet(&self) -> PacketEvent {
        PacketEvent { filter_mono: 0, tstamp: self.tstamp, udp: self.udp, head: self.head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_has_the_key_of_its_packet() {
        let mut raw = [0u8; DROP_LEN];
        raw[..4].copy_from_slice(&6u32.to_ne_bytes());
        raw[8..16].copy_from_slice(&4u64.to_ne_bytes());
        raw[16..24].copy_from_slice(&[0x1b, 0x58, 0, 1, 0, 107, 0, 0]);
        raw[24..40].copy_from_slice(b"0123456789abcdef");
        let event = DropEvent::from_bytes(&raw).expect("exact size");
        assert_eq!(event.reason, 6);
        let mut packet = [0u8; DROP_LEN];
        packet[8..].copy_from_slice(&raw[8..]);
        assert_eq!(event.packet().key(), PacketEvent::from_bytes(&packet).expect("exact size").key());
        assert_eq!(DropEvent::from_bytes(&raw[1..]), None);
    }
}
