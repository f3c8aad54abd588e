//! The state as others may see it.

use std::net::SocketAddr;

use probe_ebpf::time::{MonoNs, Span, UtcNs};

use super::core::Core;
use super::entry::Stored;
use super::node::Node;
use super::peer::Protocol;
use super::state::SELF;
use super::{Counters, NodeId, Reachability};
use crate::wire::BEACON_KEY;

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
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Is it there?
    pub status: MemberStatus,
    /// Smoothed time from a request to its answer.
    pub round_trip: Option<Span>,
    /// When its newest known beacon was created, and the bound of that: its age shows updates that never come.
    pub beacon: Option<(UtcNs, Span)>,
}

/// Is a node there?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStatus {
    /// Nothing speaks against it.
    Alive,
    /// Somebody asked it in vain.
    Suspect,
    /// It is held for dead.
    Unreachable,
    /// It said goodbye.
    Left,
}

impl MemberStatus {
    /// A label for reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Unreachable => "unreachable",
            Self::Left => "left",
        }
    }
}

/// Entries of a node, tombstones included: `[not deleted, deleted][the application's, the protocol's own]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts(pub [[u64; 2]; 2]);

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
    /// The trace that it belongs to, if that is known.
    pub trace_id: Option<[u8; 16]>,
}

impl Core {
    /// All known nodes, this one first.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.state.iter().map(|(index, node)| Member {
            id: &node.id,
            addr: node.addr,
            version: node.version,
            entries: node.by_key().filter(|(_, entry)| !entry.deleted).count(),
            heard: node.peer.heard,
            protocol: if index == SELF { Protocol::V1 } else { node.peer.protocol },
            status: self.status(index),
            round_trip: self.detector.rtt(index),
            beacon: node.get(BEACON_KEY).and_then(|e| e.stamp).map(|stamp| stamp.created_utc()),
        })
    }
    /// What the beacons of the nodes that are there tell: see [`tell`](Core::tell).
    pub fn told(&self) -> impl Iterator<Item = (&NodeId, &str)> {
        self.state.iter().filter(|(_, node)| node.is_alive()).filter_map(|(_, node)| {
            let value = std::str::from_utf8(&node.get(BEACON_KEY)?.value).ok()?;
            Some((&node.id, value.split_once(' ')?.1))
        })
    }
    /// How many nodes are known, this one included; counts none of their entries.
    pub fn member_count(&self) -> usize {
        self.state.len()
    }
    /// The live entries of a node, by key; none for an unknown node.
    pub fn entries(&self, node: &str) -> impl Iterator<Item = EntryView<'_>> {
        let node = self.state.find(node).map(|index| &self.state[index]);
        node.into_iter()
            .flat_map(|node| node.by_key().filter_map(|(version, entry)| view(node, version, entry)))
    }
    /// Every node's live entry under a key, this node's first.
    pub fn get(&self, key: &str) -> impl Iterator<Item = EntryView<'_>> {
        self.state.iter().filter_map(move |(_, node)| {
            let (version, entry) = node.versioned(key)?;
            view(node, version, entry)
        })
    }
    /// A node's live entry under a key.
    pub fn entry(&self, node: &str, key: &str) -> Option<EntryView<'_>> {
        let node = &self.state[self.state.find(node)?];
        let (version, entry) = node.versioned(key)?;
        view(node, version, entry)
    }
    /// How every node but this one is spoken to, and whether it is there; counts none of their entries.
    pub fn peers(&self) -> impl Iterator<Item = (Protocol, MemberStatus)> {
        self.state.iter().skip(1).map(|(index, node)| (node.peer.protocol, self.status(index)))
    }
    /// What every node has, this one first, in a time that grows with all entries.
    pub fn entry_counts(&self) -> impl Iterator<Item = (&NodeId, EntryCounts)> {
        self.state.iter().map(|(_, node)| {
            let mut counts = EntryCounts::default();
            for (_, entry) in node.by_key() {
                counts.0[usize::from(entry.deleted)][usize::from(entry.internal)] += 1;
            }
            (&node.id, counts)
        })
    }
    /// 0 when this node is well, up to 8 when it should not trust its own eyes about others.
    pub fn local_health(&self) -> u8 {
        self.detector.health()
    }
    /// Share of requests to living peers that went unanswered lately: the loss of both ways together.
    pub fn loss(&self) -> f64 {
        self.detector.loss()
    }
    /// The failure detector's totals since start, with their names.
    pub fn detector_counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.detector.counters().labelled()
    }
    /// Totals about nodes that are gone, with their names.
    pub fn graveyard_counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.graveyard.counters().labelled()
    }
    fn status(&self, index: usize) -> MemberStatus {
        if self.state[index].left.is_some() {
            return MemberStatus::Left;
        }
        match self.detector.reachability(index) {
            None | Some(Reachability::Alive) => MemberStatus::Alive,
            Some(Reachability::Suspect) => MemberStatus::Suspect,
            Some(Reachability::Unreachable) => MemberStatus::Unreachable,
        }
    }
    /// This node's id.
    pub fn id(&self) -> &NodeId {
        &self.state[SELF].id
    }
    /// Totals since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn view<'a>(node: &'a Node, version: u64, entry: &'a Stored) -> Option<EntryView<'a>> {
    let Stored { key, value, internal, deleted, stamp, .. } = entry;
    let trace_id = stamp.and_then(|stamp| stamp.trace_id);
    (!deleted).then_some(EntryView { node: &node.id, key, value, version, internal: *internal, trace_id })
}
