//! Takes events out of the ring.
//!
//! The ring is memory mapped, so draining it costs no syscall. It is done right after `recvmmsg` returned:
//! the filter ran before the datagrams were queued, so their events are there.

use aya::maps::{Map, MapData, MapError, RingBuf};
use probe_ebpf::event::PacketEvent;

/// The event ring's reading end.
pub struct Ring {
    ring: RingBuf<MapData>,
    malformed: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("malformed", &self.malformed).finish_non_exhaustive()
    }
}

impl Ring {
    pub(crate) fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self { ring: map.try_into()?, malformed: 0 })
    }

    /// Calls `each` with every event in the ring, oldest first.
    pub fn drain(&mut self, mut each: impl FnMut(PacketEvent)) {
        while let Some(item) = self.ring.next() {
            match PacketEvent::from_bytes(&item) {
                Some(event) => each(event),
                None => self.malformed += 1,
            }
        }
    }

    /// Records of a size that no event has: kernel and user side of different builds. Always zero.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}
