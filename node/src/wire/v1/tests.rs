use std::net::SocketAddrV6;

use probe_ebpf::time::{Bounded, Span, WallNs};
use probe_user::analysis::align::{PeerClock, TxStage};
use probe_user::clock::{ClockSource, ClockState};
use proptest::prelude::*;

use super::entry::OVERHEAD_MAX;
use super::header::{EPOCHS, HEADER_MAX};
use super::*;
use crate::wire::ID_MAX;
use crate::wire::msgpack;

const MAX: usize = 1400;

mod values;
use values::*;

proptest! {
    #[test]
    fn digests_come_back(pid in packet_id(), me in id(), answers in prop::option::of(packet_id()), step in step(), sum: u64,
                         nodes in prop::collection::vec((node_ref(), any::<u64>(), 0u32..64), 0..150),
                         suspects in prop::collection::vec((node_ref(), any::<u64>(), node_ref()), 0..20)) {
        let mut out = vec![7; 5];
        let suspects: Vec<_> = suspects.into_iter().map(|(node, version, by)| Suspect { node, version, by }).collect();
        let sum = StateSum::from_u64(sum);
        let mut w = PacketWriter::digest(&mut out, MAX, pid, &Sender { node_id: &me, answers }, step, sum, &suspects);
        let all: Vec<_> = nodes.iter().map(|(node, version, shift)| Listed { node: *node, version: version >> shift }).collect();
        let fitting = all.iter().take_while(|l| w.list(**l)).count();
        prop_assert_eq!(usize::from(w.listed()), fitting);
        let len = w.finish();
        prop_assert!(out.len() - 5 == len && len <= MAX);
        let packet = decode(&out[5..]).unwrap();
        prop_assert_eq!((packet.id, packet.header.node_id, packet.header.answers), (pid, &*me, answers));
        prop_assert!(packet.delta.is_none());
        let digest = packet.digest.unwrap();
        prop_assert_eq!((digest.step, digest.sum, digest.is_empty()), (step, sum, fitting == 0));
        prop_assert!(digest.listed().eq(all[..fitting].iter().copied()));
        let heard: Vec<_> = digest.suspects().collect();
        prop_assert!(suspects.starts_with(&heard) && heard.len() >= suspects.len().min(10));
    }

    #[test]
    fn a_delta_carries_a_digest_when_there_is_one(nodes in prop::collection::vec(node(), 0..3), sum: u64) {
        let mut out = Vec::new();
        let mut w = PacketWriter::delta(&mut out, MAX, PacketId::default(), &SENDER, false);
        for n in &nodes {
            let entries = on_wire(n.from, &n.entries);
            let head = NodeHead { id: &n.id, addr: n.addr, from_version: n.from, known_version: entries.last().unwrap().version };
            w.node(&head, entries, SUMMARY_MAX);
        }
        w.begin_digest(Step::Answer, StateSum::from_u64(sum), &[]);
        let fits = w.list(Listed { node: NodeRef::of("x"), version: 3 });
        let late = w.node(&NodeHead { id: "y", addr: "10.0.0.1:7000".parse().unwrap(), from_version: 0, known_version: 1 }, [], 0);
        prop_assert_eq!(late, NodeWritten::default());
        prop_assert!(w.finish() <= MAX);
        let packet = decode(&out).unwrap();
        let (delta, digest) = (packet.delta.unwrap(), packet.digest.unwrap());
        prop_assert!(!delta.eager && delta.len() <= nodes.len());
        prop_assert_eq!((digest.sum.to_u64(), digest.listed().count()), (sum, usize::from(fits)));
    }

    #[test]
    fn deltas_come_back_as_gap_free_prefixes(pid in packet_id(), me in id(), nodes in prop::collection::vec(node(), 0..8)) {
        let mut out = Vec::new();
        let written = delta_packet(&mut out, pid, &Sender { node_id: &me, answers: None }, &nodes);
        prop_assert!(out.len() <= MAX);
        let delta = decode(&out).unwrap().delta.unwrap();
        let mut received = delta.nodes();
        for (node, written) in nodes.iter().zip(written) {
            let entries = on_wire(node.from, &node.entries);
            prop_assert_eq!(written.entries + written.left_out, entries.len());
            if written.entries > 0 {
                let got = received.next().unwrap();
                prop_assert_eq!((got.head.id, got.head.addr, got.head.from_version), (&*node.id, node.addr, node.from));
                prop_assert_eq!(got.head.known_version, entries.last().unwrap().version);
                prop_assert!(got.entries().eq(entries[..written.entries].iter().copied()));
            }
        }
        prop_assert!(received.next().is_none());
    }

    #[test]
    fn a_stamp_changes_the_times_and_nothing_else(sent: i64, queue in span(), theta in span(), bound in bound(), state in 0usize..3, epoch in 0..EPOCHS, chrony: bool, nodes in prop::collection::vec(node(), 0..4)) {
        let sender = Sender { node_id: "some-node", answers: Some(PacketId { incarnation: 9, counter: 8 }) };
        let mut out = Vec::new();
        delta_packet(&mut out, PacketId::default(), &sender, &nodes);
        let before = out.clone();
        let state = [ClockState::Synchronised, ClockState::FreeRunning, ClockState::Unsynchronised][state];
        let source = if chrony { ClockSource::Chrony } else { ClockSource::Adjtimex };
        let clock = PeerClock { theta, bound, state, epoch };
        let told = if bound.as_nanos() < i64::from(u32::MAX) { bound } else { Span::MAX };
        stamp(&mut out, WallNs::from_nanos(sent), queue, &clock, source).unwrap();

        let header = decode(&out).unwrap().header;
        prop_assert_eq!((header.sent.wall, header.sent.clock, header.sent.stage), (WallNs::from_nanos(sent), PeerClock { bound: told, ..clock }, TxStage::AppTx));
        prop_assert_eq!((header.t1_minus_t0, header.source), (queue, Some(source)));
        prop_assert_eq!((header.node_id, header.answers), (sender.node_id, sender.answers));
        // Stamping it back to the open state gives the packet as it was.
        let open = PeerClock { theta: Span::ZERO, bound: Span::MAX, state: ClockState::Unsynchronised, epoch: 0 };
        stamp(&mut out, WallNs::from_nanos(0), Span::ZERO, &open, source).unwrap();
        let differing = out.iter().zip(&before).filter(|(a, b)| a != b).count();
        prop_assert!(out.len() == before.len() && differing == 1, "only the source: there is no way to unset it");
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 1u8..=2) {
        let _ = decode(&bytes);
        let mut bytes = bytes;
        if bytes.len() > 4 { bytes[..4].copy_from_slice(&[kind, VERSION, 0, 0]); }
        prop_assert!(decode(&bytes).is_err(), "random bytes are no packet");
        let _ = stamp(&mut bytes, WallNs::from_nanos(0), Span::ZERO, &PeerClock { theta: Span::ZERO, bound: Span::ZERO, state: ClockState::FreeRunning, epoch: 0 }, ClockSource::Chrony);
    }

    #[test]
    fn mutated_packets_are_refused_or_still_within_limits(nodes in prop::collection::vec(node(), 1..4), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut out = Vec::new();
        delta_packet(&mut out, PacketId::default(), &SENDER, &nodes);
        for (at, byte) in hits { let at = at.index(out.len()); out[at] = byte; }
        if let Ok(Packet { delta: Some(delta), .. }) = decode(&out) {
            for node in delta.nodes() {
                prop_assert!((1..=ID_MAX).contains(&node.head.id.len()));
                prop_assert_eq!(node.entries().count(), node.len());
                let mut last = node.head.from_version;
                for entry in node.entries() {
                    prop_assert!(entry.version > last && !entry.key.is_empty());
                    last = entry.version;
                }
                prop_assert!(last <= node.head.known_version);
            }
        }
    }
}

#[test]
fn a_packet_cut_anywhere_is_truncated() {
    let whole = a_digest(Step::Request);
    for len in 0..whole.len() {
        assert_eq!(decode(&whole[..len]).unwrap_err(), WireError::Truncated, "cut at {len}");
    }
    assert!(decode(&whole).is_ok());
}

#[test]
fn each_defect_has_its_reason() {
    let reason = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = a_digest(Step::Answer);
        change(&mut packet);
        decode(&packet).map(|_| ()).unwrap_err().reason()
    };
    assert_eq!(reason(&|p| p[1] = 0), "wrong_version");
    assert_eq!(reason(&|p| p[0] = 9), "unknown_type");
    assert_eq!(reason(&|p| p[3] = 1), "sealed");
    assert_eq!(reason(&|p| p.push(0xc0)), "trailing");
    assert_eq!(reason(&|p| p.resize(PACKET_MAX + 1, 0)), "too_large");
    // 12 body, 13 header, 14..15 id "a", 16..34 times, 35..56 clock, 57..58 no reports, no answer
    assert_eq!(reason(&|p| p[12] = 0x91), "malformed");
    assert_eq!(reason(&|p| p[15] = 0xff), "bad_id");
    assert_eq!(reason(&|p| p[14] = 0xa0), "bad_id");
    // 57 summary, 58 its step
    let at = a_digest(Step::Answer).iter().rposition(|b| *b == 0xcf).unwrap() - 1;
    assert_eq!(reason(&|p| p[at] = 4), "malformed");
    // The last byte ends a version: made to go on, the pair is cut.
    assert_eq!(reason(&|p| *p.last_mut().unwrap() |= 0x80), "truncated");
    let mut out = Vec::new();
    delta_packet(
        &mut out,
        PacketId::default(),
        &SENDER,
        &[OwnedNode {
            id: "n".into(),
            addr: "10.0.0.1:7000".parse().unwrap(),
            from: 0,
            entries: vec![OwnedEntry {
                key: "k".into(),
                value: vec![],
                step: 1,
                flags: (false, false, false),
                stamp: None,
            }],
        }],
    );
    let at = out.iter().rposition(|b| *b == 0xc4 && out.len() > 8).unwrap();
    assert!(decode(&out).is_ok() && at > 0);
    let ip = out.windows(4).position(|w| w == [10, 0, 0, 1]).unwrap();
    out[ip] = 224;
    assert_eq!(decode(&out).unwrap_err().reason(), "bad_address");
    out[ip - 1] = 5;
    assert_eq!(decode(&out).unwrap_err().reason(), "bad_address");
}

#[test]
fn versions_beyond_64_bits_are_refused() {
    let whole = a_digest(Step::Pull);
    for tail in [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..], &[0x80; 11]] {
        // Without the reports and the version, which is replaced.
        let mut p = whole[..whole.len() - 4].to_vec();
        p.extend_from_slice(tail);
        let at = p.len() - tail.len() - 6 - 1;
        p[at] = (6 + tail.len()) as u8;
        p.extend_from_slice(&[0xc4, 0]);
        assert_eq!(decode(&p).unwrap_err().reason(), "too_large");
    }
}

#[test]
fn keys_that_travel_often_take_one_byte() {
    let addr = "10.0.0.1:7000".parse().unwrap();
    let packet = |key: &str| {
        let mut out = Vec::new();
        let entry =
            OwnedEntry { key: key.into(), value: vec![], step: 1, flags: (true, false, false), stamp: None };
        delta_packet(
            &mut out,
            PacketId::default(),
            &SENDER,
            &[OwnedNode { id: "n".into(), addr, from: 0, entries: vec![entry] }],
        );
        out
    };
    for key in [crate::wire::BEACON_KEY, crate::wire::PROTO_KEY] {
        let frequent = packet(key);
        assert_eq!(frequent.len(), packet("k").len() - 1);
        let delta = decode(&frequent).unwrap().delta.unwrap();
        assert_eq!(delta.nodes().next().unwrap().entries().next().unwrap().key, key);
    }
}

#[test]
fn elements_added_by_a_later_version_are_skipped() {
    use msgpack::{put_array, put_bytes, put_int64, put_nil, put_str, put_uint};
    let more = |out: &mut Vec<u8>| {
        put_array(out, 2);
        put_str(out, "later");
        out.extend_from_slice(&[0x81, 0x01, 0x92, 0xc0, 0xca, 0, 0, 0, 0]);
    };
    let mut p = Prelude { kind: 1, version: 1, flags: 0x8000, id: PacketId::default() }.to_bytes().to_vec();
    put_array(&mut p, 4);
    put_array(&mut p, 6);
    put_str(&mut p, "a");
    put_int64(&mut p, 5);
    put_int64(&mut p, 6);
    put_array(&mut p, 6);
    put_int64(&mut p, -7);
    put_int64(&mut p, 8);
    put_uint(&mut p, 1);
    put_uint(&mut p, 99);
    put_uint(&mut p, 1);
    more(&mut p);
    put_nil(&mut p);
    more(&mut p);
    put_array(&mut p, 5);
    put_uint(&mut p, 2);
    put_uint(&mut p, 77);
    put_bytes(&mut p, &[]);
    put_bytes(&mut p, &[1, 2, 3, 4, 5, 6, 0xf0, 0xa2, 0x04]);
    more(&mut p);
    put_bytes(&mut p, &[0b1_1101, 9, 2, 4]);
    more(&mut p);
    let packet = decode(&p).unwrap();
    assert_eq!(packet.header.source, None, "a source it does not know");
    assert_eq!(packet.header.sent.clock.theta, Span::from_nanos(-7));
    let digest = packet.digest.unwrap();
    assert_eq!(digest.listed().map(|l| l.version).collect::<Vec<_>>(), [70_000]);
}

#[test]
fn golden_digest() {
    let mut expected = vec![1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x93];
    expected.extend_from_slice(b"\x95\xa1a");
    expected.extend_from_slice(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 0, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0x95, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0xce, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xc0]);
    expected.extend_from_slice(&[0x94, 0, 0xcf, 1, 2, 3, 4, 5, 6, 7, 8]);
    expected.extend_from_slice(&[
        0xc4, 13, 0x65, 0xce, 0x5f, 0xd7, 0xa0, 0x46, 3, 0xc2, 0xaa, 0xdd, 0x9b, 0x85, 0x27,
    ]);
    expected.extend_from_slice(&[0xc5, 0, 8, 0xa4, 0x7e, 0x30, 0x92, 0x36, 0x64, 0xac, 0x02, 0xc4, 0]);
    assert_eq!(a_digest(Step::Request), expected);
}

#[test]
fn the_value_limit_is_exact_in_the_worst_case() {
    let far = SocketAddrV6::new(std::net::Ipv6Addr::from([0xfd; 16]), 65_535, 0, u32::MAX).into();
    let (me, origin, key) = ("m".repeat(ID_MAX), "o".repeat(40), "k".repeat(90));
    let worst = Some(Bounded::new(Span::from_nanos(i64::MIN), Span::MAX));
    let history = EntryStamp {
        created: WallNs::from_nanos(i64::MAX / 1_000_000 * 1_000_000 - 1),
        theta: Span::from_nanos(i64::MIN),
        bound: Span::MAX,
        hops: 255,
        network: worst,
        kernel: worst,
        trace_id: Some([1; 16]),
        egress: Egress { estimated: true, in_network: true },
    };
    let limit = value_limit(MAX, origin.len(), key.len());
    for (len, fits) in [(limit, true), (limit + 1, false)] {
        let mut out = Vec::new();
        let sender = Sender { node_id: &me, answers: Some(PacketId::default()) };
        let mut w = PacketWriter::delta(&mut out, MAX, PacketId::default(), &sender, false);
        let value = vec![0; len];
        let entry = Entry {
            key: &key,
            value: &value,
            version: u64::MAX,
            internal: true,
            deleted: true,
            reversioned: true,
            stamp: Some(history),
        };
        let head = NodeHead { id: &origin, addr: far, from_version: u64::MAX - 1, known_version: u64::MAX };
        let written = w.node(&head, [entry], SUMMARY_MAX);
        w.begin_digest(Step::Answer, StateSum::from_u64(u64::MAX), &[]);
        w.finish();
        assert_eq!((written.entries == 1, written.oversized), (fits, !fits), "value of {len} bytes");
        assert!(decode(&out).is_ok());
    }
    const { assert!(HEADER_MAX + OVERHEAD_MAX < 600, "room is left for values at 1400 bytes") };
    assert_eq!(value_limit(300, 10, 10), 0);
}

proptest! {
    #[test]
    fn a_filled_packet_has_the_size_asked_for_and_reads_as_before(
        nodes in prop::collection::vec(node(), 1..3), counters in prop::collection::vec(any::<u32>(), 0..5), size in 0_usize..1700,
    ) {
        let mut out = Vec::new();
        delta_packet(&mut out, PacketId { incarnation: 1, counter: 2 }, &SENDER, &nodes);
        let reports: Vec<Report> =
            counters.into_iter().map(|counter| Report::Sending(Sending { counter, egress: None, qdisc: None, hooked: false })).collect();
        let mut tail = Tail::default();
        tail.begin(&out, 4000);
        reports.iter().for_each(|report| assert!(tail.push(report)));
        let plain = tail.split(&out).concat();
        tail.pad(&mut out, size);
        let filled = tail.split(&out).concat();
        prop_assert_eq!(filled.len(), size.max(plain.len()));
        let (plain, filled) = (decode(&plain).unwrap(), decode(&filled).unwrap());
        prop_assert_eq!((filled.id, filled.header), (plain.id, plain.header));
        prop_assert_eq!(filled.reports.collect::<Vec<_>>(), reports);
        let ids = |packet: &Packet<'_>| -> Vec<String> {
            packet.delta.iter().flat_map(|delta| delta.nodes()).map(|node| node.head.id.to_owned()).collect()
        };
        prop_assert_eq!(ids(&filled), ids(&plain));
    }
}
