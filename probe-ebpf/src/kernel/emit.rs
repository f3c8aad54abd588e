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

/// Counts a datagram and hands its event to the ring.
///
/// Returns the number of events this CPU has lost to a full ring, when this one was lost too.
#[inline(always)]
pub(super) fn emit(fill: impl FnOnce(&mut PacketEvent)) -> Result<(), u64> {
    let counters = COUNTERS.get_ptr_mut(0);
    if let Some(c) = counters {
        // SAFETY: the pointer is this CPU's own element, valid for the map's lifetime; a softirq does not
        // preempt another softirq on the same CPU, so nothing else writes it meanwhile.
        unsafe { (*c).seen += 1 };
    }
    match EVENTS.reserve::<PacketEvent>(0) {
        Some(mut slot) => {
            slot.write(PacketEvent::default());
            // SAFETY: initialised by the line above.
            fill(unsafe { slot.assume_init_mut() });
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
