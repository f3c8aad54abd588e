//! What this node knows of every node: versions, entries, addresses.
//!
//! The invariant of scuttlebutt reconciliation: a node known up to version v is known without holes, that is,
//! every change up to v is here unless a later one of the same key replaced it. So changes are applied in the
//! origin's order only, and passed on as everything above the version that the receiver has.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::{Index, IndexMut};

use probe_ebpf::time::{MonoNs, UtcNs};
use slab::Slab;

use super::NodeId;
use super::entry::Stored;
use super::node::{Joined, Node, cost};
use super::peer::Protocol;
use crate::wire::v1::{NodeRef, StateSum};

/// Position of this node in [`State`].
pub(super) const SELF: usize = 0;

/// All nodes, each at a position that is its own as long as it is known.
#[derive(Debug)]
pub(super) struct State {
    nodes: Slab<Node>,
    /// Only for look-ups: its order is random and must not reach a packet.
    by_ref: HashMap<NodeRef, usize>,
    /// Number of each node's latest change -> node: who changed last comes last.
    recent: BTreeMap<u64, usize>,
    changes: u64,
    /// Sum of all nodes' `bytes`.
    pub(super) bytes: usize,
    /// Over the nodes that are listed in digests.
    sum: StateSum,
    /// See [`roster`](Self::roster).
    roster: u64,
}

impl Index<usize> for State {
    type Output = Node;
    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}
impl IndexMut<usize> for State {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }
}

impl State {
    pub(super) fn new(own: NodeId, addr: SocketAddr, now: MonoNs) -> Self {
        let mut state = Self {
            nodes: Slab::new(),
            by_ref: HashMap::new(),
            recent: BTreeMap::new(),
            changes: 0,
            bytes: 0,
            sum: StateSum::default(),
            roster: 0,
        };
        let joined = Joined { version: 0, at: UtcNs::from_nanos(0), mono: now };
        state.join(own, addr, joined, now);
        state
    }

    /// Number of nodes, this one included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Positions beyond this one are not in use.
    pub(super) fn end(&self) -> usize {
        self.nodes.iter().next_back().map_or(0, |(index, _)| index + 1)
    }
    /// All nodes by position, this one first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &Node)> {
        self.nodes.iter()
    }
    /// The node at a position, if one is there.
    pub(super) fn at(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        let index = self.find_ref(NodeRef::of(id))?;
        (self.nodes[index].id.as_str() == id).then_some(index)
    }
    pub(super) fn find_ref(&self, node: NodeRef) -> Option<usize> {
        self.by_ref.get(&node).copied()
    }
    /// What is known, in one number.
    pub(super) fn sum(&self) -> StateSum {
        self.sum
    }

    /// Rises whenever another node may be known, be alive, or speak another protocol than before.
    pub(super) fn roster(&self) -> u64 {
        self.roster
    }
    pub(super) fn roster_changed(&mut self) {
        self.roster += 1;
    }
    /// A node speaks this from now on.
    pub(super) fn speaks(&mut self, index: usize, protocol: Protocol) {
        let peer = &mut self.nodes[index].peer;
        if peer.protocol != protocol {
            peer.protocol = protocol;
            self.roster_changed();
        }
    }

    /// Adds a node whose short name nobody has yet.
    pub(super) fn join(&mut self, id: NodeId, addr: SocketAddr, joined: Joined, now: MonoNs) -> usize {
        let node = Node::new(id, addr, joined);
        let name = node.name;
        debug_assert!(!self.by_ref.contains_key(&name), "looked up before");
        let index = self.nodes.insert(node);
        self.by_ref.insert(name, index);
        self.roster_changed();
        self.touch(index, now);
        index
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, index: usize) -> Node {
        self.unlist(index);
        let node = self.nodes.remove(index);
        self.by_ref.remove(&node.name);
        self.roster_changed();
        self.recent.remove(&node.changed);
        self.bytes -= node.bytes;
        node
    }

    /// Nodes by their latest change, newest first.
    pub(super) fn by_recency(&self) -> impl Iterator<Item = usize> {
        self.recent.values().rev().copied()
    }

    /// Puts a change of a node in place: `version` becomes its known version. Returns what it replaces.
    pub(super) fn put(
        &mut self,
        index: usize,
        version: u64,
        entry: Stored,
        now: MonoNs,
    ) -> Option<Box<Stored>> {
        let node = &mut self.nodes[index];
        debug_assert!(version > node.version, "changes come in the origin's order");
        if node.listed {
            self.sum.remove(node.name, node.version);
            self.sum.add(node.name, version);
        }
        let added = cost(&entry.key, &entry.value);
        let replaced = node.insert(version, entry);
        let removed = replaced.as_ref().map_or(0, |old| cost(&old.key, &old.value));
        self.bytes = self.bytes + added - removed;
        self.touch(index, now);
        replaced
    }

    /// Drops all entries of a node up to `version`: their origin made them void.
    pub(super) fn discard(&mut self, index: usize, version: u64) {
        let node = &mut self.nodes[index];
        let before = node.bytes;
        node.discard(version);
        self.bytes -= before - node.bytes;
    }

    /// Forgets what a node said so far: it began anew under the same id.
    pub(super) fn reset(&mut self, index: usize, now: MonoNs) {
        let listed = self.nodes[index].listed;
        self.unlist(index);
        self.discard(index, u64::MAX);
        self.nodes[index].version = 0;
        if listed {
            self.list(index);
        }
        self.touch(index, now);
    }

    /// Keeps a node out of digests and of the sum.
    pub(super) fn unlist(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if std::mem::take(&mut node.listed) {
            self.sum.remove(node.name, node.version);
        }
    }
    /// Takes it in again.
    pub(super) fn list(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !std::mem::replace(&mut node.listed, true) {
            self.sum.add(node.name, node.version);
        }
    }

    fn touch(&mut self, index: usize, now: MonoNs) {
        let node = &mut self.nodes[index];
        self.recent.remove(&node.changed);
        self.changes += 1;
        node.changed = self.changes;
        node.changed_at = now;
        self.recent.insert(self.changes, index);
    }

    /// Puts all of this node's own live entries under new versions above `floor`, in their order, and drops its
    /// tombstones. Returns the version that everything up to is void.
    pub(super) fn reversion_own(&mut self, floor: u64, now: MonoNs) -> u64 {
        self.unlist(SELF);
        let own = &mut self.nodes[SELF];
        let before = own.bytes;
        let floor = floor.max(own.version);
        own.reversion(floor);
        self.bytes -= before - own.bytes;
        self.list(SELF);
        self.touch(SELF, now);
        floor
    }
}
