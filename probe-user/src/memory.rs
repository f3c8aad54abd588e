//! Memory that the allocator holds although nobody uses it any more.
//!
//! Loading the probe takes about 25 MB for a tenth of a second: the kernel's BTF is read, by our own reader and
//! by aya. glibc answers large requests by `mmap` and returns them at once, but each one that is freed raises the
//! size from which it does so, up to 32 MB; from then on freed memory stays with the process. A node needs three
//! megabytes of heap, so that would be most of what it holds for the rest of its life.

/// Requests from this size on are returned to the system as soon as they are freed: glibc's own first value.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 128 * 1024;

/// Keeps glibc from raising the size from which freed memory is returned at once. For a program of its own, at
/// its start: it is a setting of the whole process. Elsewhere than with glibc it does nothing.
pub fn return_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it takes the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    };
}

/// Returns what is free in the allocator's heaps to the system. A millisecond or so: not for the packet path.
/// Elsewhere than with glibc it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}
