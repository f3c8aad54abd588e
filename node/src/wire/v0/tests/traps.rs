//! The traps of `research/piko.md` and `research/gossip.md` section 3 that are a codec's.

use super::*;

fn delta(head: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    DeltaWriter::new(&mut out, MAX, &sender(), Cut::AsPiko);
    out.extend_from_slice(head);
    out.extend_from_slice(rest);
    out
}
fn entry_bytes(key: &str, version: u64) -> Vec<u8> {
    let mut out = Vec::new();
    OwnedEntry::new(key, b"v".to_vec(), version).on_wire().write(&mut out);
    out
}
fn node_bytes(id: &[u8], declared: &[u8]) -> Vec<u8> {
    [b"\x83\xa7node_id", &[0xa0 | id.len() as u8][..], id, b"\xa4addr\xa4b:70\xa7entries", declared].concat()
}
/// Ids with the versions of their entries, and how many nodes were refused.
type Read = (Vec<(String, Vec<u64>)>, usize);

fn read(packet: &[u8]) -> Result<Read, WireError> {
    let Packet::Delta { delta, .. } = decode(packet)? else { panic!("a delta") };
    let nodes =
        delta.nodes().map(|n| (n.head.id.to_owned(), n.entries().map(|e| e.version).collect())).collect();
    Ok((nodes, delta.refused()))
}

/// Gossip 12, Piko 3: Piko decodes a join's answer over what it sent itself, and datagrams into memory it uses again: a field that is
/// left out would keep what was there.
#[test]
fn piko_3_every_field_is_always_written() {
    let zero = Entry { key: b"k", value: b"", version: 0, internal: false, deleted: false };
    let expected = b"\x85\xa3key\xa1k\xa5value\xa0\xa7version\x00\xa8internal\xc2\xa7deleted\xc2";
    let mut out = Vec::new();
    zero.write(&mut out);
    assert_eq!(out, expected);

    let mut out = Vec::new();
    let mut w = DigestWriter::new(&mut out, MAX, &sender(), false);
    assert!(w.push(&DigestEntry { id: "b", addr: "", version: 0, left: false }));
    assert!(out.ends_with(b"\xa7request\xc2\x84\xa2id\xa1b\xa4addr\xa0\xa7version\x00\xa4left\xc2"));

    let node = OwnedNode { id: "b".into(), addr: String::new(), entries: vec![] };
    let mut out = Vec::new();
    stream::put_join_response(&mut out, MAX, &sender(), &[node.whole()]);
    assert!(out.ends_with(b"\x91\x83\xa2id\xa1b\xa4addr\xa0\xa7entries\xc0"), "nil, not an empty array");
    let mut out = Vec::new();
    stream::put_join_request(&mut out, &sender(), &[], &[]);
    assert!(out.ends_with(b":7000\xc0\xc0"), "nil, not an empty array");
}

/// Piko 4: it crashes a Piko node. Here the node is refused, and the others in the packet are not.
#[test]
fn piko_4_a_node_id_that_is_not_utf8_is_refused_by_itself() {
    let packet = delta(
        &[node_bytes(b"\xff\xfe", &[2]), entry_bytes("k", 1), entry_bytes("k", 2)].concat(),
        &[node_bytes(b"good", &[1]), entry_bytes("k", 3)].concat(),
    );
    assert_eq!(read(&packet), Ok((vec![("good".into(), vec![3])], 1)));

    let mut digest = Vec::new();
    DigestWriter::new(&mut digest, MAX, &sender(), true);
    digest.extend_from_slice(b"\x81\xa2id\xa1\xff\x81\xa2id\xa4good");
    let Packet::Digest { digest, .. } = decode(&digest).unwrap() else { panic!("a digest") };
    assert!(digest.entries().map(|e| e.id).eq(["good"]));
    assert_eq!((digest.len(), digest.refused()), (1, 1));

    // A sender that has no name is nobody.
    assert_eq!(decode(b"\x02\x00\x81\xa7node_id\xa1\xff").unwrap_err(), WireError::BadId);
    assert_eq!(decode(b"\x02\x00\x80").unwrap_err(), WireError::BadId);
    assert_eq!(decode(b"\x02\x00\x82\xa7node_id\xa1a\xa4addr\xa1\xff").unwrap_err(), WireError::BadAddress);
    let long = |len: u16| {
        let mut out = b"\x02\x00\x81\xa7node_id\xda".to_vec();
        out.extend(len.to_be_bytes());
        out.extend(std::iter::repeat_n(b'n', usize::from(len)));
        decode(&out).map(drop)
    };
    assert_eq!((long(255), long(256)), (Ok(()), Err(WireError::BadId)));
}

/// Piko 4: deep nesting overflows a Piko node's stack.
#[test]
fn piko_4_nesting_needs_no_stack() {
    let deep = |marker: u8, depth: usize| vec![marker; depth];
    let run = move || {
        for marker in [0x91, 0x81] {
            let header = [b"\x02\x00\x82\xa7node_id\xa1a\xa1x".as_slice(), &deep(marker, 60_000)].concat();
            assert_eq!(decode(&header).unwrap_err(), WireError::Truncated);

            let mut whole = [header, vec![0xc0; if marker == 0x91 { 1 } else { 60_001 }]].concat();
            assert!(decode(&whole).is_ok());
            whole.extend_from_slice(&node_bytes(b"b", &[1]));
            whole.extend_from_slice(b"\x82\xa7version\x07\xa1x");
            whole.extend(deep(0x91, 60_000));
            assert_eq!(read(&whole), Ok((vec![("b".into(), vec![])], 0)), "an entry that was cut");
            whole.push(0xc0);
            assert_eq!(read(&whole), Ok((vec![("b".into(), vec![7])], 0)));

            let limits = stream::Limits { bytes: 1_000_000, nodes: 9, entries: 9 };
            let join = [b"\x03\x00\x82\xa7node_id\xa1a\xa1x".as_slice(), &deep(marker, 900_000)].concat();
            assert_eq!(stream::Framing::request(&limits).end(&join), Ok(None));
            assert_eq!(stream::decode_request(&join, &limits).unwrap_err(), WireError::Truncated);
        }
    };
    // Less than a frame for each level would need.
    std::thread::Builder::new().stack_size(64 << 10).spawn(run).unwrap().join().unwrap();
}

/// Piko 10: in Piko the surplus makes a node with an empty id.
#[test]
fn piko_10_surplus_entries_make_no_node() {
    let packet = delta(
        &[node_bytes(b"b", &[1]), entry_bytes("k", 1), entry_bytes("k", 2), entry_bytes("k", 3)].concat(),
        &[node_bytes(b"c", &[1]), entry_bytes("k", 4)].concat(),
    );
    assert_eq!(read(&packet), Ok((vec![("b".into(), vec![1]), ("c".into(), vec![4])], 2)));
}

/// Piko 10: as Piko reads it.
#[test]
fn piko_10_a_negative_number_of_entries_reads_to_the_end() {
    let two = [entry_bytes("k", 1), entry_bytes("k", 2)].concat();
    for negative in [&[0xff][..], &[0xd1, 0x80, 0], &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]] {
        let packet = delta(&node_bytes(b"b", negative), &two);
        assert_eq!(read(&packet), Ok((vec![("b".into(), vec![1, 2])], 0)));
        // What comes next is taken for an entry, as Piko takes it.
        let packet = delta(&packet[delta(&[], &[]).len()..], &node_bytes(b"c", &[0]));
        assert_eq!(read(&packet), Ok((vec![("b".into(), vec![1, 2, 0])], 0)));
    }
    let too_many = delta(&node_bytes(b"b", &[0xcf, 0xff, 0, 0, 0, 0, 0, 0, 0]), &two);
    assert_eq!(read(&too_many).unwrap_err().reason(), "too_large");
    let more_than_there_are = delta(&node_bytes(b"b", &[0xce, 0xff, 0xff, 0xff, 0xff]), &two);
    assert_eq!(read(&more_than_there_are), Ok((vec![("b".into(), vec![1, 2])], 0)));
}

/// Gossip 3, Piko 5: it never travels in a datagram, and nothing newer of that node does.
#[test]
fn gossip_3_an_entry_larger_than_a_packet_is_named_as_such() {
    let blocked = OwnedNode::new(
        "b",
        vec![OwnedEntry::new("big", vec![0; 1500], 1), OwnedEntry::new("small", vec![], 2)],
    );
    let next = OwnedNode::new("c", vec![OwnedEntry::new("k", vec![], 3)]);
    let write = |cut| {
        let mut out = Vec::new();
        let mut w = DeltaWriter::new(&mut out, MAX, &sender(), cut);
        let written = [w.node(&blocked.head(), blocked.entries()), w.node(&next.head(), next.entries())];
        w.finish();
        (written, read(&out).unwrap())
    };
    let nothing = NodeWritten { head: false, entries: 0, left_out: 2, oversized: true };
    let ([first, second], got) = write(Cut::Whole);
    assert_eq!((first, second.entries, second.left_out), (nothing, 1, 0), "the other node's still travel");
    assert_eq!(got, (vec![("c".into(), vec![3])], 0));

    let ([first, second], got) = write(Cut::AsPiko);
    assert_eq!((first.oversized, first.head, second.head, second.left_out), (true, true, false, 1));
    assert_eq!(got, (vec![("b".into(), vec![])], 0));
}

#[test]
fn an_entry_that_merely_finds_no_room_is_not_oversized() {
    let many = (1..100).map(|v| OwnedEntry::new("key", vec![0; 20], v)).collect();
    let (many, next) = (OwnedNode::new("b", many), OwnedNode::new("c", vec![]));
    let mut out = Vec::new();
    let mut w = DeltaWriter::new(&mut out, MAX, &sender(), Cut::Whole);
    let written = w.node(&many.head(), many.entries());
    assert!(!written.oversized && written.entries > 10 && written.left_out > 10);
    // Small as it is, it would be read as one of those that were left out.
    assert_eq!(w.node(&next.head(), next.entries()), NodeWritten::default());
    assert!(w.size() <= MAX);
    assert_eq!(w.finish(), 1);
}

#[test]
fn messages_over_tcp_are_limited() {
    let nodes: Vec<_> =
        (0..3).map(|n| OwnedNode::new(&format!("n{n}"), vec![OwnedEntry::new("k", vec![], 1); 2])).collect();
    let whole: Vec<_> = nodes.iter().map(OwnedNode::whole).collect();
    let known = DigestEntry { id: "b", addr: "", version: 1, left: false };
    let mut join = Vec::new();
    stream::put_join_request(&mut join, &sender(), &whole, &[known; 4]);
    let exact = stream::Limits { bytes: join.len(), nodes: 4, entries: 6 };
    let read =
        |limits: stream::Limits| stream::decode_request(&join, &limits).map(drop).map_err(WireError::reason);
    let frame =
        |limits: stream::Limits| stream::Framing::request(&limits).end(&join).map_err(WireError::reason);
    assert_eq!((read(exact), frame(exact)), (Ok(()), Ok(Some(join.len()))));
    assert_eq!(read(stream::Limits { nodes: 3, ..exact }), Err("too_large"));
    assert_eq!(read(stream::Limits { entries: 5, ..exact }), Err("too_large"));
    let short = stream::Limits { bytes: join.len() - 1, ..exact };
    assert_eq!((read(short), frame(short)), (Err("too_large"), Err("too_large")));
    // It does not wait for more than it will take.
    assert_eq!(
        stream::Framing::request(&short).end(&join[..short.bytes]),
        Err(WireError::TooLarge("too long a message"))
    );

    // Announced, not there.
    let huge = [b"\x03\x00\x81\xa7node_id\xa1a".as_slice(), &[0xdd, 0xff, 0xff, 0xff, 0xff]].concat();
    assert_eq!(stream::decode_request(&huge, &exact).unwrap_err(), WireError::Truncated);
    for (first, error) in
        [(&[3, 1][..], "wrong_version"), (&[1, 0], "unknown_type"), (&[3, 0, 0xc1], "malformed")]
    {
        assert_eq!(stream::Framing::request(&exact).end(first).unwrap_err().reason(), error);
    }
}

/// Keys of other Piko nodes may be anything. One that cannot be held is no reason not to hear the packet.
#[test]
fn odd_keys_do_not_cost_the_packet() {
    let key = |key: &[u8]| {
        let entry = Entry { key, value: b"v", version: 1, internal: false, deleted: false };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        let packet = delta(&node_bytes(b"b", &[1]), &bytes);
        let Packet::Delta { delta, .. } = decode(&packet).unwrap() else { panic!("a delta") };
        let got = delta.nodes().next().unwrap().entries().next().unwrap();
        assert_eq!(got.key, key);
        got.key_str().map(str::len).map_err(WireError::reason)
    };
    assert_eq!(key(&[b'k'; 255]), Ok(255));
    assert_eq!(key(&[b'k'; 256]), Err("too_large"));
    assert_eq!(key(b""), Err("malformed"));
    assert_eq!(key(b"\xff"), Err("malformed"));
}
