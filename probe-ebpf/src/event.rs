//! What the socket filter puts into the ring for each datagram, and the key by which it is found again.

use crate::parse::{HEAD_LEN, UDP_HEADER_LEN};
use crate::time::{MonoNs, RealNs};

/// What both sides know of a datagram without sharing memory: enough to tell two datagrams apart even when
/// their bytes are the same (idle v0 digests are), because the kernel's receive stamp is part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PacketKey {
    /// Kernel receive stamp (T4), nanoseconds of `CLOCK_REALTIME`; 0 when it could not be read.
    pub tstamp: u64,
    /// Sender's UDP port.
    pub source_port: u16,
    /// UDP payload length in bytes.
    pub payload_len: u16,
    /// First payload bytes, zero-padded: the whole v1 prelude with its packet id.
    pub head: [u8; HEAD_LEN],
}

impl PacketKey {
    /// The key of a received `payload`, as userspace sees it. `tstamp` is the `SCM_TIMESTAMPING` software
    /// stamp: the kernel reports the same `skb->tstamp` there that the filter read.
    pub fn of(payload: &[u8], payload_len: usize, source_port: u16, tstamp: Option<RealNs>) -> Self {
        let mut head = [0; HEAD_LEN];
        // The kernel side copies all 16 bytes or none: see probe-ebpf/src/kernel/socket.rs.
        if let Some(first) = payload.first_chunk::<HEAD_LEN>() {
            head = *first;
        }
        Self {
            tstamp: tstamp.map_or(0, |t| t.as_nanos() as u64),
            source_port,
            payload_len: payload_len as u16,
            head,
        }
    }
    /// The same key for a side that could not read the receive stamp.
    pub const fn without_tstamp(self) -> Self {
        Self { tstamp: 0, ..self }
    }
}

/// One datagram as the socket filter saw it. Native byte order: both sides run on the same host.
///
/// UDP header and payload head stand in the order of the packet, so that the filter copies both at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PacketEvent {
    /// T5: `bpf_ktime_get_ns` when the filter ran, before the datagram was queued on the socket.
    pub filter_mono: u64,
    /// T4: `skb->tstamp`, `CLOCK_REALTIME` nanoseconds; 0 when not available.
    pub tstamp: u64,
    /// The UDP header as it travelled.
    pub udp: [u8; UDP_HEADER_LEN],
    /// First payload bytes; all zero when the payload is shorter than [`HEAD_LEN`].
    pub head: [u8; HEAD_LEN],
}

/// Size of a [`PacketEvent`] in the ring.
pub const EVENT_LEN: usize = size_of::<PacketEvent>();
const _: () = assert!(EVENT_LEN == 40 && align_of::<PacketEvent>() == 8);

impl PacketEvent {
    /// Reads an event from ring bytes; `None` unless there are exactly [`EVENT_LEN`] of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; EVENT_LEN] = bytes.try_into().ok()?;
        let (filter_mono, rest) = bytes.split_first_chunk()?;
        let (tstamp, rest) = rest.split_first_chunk()?;
        let (udp, rest) = rest.split_first_chunk()?;
        Some(Self {
            filter_mono: u64::from_ne_bytes(*filter_mono),
            tstamp: u64::from_ne_bytes(*tstamp),
            udp: *udp,
            head: *rest.first_chunk()?,
        })
    }
    /// The key under which the datagram will be found.
    pub const fn key(&self) -> PacketKey {
        let u = &self.udp;
        PacketKey {
            tstamp: self.tstamp,
            source_port: u16::from_be_bytes([u[0], u[1]]),
            payload_len: u16::from_be_bytes([u[4], u[5]]).wrapping_sub(UDP_HEADER_LEN as u16),
            head: self.head,
        }
    }
    /// T4, unless the kernel had not stamped the packet.
    pub const fn received(&self) -> Option<RealNs> {
        if self.tstamp == 0 { None } else { Some(RealNs::from_nanos(self.tstamp as i64)) }
    }
    /// T5.
    pub const fn filtered(&self) -> MonoNs {
        MonoNs::from_nanos(self.filter_mono as i64)
    }
}

/// Bytes that one event takes in the ring: the ring's own header, then the event, in multiples of eight.
///
/// Events are all of one size, so the ring's producer position tells how many there were: the filter keeps no
/// count of its own, which would cost it a cold cache line per packet.
pub const RING_SLOT: u64 = 8 + EVENT_LEN.next_multiple_of(8) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_layout_is_read_back() {
        let mut raw = [0u8; EVENT_LEN];
        raw[..8].copy_from_slice(&5u64.to_ne_bytes());
        raw[8..16].copy_from_slice(&4u64.to_ne_bytes());
        raw[16..24].copy_from_slice(&[0x1b, 0x58, 0, 1, 0, 107, 0, 0]); // from port 7000, 8 + 99 bytes long
        raw[24..40].copy_from_slice(b"0123456789abcdef");
        let event = PacketEvent::from_bytes(&raw).expect("exact size");
        assert_eq!(
            (event.filtered(), event.received()),
            (MonoNs::from_nanos(5), Some(RealNs::from_nanos(4)))
        );
        let mut payload = [0u8; 99];
        payload[..16].copy_from_slice(b"0123456789abcdef");
        assert_eq!(event.key(), PacketKey::of(&payload, 99, 7000, event.received()));
        assert_eq!(PacketEvent::from_bytes(&raw[1..]), None);
    }

    #[test]
    fn short_payloads_have_no_head() {
        let key = PacketKey::of(b"short", 5, 1, None);
        assert_eq!((key.head, key.tstamp, key.payload_len), ([0; HEAD_LEN], 0, 5));
    }
}
