//! Datagrams of version 1: what is accepted is within limits, can be written and read again, and is no packet when it
//! is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pikoscope::wire::v1::{DeltaNode, Packet, PacketWriter, Sender, decode};
use pikoscope::wire::{ID_MAX, KEY_MAX, is_reachable};
use pikoscope_fuzz::seeds;

fuzz_target!(init: seeds::offer(seeds::v1_datagrams), |data: &[u8]| {
    let Ok(packet) = decode(data) else { return };
    assert!((1..=ID_MAX).contains(&packet.header.node_id.len()));
    packet.delta.iter().flat_map(|delta| delta.nodes()).for_each(|node| check(&node));

    let written = write(&packet);
    let again = decode(&written).expect("what was written");
    assert_eq!((again.id, again.kind()), (packet.id, packet.kind()));
    assert_eq!((again.header.node_id, again.header.answers), (packet.header.node_id, packet.header.answers));
    // A node without entries is not written.
    let nodes = |packet: &Packet<'_>| {
        let nodes = packet.delta.iter().flat_map(|delta| delta.nodes()).filter(|node| !node.is_empty());
        nodes.map(|node| format!("{:?}", (node.head, node.entries().collect::<Vec<_>>()))).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&again), nodes(&packet));
    let digest = |packet: &Packet<'_>| {
        packet.digest.map(|d| (d.step, d.sum, d.listed().collect::<Vec<_>>(), d.suspects().collect::<Vec<_>>()))
    };
    assert_eq!(digest(&again), digest(&packet));

    let cut = &data[..data.len() * usize::from(data[data.len() - 1]) / 256];
    assert!(decode(cut).is_err());
});

fn check(node: &DeltaNode<'_>) {
    assert!((1..=ID_MAX).contains(&node.head.id.len()) && is_reachable(node.head.addr));
    assert_eq!(node.entries().count(), node.len());
    let mut last = node.head.from_version;
    for entry in node.entries() {
        assert!((1..=KEY_MAX).contains(&entry.key.len()));
        assert!(entry.version > last && entry.version <= node.head.known_version);
        last = entry.version;
    }
}

fn write(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let sender = Sender { node_id: packet.header.node_id, answers: packet.header.answers };
    let begun = packet.digest.map(|digest| (digest, digest.suspects().collect::<Vec<_>>()));
    let mut w = match (packet.delta, &begun) {
        (Some(delta), _) => {
            let mut w = PacketWriter::delta(&mut out, usize::MAX, packet.id, &sender, delta.eager);
            for node in delta.nodes() {
                assert_eq!(w.node(&node.head, node.entries(), 0).left_out, 0);
            }
            if let Some((digest, suspects)) = &begun {
                w.begin_digest(digest.step, digest.sum, suspects);
            }
            w
        }
        (None, Some((digest, suspects))) => {
            PacketWriter::digest(&mut out, usize::MAX, packet.id, &sender, digest.step, digest.sum, suspects)
        }
        (None, None) => panic!("a packet that is nothing"),
    };
    if let Some((digest, _)) = begun {
        assert!(digest.listed().all(|listed| w.list(listed)));
    }
    w.finish();
    out
}
