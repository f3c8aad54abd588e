//! Exchanges between v1 nodes: who lacks what, and sending it.
//!
//! A digest opens with a sum over everything its sender knows, and lists only nodes that changed lately. The receiver
//! takes the listed ones out of both sums: if what remains is equal, nothing else differs, and the listed ones tell
//! exactly who lacks what. If not, it lists more of its own. So two nodes with equal knowledge exchange two small
//! packets, whatever their number.

use std::net::SocketAddr;

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{MonoNs, Span};
use rand::Rng as _;

use super::Outbox;
use super::core::Core;
use super::outbox::Transmit;
use super::peer::Protocol;
use super::state::SELF;
use crate::wire::v1::{Digest, Kind, Listed, NodeHead, PacketWriter, SUMMARY_MAX, Sender, StateSum, Step};

/// To whom an answer goes, and how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) addr: SocketAddr,
    /// The member it is.
    pub(super) member: Option<usize>,
    /// The packet that is answered.
    pub(super) packet: PacketId,
    /// It is a member, or surely got what was sent to it: what it says of this node itself is looked at.
    pub(super) trusted: bool,
    /// Bytes that may be sent in return: no more than came, until it is sure that they go to who asked.
    pub(super) allowance: Option<usize>,
    pub(super) now: MonoNs,
}

/// How a digest compares to what is known here. Memory is reused.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Newer there: nodes and the versions known here.
    pub(super) wants: Vec<Listed>,
    /// Newer here: positions, and versions known there.
    pub(super) gives: Vec<(usize, u64)>,
    /// Nodes that it listed, by position.
    pub(super) listed: Vec<bool>,
    /// Apart from the nodes listed, both know the same.
    pub(super) rest_equal: bool,
}

/// Packets that one request can set off: what is missing beyond that comes with the next one.
const BURST: usize = 4;
/// Nodes listed beyond the asked for when sums differ for an unknown reason: those that changed last...
const SPARE: usize = 24;
/// ...and when that was not the reason either, any, in turn.
const SLICE: usize = 96;
/// A node that changed this short a time ago is passed on at once by whoever asks for it.
const FRESH: Span = Span::from_millis(500);

impl Core {
    /// Answers a digest. What came with it was applied before.
    pub(super) fn handle_summary(&mut self, asker: &Asker, digest: &Digest<'_>, out: &mut Outbox) {
        let mut found = std::mem::take(&mut self.found);
        self.compare(asker, digest, &mut found);
        let listed = found.listed.first().is_some_and(|listed| *listed);
        self.note_ports_known(asker, listed, found.rest_equal, &found.gives);
        let something = !found.gives.is_empty() || !found.wants.is_empty();
        match digest.step {
            Step::Request => self.reply(asker, &mut found, Some(Step::Answer), out),
            Step::Answer if something || !found.rest_equal => {
                let step = (!found.rest_equal || !found.wants.is_empty()).then_some(Step::Offer);
                self.reply(asker, &mut found, step, out);
            }
            Step::Offer if something => {
                found.rest_equal = true;
                let step = (!found.wants.is_empty()).then_some(Step::Pull);
                self.reply(asker, &mut found, step, out);
            }
            Step::Pull if !found.gives.is_empty() => self.reply(asker, &mut found, None, out),
            _ => (),
        }
        self.found = found;
    }

    fn compare(&mut self, asker: &Asker, digest: &Digest<'_>, found: &mut Comparison) {
        let Comparison { wants, gives, listed, rest_equal } = found;
        wants.clear();
        gives.clear();
        listed.clear();
        listed.resize(self.state.end(), false);
        let (mut theirs, mut ours) = (digest.sum, self.state.sum());
        for entry in digest.listed() {
            if entry.version > 0 {
                theirs.remove(entry.node, entry.version);
            }
            let Some(index) = self.state.find_ref(entry.node) else {
                if self.may_ask_for(entry) {
                    wants.push(Listed { node: entry.node, version: 0 });
                }
                continue;
            };
            if index == SELF {
                if asker.trusted {
                    self.find_restart(entry.version, asker.now);
                }
                if entry.version > self.state[SELF].version {
                    continue;
                }
            }
            let node = &self.state[index];
            if std::mem::replace(&mut listed[index], true) {
                continue;
            }
            if node.listed {
                ours.remove(node.name, node.version);
            }
            let tell = Listed { node: node.name, version: node.version };
            if entry.version > node.version {
                if entry.version - node.version > self.config.limits.version_jump {
                    self.counters.version_jump += 1;
                } else {
                    wants.push(tell);
                }
            } else if entry.version < node.version {
                if asker.member == Some(index) {
                    // It runs anew under its old id and does not know: show it.
                    wants.push(tell);
                } else if entry.version > 0 || node.is_alive() {
                    // A dead node is no news to those who do not know it.
                    gives.push((index, entry.version));
                }
            }
        }
        *rest_equal = ours == theirs;
        if digest.step == Step::Request && !*rest_equal {
            let guessed = self.guess(ours, theirs, listed);
            *rest_equal = guessed.is_some();
            for index in guessed.into_iter().flatten() {
                gives.push((index, self.state[index].before));
            }
        }
    }

    /// What else the sender of a request may lack: nodes that changed here lately and that it does not list, each known
    /// there as it was here before. If that explains the sums exactly, it is so.
    fn guess(&self, mut ours: StateSum, theirs: StateSum, listed: &[bool]) -> Option<Vec<usize>> {
        let mut lacks = Vec::new();
        for index in self.state.by_recency() {
            let node = &self.state[index];
            if !node.listed || listed.get(index).is_none_or(|listed| *listed) {
                continue;
            }
            ours.remove(node.name, node.version);
            if node.before > 0 {
                ours.add(node.name, node.before);
            }
            lacks.push(index);
            if ours == theirs {
                return Some(lacks);
            }
            if lacks.len() == SPARE {
                break;
            }
        }
        None
    }

    /// Is this unknown node worth asking for? Counts why not.
    fn may_ask_for(&mut self, entry: Listed) -> bool {
        if entry.version == 0 {
            return false;
        }
        if entry.version > self.config.limits.version_jump {
            self.counters.version_jump += 1;
        } else if self.state.len() >= self.config.limits.nodes {
            self.counters.node_limit += 1;
        } else if self.is_buried(entry.node, entry.version) {
            self.counters.buried += 1;
        } else {
            return true;
        }
        false
    }

    /// Sends what `found` says, and a digest with it if there is a `step` to take.
    fn reply(&mut self, asker: &Asker, found: &mut Comparison, step: Option<Step>, out: &mut Outbox) {
        let max = asker.allowance.unwrap_or(self.config.max_packet).min(self.config.max_packet);
        let packets = if asker.allowance.is_some() { 1 } else { BURST };
        let mut gives = std::mem::take(&mut found.gives);
        if gives.len() > 1 {
            // Begin anywhere, or a node that changes all the time could keep those after it from ever being sent.
            let first = self.rng.random_range(0..gives.len());
            gives.rotate_left(first);
        }
        let fresh = step.is_none()
            && gives
                .iter()
                .all(|(index, from)| *from > 0 && asker.now - self.state[*index].changed_at < FRESH);
        // The summary goes first: it must not starve behind what is given.
        let room = step.map_or(0, |_| SUMMARY_MAX + (found.wants.len() * 9).min(max / 3));
        let (mut next, mut summary) = (0, step);
        if step.is_some() && asker.allowance.is_none() {
            self.collect_suspicions(asker.member);
        } else {
            self.suspicions.clear();
        }
        for number in 0..packets {
            let answers = Some(asker.packet);
            let limited = asker.allowance.is_some();
            let transmit =
                Transmit { answers, limited, ..self.open(asker.addr, Kind::Delta, asker.now, out) };
            let sender = Sender { node_id: self.config.id.as_str(), answers };
            let mut w = PacketWriter::delta(&mut out.buffer, max, transmit.id, &sender, fresh && number == 0);
            let reserve = if summary.is_some() { room } else { 0 };
            let mut written_any = false;
            while let Some((index, from)) = gives.get(next).copied() {
                let node = &self.state[index];
                let head = NodeHead {
                    id: node.id.as_str(),
                    addr: node.addr,
                    from_version: from,
                    known_version: node.version,
                };
                let mut written = w.node(&head, node.since(from), reserve);
                if written.entries == 0 && !written.oversized && !written_any && reserve > SUMMARY_MAX {
                    written = w.node(&head, node.since(from), SUMMARY_MAX);
                }
                written_any |= written.entries > 0;
                if index == SELF {
                    self.given = self.given.max(written.last_version.unwrap_or(0));
                }
                self.counters.delta_entries_sent += written.entries as u64;
                self.counters.oversized += u64::from(written.oversized && asker.allowance.is_none());
                if written.left_out == 0 || written.oversized {
                    next += 1;
                    continue;
                }
                gives[next].1 = written.last_version.unwrap_or(from);
                break;
            }
            if let Some(step) = summary.take() {
                w.begin_digest(step, self.state.sum(), &self.suspicions);
                for listed in &found.wants {
                    w.list(*listed);
                }
                if !found.rest_equal {
                    list_more(&self.state, &mut found.listed, step, &mut self.slice_at, &mut w);
                }
                self.counters.digest_entries_sent += u64::from(w.listed());
                self.counters.digests_sent += 1;
            }
            let len = w.finish();
            if len > max {
                // Even the least answer is longer than what came; it goes unanswered.
                out.buffer.truncate(transmit.range.start);
                self.counters.unverified_unanswered += 1;
                break;
            }
            self.counters.deltas_sent += 1;
            out.close(transmit);
            if next >= gives.len() {
                break;
            }
        }
        for (index, from) in &gives[next.min(gives.len())..] {
            self.counters.left_out += self.state[*index].since(*from).count() as u64;
        }
        found.gives = gives;
    }

    /// Begins an exchange with a v1 member.
    pub(super) fn send_request(&mut self, index: usize, now: MonoNs, out: &mut Outbox) {
        let peer = &self.state[index];
        let (addr, verified) = (peer.addr, peer.peer.verified);
        let transmit = self.open(addr, Kind::Digest, now, out);
        self.asked(index, transmit.id.counter, now);
        self.collect_suspicions(Some(index));
        let sender = Sender { node_id: self.config.id.as_str(), answers: None };
        let max = self.config.max_packet;
        let mut w = PacketWriter::digest(
            &mut out.buffer,
            max,
            transmit.id,
            &sender,
            Step::Request,
            self.state.sum(),
            &self.suspicions,
        );
        // An address that nobody answered from yet gets little.
        let room = if verified { max / 2 } else { max / 8 };
        let since = now - self.recent_window();
        for index in self.state.by_recency() {
            let node = &self.state[index];
            if node.changed_at < since || w.size() > room {
                break;
            }
            if node.listed {
                w.list(Listed { node: node.name, version: node.version });
            }
        }
        if !verified {
            let own = &self.state[SELF];
            w.list(Listed { node: own.name, version: own.version });
        }
        self.counters.digest_entries_sent += u64::from(w.listed());
        self.counters.digests_sent += 1;
        w.finish();
        out.close(transmit);
    }

    /// For about as long a change is on its way through the cluster: it doubles its knowers about twice a round.
    fn recent_window(&self) -> Span {
        let rounds = 1 + self.state.len().ilog2() / 2;
        Span::from_nanos(self.config.interval.as_nanos().saturating_mul(i64::from(rounds)))
    }

    /// Starts a packet to `to`.
    pub(super) fn open(&mut self, to: SocketAddr, kind: Kind, now: MonoNs, out: &Outbox) -> Transmit {
        let (id, member) = self.links.next(to);
        let source = self.source_for(member, id.counter);
        let destination = member.map(|index| self.state[index].id.clone());
        Transmit { destination, id, source, ..out.open(to, kind, Protocol::V1, now) }
    }
}

/// Nodes beyond the asked for, when the sums say that something else differs: those that changed last, or, in the
/// second try, any.
fn list_more(
    state: &super::state::State,
    listed: &mut Vec<bool>,
    step: Step,
    slice_at: &mut usize,
    w: &mut PacketWriter<'_>,
) {
    listed.resize(state.end(), false);
    let mut left = if step == Step::Answer { SPARE } else { SLICE };
    let mut list = |w: &mut PacketWriter<'_>, index: usize| {
        let Some(node) = state.at(index).filter(|node| node.listed) else { return true };
        if std::mem::replace(&mut listed[index], true) {
            return true;
        }
        left = left.saturating_sub(1);
        w.list(Listed { node: node.name, version: node.version }) && left > 0
    };
    if step == Step::Answer {
        for index in state.by_recency() {
            if !list(w, index) {
                return;
            }
        }
    } else {
        let first = *slice_at % state.end();
        for index in (first..state.end()).chain(0..first) {
            *slice_at = index;
            if !list(w, index) {
                return;
            }
        }
    }
}
