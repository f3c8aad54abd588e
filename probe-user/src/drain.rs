//! Takes events out of the ring.
//!
//! The ring is memory mapped, so draining it costs no syscall. It is done right after `recvmmsg` returned:
//! the filter ran before the datagrams were queued, so their events are there.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, MapError, RingBuf};
use probe_ebpf::event::{PacketEvent, RING_SLOT};

/// The event ring's reading end.
pub struct Ring {
    ring: RingBuf<MapData>,
    produced: ProducerPage,
    malformed: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("malformed", &self.malformed).finish_non_exhaustive()
    }
}

impl Ring {
    pub(crate) fn new(map: Map) -> Result<Self, RingError> {
        let ring = RingBuf::try_from(map)?;
        let produced = ProducerPage::map(&ring)?;
        Ok(Self { ring, produced, malformed: 0 })
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

    /// Events that the kernel has put into the ring so far, by its own producer position.
    pub fn produced(&self) -> u64 {
        self.produced.position() / RING_SLOT
    }

    /// Records of a size that no event has: kernel and user side of different builds. Always zero.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

/// Why the ring cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("mapping the ring's producer position: {0}")]
    Mmap(#[from] io::Error),
}

/// The page in which the kernel keeps the producer position (kernel/bpf/ringbuf.c, `struct bpf_ringbuf`):
/// aya maps it too, but does not show it.
struct ProducerPage {
    page: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the page is only read, atomically, and stays mapped until this is dropped.
unsafe impl Send for ProducerPage {}

impl ProducerPage {
    fn map(ring: impl AsFd) -> io::Result<Self> {
        // SAFETY: no preconditions.
        let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: a new read-only mapping of the map's second page, at an address the kernel chooses.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_fd().as_raw_fd(),
                len as libc::off_t,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast()).map(|page| Self { page, len }).ok_or_else(io::Error::last_os_error)
    }

    fn position(&self) -> u64 {
        // SAFETY: mapped for as long as `self` lives; the kernel writes it as one aligned word.
        unsafe { self.page.as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for ProducerPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and not used after this.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.len) };
    }
}
