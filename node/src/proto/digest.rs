//! Which nodes a digest lists, and the answers to one.

use std::mem::replace;
use std::net::SocketAddr;

use probe_ebpf::time::MonoNs;
use rand::Rng as _;

use super::Outbox;
use super::core::Core;
use super::outbox::Transmit;
use super::state::{Node, SELF};
use crate::wire::v1::{self, DeltaWriter, DigestEntry, DigestWriter, Header, Kind, NodeHead};

/// What to make of an entry in somebody's digest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing to ask for.
    Nothing,
    /// To be named in our next digest to the sender.
    Ask,
    /// Too far above what is known to be believed.
    Jump,
    /// One node too many.
    Full,
}

impl Core {
    pub(super) fn handle_digest(
        &mut self,
        header: &Header<'_>,
        digest: &v1::Digest<'_>,
        from: SocketAddr,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let mut ask = false;
        for entry in digest.entries() {
            if entry.id == self.config.id.as_str() {
                self.find_restart(entry.version, now);
                continue;
            }
            match self.judge(header, &entry) {
                Verdict::Nothing => (),
                Verdict::Ask => ask = true,
                Verdict::Jump => self.counters.version_jump += 1,
                Verdict::Full => self.counters.node_limit += 1,
            }
        }
        self.send_delta(from, header, digest, now, out);
        if digest.request {
            self.send_digest(from, false, Some((header, digest)), now, out);
        } else if ask {
            self.send_pull(from, header, digest, now, out);
        }
    }

    fn judge(&self, header: &Header<'_>, entry: &DigestEntry<'_>) -> Verdict {
        let jump = |from: u64| {
            if entry.version - from > self.config.limits.version_jump { Verdict::Jump } else { Verdict::Ask }
        };
        match self.state.find(entry.id) {
            Some(SELF) => Verdict::Nothing,
            Some(index) => match self.state.nodes[index].version {
                ours if entry.version > ours => jump(ours),
                // A node that shows itself older than we know it runs anew under its old id: tell it.
                ours if entry.version < ours && entry.id == header.node_id => Verdict::Ask,
                _ => Verdict::Nothing,
            },
            None if entry.left || entry.version == 0 => Verdict::Nothing,
            None if self.state.nodes.len() >= self.config.limits.nodes => Verdict::Full,
            None => jump(0),
        }
    }

    /// What we know of the nodes in `digest` above the versions it shows; an empty delta says "I am here".
    fn send_delta(
        &mut self,
        to: SocketAddr,
        header: &Header<'_>,
        digest: &v1::Digest<'_>,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let transmit = self.open(to, Kind::Delta, now, out);
        let sender = Self::sender(&self.config);
        let mut w = DeltaWriter::new(&mut out.buffer, self.config.max_packet, transmit.id, &sender);
        // Begin anywhere, or a node that changes all the time could keep those after it from ever being sent.
        let first = self.rng.random_range(0..digest.len().max(1));
        for entry in digest.entries().skip(first).chain(digest.entries().take(first)) {
            // Nobody takes news about itself.
            if entry.id == header.node_id {
                continue;
            }
            let Some(index) = self.state.find(entry.id) else { continue };
            let node = &self.state.nodes[index];
            if node.version <= entry.version {
                continue;
            }
            let head = NodeHead {
                id: node.id.as_str(),
                addr: node.addr,
                from_version: entry.version,
                known_version: node.version,
            };
            let written = w.node(&head, node.since(entry.version));
            self.counters.delta_entries_sent += written.entries as u64;
            self.counters.left_out += written.left_out as u64;
            self.counters.oversized += u64::from(written.oversized);
        }
        w.finish();
        self.counters.deltas_sent += 1;
        out.close(transmit);
    }

    /// A digest of what is known here: this node, the peer with what it knows better, nodes that changed lately,
    /// and then any others, as far as there is room.
    pub(super) fn send_digest(
        &mut self,
        to: SocketAddr,
        request: bool,
        answer: Option<(&Header<'_>, &v1::Digest<'_>)>,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let transmit = self.open(to, Kind::Digest, now, out);
        let mut listed = std::mem::take(&mut self.listed);
        listed.clear();
        listed.resize(self.state.nodes.len(), false);
        let nodes = &self.state.nodes;
        let max = self.config.max_packet;
        let mut w =
            DigestWriter::new(&mut out.buffer, max, transmit.id, &Self::sender(&self.config), request);
        let mut list = |w: &mut DigestWriter<'_>, index: usize| {
            replace(&mut listed[index], true) || w.push(&known(&nodes[index]))
        };

        list(&mut w, SELF);
        if let Some((header, digest)) = answer {
            for entry in digest.entries().filter(|entry| self.judge(header, entry) == Verdict::Ask) {
                match self.state.find(entry.id) {
                    Some(index) => list(&mut w, index),
                    None => w.push(&DigestEntry { version: 0, ..entry }),
                };
            }
            if let Some(index) = self.state.find(header.node_id) {
                list(&mut w, index);
            }
        }
        for index in self.state.by_recency() {
            if w.size() > max / 2 || !list(&mut w, index) {
                break;
            }
        }
        let first = self.rng.random_range(0..nodes.len());
        for index in (first..nodes.len()).chain(0..first) {
            if !list(&mut w, index) {
                break;
            }
        }
        self.counters.digest_entries_sent += u64::from(w.finish());
        self.counters.digests_sent += 1;
        self.listed = listed;
        out.close(transmit);
    }

    /// Asks for what `digest` shows to be newer there: the request that it answers may have had no room to list
    /// those nodes.
    fn send_pull(
        &mut self,
        to: SocketAddr,
        header: &Header<'_>,
        digest: &v1::Digest<'_>,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let transmit = self.open(to, Kind::Digest, now, out);
        let sender = Self::sender(&self.config);
        let mut w = DigestWriter::new(&mut out.buffer, self.config.max_packet, transmit.id, &sender, false);
        for entry in digest.entries().filter(|entry| self.judge(header, entry) == Verdict::Ask) {
            let fits = match self.state.find(entry.id) {
                Some(index) => w.push(&known(&self.state.nodes[index])),
                None => w.push(&DigestEntry { version: 0, ..entry }),
            };
            if !fits {
                break;
            }
        }
        self.counters.digest_entries_sent += u64::from(w.finish());
        self.counters.digests_sent += 1;
        out.close(transmit);
    }

    /// Starts a packet to `to`.
    fn open(&mut self, to: SocketAddr, kind: Kind, now: MonoNs, out: &Outbox) -> Transmit {
        let (id, member) = self.links.next(to);
        let destination = member.map(|index| self.state.nodes[index].id.clone());
        let start = out.buffer.len();
        Transmit { to, destination, kind, id, handed_over: now, range: start..start }
    }
}

fn known(node: &Node) -> DigestEntry<'_> {
    DigestEntry { id: node.id.as_str(), addr: node.addr, version: node.version, left: false }
}
