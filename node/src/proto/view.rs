//! The state as others may see it.

use std::net::SocketAddr;

use probe_ebpf::time::{MonoNs, Span, UtcNs};

use super::core::Core;
use super::entry::{BEACON_KEY, Stored};
use super::state::SELF;
use super::{Counters, NodeId};

/// A node as this one knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its id.
    pub id: &'a NodeId,
    /// Its advertised address.
    pub addr: SocketAddr,
    /// Known up to this version.
    pub version: u64,
    /// Live entries, the protocol's own included.
    pub entries: usize,
    /// When the last packet of its own came; `None` for this node, and before the first.
    pub heard: Option<MonoNs>,
    /// When its newest known beacon was created, and the bound of that: its age shows updates that never come.
    pub beacon: Option<(UtcNs, Span)>,
}

/// A live entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its value.
    pub value: &'a [u8],
    /// The protocol's own?
    pub internal: bool,
}

impl Core {
    /// All known nodes, this one first.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.state.nodes.iter().map(|node| Member {
            id: &node.id,
            addr: node.addr,
            version: node.version,
            entries: node.by_key().filter(|e| !e.deleted).count(),
            heard: node.peer.heard,
            beacon: node.get(BEACON_KEY).and_then(|e| e.stamp).map(|stamp| stamp.created_utc()),
        })
    }
    /// The live entries of a node, by key; none for an unknown node.
    pub fn entries(&self, node: &str) -> impl Iterator<Item = EntryView<'_>> {
        let node = self.state.find(node).map(|index| &self.state.nodes[index]);
        node.into_iter().flat_map(|node| node.by_key()).filter(|e| !e.deleted).map(view)
    }
    /// The value of a node's key.
    pub fn get(&self, node: &str, key: &str) -> Option<&[u8]> {
        let node = &self.state.nodes[self.state.find(node)?];
        node.get(key).filter(|e| !e.deleted).map(|e| &*e.value)
    }
    /// This node's id.
    pub fn id(&self) -> &NodeId {
        &self.state.nodes[SELF].id
    }
    /// Totals since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn view(entry: &Stored) -> EntryView<'_> {
    EntryView { key: &entry.key, value: &entry.value, internal: entry.internal }
}
