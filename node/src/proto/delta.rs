//! Taking news in.

use std::net::SocketAddr;
use std::sync::Arc;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::clock::ClockView;

use super::core::Core;
use super::entry::{Stored, carried};
use super::node::{Joined, Node, cost};
use super::outbox::Event;
use super::peer::Protocol;
use super::ports;
use super::state::SELF;
use super::{EntryArrival, EntryKind, NodeId, NotSample, Outbox, Propagation};
use crate::wire::v1::{Egress, Entry, EntryStamp, NodeRef};
use crate::wire::{COMPACT_KEY, LEFT_KEY, PORTS_KEY, PROTO_KEY};

/// What a packet's entries need to know about the packet.
pub(super) struct Carrier<'a> {
    /// When handling started.
    pub(super) now: MonoNs,
    pub(super) clock: &'a ClockView,
    /// Its one-way time.
    pub(super) network: Option<Bounded>,
    /// Its `ingress_stack` time here.
    pub(super) kernel: Option<Bounded>,
    /// What is known of its sender's T1 to T3.
    pub(super) egress: Egress,
    /// Its sender's short name.
    pub(super) sender: NodeRef,
    /// What is new in it is to be passed on at once.
    pub(super) eager: bool,
}

/// What is said of one node, its entries aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct News<'a> {
    pub(super) id: &'a str,
    pub(super) addr: SocketAddr,
    /// The entries are all changes above this version.
    pub(super) from_version: u64,
    /// The newest version that the sender knows.
    pub(super) known_version: u64,
}

/// Up to this uncertainty, creation times decide whether an entry is older than our knowledge of its node.
/// Beyond it (unsynchronised clocks) they cannot, and versions alone decide.
const JOIN_MARGIN_MAX: Span = Span::from_secs(1);

impl Core {
    /// Takes one node's news in.
    pub(super) fn apply<'e>(
        &mut self,
        news: &News<'_>,
        entries: impl Iterator<Item = Entry<'e>>,
        carrier: &Carrier<'_>,
        out: &mut Outbox,
    ) {
        let name = NodeRef::of(news.id);
        let found = self.state.find(news.id);
        if found == Some(SELF) {
            self.counters.about_self += 1;
            return;
        }
        let known = found.map_or(0, |index| self.state[index].version);
        if news.from_version > known {
            self.counters.gap += 1;
            return;
        }
        if let Some(index) = found
            && name != carrier.sender
            && self.state[index].peer.reborn.only_itself(news.known_version, carrier.now)
        {
            self.counters.past += 1;
            return;
        }
        let mut index = found;
        let mut fresh = false;
        for entry in entries.filter(|entry| entry.version > known) {
            // A refused entry ends it: to go on would leave a hole.
            if !self.admit(index, known, &entry) {
                break;
            }
            let at = match index {
                Some(at) => at,
                None => match self.take_in(news, name, carrier, out) {
                    Some(at) => at,
                    None => break,
                },
            };
            index = Some(at);
            fresh |= self.take(at, &entry, carrier, out);
        }
        let Some(at) = index else { return };
        let node = &mut self.state[at];
        if node.version == known {
            return;
        }
        // Whoever knows newer entries knows the newer address.
        if node.addr != news.addr {
            let before = std::mem::replace(&mut node.addr, news.addr);
            node.peer.verified = false;
            self.links.advertise(at, news.addr, Some(before));
        }
        self.advanced(at, carrier.now, out);
        if fresh && carrier.eager && known > 0 {
            self.eager.note(at, known, carrier.now);
        }
    }

    /// May this entry be held? Counts why not.
    fn admit(&mut self, index: Option<usize>, known: u64, entry: &Entry<'_>) -> bool {
        let limits = &self.config.limits;
        let node = index.map(|index| &self.state[index]);
        let replaced = node.and_then(|node| node.get(entry.key));
        let added = cost(entry.key, entry.value);
        let more = added.saturating_sub(replaced.map_or(0, |old| cost(&old.key, &old.value)));
        let refusal = if entry.version - known > limits.version_jump {
            &mut self.counters.version_jump
        } else if node.is_some_and(|node| entry.version <= node.version) {
            &mut self.counters.disordered
        } else if node.is_none() && self.state.len() >= limits.nodes {
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

    /// Makes an unknown node a member, unless it is known to be dead. Counts why not.
    fn take_in(
        &mut self,
        news: &News<'_>,
        name: NodeRef,
        carrier: &Carrier<'_>,
        out: &mut Outbox,
    ) -> Option<usize> {
        // The id was checked when the packet was read.
        let id = NodeId::new(news.id).ok()?;
        if self.state.find_ref(name).is_some() {
            self.counters.name_taken += 1;
            return None;
        }
        if !self.may_return(name, news.known_version, name == carrier.sender, carrier.now) {
            self.counters.buried += 1;
            return None;
        }
        let joined =
            Joined { version: news.known_version, at: carrier.clock.utc(carrier.now).0, mono: carrier.now };
        let index = self.state.join(id.clone(), news.addr, joined, carrier.now);
        self.state.list(index);
        self.links.advertise(index, news.addr, None);
        self.joined(index, carrier.now);
        out.events.push(Event::Joined { node: id });
        Some(index)
    }

    /// Takes an admitted entry over. Is it news that should travel at once?
    fn take(&mut self, index: usize, entry: &Entry<'_>, carrier: &Carrier<'_>, out: &mut Outbox) -> bool {
        let node = &self.state[index];
        let stamp = entry.stamp.map(|stamp| carried(stamp, carrier.network, carrier.kernel, carrier.egress));
        let held = node.get(entry.key);
        let propagation = classify(node, held, entry, stamp, carrier);
        let key: Arc<str> = held.map_or_else(|| entry.key.into(), |held| held.key.clone());
        let origin = node.id.clone();
        let kind = EntryKind::of(entry.key, entry.internal);

        out.entries.push(EntryArrival {
            origin: origin.clone(),
            key: key.clone(),
            kind,
            version: entry.version,
            propagation,
        });
        if kind != EntryKind::Beacon {
            out.events.push(if entry.deleted {
                Event::Deleted { node: origin, key: key.clone() }
            } else {
                Event::Upserted { node: origin, key: key.clone(), version: entry.version }
            });
        }
        let stored = Stored {
            key,
            value: entry.value.into(),
            internal: entry.internal,
            deleted: entry.deleted,
            reversioned: entry.reversioned,
            stamp,
        };
        self.state.put(index, entry.version, stored, carrier.now);
        self.counters.entries_applied += 1;
        if entry.internal {
            self.take_internal(index, entry, carrier.now, out);
        }
        kind != EntryKind::Beacon && !entry.reversioned
    }

    /// What the protocol's own entries mean.
    fn take_internal(&mut self, index: usize, entry: &Entry<'_>, now: MonoNs, out: &mut Outbox) {
        let number = || std::str::from_utf8(entry.value).ok()?.parse::<u64>().ok();
        match entry.key {
            PROTO_KEY => {
                let newest = if entry.deleted { None } else { number() };
                let shares_v1 = self.shares_v1(newest.map(|newest| newest.min(255) as u8));
                self.state.speaks(index, if shares_v1 { Protocol::V1 } else { Protocol::V0 });
            }
            // Everything up to there was written anew above it.
            COMPACT_KEY if !entry.deleted => match number() {
                Some(version) if version < entry.version => self.state.discard(index, version),
                _ => self.counters.bad_compact += 1,
            },
            PORTS_KEY if !entry.deleted && ports::read(entry.value).is_none() => self.counters.bad_ports += 1,
            LEFT_KEY if !entry.deleted => self.has_left(index, now, out),
            _ => (),
        }
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
        egress: stamp.egress,
        hops: stamp.hops,
        trace_id: stamp.trace_id,
    })
}

/// Can a part take this long? Not less than nothing and not more than the whole, within the bounds.
fn possible(part: Bounded, total: Bounded) -> bool {
    let rest = total - part;
    part.value >= -part.bound && rest.value >= -rest.bound
}
