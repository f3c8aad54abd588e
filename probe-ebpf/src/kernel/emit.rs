//! The way out of the kernel: the event ring and the counters.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use probe_ebpf::event::{PacketEvent, ProbeCounters};

/// The user side sets the real size at load time.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[map]
static COUNTERS: PerCpuArray<ProbeCounters> = PerCpuArray::with_max_entries(1, 0);

/// Counts a datagram and hands its event to the ring. `fill` writes the packet's bytes into the slot and gives
/// the two stamps.
///
/// Returns the number of events this CPU has lost to a full ring, when this one was lost too.
#[inline(always)]
pub(super) fn emit(fill: impl FnOnce(*mut u8) -> (u64, u64)) -> Result<(), u64> {
    let counters = COUNTERS.get_ptr_mut(0);
    if let Some(c) = counters {
        // SAFETY: the pointer is this CPU's own element, valid for the map's lifetime; a softirq does not
        // preempt another softirq on the same CPU, so nothing else writes it meanwhile.
        unsafe { (*c).seen += 1 };
    }
    match EVENTS.reserve::<PacketEvent>(0) {
        Some(mut slot) => {
            let event = slot.as_mut_ptr();
            let (filter_mono, tstamp) = fill(event.cast());
            // SAFETY: the reserved slot is writable and as large as an event.
            unsafe {
                (*event).filter_mono = filter_mono;
                (*event).tstamp = tstamp;
            }
            // Userspace drains the ring after recvmsg: a wake-up would cost twenty times the filter itself.
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
            Ok(())
        }
        None => Err(counters.map_or(0, |c| {
            // SAFETY: as above.
            unsafe {
                (*c).ring_failed += 1;
                (*c).ring_failed
            }
        })),
    }
}
