//! What the hooks on the way out put into their ring for each of the node's own packets.

use crate::time::MonoNs;

/// Which hook saw the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Hook {
    /// T2: the packet leaves the IP layer, in the sender's own call.
    Egress = 1,
    /// T3: a device's driver is given the packet. Once for each device of a stack.
    Xmit = 2,
}

/// One of the node's own packets at one of the hooks. Native byte order: both sides run on the same host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DepartureEvent {
    /// `bpf_ktime_get_ns` at the hook.
    pub at: u64,
    /// The kernel's name for the packet while it is under way: where its `sk_buff` is. Another one may have it later.
    pub skb: u64,
    /// Index of the device at [`Hook::Xmit`], else 0.
    pub device: u32,
    /// A [`Hook`].
    pub hook: u32,
}

/// Size of a [`DepartureEvent`] in the ring.
pub const DEPARTURE_LEN: usize = size_of::<DepartureEvent>();
const _: () = assert!(DEPARTURE_LEN == 24 && align_of::<DepartureEvent>() == 8);

impl DepartureEvent {
    /// Reads an event from ring bytes; `None` unless there are exactly [`DEPARTURE_LEN`] of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; DEPARTURE_LEN] = bytes.try_into().ok()?;
        let (at, rest) = bytes.split_first_chunk()?;
        let (skb, rest) = rest.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        Some(Self {
            at: u64::from_ne_bytes(*at),
            skb: u64::from_ne_bytes(*skb),
            device: u32::from_ne_bytes(*device),
            hook: u32::from_ne_bytes(*rest.first_chunk()?),
        })
    }
    /// Which hook; `None` for a number that is none.
    pub const fn hook(&self) -> Option<Hook> {
        match self.hook {
            1 => Some(Hook::Egress),
            2 => Some(Hook::Xmit),
            _ => None,
        }
    }
    /// When.
    pub const fn at(&self) -> MonoNs {
        MonoNs::from_nanos(self.at as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_layout_is_read_back() {
        let mut raw = [0u8; DEPARTURE_LEN];
        raw[..8].copy_from_slice(&5u64.to_ne_bytes());
        raw[8..16].copy_from_slice(&0xffff_8880_0000_0000_u64.to_ne_bytes());
        raw[16..20].copy_from_slice(&3u32.to_ne_bytes());
        raw[20..24].copy_from_slice(&2u32.to_ne_bytes());
        let event = DepartureEvent::from_bytes(&raw).expect("exact size");
        assert_eq!(event, DepartureEvent { at: 5, skb: 0xffff_8880_0000_0000, device: 3, hook: 2 });
        assert_eq!((event.hook(), event.at()), (Some(Hook::Xmit), MonoNs::from_nanos(5)));
        assert_eq!(DepartureEvent { hook: 1, ..event }.hook(), Some(Hook::Egress));
        assert_eq!(DepartureEvent { hook: 3, ..event }.hook(), None);
        assert_eq!(DepartureEvent::from_bytes(&raw[1..]), None);
    }
}
