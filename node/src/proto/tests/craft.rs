//! Packets made by hand, for host 0.

use probe_ebpf::parse::PacketId;

use super::net::{Net, address};
use crate::proto::{Outbox, Received, Rejected};
use crate::wire::v1::{self, Body, DeltaWriter, DigestEntry, DigestWriter, Entry, NodeHead, Sender};

fn sender(host: usize, id: &str) -> Sender<'_> {
    Sender { node_id: id, addr: address(host) }
}
/// A delta from `from` about one node with these entries.
pub(super) fn delta(from: &str, head: &NodeHead<'_>, entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = DeltaWriter::new(&mut out, 60_000, PacketId::default(), &sender(1, from));
    assert_eq!(w.node(head, entries.iter().copied()).entries, entries.len());
    w.finish();
    out
}
pub(super) fn digest(from: &str, request: bool, entries: &[DigestEntry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = DigestWriter::new(&mut out, 60_000, PacketId::default(), &sender(1, from), request);
    assert!(entries.iter().all(|e| w.push(e)));
    w.finish();
    out
}
pub(super) fn head(id: &str, from_version: u64, known_version: u64) -> NodeHead<'_> {
    NodeHead { id, addr: address(1), from_version, known_version }
}
pub(super) fn entry(key: &str, version: u64) -> Entry<'_> {
    Entry { key, value: b"v", version, internal: false, deleted: false, reversioned: false, stamp: None }
}
pub(super) fn listed(id: &str, version: u64) -> DigestEntry<'_> {
    DigestEntry { id, addr: address(1), version, left: false }
}

/// Hands host 0 a datagram; its answers stay in the outbox.
pub(super) fn hand(net: &mut Net, bytes: &[u8]) -> (Result<(), Rejected>, Outbox) {
    let mut out = Outbox::default();
    let (now, host) = (net.now, &mut net.hosts[0]);
    let received =
        Received { from: address(9), bytes, now, received: Some(now), kernel: None, clock: &host.clock };
    let result = host.core.handle_datagram(received, &mut out);
    (result, out)
}

/// Nodes and versions in the last packet of an outbox, a digest.
pub(super) fn last_digest(out: &Outbox) -> Vec<(String, u64)> {
    let packet = v1::decode(out.bytes(out.transmits().last().unwrap())).unwrap();
    let Body::Digest(digest) = packet.body else { panic!("a digest") };
    digest.entries().map(|e| (e.id.to_owned(), e.version)).collect()
}
