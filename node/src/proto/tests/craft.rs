//! Packets made by hand, for host 0.

use probe_ebpf::parse::PacketId;
use probe_user::analysis::align::ByReadings;
use probe_user::analysis::breakdown::Stamp;

use super::net::{Net, address};
use crate::proto::{Outbox, Received, Rejected};
use crate::wire::v1::{self, Entry, Listed, NodeHead, NodeRef, PacketWriter, Sender, StateSum, Step};

/// Stands for a packet that host 0 sent to whoever hands it one that answers it.
const STAND_IN: PacketId = PacketId { incarnation: 0xa11_5e75, counter: 0xa11_5e75 };
/// What is made by hand answers something of host 0's, if nothing else is said.
pub(super) const ANSWERS: Option<PacketId> = Some(STAND_IN);

/// A delta from `from` about one node with these entries.
pub(super) fn delta(from: &str, head: &NodeHead<'_>, entries: &[Entry<'_>]) -> Vec<u8> {
    delta_by(from, ANSWERS, head, entries)
}
pub(super) fn delta_by(
    from: &str,
    answers: Option<PacketId>,
    head: &NodeHead<'_>,
    entries: &[Entry<'_>],
) -> Vec<u8> {
    let mut out = Vec::new();
    let sender = Sender { node_id: from, answers };
    let mut w = PacketWriter::delta(&mut out, 60_000, PacketId::default(), &sender, false);
    assert_eq!(w.node(head, entries.iter().copied(), 0).entries, entries.len());
    w.finish();
    out
}
/// A digest of someone who knows, apart from these nodes and versions, what host 0 knows.
pub(super) fn digest(net: &Net, from: &str, step: Step, nodes: &[(&str, u64)]) -> Vec<u8> {
    let state = &net.hosts[0].core.state;
    let mut sum = state.sum();
    for (id, version) in nodes {
        let name = NodeRef::of(id);
        if let Some(known) = state.find(id) {
            sum.remove(name, state[known].version);
        }
        if *version > 0 {
            sum.add(name, *version);
        }
    }
    digest_by(from, ANSWERS, step, sum, nodes)
}
pub(super) fn digest_by(
    from: &str,
    answers: Option<PacketId>,
    step: Step,
    sum: StateSum,
    nodes: &[(&str, u64)],
) -> Vec<u8> {
    let mut out = Vec::new();
    let sender = Sender { node_id: from, answers };
    let mut w = PacketWriter::digest(&mut out, 60_000, PacketId::default(), &sender, step, sum, &[]);
    assert!(nodes.iter().all(|(id, version)| w.list(Listed { node: NodeRef::of(id), version: *version })));
    w.finish();
    out
}
pub(super) fn head(id: &str, from_version: u64, known_version: u64) -> NodeHead<'_> {
    NodeHead { id, addr: address(1), from_version, known_version }
}
pub(super) fn entry(key: &str, version: u64) -> Entry<'_> {
    Entry { key, value: b"v", version, internal: false, deleted: false, reversioned: false, stamp: None }
}

/// Hands host 0 a datagram; its answers stay in the outbox.
pub(super) fn hand(net: &mut Net, bytes: &[u8]) -> (Result<(), Rejected>, Outbox) {
    hand_from(net, 9, bytes)
}
pub(super) fn hand_from(net: &mut Net, from: usize, bytes: &[u8]) -> (Result<(), Rejected>, Outbox) {
    let mut out = Outbox::default();
    let (now, host) = (net.now, &mut net.hosts[0]);
    let mut bytes = bytes.to_vec();
    let stand_in = STAND_IN.to_u64().to_be_bytes();
    if let Some(at) = bytes.windows(8).position(|window| window == stand_in) {
        let token = host.core.links.token(address(from)).to_u64();
        bytes[at..at + 8].copy_from_slice(&token.to_be_bytes());
    }
    let bytes = bytes.as_slice();
    let received = Received {
        from: address(from),
        bytes,
        now,
        received: Some(Stamp::exact(now)),
        kernel: None,
        clock: &host.clock,
        align: &ByReadings,
    };
    let result = host.core.handle_datagram(received, &mut out);
    (result, out)
}

/// Nodes and versions in the last packet of an outbox that has a digest.
pub(super) fn last_digest(out: &Outbox) -> Vec<(NodeRef, u64)> {
    let digest = out.transmits().iter().rev().find_map(|t| v1::decode(out.bytes(t)).unwrap().digest);
    digest.expect("a digest").listed().map(|l| (l.node, l.version)).collect()
}
