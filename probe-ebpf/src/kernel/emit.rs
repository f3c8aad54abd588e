//! The way out of the kernel: the event ring and the counters.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use probe_ebpf::event::PacketEvent;

/// The user side sets the real size at load time.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[map]
static RING_FAILED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Hands a datagram's event to the ring. `fill` writes the packet's bytes into the slot and gives the two
/// stamps.
///
/// Returns the number of events this CPU has lost to a full ring, when this one was lost too.
#[inline(always)]
pub(super) fn emit(fill: impl FnOnce(*mut u8) -> (u64, u64)) -> Result<(), u64> {
    let Some(mut slot) = EVENTS.reserve::<PacketEvent>(0) else { return Err(lost()) };
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

fn lost() -> u64 {
    let Some(count) = RING_FAILED.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is this CPU's own element, valid for the map's lifetime; a softirq does not preempt
    // another softirq on the same CPU, so nothing else writes it meanwhile.
    unsafe {
        *count += 1;
        *count
    }
}
