//! The contract between the kernel side and the user side of the probe.
//!
//! This crate is the leaf of the workspace: typed time ([`time`]), the events that the programs put into their
//! rings (the socket filter's [`event`], and [`departure`]) and the parsing of the fixed bytes that the filter looks at ([`parse`]). All of
//! it is `no_std` and compiles both for the eBPF target and for the host, where it is tested. The binary of
//! the same package holds the eBPF programs.
#![no_std]
#![forbid(unsafe_code)]

pub mod departure;
pub mod drop;
pub mod event;
pub mod parse;
pub mod time;

/// Names by which the user side finds the programs, maps and constants of the eBPF object.
pub mod names {
    /// Socket filter that stamps every datagram of the socket it is attached to.
    pub const SOCKET_FILTER: &str = "pikoscope_rx";
    /// The filter that reads what the probe reads and keeps nothing.
    pub const READS_FILTER: &str = "pikoscope_reads";
    /// Socket filter that does nothing: the yardstick for the probe's own cost.
    pub const EMPTY_FILTER: &str = "pikoscope_empty";
    /// Ring buffer of [`PacketEvent`](crate::event::PacketEvent)s.
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU count of events lost to a full ring, one `u64`.
    pub const RING_FAILED: &str = "RING_FAILED";
    /// Read-only constant: byte offset of `tstamp` in `struct sk_buff`; 0 means "not available".
    pub const TSTAMP_OFFSET: &str = "TSTAMP_OFFSET";
    /// cgroup hook for T2, on the egress side.
    pub const EGRESS: &str = "pikoscope_egress";
    /// Tracepoint program for T3.
    pub const XMIT: &str = "pikoscope_xmit";
    /// The same two with nothing in them: yardsticks for their cost.
    pub const EGRESS_EMPTY: &str = "pikoscope_egress_empty";
    /// See [`EGRESS_EMPTY`].
    pub const XMIT_EMPTY: &str = "pikoscope_xmit_empty";
    /// The tracepoint of [`XMIT`].
    pub const XMIT_TRACEPOINT: &str = "net_dev_start_xmit";
    /// Ring buffer of [`DepartureEvent`](crate::departure::DepartureEvent)s.
    pub const DEPARTURES: &str = "DEPARTURES";
    /// Per-CPU counts of departure events lost to a full ring, one `u64` for T2 and one for T3.
    pub const DEPARTURES_FAILED: &str = "DEPARTURES_FAILED";
    /// Read-only constant: cookie of the node's socket.
    pub const OWN_COOKIE: &str = "OWN_COOKIE";
    /// Read-only constant: byte offset of `sk` in `struct sk_buff`.
    pub const SKB_SK_OFFSET: &str = "SKB_SK_OFFSET";
    /// Read-only constant: byte offset of `__sk_common.skc_cookie` in `struct sock`.
    pub const SOCK_COOKIE_OFFSET: &str = "SOCK_COOKIE_OFFSET";
    /// Read-only constant: byte offset of `ifindex` in `struct net_device`.
    pub const DEVICE_IFINDEX_OFFSET: &str = "DEVICE_IFINDEX_OFFSET";
}
