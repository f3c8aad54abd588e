//! What both hooks on the way out share: whose packets count, and the ring for their events.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use probe_ebpf::departure::{DepartureEvent, Hook};

/// Apart from the receive events' ring: there the producer position is the count of datagrams seen. The user side sets
/// the real size at load time.
#[map]
static DEPARTURES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// One count for each hook: the one runs in the sender's context and the other may interrupt it there.
#[map]
static DEPARTURES_FAILED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Cookie of the node's socket, set by the loader; the kernel gives no socket 0.
#[unsafe(no_mangle)]
static OWN_COOKIE: u64 = 0;

/// The loader's value.
#[inline(always)]
pub(super) fn own_cookie() -> u64 {
    // SAFETY: a plain static; volatile because the loader replaces the value after compilation.
    unsafe { core::ptr::read_volatile(&raw const OWN_COOKIE) }
}

/// Hands an event to the ring, or counts it as lost.
#[inline(always)]
pub(super) fn emit(event: DepartureEvent) {
    let failed_at = match event.hook {
        hook if hook == Hook::Egress as u32 => 0,
        _ => 1,
    };
    let Some(mut slot) = DEPARTURES.reserve::<DepartureEvent>(0) else {
        if let Some(count) = DEPARTURES_FAILED.get_ptr_mut(failed_at) {
            // SAFETY: this CPU's own element, valid for the map's lifetime; the hook does not interrupt itself for
            // packets of one socket that one thread sends on.
            unsafe { *count += 1 };
        }
        return;
    };
    slot.write(event);
    // Userspace drains the ring after sending: see kernel/emit.rs.
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
}
