//! The mistake of the feature `broken`: shows that the tests notice when a kernel refuses the filter.

use aya_ebpf::{EbpfContext as _, programs::SkBuffContext};

/// Reads `struct sk_buff` through the context pointer, past what the verifier shows of it.
#[inline(always)]
pub(super) fn read_past_context(ctx: &SkBuffContext) {
    // SAFETY: there is none: the verifier has to refuse this, so it never runs.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(512)) };
}
