//! The socket filter: stamps every datagram of one socket, before it is queued there (T4 and T5).
//!
//! It returns the full length on every path, also on failure: a probe never drops traffic.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_ktime_get_ns, generated::{bpf_probe_read_kernel, bpf_skb_load_bytes}},
    macros::socket_filter,
    programs::SkBuffContext,
};
use aya_log_ebpf::warn;
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
    // SAFETY: no arguments, no preconditions.
    let filter_mono = unsafe { bpf_ktime_get_ns() };
    let emitted = emit(|event| {
        event.filter_mono = filter_mono;
        event.tstamp = tstamp(&ctx);
        let skb = ctx.as_ptr().cast::<c_void>();
        let mut udp = [0u16; UDP_HEADER_LEN / 2];
        // Failing loads leave zeros behind: an event without a key that matches, so "unmatched" in the end.
        // SAFETY: the destination is writable memory of the length given.
        unsafe { bpf_skb_load_bytes(skb, 0, udp.as_mut_ptr().cast(), UDP_HEADER_LEN as u32) };
        event.source_port = u16::from_be(udp[0]);
        event.payload_len = u16::from_be(udp[2]).wrapping_sub(UDP_HEADER_LEN as u16);
        // SAFETY: as above; the ring's slot has HEAD_LEN bytes there.
        unsafe { bpf_skb_load_bytes(skb, UDP_HEADER_LEN as u32, event.head.as_mut_ptr().cast(), HEAD_LEN as u32) };
    });
    if emitted == Err(1) {
        warn!(&ctx, "event ring full: first event lost on this CPU");
    }
    KEEP_ALL
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

/// Does nothing: loaded beside the probe when its cost is measured.
#[socket_filter]
pub(super) fn pikoscope_empty(_ctx: SkBuffContext) -> i64 {
    KEEP_ALL
}
