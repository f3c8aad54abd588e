//! What this node knows of every node: versions, entries, addresses.
//!
//! The invariant of scuttlebutt reconciliation: a node known up to version v is known without holes, that is,
//! every change up to v is here unless a later one of the same key replaced it. So changes are applied in the
//! origin's order only, and passed on as everything above the version that the receiver has.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use probe_ebpf::time::{MonoNs, UtcNs};

use super::NodeId;
use super::entry::Stored;
use super::limits::Limits;
use super::sequence::Tracker;
use crate::wire::v1;

/// Position of this node in [`State::nodes`].
pub(super) const SELF: usize = 0;

/// All nodes.
#[derive(Debug)]
pub(super) struct State {
    /// This node first; others are added at the end.
    pub(super) nodes: Vec<Node>,
    /// Only for look-ups: its order is random and must not reach a packet.
    by_id: HashMap<NodeId, usize>,
    /// Number of each node's latest change -> node: who changed last comes last.
    recent: BTreeMap<u64, usize>,
    changes: u64,
    /// Sum of all nodes' `bytes`.
    pub(super) bytes: usize,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// Known up to here, without holes.
    pub(super) version: u64,
    entries: BTreeMap<u64, Stored>,
    versions: BTreeMap<Arc<str>, u64>,
    /// Keys, values and overhead.
    pub(super) bytes: usize,
    changed: u64,
    /// Where its first delta took it from nothing.
    pub(super) joined: Joined,
    pub(super) peer: Peer,
}

/// When a node became known here, and what existed of it by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// Its newest version that anyone told of.
    pub(super) version: u64,
    pub(super) at: UtcNs,
}

/// A node as somebody to talk to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    pub(super) heard: Option<MonoNs>,
    /// Requests since then.
    pub(super) unanswered: u32,
    /// Not to be asked before.
    pub(super) retry_at: MonoNs,
    pub(super) received: Tracker,
}

impl State {
    pub(super) fn new(own: NodeId, addr: SocketAddr) -> Self {
        let mut state =
            Self { nodes: Vec::new(), by_id: HashMap::new(), recent: BTreeMap::new(), changes: 0, bytes: 0 };
        let joined = Joined { version: 0, at: UtcNs::from_nanos(0) };
        state.join(own, addr, joined);
        state
    }

    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Adds a node that is not there yet.
    pub(super) fn join(&mut self, id: NodeId, addr: SocketAddr, joined: Joined) -> usize {
        let index = self.nodes.len();
        self.by_id.insert(id.clone(), index);
        self.nodes.push(Node {
            id,
            addr,
            version: 0,
            entries: BTreeMap::new(),
            versions: BTreeMap::new(),
            bytes: 0,
            changed: 0,
            joined,
            peer: Peer::default(),
        });
        self.touch(index);
        index
    }

    /// Nodes by their latest change, newest first.
    pub(super) fn by_recency(&self) -> impl Iterator<Item = usize> {
        self.recent.values().rev().copied()
    }

    /// Puts a change of a node in place: `version` becomes its known version. Returns what it replaces.
    pub(super) fn put(&mut self, index: usize, version: u64, entry: Stored) -> Option<Stored> {
        let node = &mut self.nodes[index];
        debug_assert!(version > node.version, "changes come in the origin's order");
        let added = cost(&entry.key, &entry.value);
        let replaced = node.versions.insert(entry.key.clone(), version).and_then(|v| node.entries.remove(&v));
        let removed = replaced.as_ref().map_or(0, |old| cost(&old.key, &old.value));
        node.entries.insert(version, entry);
        node.version = version;
        node.bytes = node.bytes + added - removed;
        self.bytes = self.bytes + added - removed;
        self.touch(index);
        replaced
    }

    fn touch(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        self.recent.remove(&node.changed);
        self.changes += 1;
        node.changed = self.changes;
        self.recent.insert(self.changes, index);
    }

    /// Puts all of this node's own entries under new versions above `floor`, in their order.
    pub(super) fn reversion_own(&mut self, floor: u64) {
        let own = &mut self.nodes[SELF];
        let entries = std::mem::take(&mut own.entries);
        let mut version = floor.max(own.version);
        for entry in entries.into_values() {
            version += 1;
            own.versions.insert(entry.key.clone(), version);
            own.entries.insert(version, Stored { reversioned: true, ..entry });
        }
        own.version = version;
        self.touch(SELF);
    }
}

/// What an entry takes from the budget.
pub(super) fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + Limits::ENTRY_OVERHEAD
}

impl Node {
    /// Everything above `version`, by rising version.
    pub(super) fn since(&self, version: u64) -> impl Iterator<Item = v1::Entry<'_>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.entries.range((Excluded(version), Unbounded)).map(|(version, entry)| entry.on_wire(*version))
    }
    /// Its entry under a key, tombstones included.
    pub(super) fn get(&self, key: &str) -> Option<&Stored> {
        Some(self.versioned(key)?.1)
    }
    /// Likewise, with its version.
    pub(super) fn versioned(&self, key: &str) -> Option<(u64, &Stored)> {
        let version = *self.versions.get(key)?;
        Some((version, self.entries.get(&version)?))
    }
    /// Its entries by key, tombstones included.
    pub(super) fn by_key(&self) -> impl Iterator<Item = (u64, &Stored)> {
        self.versions.values().filter_map(|version| Some((*version, self.entries.get(version)?)))
    }
    /// Number of keys, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
}
