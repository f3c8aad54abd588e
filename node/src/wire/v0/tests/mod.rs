//! Tests of the codec by itself; against Piko's bytes it is tested in `tests/piko_v0.rs`.

mod lenient;
mod round_trip;
mod traps;

use proptest::prelude::*;

use super::*;

const MAX: usize = 1400;

fn sender() -> Sender<'static> {
    Sender { node_id: "a", addr: "10.0.0.1:7000", max_version: None }
}

#[derive(Clone, Debug, PartialEq)]
struct OwnedEntry {
    key: Vec<u8>,
    value: Vec<u8>,
    version: u64,
    internal: bool,
    deleted: bool,
}

impl OwnedEntry {
    fn new(key: &str, value: Vec<u8>, version: u64) -> Self {
        Self { key: key.into(), value, version, internal: false, deleted: false }
    }
    fn on_wire(&self) -> Entry<'_> {
        let Self { key, value, version, internal, deleted } = self;
        Entry { key, value, version: *version, internal: *internal, deleted: *deleted }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct OwnedNode {
    id: String,
    addr: String,
    entries: Vec<OwnedEntry>,
}

impl OwnedNode {
    fn new(id: &str, entries: Vec<OwnedEntry>) -> Self {
        Self { id: id.into(), addr: format!("{id}:7000"), entries }
    }
    fn head(&self) -> NodeHead<'_> {
        NodeHead { id: &self.id, addr: &self.addr }
    }
    fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        self.entries.iter().map(OwnedEntry::on_wire)
    }
    fn whole(&self) -> stream::Node<'_> {
        stream::Node { head: self.head(), entries: self.entries().collect() }
    }
}

/// What a delta says, for comparing.
fn said(delta: &Delta<'_>) -> Vec<OwnedNode> {
    let entry = |e: Entry<'_>| OwnedEntry {
        key: e.key.into(),
        value: e.value.into(),
        version: e.version,
        internal: e.internal,
        deleted: e.deleted,
    };
    delta
        .nodes()
        .map(|n| OwnedNode {
            id: n.head.id.into(),
            addr: n.head.addr.into(),
            entries: n.entries().map(entry).collect(),
        })
        .collect()
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,12}", "\\PC{1,60}"]
}
fn addr() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9.]{7,15}:[0-9]{1,5}", "[a-z.-]{1,60}:7000", Just(String::new())]
}
fn value() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), prop_oneof![0usize..40, 250usize..260, 0usize..1400])
        .prop_map(|(byte, len)| vec![byte; len])
}
/// Numbers of all sizes.
fn version() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(n, shift)| n >> shift)
}
fn entry() -> impl Strategy<Value = OwnedEntry> {
    let key = prop_oneof![id().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..40)];
    (key, value(), version(), any::<bool>(), any::<bool>()).prop_map(
        |(key, value, version, internal, deleted)| OwnedEntry { key, value, version, internal, deleted },
    )
}
fn node() -> impl Strategy<Value = OwnedNode> {
    (id(), addr(), prop::collection::vec(entry(), 0..20)).prop_map(|(id, addr, entries)| OwnedNode {
        id,
        addr,
        entries,
    })
}
fn known() -> impl Strategy<Value = (String, String, u64, bool)> {
    (id(), addr(), version(), any::<bool>())
}
fn as_entries(known: &[(String, String, u64, bool)]) -> Vec<DigestEntry<'_>> {
    known
        .iter()
        .map(|(id, addr, version, left)| DigestEntry { id, addr, version: *version, left: *left })
        .collect()
}
