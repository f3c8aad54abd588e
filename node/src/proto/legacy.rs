//! Talking to v0 nodes: Piko's own rule, as a good citizen of it.
//!
//! A digest that is a request is answered with a delta, even an empty one (to Piko only deltas are signs of life), and
//! with a digest; any other digest with a delta. What v0 leaves open is settled here: deltas are taken only from
//! where a digest went; an unknown node's only if it was asked for from its beginning, since a delta does not say
//! where it starts; digests list first what changed last, so that a change crosses a cluster larger than a packet
//! can list; and a digest that shows news is answered by one that asks for just that.

use std::net::SocketAddr;

use probe_ebpf::time::MonoNs;

use super::core::{Core, Received};
use super::delta::{Carrier, News};
use super::peer::{Protocol, Sign};
use super::questions::is_open;
use super::state::SELF;
use super::{Outbox, Rejected};
use crate::wire::v0::{self, DigestEntry, Packet};
use crate::wire::v1::{self, Egress, NodeRef};

mod send;

/// Bytes per second that v0 peers may be sent beyond what they sent: the format leaves no way to be sure that an
/// address is theirs.
pub(super) const SURPLUS: u32 = 128 << 10;

/// What a v0 digest shows, entry by entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    /// Newer here, from this version on.
    Older(usize),
    /// Newer there; the version known here.
    Newer(u64),
}

impl Core {
    pub(super) fn handle_v0(&mut self, received: &Received<'_>, out: &mut Outbox) -> Result<(), Rejected> {
        let packet = v0::decode(received.bytes)?;
        let header = *packet.header();
        if header.node_id == self.config.id.as_str() {
            return Err(Rejected::OwnId);
        }
        let now = received.now;
        let speaks_v1 = self.shares_v1(header.max_version);
        let member = self.state.find(header.node_id).filter(|i| self.state[*i].addr == received.from);
        match packet {
            Packet::Digest { request, digest, .. } => {
                self.counters.digests_received += 1;
                self.counters.digest_entries_received += digest.entries().count() as u64;
                if let Some(index) = member {
                    self.heard(index, None, now, out);
                    self.spoke_v0(index, speaks_v1);
                    self.look_at_v0(index, &digest, speaks_v1, now, out);
                }
                let speaks = |index: &usize| {
                    let peer = &self.state[*index].peer;
                    // To an unverified address a request might be more than came.
                    peer.verified && peer.protocol == Protocol::V1
                };
                match member.filter(speaks) {
                    // It does not know yet that it can have more.
                    Some(index) => self.send_request(index, now, out),
                    None => self.answer_v0(received, &header, &digest, request, member, out),
                }
            }
            Packet::Delta { delta, .. } => {
                if !self.is_asked(received.from, now) {
                    return Err(Rejected::Unasked);
                }
                self.counters.deltas_received += 1;
                if let Some(index) = member {
                    self.state[index].peer.verified = true;
                    self.heard(index, Some(0), now, out);
                    self.spoke_v0(index, speaks_v1);
                }
                let carrier = Carrier {
                    now,
                    clock: received.clock,
                    network: None,
                    kernel: None,
                    egress: Egress::default(),
                    sender: NodeRef::of(header.node_id),
                    eager: true,
                };
                for node in delta.nodes() {
                    self.counters.delta_entries_received += node.len() as u64;
                    self.apply_v0(&node, &carrier, out);
                }
            }
        }
        Ok(())
    }

    /// Takes one node of a v0 delta in.
    pub(super) fn apply_v0(&mut self, node: &v0::DeltaNode<'_>, carrier: &Carrier<'_>, out: &mut Outbox) {
        let id = node.head.id;
        let Some(addr) = node.head.addr.parse().ok().filter(|addr| crate::wire::is_reachable(*addr)) else {
            self.counters.bad_address += 1;
            return;
        };
        let name = NodeRef::of(id);
        let known = self.state.find(id).map(|index| self.state[index].version);
        if known.is_none() && !self.questions.is_expected(name, carrier.now) {
            self.counters.gap += 1;
            return;
        }
        // It answers a digest that showed no more than what is known by now.
        let from_version = known.unwrap_or(0);
        let known_version = node.entries().map(|entry| entry.version).max().unwrap_or(0);
        if let Some(index) = self.state.find(id).filter(|_| name == carrier.sender) {
            let node = &mut self.state[index];
            node.peer.reborn.shown(known_version, node.version);
        }
        let news = News { id, addr, from_version, known_version };
        let mut bad_keys = 0;
        let converted = node.entries().map_while(|entry| {
            let key = entry.key_str().inspect_err(|_| bad_keys += 1).ok()?;
            Some(v1::Entry {
                key,
                value: entry.value,
                version: entry.version,
                internal: entry.internal,
                deleted: entry.deleted,
                reversioned: false,
                stamp: None,
            })
        });
        self.apply(&news, converted, carrier, out);
        self.counters.bad_keys += bad_keys;
    }

    /// Is v1 the newest version that both speak?
    pub(super) fn shares_v1(&self, newest: Option<u8>) -> bool {
        self.config.max_version.min(newest.unwrap_or(0)) >= v1::VERSION
    }

    /// A v0 packet of a member. One that speaks v1 always says so in it; so one that does not is another program now.
    fn spoke_v0(&mut self, index: usize, speaks_v1: bool) {
        let protocol = if speaks_v1 { Protocol::V1 } else { Protocol::V0 };
        self.state.speaks(index, protocol);
        self.detector.set_direct_only(index, protocol == Protocol::V0);
    }

    /// What a member's digest shows of this node and of itself.
    fn look_at_v0(
        &mut self,
        index: usize,
        digest: &v0::Digest<'_>,
        speaks_v1: bool,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let id = self.state[index].id.clone();
        for entry in digest.entries() {
            if entry.id == self.config.id.as_str() {
                self.find_restart(entry.version, now);
            }
            let node = &mut self.state[index];
            // Who speaks v1 finds out for itself that it began anew, and an unverified address is not spoken to more.
            if entry.id == id.as_str() && node.peer.verified && !speaks_v1 {
                match node.peer.reborn.sign(entry.version, node.version, now) {
                    Sign::None => (),
                    Sign::Doubtful => self.challenge_v0(index, now, out),
                    Sign::Anew => {
                        self.counters.rebirths += 1;
                        self.state.reset(index, now);
                    }
                }
            }
        }
    }

    fn shows(&mut self, header: &v0::Header<'_>, entry: &DigestEntry<'_>) -> Shows {
        if entry.id == header.node_id && self.state.find(entry.id).is_none() && entry.version == 0 {
            return Shows::Nothing;
        }
        let limits = self.config.limits;
        match self.state.find(entry.id) {
            Some(SELF) if self.state[SELF].version > entry.version => Shows::Older(SELF),
            Some(SELF) => Shows::Nothing,
            Some(index) => {
                let ours = self.state[index].version;
                if entry.version > ours.saturating_add(limits.version_jump) {
                    self.counters.version_jump += 1;
                    Shows::Nothing
                } else if entry.version > ours {
                    Shows::Newer(ours)
                } else if entry.version < ours && entry.id == header.node_id {
                    // It runs anew and may not know: show it.
                    Shows::Newer(ours)
                } else if entry.version < ours && (entry.version > 0 || self.state[index].is_alive()) {
                    Shows::Older(index)
                } else {
                    Shows::Nothing
                }
            }
            None if entry.left || entry.version == 0 => Shows::Nothing,
            None if entry.version > limits.version_jump => {
                self.counters.version_jump += 1;
                Shows::Nothing
            }
            None if self.state.len() >= limits.nodes => {
                self.counters.node_limit += 1;
                Shows::Nothing
            }
            None if entry.id != header.node_id && self.is_buried(NodeRef::of(entry.id), entry.version) => {
                self.counters.buried += 1;
                Shows::Nothing
            }
            None => Shows::Newer(0),
        }
    }

    /// May a delta come from there?
    fn is_asked(&self, from: SocketAddr, now: MonoNs) -> bool {
        let member = self.links.member(from).and_then(|index| self.state.at(index));
        self.questions.is_asked(from, now) || is_open(member.and_then(|node| node.peer.questioned), now)
    }
}
