//! The state as others may see it.

use std::net::SocketAddr;

use probe_ebpf::time::{MonoNs, Span, UtcNs};

use super::core::Core;
use super::entry::{BEACON_KEY, Stored};
use super::state::{Node, SELF};
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
    /// Whose it is.
    pub node: &'a NodeId,
    /// Its key.
    pub key: &'a str,
    /// Its value.
    pub value: &'a [u8],
    /// Its node's version of it.
    pub version: u64,
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
            entries: node.by_key().filter(|(_, entry)| !entry.deleted).count(),
            heard: node.peer.heard,
            beacon: node.get(BEACON_KEY).and_then(|e| e.stamp).map(|stamp| stamp.created_utc()),
        })
    }
    /// How many nodes are known, this one included; counts none of their entries.
    pub fn member_count(&self) -> usize {
        self.state.nodes.len()
    }
    /// The live entries of a node, by key; none for an unknown node.
    pub fn entries(&self, node: &str) -> impl Iterator<Item = EntryView<'_>> {
        let node = self.state.find(node).map(|index| &self.state.nodes[index]);
        node.into_iter()
            .flat_map(|node| node.by_key().filter_map(|(version, entry)| view(node, version, entry)))
    }
    /// Every node's live entry under a key, this node's first.
    pub fn get(&self, key: &str) -> impl Iterator<Item = EntryView<'_>> {
        self.state.nodes.iter().filter_map(move |node| {
            let (version, entry) = node.versioned(key)?;
            view(node, version, entry)
        })
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

fn view<'a>(node: &'a Node, version: u64, entry: &'a Stored) -> Option<EntryView<'a>> {
    let Stored { key, value, internal, deleted, .. } = entry;
    (!deleted).then_some(EntryView { node: &node.id, key, value, version, internal: *internal })
}
