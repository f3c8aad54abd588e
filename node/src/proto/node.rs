//! One node, as this one knows it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use probe_ebpf::time::{MonoNs, UtcNs};

use super::NodeId;
use super::entry::Stored;
use super::limits::Limits;
use super::peer::Peer;
use crate::wire::v1::{self, NodeRef};

/// One node. What digests are compared with stands together at its start, in one line of the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Node {
    /// Its short name.
    pub(super) name: NodeRef,
    /// Known up to here, without holes.
    pub(super) version: u64,
    /// Known up to here before the latest change: what others know who have not heard of that.
    pub(super) before: u64,
    /// Number of its latest change here.
    pub(super) changed: u64,
    /// When that was.
    pub(super) changed_at: MonoNs,
    /// Since when it is known to have left.
    pub(super) left: Option<MonoNs>,
    /// Is it in digests and in the sum?
    pub(super) listed: bool,
    /// Since when it is held for dead.
    pub(super) unreachable: Option<MonoNs>,
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// Boxed, since a map's leaf has room for eleven, and most nodes have two or three.
    entries: BTreeMap<u64, Box<Stored>>,
    versions: BTreeMap<Arc<str>, u64>,
    /// Keys, values and overhead.
    pub(super) bytes: usize,
    /// Where its first delta took it from nothing.
    pub(super) joined: Joined,
    pub(super) peer: Peer,
}

/// When a node became known here, and what existed of it by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// Its newest version that anyone told of.
    pub(super) version: u64,
    /// By the true timeline.
    pub(super) at: UtcNs,
    /// By this host's clock.
    pub(super) mono: MonoNs,
}

impl Node {
    pub(super) fn new(id: NodeId, addr: SocketAddr, joined: Joined) -> Self {
        Self {
            name: NodeRef::of(id.as_str()),
            id,
            addr,
            version: 0,
            entries: BTreeMap::new(),
            versions: BTreeMap::new(),
            bytes: 0,
            before: 0,
            changed: 0,
            changed_at: joined.mono,
            joined,
            listed: false,
            left: None,
            unreachable: None,
            peer: Peer::default(),
        }
    }

    /// Puts a change in place; returns what it replaces.
    pub(super) fn insert(&mut self, version: u64, entry: Stored) -> Option<Box<Stored>> {
        let added = cost(&entry.key, &entry.value);
        let replaced = self.versions.insert(entry.key.clone(), version).and_then(|v| self.entries.remove(&v));
        let removed = replaced.as_ref().map_or(0, |old| cost(&old.key, &old.value));
        self.entries.insert(version, Box::new(entry));
        self.before = self.version;
        self.version = version;
        self.bytes = self.bytes + added - removed;
        replaced
    }

    /// Drops all entries up to `version`; the known version stays.
    pub(super) fn discard(&mut self, version: u64) {
        let kept = version.checked_add(1).map(|first| self.entries.split_off(&first)).unwrap_or_default();
        for old in std::mem::replace(&mut self.entries, kept).into_values() {
            self.versions.remove(&old.key);
            self.bytes -= cost(&old.key, &old.value);
        }
    }

    /// Puts all live entries under new versions above `floor`, in their order, and drops tombstones.
    pub(super) fn reversion(&mut self, floor: u64) {
        let entries = std::mem::take(&mut self.entries);
        let mut version = floor;
        for mut entry in entries.into_values() {
            if entry.deleted {
                self.versions.remove(&entry.key);
                self.bytes -= cost(&entry.key, &entry.value);
                continue;
            }
            version += 1;
            self.versions.insert(entry.key.clone(), version);
            entry.reversioned = true;
            self.entries.insert(version, entry);
        }
        self.version = version;
    }

    /// Everything above `version`, by rising version.
    pub(super) fn since(&self, version: u64) -> impl Iterator<Item = v1::Entry<'_>> {
        self.stored_since(version).map(|(version, entry)| entry.on_wire(version))
    }
    /// The same as it is held.
    pub(super) fn stored_since(&self, version: u64) -> impl Iterator<Item = (u64, &Stored)> + Clone {
        use std::ops::Bound::{Excluded, Unbounded};
        self.entries.range((Excluded(version), Unbounded)).map(|(version, entry)| (*version, &**entry))
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
        self.versions.values().filter_map(|version| Some((*version, &**self.entries.get(version)?)))
    }
    /// Number of keys, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
    /// Is it a node to gossip with?
    pub(super) fn is_alive(&self) -> bool {
        self.left.is_none() && self.unreachable.is_none()
    }
}

/// What an entry takes from the budget.
pub(super) fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + Limits::ENTRY_OVERHEAD
}

/// The compared part is one line of the cache.
const _: () = assert!(std::mem::offset_of!(Node, listed) < 64 && align_of::<Node>() == 64);
