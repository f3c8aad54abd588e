//! Joining and leaving over TCP, in Piko's format: everybody understands it, and what travels this way is no
//! propagation sample anyway.

use std::net::SocketAddr;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::clock::ClockView;
use rand::Rng as _;

use super::core::Core;
use super::delta::Carrier;
use super::entry::Stored;
use super::outbox::StreamKind;
use super::peer::Protocol;
use super::state::SELF;
use super::{Outbox, Rejected};
use crate::wire::v0::{self, DigestEntry, stream};
use crate::wire::v1::{Egress, NodeRef};

/// Time between tries to reach a seed while nobody else is known.
const SEED_RETRY: Span = Span::from_secs(1);
/// How often it is looked whether all seeds are in touch, so that separated parts find each other again.
const SEED_CHECK: Span = Span::from_secs(10);
/// Seeds joined at once.
const JOINS: usize = 3;
/// Members told of a goodbye at once; the others learn it by gossip.
const FAREWELLS: usize = 4;

impl Core {
    /// How much of a message over TCP is taken.
    pub fn stream_limits(&self) -> stream::Limits {
        let limits = &self.config.limits;
        stream::Limits {
            bytes: self.config.stream_bytes,
            nodes: limits.nodes,
            entries: limits.nodes.saturating_mul(limits.entries_per_node),
        }
    }

    /// Where to look for other nodes, from now on: names may have got other addresses.
    pub fn set_seeds(&mut self, seeds: Vec<SocketAddr>) {
        self.config.seeds = seeds;
    }

    /// Asks for seeds to be joined when that is called for.
    pub(super) fn look_for_seeds(&mut self, now: MonoNs, out: &mut Outbox) {
        let alone = self.state.len() == 1;
        if now < self.seed_at {
            return;
        }
        self.seed_at = now + self.scaled(if alone { SEED_RETRY } else { SEED_CHECK });
        let in_touch = |addr: SocketAddr| {
            self.links
                .member(addr)
                .is_some_and(|index| self.state.at(index).is_some_and(super::node::Node::is_alive))
        };
        let mut far: Vec<SocketAddr> = (self.config.seeds.iter().copied())
            .filter(|seed| *seed != self.config.advertise && !in_touch(*seed))
            .collect();
        while far.len() > JOINS {
            far.swap_remove(self.rng.random_range(0..far.len()));
        }
        out.streams.extend(far.into_iter().map(|to| (to, StreamKind::Join)));
    }

    /// Writes a request to join, to be sent to a seed over TCP.
    pub fn join_request(&mut self, out: &mut Vec<u8>) {
        let own = &self.state[SELF];
        let sender = self.stream_sender();
        let nodes = [stream_node(own, &self.advertise)];
        let digest =
            [DigestEntry { id: own.id.as_str(), addr: &self.advertise, version: own.version, left: false }];
        stream::put_join_request(out, &sender, &nodes, &digest);
        // What the seed knew before is in its answer; only then these versions are this run's to others.
        self.given_by_join = own.version;
    }

    /// Writes the request that tells a member that this node leaves.
    pub fn leave_request(&self, out: &mut Vec<u8>) {
        stream::put_leave_request(
            out,
            &self.stream_sender(),
            &[stream_node(&self.state[SELF], &self.advertise)],
        );
    }

    /// Handles a request that came over TCP from `from`, and writes the response.
    ///
    /// # Errors
    /// [`Rejected`] when it is no such request; nothing changed and nothing is to be answered.
    pub fn handle_stream(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        now: MonoNs,
        clock: &ClockView,
        response: &mut Vec<u8>,
        out: &mut Outbox,
    ) -> Result<(), Rejected> {
        let request = stream::decode_request(bytes, &self.stream_limits())?;
        match request {
            stream::Request::Join { header, delta, digest } => {
                self.check_id(header.node_id)?;
                let carrier = self.stream_carrier(header.node_id, now, clock);
                let past = self.state.find(header.node_id).and_then(|index| {
                    let node = &self.state[index];
                    Some((node.addr.to_string(), node.stored_since(0).last().map(|(v, e)| (v, e.clone()))?))
                });
                self.apply_own_state(&header, &delta, &carrier, out);
                if let Some(index) = self.state.find(header.node_id) {
                    let shares_v1 = self.shares_v1(header.max_version);
                    let node = &mut self.state[index];
                    // A handshake shows that its IP is its own; its port it may claim. From elsewhere it may be anyone.
                    if node.addr.ip() == from.ip() {
                        node.peer.verified = true;
                        self.state.speaks(index, if shares_v1 { Protocol::V1 } else { Protocol::V0 });
                        self.heard(index, None, now, out);
                        let own = digest.entries().find(|entry| entry.id == self.config.id.as_str());
                        self.find_restart(own.map_or(0, |entry| entry.version), now);
                    }
                }
                self.write_join_response(&header, &digest, past.as_ref(), response);
                self.counters.joins_received += 1;
            }
            stream::Request::Leave { header, delta } => {
                self.check_id(header.node_id)?;
                // Who is not known need not be known to have left.
                if let Some(index) = self.state.find(header.node_id) {
                    let carrier = self.stream_carrier(header.node_id, now, clock);
                    if self.state[index].addr.ip() == from.ip() {
                        self.apply_own_state(&header, &delta, &carrier, out);
                    } else {
                        self.counters.foreign_leave += 1;
                    }
                }
                stream::put_leave_response(response, &self.stream_sender());
                self.counters.leaves_received += 1;
            }
        }
        self.restart(now, clock);
        self.spread(None, now, out);
        Ok(())
    }

    /// Takes what a seed at `from` answered to a [`join_request`](Self::join_request).
    ///
    /// # Errors
    /// [`Rejected`] when it is no such answer; nothing changed.
    pub fn handle_join_response(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        now: MonoNs,
        clock: &ClockView,
        out: &mut Outbox,
    ) -> Result<(), Rejected> {
        let response = stream::decode_join_response(bytes, &self.stream_limits())?;
        self.check_id(response.header.node_id)?;
        let carrier = Carrier { eager: false, ..self.stream_carrier(response.header.node_id, now, clock) };
        for node in response.delta.nodes() {
            self.counters.delta_entries_received += node.len() as u64;
            if node.head.id == self.config.id.as_str() {
                let known = node.entries().map(|entry| entry.version).max().unwrap_or(0);
                self.find_restart_at_join(known, now);
                continue;
            }
            // The request listed nobody else: each begins at the beginning.
            self.questions.expect(NodeRef::of(node.head.id), now);
            self.apply_v0(&node, &carrier, out);
        }
        self.given = self.given.max(self.given_by_join);
        if let Some(index) = self.state.find(response.header.node_id) {
            let protocol =
                if self.shares_v1(response.header.max_version) { Protocol::V1 } else { Protocol::V0 };
            let node = &mut self.state[index];
            node.peer.verified |= node.addr == from;
            self.state.speaks(index, protocol);
        }
        self.restart(now, clock);
        self.spread(None, now, out);
        Ok(())
    }

    /// Says goodbye: to a few members over TCP, to others by gossip. Nothing else is to be done with this core
    /// afterwards, but to send what is in `out`.
    pub fn leave(&mut self, now: MonoNs, clock: &ClockView, out: &mut Outbox) {
        self.say_goodbye(now, clock);
        for index in self.pick(FAREWELLS, &[]) {
            out.streams.push((self.state[index].addr, StreamKind::Leave));
        }
        self.spread(None, now, out);
    }

    fn check_id(&mut self, id: &str) -> Result<(), Rejected> {
        if id == self.config.id.as_str() { Err(Rejected::OwnId) } else { Ok(()) }
    }

    /// Whoever joins or leaves tells of itself; what it says of others is left alone.
    fn apply_own_state(
        &mut self,
        header: &v0::Header<'_>,
        delta: &v0::Delta<'_>,
        carrier: &Carrier<'_>,
        out: &mut Outbox,
    ) {
        for node in delta.nodes().filter(|node| node.head.id == header.node_id) {
            self.questions.expect(NodeRef::of(node.head.id), carrier.now);
            self.apply_v0(&node, carrier, out);
        }
    }

    /// `past`: what was known of the new member before it came; it shows whether it had an earlier run.
    fn write_join_response(
        &mut self,
        header: &v0::Header<'_>,
        digest: &v0::Digest<'_>,
        past: Option<&(String, (u64, Stored))>,
        response: &mut Vec<u8>,
    ) {
        let listed: std::collections::BTreeMap<&str, u64> =
            digest.entries().map(|entry| (entry.id, entry.version)).collect();
        let first = self.rng.random_range(0..self.state.end());
        let indices = (first..self.state.end()).chain(0..first);
        let lacking: Vec<(usize, String, u64)> = indices
            .filter_map(|index| {
                let node = self.state.at(index)?;
                let from = listed.get(node.id.as_str()).copied().unwrap_or(0);
                let news = node.version > from && node.id.as_str() != header.node_id;
                (node.is_alive() && news).then(|| (index, node.addr.to_string(), from))
            })
            .collect();
        let own_past = past.map(|(addr, (version, entry))| stream::Node {
            head: v0::NodeHead { id: header.node_id, addr },
            entries: vec![entry.on_wire_v0(*version)],
        });
        let others = lacking.iter().map(|(index, addr, from)| {
            let node = &self.state[*index];
            let entries =
                node.stored_since(*from).map(|(version, entry)| entry.on_wire_v0(version)).collect();
            stream::Node { head: v0::NodeHead { id: node.id.as_str(), addr }, entries }
        });
        let nodes: Vec<stream::Node<'_>> = own_past.into_iter().chain(others).collect();
        let written =
            stream::put_join_response(response, self.config.stream_bytes, &self.stream_sender(), &nodes);
        self.counters.left_out += (nodes.len() - written) as u64;
        let own = self.state[SELF].version;
        self.gave(SELF, Some(own));
    }

    fn stream_sender(&self) -> v0::Sender<'_> {
        v0::Sender {
            node_id: self.config.id.as_str(),
            addr: &self.advertise,
            max_version: self.config.told_version(),
        }
    }

    fn stream_carrier<'a>(&self, sender: &str, now: MonoNs, clock: &'a ClockView) -> Carrier<'a> {
        Carrier {
            now,
            clock,
            network: None,
            kernel: None,
            egress: Egress::default(),
            sender: NodeRef::of(sender),
            eager: true,
        }
    }
}

fn stream_node<'a>(node: &'a super::node::Node, addr: &'a str) -> stream::Node<'a> {
    stream::Node {
        head: v0::NodeHead { id: node.id.as_str(), addr },
        entries: node.stored_since(0).map(|(version, entry)| entry.on_wire_v0(version)).collect(),
    }
}
