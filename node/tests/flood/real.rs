//! Real packets, to be fired again and mutated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use pikoscope::wire::v0::{self, DigestEntry, DigestWriter};
use pikoscope::wire::v1::{self, Listed, NodeRef, PacketWriter, Sender, StateSum, Step};
use probe_ebpf::parse::PacketId;
use xtask::rig::{Control, node};

use super::support::capture::{Seen, Sniffer};
use super::support::name;
use super::support::trio::Trio;
use super::{TARGET, good_peers};

/// Real packets of every kind: those that are under way now, and those that a node answers.
pub(super) fn real_packets(trio: &Trio) -> Result<Vec<Seen>> {
    let mut sniffer = Sniffer::open(trio.hosts.switch())?;
    let stop = AtomicBool::new(false);
    let controls: Vec<Control> = trio.nodes.iter().map(|node| node.control().clone()).collect();
    let to = trio.address(TARGET);
    let seen = thread::scope(|scope| {
        let writer = scope.spawn(|| good_peers(&controls, &stop));
        let seen = sniffer.collect(node::gossip(trio.hosts.switch_v4()).port(), |seen| {
            let kinds: BTreeSet<_> = seen.iter().filter(|s| s.to == to).map(|s| kind(&s.bytes)).collect();
            let wanted = ["v1 Request", "v1 delta and Answer", "v1 delta, eager", "v1 Offer"];
            seen.len() > 300 && wanted.iter().all(|kind| kinds.contains(*kind))
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        seen
    })?;
    let mut real: Vec<Seen> = seen.into_iter().collect();
    real.sort_by(|a, b| (a.from, a.to, &a.bytes).cmp(&(b.from, b.to, &b.bytes)));
    // In v0 as it answers a v0 node; a pull as it is made.
    for bytes in [v0_request(), v0_request()] {
        trio.stranger.set_read_timeout(Some(Duration::from_millis(300)))?;
        trio.stranger.send_to(&bytes, trio.address(0))?;
        let mut buffer = [0; 2048];
        while let Ok((n, _)) = trio.stranger.recv_from(&mut buffer) {
            // Not under its sender's address: that node speaks v1 to this one.
            real.push(Seen { from: trio.address(0), to: trio.address(2), bytes: buffer[..n].to_vec() });
        }
    }
    let mut pull = Vec::new();
    let sender = Sender { node_id: &name(0), answers: None };
    let id = PacketId { incarnation: 7, counter: 7 };
    let mut w = PacketWriter::digest(&mut pull, 1400, id, &sender, Step::Pull, StateSum::default(), &[]);
    for i in 0..3 {
        assert!(w.list(Listed { node: NodeRef::of(&name(i)), version: 1 }));
    }
    w.finish();
    real.push(Seen { from: trio.address(0), to: trio.address(2), bytes: pull });

    let mut kinds = BTreeMap::new();
    real.iter().for_each(|seen| *kinds.entry(kind(&seen.bytes)).or_insert(0) += 1);
    println!("real packets: {kinds:?}");
    ensure!(kinds.keys().filter(|kind| kind.starts_with("v0")).count() == 2, "v0: {kinds:?}");
    Ok(real)
}

/// Long enough for a long answer.
fn v0_request() -> Vec<u8> {
    let mut out = Vec::new();
    let sender = v0::Sender { node_id: "visitor", addr: "10.77.0.9:7", max_version: None };
    let mut w = DigestWriter::new(&mut out, 1400, &sender, true);
    for n in 0..25 {
        w.push(&DigestEntry { id: &format!("nobody {n}"), addr: "10.77.0.9:7", version: 0, left: false });
    }
    w.finish();
    out
}

fn kind(bytes: &[u8]) -> String {
    if bytes.get(1) == Some(&v0::VERSION) {
        return match v0::decode(bytes) {
            Ok(v0::Packet::Digest { .. }) => "v0 digest".into(),
            Ok(v0::Packet::Delta { .. }) => "v0 delta".into(),
            Err(error) => format!("v0 {error}"),
        };
    }
    match v1::decode(bytes) {
        Ok(packet) => match (packet.delta, packet.digest) {
            (Some(delta), None) if delta.eager => "v1 delta, eager".into(),
            (Some(_), None) => "v1 delta".into(),
            (Some(_), Some(digest)) => format!("v1 delta and {:?}", digest.step),
            (None, Some(digest)) => format!("v1 {:?}", digest.step),
            (None, None) => "v1 nothing".into(),
        },
        Err(error) => format!("v1 {error}"),
    }
}
