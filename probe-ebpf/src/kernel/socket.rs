//! The socket filter: stamps every datagram of one socket, before it is queued there (T4 and T5).
//!
//! It returns the full length on every path, also on failure: a probe never drops traffic.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
    },
    macros::socket_filter,
    programs::SkBuffContext,
};
use aya_log_ebpf::warn;
use probe_ebpf::event::PacketEvent;
use probe_ebpf::parse::{HEAD_LEN, UDP_HEADER_LEN};

use super::emit::emit;

/// "Keep the whole packet", whatever its length.
const KEEP_ALL: i64 = u32::MAX as i64;

/// Byte offset of `tstamp` in `struct sk_buff`, set by the loader from the kernel's BTF; 0: unknown.
///
/// In frozen read-only data, so the verifier sees a constant: arithmetic on the context pointer with
/// anything else is refused.
#[unsafe(no_mangle)]
static TSTAMP_OFFSET: u32 = 0;

#[socket_filter]
pub(super) fn pikoscope_rx(ctx: SkBuffContext) -> i64 {
    #[cfg(feature = "broken")]
    super::broken::read_past_context(&ctx);
    // SAFETY: no arguments, no preconditions.
    let filter_mono = unsafe { bpf_ktime_get_ns() };
    let emitted = emit(|slot| {
        // SAFETY: the slot has room for the UDP header and HEAD_LEN bytes from there on.
        unsafe { load(&ctx, slot.wrapping_add(offset_of!(PacketEvent, udp))) };
        (filter_mono, tstamp(&ctx))
    });
    if emitted == Err(1) {
        warn!(&ctx, "event ring full: first event lost on this CPU");
    }
    KEEP_ALL
}

/// Copies the UDP header and the first HEAD_LEN bytes of the payload. A load that fails zeroes its destination: then
/// the event has no head, or at worst a key that matches nothing.
///
/// # Safety
/// All of these bytes at `to` must be writable.
#[inline(always)]
unsafe fn load(ctx: &SkBuffContext, to: *mut u8) {
    let (skb, to) = (ctx.as_ptr().cast::<c_void>(), to.cast::<c_void>());
    // SAFETY: the caller's.
    unsafe {
        if bpf_skb_load_bytes(skb, 0, to, (UDP_HEADER_LEN + HEAD_LEN) as u32) != 0 {
            bpf_skb_load_bytes(skb, 0, to, UDP_HEADER_LEN as u32);
        }
    }
}

/// Reads `skb->tstamp`, which the verifier does not show to socket filters, or 0.
#[inline(always)]
fn tstamp(ctx: &SkBuffContext) -> u64 {
    // SAFETY: a plain static; volatile because the loader replaces the value after compilation.
    let offset = unsafe { core::ptr::read_volatile(&raw const TSTAMP_OFFSET) };
    if offset == 0 {
        return 0;
    }
    let mut stamp = 0u64;
    // SAFETY: the destination is a local of 8 bytes; probe_read copes with any source address, and the
    // program's context pointer is the kernel's `struct sk_buff` at run time.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut stamp).cast(),
            size_of::<u64>() as u32,
            ctx.as_ptr().cast::<u8>().add(offset as usize).cast(),
        )
    };
    stamp
}

/// Reads what the probe reads and tells nobody: loaded beside it when its cost is measured.
#[socket_filter]
pub(super) fn pikoscope_reads(ctx: SkBuffContext) -> i64 {
    let mut packet = [0u64; (UDP_HEADER_LEN + HEAD_LEN).div_ceil(8)];
    // SAFETY: the helper has no preconditions; the local has room for all that is loaded. The compiler does not know
    // what helpers do and leaves none out.
    unsafe {
        bpf_ktime_get_ns();
        load(&ctx, packet.as_mut_ptr().cast());
    }
    tstamp(&ctx);
    KEEP_ALL
}

/// Does nothing: loaded beside the probe when its cost is measured.
#[socket_filter]
pub(super) fn pikoscope_empty(_ctx: SkBuffContext) -> i64 {
    KEEP_ALL
}
