//! The drop programs: datagrams that the kernel dropped at the node's own socket, and why.
//!
//! They run for every dropped packet of the host, which is rare; own ones are told by the socket's cookie. One of the
//! two is loaded: which, the user side decides by the kernel's BTF.

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{read_volatile, write_bytes},
};

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_socket_cookie, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map},
    maps::{PerCpuHashMap, RingBuf},
    programs::BtfTracePointContext,
};
use probe_ebpf::drop::{DropEvent, OTHER_REASONS, SkbOffsets};
use probe_ebpf::parse::{HEAD_LEN, UDP_HEADER_LEN};

/// The user side sets the real size at load time.
#[map]
static DROPS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// A UDP socket knows a dozen reasons; what finds no room is counted under one key.
#[map]
static DROP_COUNTS: PerCpuHashMap<u32, u64> = PerCpuHashMap::with_max_entries(64, 0);

/// Cookie of the node's socket, set by the loader; the kernel gives no socket 0.
#[unsafe(no_mangle)]
static DROP_COOKIE: u64 = 0;

/// Set by the loader from the kernel's BTF. In frozen read-only data, so the verifier sees constants and checks each
/// load against the kernel's own type.
#[unsafe(no_mangle)]
static SKB_OFFSETS: SkbOffsets = SkbOffsets { head: 0, transport_header: 0, len: 0, data_len: 0, tstamp: 0 };

/// `kfree_skb(skb, location, reason, rx_sk)`.
#[btf_tracepoint(function = "kfree_skb")]
pub(super) fn pikoscope_drop(ctx: BtfTracePointContext) -> i32 {
    if !is_own(ctx.arg(3)) {
        return 0;
    }
    let reason = ctx.arg::<u32>(2);
    // In this order: who reads the count and then the ring has every record of what is counted.
    record(ctx.arg(0), reason);
    count(reason);
    0
}

/// `udp_fail_queue_rcv_skb(rc, sk, ...)`: `rc` tells the reason, as a negative error number.
#[btf_tracepoint(function = "udp_fail_queue_rcv_skb")]
pub(super) fn pikoscope_no_room(ctx: BtfTracePointContext) -> i32 {
    if is_own(ctx.arg(1)) {
        count(ctx.arg::<u32>(0));
    }
    0
}

/// Is it the node's? The socket is null where a packet was dropped before its socket was known. Not all kernels let
/// programs test that (the verifier of 6.12 takes it for impossible), so nothing is read through the pointer here: the
/// helper itself gives 0 for none.
#[inline(always)]
fn is_own(socket: *const c_void) -> bool {
    // SAFETY: a plain static; volatile because the loader replaces the value after compilation.
    let own = unsafe { read_volatile(&raw const DROP_COOKIE) };
    // SAFETY: the tracepoint's own argument, a socket or null, which the verifier checks.
    own != 0 && unsafe { bpf_get_socket_cookie(socket.cast_mut()) } == own
}

#[inline(always)]
fn count(reason: u32) {
    let counter = DROP_COUNTS.get_ptr_mut(reason).or_else(|| {
        // Fails when another CPU was faster, or when it is full.
        let _ = DROP_COUNTS.insert(reason, 0, u64::from(BPF_NOEXIST));
        DROP_COUNTS.get_ptr_mut(reason).or_else(|| DROP_COUNTS.get_ptr_mut(OTHER_REASONS))
    });
    if let Some(counter) = counter {
        // SAFETY: this CPU's own value, valid while the program runs; a socket's packets are dropped in softirqs, which
        // do not interrupt each other.
        unsafe { *counter += 1 };
    }
}

/// Hands the datagram's own marks to the ring, as the socket filter does, if they can be read. One that does not get
/// there is only counted.
#[inline(always)]
fn record(skb: *const u8, reason: u32) {
    let at = &raw const SKB_OFFSETS;
    // SAFETY: plain statics; volatile because the loader replaces the values after compilation.
    let (head, transport, len, data_len, tstamp) = unsafe {
        (
            read_volatile(&raw const (*at).head) as usize,
            read_volatile(&raw const (*at).transport_header) as usize,
            read_volatile(&raw const (*at).len) as usize,
            read_volatile(&raw const (*at).data_len) as usize,
            read_volatile(&raw const (*at).tstamp) as usize,
        )
    };
    if head == 0 {
        return;
    }
    // SAFETY: the tracepoint's `struct sk_buff`; the verifier checks that a member of the size read is at each offset.
    let (head, transport, len, data_len, tstamp) = unsafe {
        (
            skb.add(head).cast::<u64>().read_volatile(),
            skb.add(transport).cast::<u16>().read_volatile(),
            skb.add(len).cast::<u32>().read_volatile(),
            skb.add(data_len).cast::<u32>().read_volatile(),
            skb.add(tstamp).cast::<u64>().read_volatile(),
        )
    };
    // The UDP header has been pulled: this is the payload.
    let short = len < HEAD_LEN as u32;
    if !short && len.wrapping_sub(data_len) < HEAD_LEN as u32 {
        return; // not in one piece
    }
    let Some(mut slot) = DROPS.reserve::<DropEvent>(0) else { return };
    let event = slot.as_mut_ptr();
    let size = if short { UDP_HEADER_LEN } else { UDP_HEADER_LEN + HEAD_LEN };
    // SAFETY: the reserved slot is writable and as large as an event, with room for header and head from `udp` on;
    // probe_read copes with any source address, and zeroes its destination when it fails.
    unsafe {
        (*event).reason = reason;
        (*event).reserved = 0;
        (*event).tstamp = tstamp;
        write_bytes((&raw mut (*event).head).cast::<u64>(), 0, HEAD_LEN / 8);
        bpf_probe_read_kernel(
            event.cast::<u8>().add(offset_of!(DropEvent, udp)).cast(),
            size as u32,
            head.wrapping_add(u64::from(transport)) as *const c_void,
        );
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
}
