//! The contract between the kernel side and the user side of the probe.
//!
//! This crate is the leaf of the workspace: typed time ([`time`]), the event that the socket filter puts
//! into the ring ([`event`]) and the parsing of the fixed bytes that the filter looks at ([`parse`]). All of
//! it is `no_std` and compiles both for the eBPF target and for the host, where it is tested. The binary of
//! the same package holds the eBPF programs.
#![no_std]
#![forbid(unsafe_code)]

pub mod event;
pub mod parse;
pub mod time;

/// Names by which the user side finds the programs, maps and constants of the eBPF object.
pub mod names {
    /// Socket filter that stamps every datagram of the socket it is attached to.
    pub const SOCKET_FILTER: &str = "pikoscope_rx";
    /// Socket filter that does nothing: the yardstick for the probe's own cost.
    pub const EMPTY_FILTER: &str = "pikoscope_empty";
    /// Ring buffer of [`PacketEvent`](crate::event::PacketEvent)s.
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU count of events lost to a full ring, one `u64`.
    pub const RING_FAILED: &str = "RING_FAILED";
    /// Read-only constant: byte offset of `tstamp` in `struct sk_buff`; 0 means "not available".
    pub const TSTAMP_OFFSET: &str = "TSTAMP_OFFSET";
}
