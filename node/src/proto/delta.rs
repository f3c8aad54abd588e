//! Taking a delta in.

use std::sync::Arc;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::clock::ClockView;

use super::core::Core;
use super::entry::{Stored, carried};
use super::outbox::Event;
use super::state::{Joined, Node, SELF, cost};
use super::{EntryArrival, EntryKind, NodeId, NotSample, Outbox, Propagation};
use crate::wire::v1::{Delta, DeltaNode, Entry, EntryStamp, NodeHead};

/// What a packet's entries need to know about the packet.
pub(super) struct Carrier<'a> {
    /// When handling started.
    pub(super) now: MonoNs,
    pub(super) clock: &'a ClockView,
    /// Its one-way time.
    pub(super) network: Option<Bounded>,
    /// Its `ingress_stack` time here.
    pub(super) kernel: Option<Bounded>,
}

/// Up to this uncertainty, creation times decide whether an entry is older than our knowledge of its node.
/// Beyond it (unsynchronised clocks) they cannot, and versions alone decide.
const JOIN_MARGIN_MAX: Span = Span::from_secs(1);

impl Core {
    pub(super) fn apply(&mut self, delta: &Delta<'_>, carrier: &Carrier<'_>, out: &mut Outbox) {
        for node in delta.nodes() {
            self.counters.delta_entries_received += node.len() as u64;
            self.apply_node(&node, carrier, out);
        }
    }

    fn apply_node(&mut self, node: &DeltaNode<'_>, carrier: &Carrier<'_>, out: &mut Outbox) {
        let head = &node.head;
        let found = self.state.find(head.id);
        if found == Some(SELF) {
            self.counters.about_self += 1;
            return;
        }
        let known = found.map_or(0, |index| self.state.nodes[index].version);
        if head.from_version > known {
            self.counters.gap += 1;
            return;
        }
        let mut index = found;
        for entry in node.entries().filter(|entry| entry.version > known) {
            // A refused entry ends it: to go on would leave a hole.
            if !self.admit(index, known, &entry) {
                break;
            }
            let at = match index {
                Some(at) => at,
                None => match self.join(head, carrier, out) {
                    Some(at) => at,
                    None => break,
                },
            };
            index = Some(at);
            self.take(at, &entry, carrier, out);
        }
        if let Some(at) = index {
            let node = &mut self.state.nodes[at];
            // Whoever knows newer entries knows the newer address.
            if node.version > known && node.addr != head.addr {
                let before = std::mem::replace(&mut node.addr, head.addr);
                self.links.advertise(at, head.addr, Some(before));
            }
        }
    }

    /// May this entry be held? Counts why not.
    fn admit(&mut self, index: Option<usize>, known: u64, entry: &Entry<'_>) -> bool {
        let limits = &self.config.limits;
        let node = index.map(|index| &self.state.nodes[index]);
        let replaced = node.and_then(|node| node.get(entry.key));
        let added = cost(entry.key, entry.value);
        let more = added.saturating_sub(replaced.map_or(0, |old| cost(&old.key, &old.value)));
        let refusal = if entry.version - known > limits.version_jump {
            &mut self.counters.version_jump
        } else if node.is_none() && self.state.nodes.len() >= limits.nodes {
            &mut self.counters.node_limit
        } else if replaced.is_none() && node.map_or(0, Node::len) >= limits.entries_per_node {
            &mut self.counters.entry_limit
        } else if node.map_or(0, |node| node.bytes) + more > limits.bytes_per_node
            || self.state.bytes + more > limits.bytes
        {
            &mut self.counters.byte_limit
        } else {
            return true;
        };
        *refusal += 1;
        false
    }

    fn join(&mut self, head: &NodeHead<'_>, carrier: &Carrier<'_>, out: &mut Outbox) -> Option<usize> {
        // The id was checked when the packet was read.
        let id = NodeId::new(head.id).ok()?;
        let joined = Joined { version: head.known_version, at: carrier.clock.utc(carrier.now).0 };
        let index = self.state.join(id.clone(), head.addr, joined);
        self.links.advertise(index, head.addr, None);
        out.events.push(Event::Joined { node: id });
        Some(index)
    }

    /// Takes an admitted entry over.
    fn take(&mut self, index: usize, entry: &Entry<'_>, carrier: &Carrier<'_>, out: &mut Outbox) {
        let node = &self.state.nodes[index];
        let stamp = entry.stamp.map(|stamp| carried(stamp, carrier.network, carrier.kernel));
        let held = node.get(entry.key);
        let propagation = classify(node, held, entry, stamp, carrier);
        let key: Arc<str> = held.map_or_else(|| entry.key.into(), |held| held.key.clone());
        let origin = node.id.clone();

        out.entries.push(EntryArrival {
            origin: origin.clone(),
            key: key.clone(),
            kind: EntryKind::of(entry.key, entry.internal),
            version: entry.version,
            propagation,
        });
        out.events.push(if entry.deleted {
            Event::Deleted { node: origin, key: key.clone() }
        } else {
            Event::Upserted { node: origin, key: key.clone() }
        });
        let stored = Stored {
            key,
            value: entry.value.into(),
            internal: entry.internal,
            deleted: entry.deleted,
            reversioned: entry.reversioned,
            stamp,
        };
        self.state.put(index, entry.version, stored);
        self.counters.entries_applied += 1;
    }
}

/// Is the arrival of this entry a propagation sample? `stamp` includes the packet that brought it.
fn classify(
    node: &Node,
    held: Option<&Stored>,
    entry: &Entry<'_>,
    stamp: Option<EntryStamp>,
    carrier: &Carrier<'_>,
) -> Result<Propagation, NotSample> {
    if entry.version <= node.joined.version {
        return Err(NotSample::Join);
    }
    let stamp = stamp.ok_or(NotSample::Unstamped)?;
    let older = |held: EntryStamp| stamp.created <= held.created;
    if entry.reversioned || held.and_then(|held| held.stamp).is_some_and(older) {
        return Err(NotSample::Resync);
    }
    let (created, created_bound) = stamp.created_utc();
    let (now, now_bound) = carrier.clock.utc(carrier.now);
    let margin = created_bound + now_bound;
    if margin <= JOIN_MARGIN_MAX && created - margin < node.joined.at {
        return Err(NotSample::Join);
    }
    let total = Bounded::new(now - created, margin);
    if stamp.network.is_some_and(|network| !possible(network, total)) {
        return Err(NotSample::Implausible);
    }
    Ok(Propagation {
        created,
        created_bound,
        network: stamp.network,
        kernel: stamp.kernel,
        hops: stamp.hops,
        trace_id: stamp.trace_id,
    })
}

/// Can a part take this long? Not less than nothing and not more than the whole, within the bounds.
fn possible(part: Bounded, total: Bounded) -> bool {
    let rest = total - part;
    part.value >= -part.bound && rest.value >= -rest.bound
}
