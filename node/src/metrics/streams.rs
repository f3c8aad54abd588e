//! Conversations over TCP, under Piko's names where it has one.

use prometheus::{IntCounter, Registry};

use super::{Reasons, counter};

/// Reasons of the wire format and of the core, for both directions.
const WIRE: [&str; 10] = [
    "truncated",
    "wrong_version",
    "unknown_type",
    "malformed",
    "too_large",
    "bad_id",
    "bad_address",
    "trailing",
    "own_id",
    "io",
];
/// Why conversations that others began came to nothing.
const INBOUND: [&str; 8] =
    ["too_many", "idle", "empty", "slow", "not_reading", "ended", "crowded", "shutting_down"];
/// Why those that this node began did.
const OUTBOUND: [&str; 9] = [
    "busy",
    "idle",
    "connect_timeout",
    "connection_refused",
    "connect_error",
    "slow",
    "ended",
    "crowded",
    "shutting_down",
];

/// Handles for the tasks that speak over TCP.
#[derive(Debug)]
pub struct StreamMetrics {
    /// Connections that others made.
    pub connections_inbound: IntCounter,
    /// Connections that this node made.
    pub connections_outbound: IntCounter,
    /// Bytes read.
    pub bytes_inbound: IntCounter,
    /// Bytes written.
    pub bytes_outbound: IntCounter,
    /// Conversations that others began and that failed.
    pub inbound_failed: Reasons,
    /// Conversations that this node began and that failed.
    pub outbound_failed: Reasons,
}

impl StreamMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let reasons = |more: &[&'static str]| [&WIRE[..], more].concat();
        Ok(Self {
            connections_inbound: counter(
                r,
                "piko_gossip_connections_inbound_total",
                "TCP connections that others made, refused ones included.",
            )?,
            connections_outbound: counter(
                r,
                "piko_gossip_connections_outbound_total",
                "TCP connections that this node made.",
            )?,
            bytes_inbound: counter(
                r,
                "piko_gossip_stream_bytes_inbound_total",
                "Bytes read from TCP connections.",
            )?,
            bytes_outbound: counter(
                r,
                "piko_gossip_stream_bytes_outbound_total",
                "Bytes written to TCP connections.",
            )?,
            inbound_failed: Reasons::new(
                r,
                "pikoscope_streams_inbound_failed_total",
                "TCP conversations that others began and that came to nothing, by reason.",
                &reasons(&INBOUND),
            )?,
            outbound_failed: Reasons::new(
                r,
                "pikoscope_streams_outbound_failed_total",
                "TCP conversations that this node began and that came to nothing, by reason.",
                &reasons(&OUTBOUND),
            )?,
        })
    }
}
