//! What is written is read again, and no bytes do harm.

use super::*;
use crate::wire::ID_MAX;

const LIMITS: stream::Limits = stream::Limits { bytes: 1 << 20, nodes: 100, entries: 1000 };

proptest! {
    // Most of the time goes into making up messages, and there is a fuzzer too.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn digests_come_back(me in id(), my_addr in addr(), max_version: Option<u8>, request: bool,
                         max_packet in 500usize..3000, nodes in prop::collection::vec(known(), 0..60)) {
        let mut out = vec![7; 5];
        let sender = Sender { node_id: &me, addr: &my_addr, max_version };
        let all = as_entries(&nodes);
        let mut w = DigestWriter::new(&mut out, max_packet, &sender, request);
        let fitting = all.iter().take_while(|e| w.push(e)).count();
        prop_assert_eq!(w.finish(), fitting);
        prop_assert!(out.len() - 5 <= max_packet);
        let Packet::Digest { header, request: wanted, digest } = decode(&out[5..]).unwrap() else { panic!("a digest") };
        prop_assert_eq!(header, Header { node_id: &me, addr: &my_addr, max_version });
        prop_assert_eq!((wanted, digest.len(), digest.refused()), (request, fitting, 0));
        prop_assert!(digest.entries().eq(all[..fitting].iter().copied()));
        prop_assert!(digest.is_empty() == (fitting == 0));
    }

    #[test]
    fn deltas_come_back_as_gap_free_prefixes(max_version: Option<u8>, max_packet in 100usize..3000, piko: bool,
                                             nodes in prop::collection::vec(node(), 0..8)) {
        let mut out = vec![7; 5];
        let cut = if piko { Cut::AsPiko } else { Cut::Whole };
        let sender = Sender { max_version, ..sender() };
        let mut w = DeltaWriter::new(&mut out, max_packet, &sender, cut);
        let written: Vec<_> = nodes.iter().map(|n| w.node(&n.head(), n.entries())).collect();
        let heads = w.finish();
        prop_assert!(out.len() - 5 <= max_packet);
        let Packet::Delta { header, delta } = decode(&out[5..]).unwrap() else { panic!("a delta") };
        prop_assert_eq!((header.max_version, delta.len(), delta.refused()), (max_version, heads, 0));
        let mut received = delta.nodes();
        for (node, written) in nodes.iter().zip(&written) {
            prop_assert_eq!(written.entries + written.left_out, node.entries.len());
            prop_assert!(written.head || written.entries == 0);
            if written.head {
                let got = received.next().unwrap();
                prop_assert_eq!((got.head, got.len()), (node.head(), written.entries));
                prop_assert_eq!(got.declared, node.entries.len() as i64);
                prop_assert!(got.entries().eq(node.entries().take(written.entries)));
                prop_assert!(piko || written.left_out == 0 || written.entries > 0, "a head alone");
            }
        }
        prop_assert!(received.next().is_none());
        let cut_at = written.iter().position(|w| w.head && w.left_out > 0);
        prop_assert!(cut_at.is_none_or(|at| written[at + 1..].iter().all(|w| !w.head)), "nothing can follow a cut node");
    }

    #[test]
    fn the_version_in_a_header_changes_nothing_else(version: u8, request: bool, nodes in prop::collection::vec(known(), 0..10)) {
        let write = |max_version| {
            let mut out = Vec::new();
            let mut w = DigestWriter::new(&mut out, usize::MAX, &Sender { max_version, ..sender() }, request);
            as_entries(&nodes).iter().all(|e| w.push(e));
            out
        };
        let (with, without) = (write(Some(version)), write(None));
        let (Packet::Digest { header, .. }, Packet::Digest { header: plain, .. }) = (decode(&with).unwrap(), decode(&without).unwrap()) else { panic!("digests") };
        prop_assert_eq!((header.max_version, plain.max_version), (Some(version), None));
        prop_assert_eq!(Header { max_version: None, ..header }, plain);
        // One pair more in the header's map, and not a byte else.
        let mut cut = with.clone();
        let at = cut.windows(12).position(|w| w == b"\xabmax_version").unwrap();
        cut.drain(at..at + with.len() - without.len());
        prop_assert_eq!(std::mem::replace(&mut cut[2], 0x83), 0x84);
        prop_assert_eq!(cut, without);
    }

    #[test]
    fn messages_over_tcp_come_back(max_version: Option<u8>, nodes in prop::collection::vec(node(), 0..20),
                                   digest in prop::collection::vec(known(), 0..40), pieces in prop::collection::vec(1usize..400, 1..9)) {
        let sender = Sender { max_version, ..sender() };
        let whole: Vec<_> = nodes.iter().map(OwnedNode::whole).collect();
        let known = as_entries(&digest);

        let mut join = Vec::new();
        stream::put_join_request(&mut join, &sender, &whole, &known);
        let stream::Request::Join { header, delta, digest } = stream::decode_request(&join, &LIMITS).unwrap() else { panic!("a join") };
        prop_assert_eq!(header.max_version, max_version);
        prop_assert_eq!(said(&delta), nodes.clone());
        prop_assert!(digest.entries().eq(known.iter().copied()));

        let mut leave = Vec::new();
        stream::put_leave_request(&mut leave, &sender, &whole);
        let stream::Request::Leave { header, delta } = stream::decode_request(&leave, &LIMITS).unwrap() else { panic!("a leave") };
        prop_assert_eq!(header.max_version, max_version);
        prop_assert_eq!(said(&delta), nodes.clone());

        // As it arrives: the end is found once, and where it is.
        let mut framing = stream::Framing::request(&LIMITS);
        let mut arrived = 0;
        for piece in pieces.iter().cycle() {
            arrived = (arrived + piece).min(join.len());
            let end = framing.end(&join[..arrived]).unwrap();
            prop_assert_eq!(end, (arrived == join.len()).then_some(join.len()));
            if end.is_some() { break }
        }
    }

    #[test]
    fn an_answer_has_as_many_nodes_as_fit(max in 60usize..20_000, nodes in prop::collection::vec(node(), 0..40)) {
        let whole: Vec<_> = nodes.iter().map(OwnedNode::whole).collect();
        let mut out = vec![7; 5];
        let fitting = stream::put_join_response(&mut out, max, &sender(), &whole);
        prop_assert!(out.len() - 5 <= max.max(60));
        let response = stream::decode_join_response(&out[5..], &LIMITS).unwrap();
        prop_assert_eq!(&said(&response.delta)[..], &nodes[..fitting]);
        // One more would have come close to the limit or beyond it.
        if fitting < whole.len() {
            let mut more = Vec::new();
            stream::put_join_response(&mut more, usize::MAX, &sender(), &whole[..=fitting]);
            prop_assert!(more.len() + 30 * nodes.iter().map(|n| n.entries.len() + 1).sum::<usize>() > max);
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 1u8..=4, maps in prop::collection::vec((any::<prop::sample::Index>(), 0x80u8..=0x9f), 0..9)) {
        for (at, marker) in maps {
            if !bytes.is_empty() { let at = at.index(bytes.len()); bytes[at] = marker; }
        }
        check(&bytes);
        if bytes.len() > 2 { bytes[..2].copy_from_slice(&[kind, 0]); }
        check(&bytes);
    }

    #[test]
    fn mutated_messages_are_refused_or_still_within_limits(
        nodes in prop::collection::vec(node(), 1..4), digest in prop::collection::vec(known(), 0..9),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let whole: Vec<_> = nodes.iter().map(OwnedNode::whole).collect();
        let known = as_entries(&digest);
        let (mut one, mut two, mut three) = (Vec::new(), Vec::new(), Vec::new());
        let mut w = DigestWriter::new(&mut one, MAX, &sender(), true);
        known.iter().all(|e| w.push(e));
        let mut w = DeltaWriter::new(&mut two, MAX, &sender(), Cut::AsPiko);
        let _: usize = nodes.iter().map(|n| w.node(&n.head(), n.entries()).entries).sum();
        stream::put_join_request(&mut three, &sender(), &whole, &known);
        for mut message in [one, two, three] {
            for (at, byte) in &hits { let at = at.index(message.len()); message[at] = *byte; }
            check(&message);
            message.truncate(cut.index(message.len()));
            check(&message);
        }
    }

    #[test]
    fn the_value_limit_is_exact_in_the_worst_case(max_packet in prop_oneof![600usize..2000, 65_000usize..65_507, 66_000usize..67_500], origin in 1usize..256, host in 1usize..254, key in 1usize..256) {
        let (me, my_addr) = ("m".repeat(ID_MAX), format!("{}:65535", "h".repeat(253)));
        let (id, addr, key) = ("o".repeat(origin), format!("{}:65535", "h".repeat(host)), "k".repeat(key));
        let limit = value_limit(max_packet, id.len(), addr.len(), key.len());
        let fits = |len: usize| {
            let sender = Sender { node_id: &me, addr: &my_addr, max_version: Some(u8::MAX) };
            let (mut out, value) = (Vec::new(), vec![0; len]);
            let entry = Entry { key: key.as_bytes(), value: &value, version: u64::MAX, internal: true, deleted: true };
            let mut w = DeltaWriter::new(&mut out, max_packet, &sender, Cut::Whole);
            // As many entries as need the longest form of their number.
            let written = w.node(&NodeHead { id: &id, addr: &addr }, std::iter::repeat_n(entry, 0x8000));
            prop_assert_eq!(written.oversized, written.entries == 0);
            Ok(written.entries > 0)
        };
        prop_assert!(limit == 0 || fits(limit)?);
        prop_assert!(!fits(limit + 1)?);
    }
}

/// Whatever is decoded is within limits, and iterating gives what was counted.
fn check(bytes: &[u8]) {
    if let Ok(packet) = decode(bytes) {
        check_id(packet.header().node_id);
        match packet {
            Packet::Digest { digest, .. } => check_digest(&digest),
            Packet::Delta { delta, .. } => check_delta(&delta, bytes),
        }
    }
    let mut framing = stream::Framing::request(&LIMITS);
    let end = framing.end(bytes);
    match stream::decode_request(bytes, &LIMITS) {
        Ok(stream::Request::Join { delta, digest, .. }) => {
            check_delta(&delta, bytes);
            check_digest(&digest);
            assert_eq!(end, Ok(Some(bytes.len())));
        }
        Ok(stream::Request::Leave { delta, .. }) => {
            check_delta(&delta, bytes);
            assert_eq!(end, Ok(Some(bytes.len())));
        }
        Err(_) => {
            if let Ok(Some(len)) = end {
                let error = stream::decode_request(&bytes[..len], &LIMITS).err();
                assert!(!matches!(error, Some(WireError::Truncated | WireError::Trailing)), "{error:?}");
            }
        }
    }
    if let Ok(response) = stream::decode_join_response(bytes, &LIMITS) {
        check_delta(&response.delta, bytes);
    }
    let _ = stream::decode_leave_response(bytes, &LIMITS);
}
fn check_id(id: &str) {
    assert!((1..=ID_MAX).contains(&id.len()));
}
fn check_digest(digest: &Digest<'_>) {
    assert_eq!(digest.entries().count(), digest.len());
    digest.entries().for_each(|e| check_id(e.id));
}
fn check_delta(delta: &Delta<'_>, bytes: &[u8]) {
    assert_eq!(delta.nodes().count(), delta.len());
    for node in delta.nodes() {
        check_id(node.head.id);
        assert!(node.head.addr.len() <= ADDR_MAX);
        assert_eq!(node.entries().count(), node.len());
        assert!(node.declared < 0 || node.len() as i64 <= node.declared);
        for entry in node.entries() {
            assert!(entry.key.len() + entry.value.len() < bytes.len());
            assert_eq!(
                entry.key_str().is_ok(),
                (1..=255).contains(&entry.key.len()) && std::str::from_utf8(entry.key).is_ok()
            );
        }
    }
}
