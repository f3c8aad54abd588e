//! What a Piko node knows of all nodes.

use std::sync::Arc;

use pikoscope::wire::v0::{Entry, NodeHead, Sender};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::host::Host;

/// All nodes known to one, itself included.
pub(super) struct State {
    /// By host.
    nodes: Vec<Option<Node>>,
    known: Vec<Host>,
}

#[derive(Default)]
struct Node {
    version: u64,
    /// By rising version.
    entries: Vec<Held>,
}

struct Held {
    key: Arc<[u8]>,
    value: Box<[u8]>,
    version: u64,
    internal: bool,
    deleted: bool,
}

impl State {
    pub(super) fn new(own: Host) -> Self {
        let mut state = Self { nodes: Vec::new(), known: Vec::new() };
        state.discover(own);
        state
    }
    /// Above the number of every known host.
    pub(super) fn end(&self) -> usize {
        self.nodes.len()
    }
    /// In no particular order.
    pub(super) fn known(&self) -> &[Host] {
        &self.known
    }
    fn node(&self, host: Host) -> Option<&Node> {
        self.nodes.get(host.index())?.as_ref()
    }
    /// 0 for an unknown node.
    pub(super) fn version(&self, host: Host) -> u64 {
        self.node(host).map_or(0, |node| node.version)
    }
    /// A node's entries above a version, by rising version.
    pub(super) fn since(&self, host: Host, version: u64) -> impl Iterator<Item = Entry<'_>> + Clone {
        let entries = self.node(host).map_or(&[][..], |node| &node.entries);
        let first = entries.partition_point(|held| held.version <= version);
        entries[first..].iter().map(Held::on_wire)
    }
    /// Makes a node known; `false` when it was.
    pub(super) fn discover(&mut self, host: Host) -> bool {
        if self.nodes.len() <= host.index() {
            self.nodes.resize_with(host.index() + 1, || None);
        }
        let node = &mut self.nodes[host.index()];
        let new = node.is_none();
        if new {
            *node = Some(Node::default());
            self.known.push(host);
        }
        new
    }
    pub(super) fn remove(&mut self, host: Host) {
        if let Some(node) = self.nodes.get_mut(host.index()) {
            *node = None;
        }
        self.known.retain(|known| *known != host);
    }
    /// Takes an entry of a known node, if it is newer than all that are there.
    pub(super) fn put(&mut self, host: Host, entry: &Entry<'_>) -> bool {
        let Some(node) = self.nodes.get_mut(host.index()).and_then(Option::as_mut) else { return false };
        if entry.version <= node.version {
            return false;
        }
        node.version = entry.version;
        let old = node.entries.iter().position(|held| *held.key == *entry.key);
        let key = match old {
            Some(place) => node.entries.remove(place).key,
            None => entry.key.into(),
        };
        let Entry { version, internal, deleted, .. } = *entry;
        node.entries.push(Held { key, value: entry.value.into(), version, internal, deleted });
        true
    }
    /// Writes an entry of a known node under its next version, which is returned.
    pub(super) fn set(&mut self, host: Host, key: &str, value: &[u8]) -> u64 {
        let version = self.version(host) + 1;
        self.put(host, &Entry { key: key.as_bytes(), value, version, internal: false, deleted: false });
        version
    }
    /// The step of a shuffle that draws what is at `place`.
    pub(super) fn shuffle(&mut self, place: usize, rng: &mut StdRng) -> Host {
        let drawn = rng.random_range(place..self.known.len());
        self.known.swap(place, drawn);
        self.known[place]
    }
}

impl Held {
    fn on_wire(&self) -> Entry<'_> {
        let Self { key, value, version, internal, deleted } = self;
        Entry { key, value, version: *version, internal: *internal, deleted: *deleted }
    }
}

/// Ids and addresses of hosts as text, written once for all nodes.
#[derive(Default)]
pub(crate) struct Names {
    names: Vec<(String, String)>,
}

impl Names {
    /// Makes room for all hosts below `end`.
    pub(super) fn reach(&mut self, end: usize) {
        let new = (self.names.len()..end).map(Host::at);
        self.names.extend(new.map(|host| (host.id(), host.addr().to_string())));
    }
    pub(super) fn head(&self, host: Host) -> NodeHead<'_> {
        let (id, addr) = &self.names[host.index()];
        NodeHead { id, addr }
    }
    pub(super) fn sender(&self, host: Host) -> Sender<'_> {
        let NodeHead { id, addr } = self.head(host);
        Sender { node_id: id, addr, max_version: None }
    }
}
