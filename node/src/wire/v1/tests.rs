use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use probe_ebpf::time::{Bounded, Span, WallNs};
use probe_user::analysis::align::{PeerClock, TxStage};
use probe_user::clock::{ClockSource, ClockState};
use proptest::prelude::*;

use super::entry::OVERHEAD_MAX;
use super::header::{HEADER_MAX, put_addr};
use super::*;
use crate::wire::ID_MAX;
use crate::wire::msgpack;

const MAX: usize = 1400;

fn addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
        .prop_filter("reachable", |a| crate::wire::is_reachable(*a))
}
fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,12}", "\\PC{1,60}"]
}
fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<u64>().prop_map(PacketId::from_u64)
}
fn span() -> impl Strategy<Value = Span> {
    any::<i64>().prop_map(Span::from_nanos)
}
fn bound() -> impl Strategy<Value = Span> {
    (0..=i64::MAX).prop_map(Span::from_nanos)
}
fn bounded() -> impl Strategy<Value = Option<Bounded>> {
    prop::option::of((span(), bound()).prop_map(|(v, b)| Bounded::new(v, b)))
}
fn history() -> impl Strategy<Value = EntryStamp> {
    (any::<i64>(), span(), bound(), any::<u8>(), bounded(), bounded(), any::<Option<[u8; 16]>>()).prop_map(
        |(created, theta, bound, hops, network, kernel, trace_id)| EntryStamp {
            created: WallNs::from_nanos(created),
            theta,
            bound,
            hops,
            network,
            kernel,
            trace_id,
        },
    )
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 0usize..300).prop_map(|(byte, len)| vec![byte; len])
}

#[derive(Clone, Debug)]
struct OwnedEntry {
    key: String,
    value: Vec<u8>,
    step: u64,
    flags: (bool, bool, bool),
    stamp: Option<EntryStamp>,
}
fn entry() -> impl Strategy<Value = OwnedEntry> {
    (id(), value(), 1u64..1 << 40, any::<(bool, bool, bool)>(), prop::option::of(history()))
        .prop_map(|(key, value, step, flags, stamp)| OwnedEntry { key, value, step, flags, stamp })
}
/// Entries under rising versions.
fn on_wire(from: u64, entries: &[OwnedEntry]) -> Vec<Entry<'_>> {
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
struct OwnedNode {
    id: String,
    addr: SocketAddr,
    from: u64,
    entries: Vec<OwnedEntry>,
}
fn node() -> impl Strategy<Value = OwnedNode> {
    (id(), addr(), 0u64..1 << 50, prop::collection::vec(entry(), 1..6))
        .prop_map(|(id, addr, from, entries)| OwnedNode { id, addr, from, entries })
}

/// A delta packet of these nodes; what was written of each.
fn delta_packet(
    out: &mut Vec<u8>,
    id: PacketId,
    sender: &Sender<'_>,
    nodes: &[OwnedNode],
) -> Vec<NodeWritten> {
    let mut w = DeltaWriter::new(out, MAX, id, sender);
    let written = nodes
        .iter()
        .map(|n| {
            let entries = on_wire(n.from, &n.entries);
            let known_version = entries.last().map_or(n.from, |e| e.version);
            w.node(&NodeHead { id: &n.id, addr: n.addr, from_version: n.from, known_version }, entries)
        })
        .collect();
    w.finish();
    written
}

fn a_digest(request: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let sender = Sender { node_id: "a", addr: "10.0.0.1:7000".parse().unwrap() };
    let mut w = DigestWriter::new(&mut out, MAX, PacketId { incarnation: 1, counter: 2 }, &sender, request);
    w.push(&DigestEntry { id: "b", addr: "10.0.0.2:7000".parse().unwrap(), version: 300, left: false });
    w.finish();
    out
}

proptest! {
    #[test]
    fn digests_come_back(pid in packet_id(), me in id(), my_addr in addr(), request: bool,
                         nodes in prop::collection::vec((id(), addr(), any::<u64>(), any::<bool>()), 0..60)) {
        let mut out = vec![7; 5];
        let mut w = DigestWriter::new(&mut out, MAX, pid, &Sender { node_id: &me, addr: my_addr }, request);
        let all: Vec<_> = nodes.iter().map(|(id, addr, version, left)| DigestEntry { id, addr: *addr, version: *version, left: *left }).collect();
        let fitting = all.iter().take_while(|e| w.push(e)).count();
        prop_assert_eq!(usize::from(w.finish()), fitting);
        prop_assert!(out.len() - 5 <= MAX);
        let packet = decode(&out[5..]).unwrap();
        prop_assert_eq!((packet.id, packet.header.node_id, packet.header.addr), (pid, &*me, my_addr));
        let Body::Digest(digest) = packet.body else { panic!("a digest") };
        prop_assert_eq!((digest.request, digest.len()), (request, fitting));
        prop_assert!(digest.entries().eq(all[..fitting].iter().copied()));
    }

    #[test]
    fn deltas_come_back_as_gap_free_prefixes(pid in packet_id(), me in id(), my_addr in addr(), nodes in prop::collection::vec(node(), 0..8)) {
        let mut out = Vec::new();
        let written = delta_packet(&mut out, pid, &Sender { node_id: &me, addr: my_addr }, &nodes);
        prop_assert!(out.len() <= MAX);
        let Body::Delta(delta) = decode(&out).unwrap().body else { panic!("a delta") };
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
    fn a_stamp_changes_the_times_and_nothing_else(sent: i64, queue in span(), theta in span(), bound in bound(), state in 0usize..3, chrony: bool, nodes in prop::collection::vec(node(), 0..4)) {
        let sender = Sender { node_id: "some-node", addr: "10.0.0.1:7000".parse().unwrap() };
        let mut out = Vec::new();
        delta_packet(&mut out, PacketId::default(), &sender, &nodes);
        let before = out.clone();
        let state = [ClockState::Synchronised, ClockState::FreeRunning, ClockState::Unsynchronised][state];
        let source = if chrony { ClockSource::Chrony } else { ClockSource::Adjtimex };
        let clock = PeerClock { theta, bound, state };
        stamp(&mut out, WallNs::from_nanos(sent), queue, &clock, source).unwrap();

        let header = decode(&out).unwrap().header;
        prop_assert_eq!((header.sent.wall, header.sent.clock, header.sent.stage), (WallNs::from_nanos(sent), clock, TxStage::AppTx));
        prop_assert_eq!((header.t1_minus_t0, header.source), (queue, Some(source)));
        prop_assert_eq!((header.node_id, header.addr), (sender.node_id, sender.addr));
        // Stamping it back to the open state gives the packet as it was.
        let open = PeerClock { theta: Span::ZERO, bound: Span::MAX, state: ClockState::Unsynchronised };
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
        let _ = stamp(&mut bytes, WallNs::from_nanos(0), Span::ZERO, &PeerClock { theta: Span::ZERO, bound: Span::ZERO, state: ClockState::FreeRunning }, ClockSource::Chrony);
    }

    #[test]
    fn mutated_packets_are_refused_or_still_within_limits(nodes in prop::collection::vec(node(), 1..4), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut out = Vec::new();
        delta_packet(&mut out, PacketId::default(), &Sender { node_id: "a", addr: "10.0.0.1:7000".parse().unwrap() }, &nodes);
        for (at, byte) in hits { let at = at.index(out.len()); out[at] = byte; }
        if let Ok(Packet { body: Body::Delta(delta), .. }) = decode(&out) {
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
    let whole = a_digest(true);
    for len in 0..whole.len() {
        assert_eq!(decode(&whole[..len]).unwrap_err(), WireError::Truncated, "cut at {len}");
    }
    assert!(decode(&whole).is_ok());
}

#[test]
fn each_defect_has_its_reason() {
    let reason = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = a_digest(false);
        change(&mut packet);
        decode(&packet).map(|_| ()).unwrap_err().reason()
    };
    assert_eq!(reason(&|p| p[1] = 0), "wrong_version");
    assert_eq!(reason(&|p| p[0] = 9), "unknown_type");
    assert_eq!(reason(&|p| p[3] = 1), "sealed");
    assert_eq!(reason(&|p| p.push(0xc0)), "trailing");
    assert_eq!(reason(&|p| p.resize(PACKET_MAX + 1, 0)), "too_large");
    // 12 body, 13 header, 14..15 id "a", 16..23 address: marker, length, IP, port
    assert_eq!(reason(&|p| p[12] = 0x92), "malformed");
    assert_eq!(reason(&|p| p[15] = 0xff), "bad_id");
    assert_eq!(reason(&|p| p[18] = 224), "bad_address");
    assert_eq!(reason(&|p| p[17] = 5), "bad_address");
    assert_eq!(reason(&|p| p[14] = 0xa0), "bad_id");
}

#[test]
fn elements_added_by_a_later_version_are_skipped() {
    use msgpack::{put_array, put_bool, put_int64, put_nil, put_str, put_uint};
    let more = |out: &mut Vec<u8>| {
        put_array(out, 2);
        put_str(out, "later");
        out.extend_from_slice(&[0x81, 0x01, 0x92, 0xc0, 0xca, 0, 0, 0, 0]);
    };
    let mut p = Prelude { kind: 1, version: 1, flags: 0x8000, id: PacketId::default() }.to_bytes().to_vec();
    put_array(&mut p, 4);
    put_array(&mut p, 7);
    put_str(&mut p, "a");
    put_addr(&mut p, "10.0.0.1:7000".parse().unwrap());
    put_int64(&mut p, 5);
    put_int64(&mut p, 6);
    put_array(&mut p, 5);
    put_int64(&mut p, -7);
    put_int64(&mut p, 8);
    put_uint(&mut p, 1);
    put_uint(&mut p, 99);
    more(&mut p);
    put_array(&mut p, 1);
    more(&mut p);
    more(&mut p);
    put_bool(&mut p, true);
    put_array(&mut p, 1);
    put_array(&mut p, 5);
    put_str(&mut p, "b");
    put_addr(&mut p, "[::1]:9".parse().unwrap());
    put_uint(&mut p, 70_000);
    put_bool(&mut p, false);
    put_nil(&mut p);
    more(&mut p);
    let packet = decode(&p).unwrap();
    assert_eq!(packet.header.source, None, "a source it does not know");
    assert_eq!(packet.header.sent.clock.theta, Span::from_nanos(-7));
    let Body::Digest(digest) = packet.body else { panic!("a digest") };
    let entries: Vec<_> = digest.entries().map(|e| (e.id, e.version)).collect();
    assert_eq!(entries, [("b", 70_000)]);
}

#[test]
fn golden_digest() {
    let mut expected = vec![1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x93];
    expected.extend_from_slice(b"\x96\xa1a\xc4\x06\x0a\x00\x00\x01\x1b\x58");
    expected.extend_from_slice(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 0, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0x94, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0xd3, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x90, 0xc3]);
    expected.extend_from_slice(b"\xdc\x00\x01\x94\xa1b\xc4\x06\x0a\x00\x00\x02\x1b\x58\xcd\x01\x2c\xc2");
    assert_eq!(a_digest(true), expected);
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
    };
    let limit = value_limit(MAX, origin.len(), key.len());
    for (len, fits) in [(limit, true), (limit + 1, false)] {
        let mut out = Vec::new();
        let mut w = DeltaWriter::new(&mut out, MAX, PacketId::default(), &Sender { node_id: &me, addr: far });
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
        let written = w.node(&head, [entry]);
        w.finish();
        assert_eq!((written.entries == 1, written.oversized), (fits, !fits), "value of {len} bytes");
        assert!(decode(&out).is_ok());
    }
    const { assert!(HEADER_MAX + OVERHEAD_MAX < 600, "room is left for values at 1400 bytes") };
    assert_eq!(value_limit(300, 10, 10), 0);
}
