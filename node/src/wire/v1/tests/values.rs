//! What the tests of the wire are made of: values of every kind, and packets of them.

use std::net::{IpAddr, SocketAddr};

use probe_ebpf::time::{Bounded, Span, WallNs};
use proptest::prelude::*;

use super::MAX;
use crate::wire::v1::*;

pub(super) fn addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
        .prop_filter("reachable", |a| crate::wire::is_reachable(*a))
}
pub(super) fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,12}", "\\PC{1,60}"]
}
pub(super) fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<u64>().prop_map(PacketId::from_u64)
}
pub(super) fn span() -> impl Strategy<Value = Span> {
    any::<i64>().prop_map(Span::from_nanos)
}
pub(super) fn bound() -> impl Strategy<Value = Span> {
    (0..=i64::MAX).prop_map(Span::from_nanos)
}
pub(super) fn bounded() -> impl Strategy<Value = Option<Bounded>> {
    prop::option::of((span(), bound()).prop_map(|(v, b)| Bounded::new(v, b)))
}
pub(super) fn history() -> impl Strategy<Value = EntryStamp> {
    (
        any::<i64>(),
        span(),
        bound(),
        any::<u8>(),
        bounded(),
        bounded(),
        any::<Option<[u8; 16]>>(),
        any::<[bool; 2]>(),
    )
        .prop_map(|(created, theta, bound, hops, network, kernel, trace_id, [estimated, in_network])| {
            EntryStamp {
                created: WallNs::from_nanos(created),
                theta,
                bound,
                hops,
                network,
                kernel,
                trace_id,
                egress: Egress { estimated, in_network },
            }
        })
}

pub(super) fn value() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 0usize..300).prop_map(|(byte, len)| vec![byte; len])
}

#[derive(Clone, Debug)]
pub(super) struct OwnedEntry {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) step: u64,
    pub(super) flags: (bool, bool, bool),
    pub(super) stamp: Option<EntryStamp>,
}
pub(super) fn entry() -> impl Strategy<Value = OwnedEntry> {
    (id(), value(), 1u64..1 << 40, any::<(bool, bool, bool)>(), prop::option::of(history()))
        .prop_map(|(key, value, step, flags, stamp)| OwnedEntry { key, value, step, flags, stamp })
}
/// Entries under rising versions.
pub(super) fn on_wire(from: u64, entries: &[OwnedEntry]) -> Vec<Entry<'_>> {
    let mut version = from;
    let mut rising = |step: u64| {
        version += step;
        version
    };
    entries
        .iter()
        .map(|e| Entry {
            key: &e.key,
            value: &e.value,
            version: rising(e.step),
            internal: e.flags.0,
            deleted: e.flags.1,
            reversioned: e.flags.2,
            stamp: e.stamp,
        })
        .collect()
}

#[derive(Clone, Debug)]
pub(super) struct OwnedNode {
    pub(super) id: String,
    pub(super) addr: SocketAddr,
    pub(super) from: u64,
    pub(super) entries: Vec<OwnedEntry>,
}
pub(super) fn node() -> impl Strategy<Value = OwnedNode> {
    (id(), addr(), 0u64..1 << 50, prop::collection::vec(entry(), 1..6))
        .prop_map(|(id, addr, from, entries)| OwnedNode { id, addr, from, entries })
}

/// A delta packet of these nodes; what was written of each.
pub(super) fn delta_packet(
    out: &mut Vec<u8>,
    id: PacketId,
    sender: &Sender<'_>,
    nodes: &[OwnedNode],
) -> Vec<NodeWritten> {
    let mut w = PacketWriter::delta(out, MAX, id, sender, true);
    let written = nodes
        .iter()
        .map(|n| {
            let entries = on_wire(n.from, &n.entries);
            let known_version = entries.last().map_or(n.from, |e| e.version);
            w.node(&NodeHead { id: &n.id, addr: n.addr, from_version: n.from, known_version }, entries, 0)
        })
        .collect();
    w.finish();
    written
}

pub(super) const SENDER: Sender<'_> = Sender { node_id: "a", answers: None };

pub(super) fn a_digest(step: Step) -> Vec<u8> {
    let mut out = Vec::new();
    let id = PacketId { incarnation: 1, counter: 2 };
    let suspect = Suspect { node: NodeRef::of("c"), version: 3, by: NodeRef::of("a") };
    let sum = StateSum::from_u64(0x0102_0304_0506_0708);
    let mut w = PacketWriter::digest(&mut out, MAX, id, &SENDER, step, sum, &[suspect]);
    assert!(w.list(Listed { node: NodeRef::of("b"), version: 300 }));
    w.finish();
    out
}
pub(super) fn step() -> impl Strategy<Value = Step> {
    prop::sample::select(vec![Step::Request, Step::Answer, Step::Pull, Step::Offer])
}
pub(super) fn node_ref() -> impl Strategy<Value = NodeRef> {
    any::<u32>().prop_map(|n| NodeRef::of(&n.to_string()))
}
