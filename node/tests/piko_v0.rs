//! The v0 codec against Piko's own bytes (`piko-v0/`): `manifest.json` describes messages that Piko's encoder made,
//! with inputs and what its decoder made of them, `captured-manifest.json` messages recorded between real nodes.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use pikoscope::wire::v0::{
    Cut, Delta, DeltaWriter, Digest, DigestWriter, Header, Packet, Sender, decode, stream,
};
use pikoscope::wire::{WireError, v0};
use serde_json::Value;

const LIMITS: stream::Limits = stream::Limits { bytes: 4096, nodes: 8, entries: 16 };

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    version: u64,
    internal: bool,
    deleted: bool,
}
#[derive(Clone, Debug, PartialEq)]
struct Node {
    id: String,
    addr: String,
    entries: Vec<Entry>,
}
#[derive(Clone, Debug, PartialEq)]
struct Known {
    id: String,
    addr: String,
    version: u64,
    left: bool,
}
/// A message of any kind; a part that its kind does not have is empty.
#[derive(Clone, Debug, PartialEq)]
struct Message {
    kind: String,
    node_id: String,
    addr: String,
    request: bool,
    nodes: Vec<Node>,
    digest: Vec<Known>,
}

struct Fixture {
    file: String,
    bytes: Vec<u8>,
    /// What decodes from it.
    decoded: Message,
    /// What it was encoded from, if that is not the same.
    input: Option<Vec<Node>>,
    max_packet: usize,
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/piko-v0")
}

/// The first of these keys that the object has: the two manifests name things differently.
fn get<'v>(object: &'v Value, keys: [&str; 2]) -> &'v Value {
    keys.iter().find_map(|key| object.get(*key)).unwrap_or(&Value::Null)
}
fn text(object: &Value, keys: [&str; 2]) -> String {
    get(object, keys).as_str().unwrap().to_owned()
}
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
/// A string given as such, or as what is repeated how often.
fn string(object: &Value, key: &str) -> Vec<u8> {
    match &object[format!("{key}_repeat")] {
        Value::Null => object[key].as_str().unwrap().into(),
        repeat => repeat[0].as_str().unwrap().repeat(number(&repeat[1]) as usize).into(),
    }
}
fn nodes(value: &Value) -> Vec<Node> {
    let entry = |e: &Value| Entry {
        key: string(e, "key"),
        value: string(e, "value"),
        version: number(&e["version"]),
        internal: e["internal"].as_bool().unwrap(),
        deleted: e["deleted"].as_bool().unwrap(),
    };
    list(value)
        .map(|n| Node {
            id: text(n, ["id", "ID"]),
            addr: text(n, ["addr", "Addr"]),
            entries: list(get(n, ["entries", "Entries"])).map(entry).collect(),
        })
        .collect()
}
fn digest(value: &Value) -> Vec<Known> {
    list(value)
        .map(|k| Known {
            id: text(k, ["id", "ID"]),
            addr: text(k, ["addr", "Addr"]),
            version: number(get(k, ["version", "Version"])),
            left: k["left"].as_bool().unwrap(),
        })
        .collect()
}

fn fixtures() -> Vec<Fixture> {
    let mut all: Vec<_> = ["manifest.json", "captured-manifest.json"]
        .iter()
        .flat_map(|manifest| {
            let manifest = std::fs::read_to_string(dir().join(manifest)).unwrap();
            let manifest: Value = serde_json::from_str(&manifest).unwrap();
            list(&manifest["fixtures"]).map(fixture).collect::<Vec<_>>()
        })
        .collect();
    // Here the manifest contradicts itself: version 2 in "digest", 0 in "hex" and in the file. A node without
    // entries is at version 0.
    let slip = all.iter_mut().find(|f| f.file == "join-req-noentries.bin").unwrap();
    let version = &mut slip.decoded.digest[0].version;
    assert_eq!(std::mem::take(version), 2, "the manifest was put right: remove this");
    all
}

fn fixture(f: &Value) -> Fixture {
    let file = text(f, ["file"; 2]);
    let bytes = std::fs::read(dir().join(&file)).unwrap();
    assert_eq!(bytes.len() as u64, number(&f["len"]), "{file}");
    // Recorded messages have all they hold below "decoded"; made ones have a delta's nodes there, if those differ
    // from the input.
    let recorded = f["decoded"].is_object();
    let holds = if recorded { &f["decoded"] } else { f };
    let header = &holds["header"];
    let kind = text(f, ["kind"; 2]);
    let datagram = f["transport"] == "udp";
    let part = |name: &str, holds_udp: &str| match (datagram && !recorded, kind == name) {
        (true, true) => get(f, [holds_udp, "input"]).clone(),
        (true, false) => Value::Null,
        (false, _) => holds[name].clone(),
    };
    let input = f.get("input").filter(|_| kind == "delta").map(nodes);
    Fixture {
        bytes,
        input,
        decoded: Message {
            node_id: text(header, ["node_id", "NodeID"]),
            addr: text(header, ["addr", "Addr"]),
            request: get(header, ["request", "Request"]).as_bool().unwrap_or(false),
            nodes: nodes(&part("delta", "decoded")),
            digest: digest(&part("digest", "input")),
            kind,
        },
        max_packet: f["max_packet"].as_u64().unwrap_or(1400) as usize,
        file,
    }
}

fn message(
    kind: &str,
    header: &Header<'_>,
    request: bool,
    delta: Option<Delta<'_>>,
    digest: Option<Digest<'_>>,
) -> Message {
    assert_eq!(header.max_version, None, "Piko has no such field");
    assert_eq!((delta.map_or(0, |d| d.refused()), digest.map_or(0, |d| d.refused())), (0, 0));
    let entry = |e: v0::Entry<'_>| Entry {
        key: e.key.into(),
        value: e.value.into(),
        version: e.version,
        internal: e.internal,
        deleted: e.deleted,
    };
    let node = |n: v0::DeltaNode<'_>| Node {
        id: n.head.id.into(),
        addr: n.head.addr.into(),
        entries: n.entries().map(entry).collect(),
    };
    let known = |k: v0::DigestEntry<'_>| Known {
        id: k.id.into(),
        addr: k.addr.into(),
        version: k.version,
        left: k.left,
    };
    Message {
        kind: kind.into(),
        node_id: header.node_id.into(),
        addr: header.addr.into(),
        request,
        nodes: delta.iter().flat_map(|d| d.nodes()).map(node).collect(),
        digest: digest.iter().flat_map(|d| d.entries()).map(known).collect(),
    }
}

fn decode_as(kind: &str, bytes: &[u8]) -> Result<Message, WireError> {
    Ok(match kind {
        "digest" | "delta" => match decode(bytes)? {
            Packet::Digest { header, request, digest } => {
                message("digest", &header, request, None, Some(digest))
            }
            Packet::Delta { header, delta } => message("delta", &header, false, Some(delta), None),
        },
        "join-request" | "leave-request" => match stream::decode_request(bytes, &LIMITS)? {
            stream::Request::Join { header, delta, digest } => {
                message("join-request", &header, false, Some(delta), Some(digest))
            }
            stream::Request::Leave { header, delta } => {
                message("leave-request", &header, false, Some(delta), None)
            }
        },
        "join-response" => {
            let response = stream::decode_join_response(bytes, &LIMITS)?;
            message(kind, &response.header, false, Some(response.delta), None)
        }
        "leave-ack" => message(kind, &stream::decode_leave_response(bytes, &LIMITS)?, false, None, None),
        other => panic!("a message of kind {other}"),
    })
}

fn on_wire(entry: &Entry) -> v0::Entry<'_> {
    v0::Entry {
        key: &entry.key,
        value: &entry.value,
        version: entry.version,
        internal: entry.internal,
        deleted: entry.deleted,
    }
}

fn encode(m: &Message, max_packet: usize) -> Vec<u8> {
    // Something before it: writers append.
    let mut out = vec![7];
    let sender = Sender { node_id: &m.node_id, addr: &m.addr, max_version: None };
    let head = |n: &Node| -> (String, String) { (n.id.clone(), n.addr.clone()) };
    let heads: Vec<_> = m.nodes.iter().map(head).collect();
    let nodes: Vec<_> = m
        .nodes
        .iter()
        .zip(&heads)
        .map(|(n, (id, addr))| stream::Node {
            head: v0::NodeHead { id, addr },
            entries: n.entries.iter().map(on_wire).collect(),
        })
        .collect();
    let digest: Vec<_> = m
        .digest
        .iter()
        .map(|k| v0::DigestEntry { id: &k.id, addr: &k.addr, version: k.version, left: k.left })
        .collect();
    match &*m.kind {
        "digest" => {
            let mut w = DigestWriter::new(&mut out, max_packet, &sender, m.request);
            assert!(digest.iter().all(|k| w.push(k)));
            assert_eq!(w.finish(), digest.len());
        }
        "delta" => {
            let mut w = DeltaWriter::new(&mut out, max_packet, &sender, Cut::AsPiko);
            for n in &nodes {
                w.node(&n.head, n.entries.iter().copied());
            }
        }
        "join-request" => stream::put_join_request(&mut out, &sender, &nodes, &digest),
        "leave-request" => stream::put_leave_request(&mut out, &sender, &nodes),
        "join-response" => {
            assert_eq!(stream::put_join_response(&mut out, LIMITS.bytes, &sender, &nodes), nodes.len())
        }
        "leave-ack" => stream::put_leave_response(&mut out, &sender),
        other => panic!("a message of kind {other}"),
    }
    out.split_off(1)
}

#[test]
fn every_file_is_described_once() {
    let all = fixtures();
    let described: BTreeSet<_> = all.iter().map(|f| f.file.clone()).collect();
    let there: BTreeSet<_> = std::fs::read_dir(dir())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".bin"))
        .collect();
    assert_eq!(described, there);
    assert_eq!(described.len(), all.len());
    assert_eq!(all.len(), 48, "a fixture more or less: is it tested as it should be?");
}

#[test]
fn decoding_gives_what_piko_decodes() {
    for f in fixtures() {
        assert_eq!(decode_as(&f.decoded.kind, &f.bytes).as_ref(), Ok(&f.decoded), "{}", f.file);
    }
}

#[test]
fn encoding_gives_pikos_bytes() {
    for mut f in fixtures() {
        let mut max_packet = f.max_packet;
        match &*f.file {
            // "NOT what Piko sends, but valid"
            "join-resp-emptyarray.bin" => f.bytes = std::fs::read(dir().join("join-resp-nil.bin")).unwrap(),
            // The second of 40,000 entries finds no room.
            "delta-entries-40000.bin" => {
                let entry = f.decoded.nodes[0].entries[0].clone();
                f.decoded.nodes[0].entries = vec![entry; 40_000];
                max_packet = f.bytes.len();
            }
            // The manifest does not say what found no room: as many more like the last.
            name if name.starts_with("captured-delta-full") => {
                let Ok(Packet::Delta { delta, .. }) = decode(&f.bytes) else { panic!("{name}") };
                let declared = delta.nodes().next().unwrap().declared as usize;
                let entries = &mut f.decoded.nodes[0].entries;
                assert!(declared > entries.len(), "{name}");
                entries.resize(declared, entries.last().unwrap().clone());
            }
            _ => (),
        }
        let input = Message { nodes: f.input.unwrap_or(f.decoded.nodes.clone()), ..f.decoded };
        let encoded = encode(&input, max_packet);
        assert!(encoded == f.bytes, "{}:\n{encoded:02x?}\n{:02x?}", f.file, f.bytes);
    }
}

#[test]
fn a_message_over_tcp_is_framed_however_it_arrives() {
    for f in fixtures() {
        let mut framing = match &*f.decoded.kind {
            "digest" | "delta" => continue,
            "join-response" => stream::Framing::join_response(&LIMITS),
            "leave-ack" => stream::Framing::leave_response(&LIMITS),
            _ => stream::Framing::request(&LIMITS),
        };
        let mut at_once = framing.clone();
        for len in 0..f.bytes.len() {
            assert_eq!(framing.end(&f.bytes[..len]), Ok(None), "{} after {len} bytes", f.file);
            assert_eq!(decode_as(&f.decoded.kind, &f.bytes[..len]), Err(WireError::Truncated));
        }
        let mut more = f.bytes.clone();
        assert_eq!(framing.end(&more), Ok(Some(f.bytes.len())), "{}", f.file);
        more.extend_from_slice(b"the next message");
        assert_eq!(at_once.end(&more), Ok(Some(f.bytes.len())));
        assert_eq!(decode_as(&f.decoded.kind, &more), Err(WireError::Trailing));
    }
}

#[test]
fn a_datagram_cut_anywhere_gives_its_complete_items() {
    for f in fixtures().into_iter().filter(|f| f.bytes.len() < 3000) {
        let header = match &*f.decoded.kind {
            "digest" | "delta" => {
                encode(&Message { nodes: vec![], digest: vec![], ..f.decoded.clone() }, 1400).len()
            }
            _ => continue,
        };
        for len in 0..header {
            assert_eq!(decode_as(&f.decoded.kind, &f.bytes[..len]), Err(WireError::Truncated), "{}", f.file);
        }
        let mut items = 0;
        for len in header..=f.bytes.len() {
            let got = decode_as(&f.decoded.kind, &f.bytes[..len]).unwrap();
            let now =
                got.digest.len() + got.nodes.len() + got.nodes.iter().map(|n| n.entries.len()).sum::<usize>();
            assert!(now == items || now == items + 1, "{}: one item after the other", f.file);
            items = now;
            assert!(f.decoded.digest.starts_with(&got.digest));
            for (n, (got, whole)) in got.nodes.iter().zip(&f.decoded.nodes).enumerate() {
                assert!(whole.entries.starts_with(&got.entries), "{}: node {n} at {len}", f.file);
            }
        }
        assert_eq!(decode_as(&f.decoded.kind, &f.bytes), Ok(f.decoded));
    }
}
