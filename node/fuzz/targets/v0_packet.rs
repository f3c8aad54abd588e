//! Datagrams of version 0: what is accepted is within limits, survives being cut, and can be written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pikoscope::wire::WireError;
use pikoscope::wire::v0::{Cut, DeltaWriter, DigestWriter, Packet, decode};
use pikoscope_fuzz::{nodes, seeds, sender, walk_delta, walk_digest};

fuzz_target!(init: seeds::offer(seeds::v0_datagrams), |data: &[u8]| {
    let Ok(packet) = decode(data) else { return };
    let mut out = Vec::new();
    match packet {
        Packet::Digest { header, request, digest } => {
            walk_digest(&digest);
            let mut w = DigestWriter::new(&mut out, usize::MAX, &sender(&header), request);
            assert!(digest.entries().all(|e| w.push(&e)));
            let Ok(Packet::Digest { header: again, request: wanted, digest: entries }) = decode(&out) else {
                panic!("not read again: {out:02x?}")
            };
            assert_eq!((again, wanted, entries.refused()), (header, request, 0));
            assert!(entries.entries().eq(digest.entries()));
        }
        Packet::Delta { header, delta } => {
            walk_delta(&delta, data);
            let said = nodes(&delta);
            let mut w = DeltaWriter::new(&mut out, usize::MAX, &sender(&header), Cut::Whole);
            for node in &said {
                assert_eq!(w.node(&node.head, node.entries.iter().copied()).left_out, 0);
            }
            let Ok(Packet::Delta { header: again, delta }) = decode(&out) else {
                panic!("not read again: {out:02x?}")
            };
            assert_eq!((again, delta.refused()), (header, 0));
            assert_eq!(nodes(&delta), said);
        }
    }
    // A datagram that is cut on its way is heard as far as it came, or not at all.
    let cut = &data[..data.len() * usize::from(data[data.len() - 1]) / 256];
    match decode(cut) {
        Ok(Packet::Digest { digest, .. }) => walk_digest(&digest),
        Ok(Packet::Delta { delta, .. }) => walk_delta(&delta, cut),
        Err(error) => assert_eq!(error, WireError::Truncated),
    }
});
