//! The eBPF programs. Built for `bpfel-unknown-none` by `cargo xtask build`; on the host this is an empty
//! program, so that the whole workspace can be checked without the eBPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "a binary: the programs are documented where they stand")]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives the verifier: a loop is what it would refuse, were one ever reachable.
    loop {}
}

/// Read by the kernel: some helpers are only for GPL-compatible programs.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
