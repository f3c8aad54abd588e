//! T3 at tier 2: a device's driver is given a packet (`net_dev_start_xmit`).
//!
//! Runs for every packet that the host sends, once for each device of a stack; packets of other sockets cost two loads
//! and a comparison. The loads are typed: the verifier knows what the pointers point at, and refuses an offset at
//! which there is nothing of that kind.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::departure::{DepartureEvent, Hook};

use super::depart::{emit, own_cookie};

/// Byte offsets, set by the loader from the kernel's BTF.
#[unsafe(no_mangle)]
static SKB_SK_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static SOCK_COOKIE_OFFSET: u32 = 0;
#[unsafe(no_mangle)]
static DEVICE_IFINDEX_OFFSET: u32 = 0;

#[btf_tracepoint(function = "net_dev_start_xmit")]
pub(super) fn pikoscope_xmit(ctx: BtfTracePointContext) -> i32 {
    let skb: *const u8 = ctx.arg(0);
    // SAFETY: the verifier checks the pointer's type against the offset, and the kernel copes with a stale one.
    let sk = unsafe { load::<*const u8>(skb, &raw const SKB_SK_OFFSET) };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: as above. Every kind of socket begins with the part that has the cookie.
    if unsafe { load::<u64>(sk, &raw const SOCK_COOKIE_OFFSET) } != own_cookie() {
        return 0;
    }
    let device: *const u8 = ctx.arg(1);
    // SAFETY: as above.
    let device = unsafe { load::<u32>(device, &raw const DEVICE_IFINDEX_OFFSET) };
    // SAFETY: no arguments, no preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    emit(DepartureEvent { at, skb: skb as u64, device, hook: Hook::Xmit as u32 });
    0
}

/// Reads a member of a kernel structure.
///
/// # Safety
/// `base` is a pointer whose type the verifier knows, or the program is refused.
#[inline(always)]
unsafe fn load<T>(base: *const u8, offset: *const u32) -> T {
    // SAFETY: `offset` is a static of this file, volatile because the loader replaces it; the rest is the caller's.
    unsafe {
        let offset = core::ptr::read_volatile(offset);
        core::ptr::read_volatile(base.wrapping_add(offset as usize).cast())
    }
}

/// Does nothing: loaded beside the hook when its cost is measured.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub(super) fn pikoscope_xmit_empty(_ctx: BtfTracePointContext) -> i32 {
    0
}
