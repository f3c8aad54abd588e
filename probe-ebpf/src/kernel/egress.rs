//! T2 at tier 2: a cgroup's packets at the end of the IP layer, just before they go to a device.
//!
//! Runs for every packet that a process of the node's cgroup sends; packets of other sockets cost a call and a
//! comparison. It lets every packet pass on every path.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_ktime_get_ns, generated::bpf_get_socket_cookie},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use probe_ebpf::departure::{DepartureEvent, Hook};

use super::depart::{emit, own_cookie};

/// "Let it pass": without the congestion bit, which is 2.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
pub(super) fn pikoscope_egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_get_socket_cookie(ctx.as_ptr()) } == own_cookie() {
        // SAFETY: no arguments, no preconditions.
        let at = unsafe { bpf_ktime_get_ns() };
        emit(DepartureEvent { at, skb: ctx.as_ptr() as u64, device: 0, hook: Hook::Egress as u32 });
    }
    PASS
}

/// Does nothing: loaded beside the hook when its cost is measured.
#[cgroup_skb(egress)]
pub(super) fn pikoscope_egress_empty(_ctx: SkBuffContext) -> i32 {
    PASS
}
