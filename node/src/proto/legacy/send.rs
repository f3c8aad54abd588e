//! What goes out to v0 nodes: digests within a packet, deltas within what was asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use probe_ebpf::time::MonoNs;
use rand::Rng as _;

use super::Shows;
use crate::proto::Outbox;
use crate::proto::core::{Core, Received};
use crate::proto::outbox::Transmit;
use crate::proto::peer::Protocol;
use crate::proto::state::{SELF, State};
use crate::wire::v0::{self, Cut, DeltaWriter, DigestEntry, DigestWriter};
use crate::wire::v1::{Kind, NodeRef};

impl Core {
    /// Asks a v0 member that seems to have begun anew for the last change of its that is known here: if it still has
    /// that one, it did not, and what made it seem so was an old packet.
    pub(super) fn challenge_v0(&mut self, index: usize, now: MonoNs, out: &mut Outbox) {
        let node = &self.state[index];
        let (to, version) = (node.addr, node.version.saturating_sub(1));
        let (id, addr, own) = (node.id.clone(), node.addr.to_string(), self.advertise.clone());
        let transmit = self.open_v0(to, Kind::Digest, now, out);
        let sender = self.sender_v0(&own);
        let mut w = DigestWriter::new(&mut out.buffer, self.config.max_packet, &sender, false);
        w.push(&DigestEntry { id: id.as_str(), addr: &addr, version, left: false });
        self.counters.digest_entries_sent += w.finish() as u64;
        self.counters.digests_sent += 1;
        self.note_asked(to, now);
        out.close(transmit);
    }

    pub(super) fn answer_v0(
        &mut self,
        received: &Received<'_>,
        header: &v0::Header<'_>,
        digest: &v0::Digest<'_>,
        request: bool,
        member: Option<usize>,
        out: &mut Outbox,
    ) {
        let now = received.now;
        let max = self.config.max_packet;
        let verified = member.is_some_and(|index| self.state[index].peer.verified);
        // No more than came, until it is sure that it goes to who asked. As sure as v0 can be, so there is a limit.
        self.surplus.refill(now);
        let more = if verified && !self.surplus.is_empty() { 2 * max } else { 0 };
        let mut room = more.max(received.bytes.len());
        let begun = out.buffer.len();
        let mut wants: Vec<(&str, &str, u64)> = Vec::new();
        let mut gives: Vec<(usize, u64)> = Vec::new();
        for entry in digest.entries() {
            match self.shows(header, &entry) {
                Shows::Older(index) => gives.push((index, entry.version)),
                Shows::Newer(ours) => wants.push((entry.id, entry.addr, ours)),
                Shows::Nothing => (),
            }
        }
        if gives.len() > 1 {
            let first = self.rng.random_range(0..gives.len());
            gives.rotate_left(first);
        }
        let sent = self.send_delta_v0(received.from, &gives, max.min(room), now, out);
        room = room.saturating_sub(sent);
        if sent > 0 && (request || !wants.is_empty()) {
            self.send_digest_v0(received.from, &wants, request, room, now, out);
        }
        self.surplus.take((out.buffer.len() - begun).saturating_sub(received.bytes.len()));
    }

    /// Asks for what is newer there, and, if that is called for, shows what else is known here.
    fn send_digest_v0(
        &mut self,
        to: SocketAddr,
        wants: &[(&str, &str, u64)],
        request: bool,
        room: usize,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let max = self.config.max_packet;
        let transmit = self.open_v0(to, Kind::Digest, now, out);
        let advertise = self.advertise.clone();
        let sender = self.sender_v0(&advertise);
        let start = out.buffer.len();
        let mut w = DigestWriter::new(&mut out.buffer, max.min(room), &sender, false);
        let mut listed = std::mem::take(&mut self.found.listed);
        listed.clear();
        listed.resize(self.state.end(), false);
        let mut asked_for = Vec::new();
        for (id, addr, version) in wants {
            if w.push(&DigestEntry { id, addr, version: *version, left: false }) {
                match self.state.find(id) {
                    Some(index) => listed[index] = true,
                    None => asked_for.push(NodeRef::of(id)),
                }
            }
        }
        if request {
            fill_v0(&self.state, &mut listed, max.min(room), &mut self.rng, &mut w);
        }
        let entries = w.finish();
        self.found.listed = listed;
        if out.buffer.len() - start > room {
            out.buffer.truncate(start);
            self.counters.unverified_unanswered += 1;
            return;
        }
        for name in asked_for {
            self.questions.expect(name, now);
        }
        self.counters.digest_entries_sent += entries as u64;
        self.counters.digests_sent += 1;
        self.note_asked(to, now);
        out.close(transmit);
    }

    /// Sends what is newer here; an empty delta says "I am here". Returns its length; 0 if there was no room.
    fn send_delta_v0(
        &mut self,
        to: SocketAddr,
        gives: &[(usize, u64)],
        max: usize,
        now: MonoNs,
        out: &mut Outbox,
    ) -> usize {
        let transmit = self.open_v0(to, Kind::Delta, now, out);
        let start = out.buffer.len();
        let sender = v0::Sender {
            node_id: self.config.id.as_str(),
            addr: &self.advertise,
            max_version: self.config.told_version(),
        };
        let mut w = DeltaWriter::new(&mut out.buffer, max, &sender, Cut::Whole);
        let mut given = 0;
        for (index, from) in gives {
            let node = &self.state[*index];
            let addr = node.addr.to_string();
            let head = v0::NodeHead { id: node.id.as_str(), addr: &addr };
            let entries = node.stored_since(*from).map(|(version, entry)| entry.on_wire_v0(version));
            let written = w.node(&head, entries);
            self.counters.delta_entries_sent += written.entries as u64;
            self.counters.left_out += written.left_out as u64;
            self.counters.oversized += u64::from(written.oversized);
            if *index == SELF && written.entries > 0 {
                given = node.version;
            }
        }
        w.finish();
        let len = out.buffer.len() - start;
        if len > max {
            out.buffer.truncate(start);
            self.counters.unverified_unanswered += 1;
            return 0;
        }
        self.gave(SELF, Some(given));
        self.counters.deltas_sent += 1;
        out.close(transmit);
        len
    }

    /// Begins an exchange with a v0 member; with `fresh`, one that shows these nodes and no others.
    pub(in crate::proto) fn send_request_v0(
        &mut self,
        index: usize,
        fresh: Option<&BTreeMap<usize, u64>>,
        now: MonoNs,
        out: &mut Outbox,
    ) {
        let to = self.state[index].addr;
        let transmit = self.open_v0(to, Kind::Digest, now, out);
        self.asked(index, 0, now);
        let advertise = self.advertise.clone();
        let sender = self.sender_v0(&advertise);
        let max =
            if self.state[index].peer.verified { self.config.max_packet } else { self.config.max_packet / 4 };
        let mut w = DigestWriter::new(&mut out.buffer, max, &sender, true);
        let mut listed = std::mem::take(&mut self.found.listed);
        listed.clear();
        listed.resize(self.state.end(), false);
        match fresh {
            Some(nodes) => {
                for node in nodes.keys() {
                    push_v0(&self.state, &mut listed, *node, &mut w);
                }
            }
            None => fill_v0(&self.state, &mut listed, max, &mut self.rng, &mut w),
        }
        self.counters.digest_entries_sent += w.finish() as u64;
        self.counters.digests_sent += 1;
        self.found.listed = listed;
        self.note_asked(to, now);
        out.close(transmit);
    }

    fn sender_v0<'a>(&'a self, advertise: &'a str) -> v0::Sender<'a> {
        v0::Sender {
            node_id: self.config.id.as_str(),
            addr: advertise,
            max_version: self.config.told_version(),
        }
    }

    fn open_v0(&self, to: SocketAddr, kind: Kind, now: MonoNs, out: &Outbox) -> Transmit {
        let destination = self.links.member(to).map(|index| self.state[index].id.clone());
        Transmit { destination, ..out.open(to, kind, Protocol::V0, now) }
    }

    /// A digest went there.
    fn note_asked(&mut self, to: SocketAddr, now: MonoNs) {
        match self.links.member(to) {
            Some(index) => self.state[index].peer.questioned = Some(now),
            None => self.questions.ask(to, now),
        }
    }
}

/// This node, those that changed lately, and then any others, as far as there is room.
fn fill_v0(
    state: &State,
    listed: &mut [bool],
    max: usize,
    rng: &mut rand::rngs::StdRng,
    w: &mut DigestWriter<'_>,
) {
    push_v0(state, listed, SELF, w);
    for index in state.by_recency() {
        if w.size() > max / 2 || !push_v0(state, listed, index, w) {
            break;
        }
    }
    let first = rng.random_range(0..state.end());
    for index in (first..state.end()).chain(0..first) {
        if !push_v0(state, listed, index, w) {
            break;
        }
    }
}

fn push_v0(state: &State, listed: &mut [bool], index: usize, w: &mut DigestWriter<'_>) -> bool {
    let Some(node) = state.at(index).filter(|node| node.listed) else { return true };
    if std::mem::replace(&mut listed[index], true) {
        return true;
    }
    let addr = node.addr.to_string();
    w.push(&DigestEntry {
        id: node.id.as_str(),
        addr: &addr,
        version: node.version,
        left: node.left.is_some(),
    })
}
