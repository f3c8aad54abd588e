//! Who is a member, who is held for dead, and who is forgotten.

use probe_ebpf::time::{MonoNs, Span};
use probe_user::clock::ClockView;

use super::Outbox;
use super::Reachability;
use super::core::Core;
use super::detector::{Contact, Finding, Rumour, Transition};
use super::graveyard::{Admission, Cause, Claim, Source};
use super::outbox::Event;
use super::peer::{Asked, Protocol};
use super::state::SELF;
use crate::wire::v1::{Digest, NodeRef, Suspect};

/// How long a node that left or is unreachable stays known.
const EXPIRY: Span = Span::from_secs(60);
/// How long digests go on telling of a node that left.
const FAREWELL: Span = Span::from_secs(10);
/// Time between looks for members to forget.
const SWEEP: Span = Span::from_secs(1);
/// Suspicions in one packet, at most.
const SUSPECTS_MAX: usize = 8;

/// A suspicion on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing {
    suspect: Suspect,
    /// Packets that still carry it.
    left: u32,
}

impl Core {
    /// A request was sent to a member.
    pub(super) fn asked(&mut self, index: usize, counter: u32, now: MonoNs) {
        self.state[index].peer.asked = Some(Asked { counter, at: now });
        self.detector.asked(index, now);
    }

    /// A packet came that is surely a member's own. `answers`: the counter of the request that it answers; 0 in v0.
    pub(super) fn heard(&mut self, index: usize, answers: Option<u32>, now: MonoNs, out: &mut Outbox) {
        let peer = &mut self.state[index].peer;
        peer.heard = Some(now);
        if let (Some(counter), Some(asked)) = (answers, peer.asked)
            && counter == asked.counter
        {
            peer.asked = None;
            self.detector.measured(index, now - asked.at);
        }
        let contact = if answers.is_some() { Contact::Answer } else { Contact::Other };
        if let Some(transition) = self.detector.heard(index, contact, now) {
            self.changed(&transition, out);
        }
    }

    /// A node was taken in.
    pub(super) fn joined(&mut self, index: usize, now: MonoNs) {
        let node = &self.state[index];
        self.detector.learn(index, node.version, node.peer.protocol == Protocol::V0, now);
    }

    /// A member's state is known up to a newer version.
    pub(super) fn advanced(&mut self, index: usize, now: MonoNs, out: &mut Outbox) {
        let node = &mut self.state[index];
        let (version, v0) = (node.version, node.peer.protocol == Protocol::V0);
        if node.left.is_some() && node.get(crate::wire::LEFT_KEY).is_none() {
            // It voided its goodbye: it is back.
            node.left = None;
            let id = node.id.clone();
            self.state.roster_changed();
            self.state.list(index);
            self.detector.learn(index, version, v0, now);
            out.events.push(Event::Joined { node: id });
        }
        self.detector.set_direct_only(index, v0);
        if let Some(transition) = self.detector.advanced(index, version, now) {
            self.changed(&transition, out);
        }
    }

    /// A member says goodbye.
    pub(super) fn has_left(&mut self, index: usize, now: MonoNs, out: &mut Outbox) {
        let node = &mut self.state[index];
        if node.left.is_none() {
            node.left = Some(now);
            node.unreachable = None;
            out.events.push(Event::Left { node: node.id.clone() });
            self.state.roster_changed();
            self.detector.remove(index);
        }
    }

    fn changed(&mut self, transition: &Transition<usize>, out: &mut Outbox) {
        let index = transition.peer;
        let node = &mut self.state[index];
        let id = node.id.clone();
        match transition.to {
            Reachability::Unreachable => {
                node.unreachable = Some(transition.at);
                self.state.roster_changed();
                self.state.unlist(index);
                out.events.push(Event::Unreachable { node: id });
            }
            Reachability::Alive if node.unreachable.take().is_some() => {
                self.state.roster_changed();
                self.state.list(index);
                out.events.push(Event::Reachable { node: id });
            }
            Reachability::Alive | Reachability::Suspect => (),
        }
    }

    /// Takes suspicions in and passes on what is news.
    pub(super) fn hear_suspicions(
        &mut self,
        digest: &Digest<'_>,
        now: MonoNs,
        clock: &ClockView,
        out: &mut Outbox,
    ) {
        for suspect in digest.suspects() {
            let Some(index) = self.state.find_ref(suspect.node) else { continue };
            if index == SELF {
                self.suspected(suspect.version, now, clock);
                continue;
            }
            let Some(by) = self.state.find_ref(suspect.by) else { continue };
            if let Rumour::Taken(transition) =
                self.detector.accused(index, by, suspect.version, now, &mut self.rng)
            {
                self.pass_on(suspect);
                if let Some(transition) = transition {
                    self.changed(&transition, out);
                }
            }
        }
    }

    /// As often as it takes to reach everybody with near certainty (SWIM, section 4.1: lambda log N).
    fn pass_on(&mut self, suspect: Suspect) {
        let left = 3 * (2 + self.state.len().ilog2());
        match self.passing.iter_mut().find(|p| p.suspect.node == suspect.node && p.suspect.by == suspect.by) {
            Some(known) => *known = Passing { suspect, left },
            None => self.passing.push_back(Passing { suspect, left }),
        }
        if self.passing.len() > self.config.limits.nodes {
            self.passing.pop_front();
        }
    }

    /// The suspicions for the next packet, into `suspicions`.
    pub(super) fn collect_suspicions(&mut self, to: Option<usize>) {
        self.suspicions.clear();
        if self.passing.is_empty() {
            return;
        }
        // The suspect itself is told whenever there is a chance.
        let name = to.and_then(|index| self.state.at(index)).map(|node| node.name);
        let own = self.passing.iter().find(|p| Some(p.suspect.node) == name).map(|p| p.suspect);
        self.suspicions.extend(own);
        for _ in 0..SUSPECTS_MAX.min(self.passing.len()) {
            let Some(mut next) = self.passing.pop_front() else { break };
            next.left -= 1;
            if Some(next.suspect.node) != name {
                self.suspicions.push(next.suspect);
            }
            if next.left > 0 {
                self.passing.push_back(next);
            }
        }
    }

    /// Does what the failure detector finds due.
    pub(super) fn watch(&mut self, now: MonoNs, out: &mut Outbox) {
        let mut findings = std::mem::take(&mut self.findings);
        self.detector.tick(now, &mut self.rng, &mut findings);
        for finding in findings.drain(..) {
            match finding {
                Finding::Probe(index) => self.ask(index, now, out),
                Finding::Accuse { peer, version } => {
                    let suspect = Suspect { node: self.state[peer].name, version, by: self.state[SELF].name };
                    self.pass_on(suspect);
                    self.ask(peer, now, out);
                }
                Finding::Changed(transition) => self.changed(&transition, out),
            }
        }
        self.findings = findings;
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP;
            self.questions.forget(now);
            self.sweep(now, out);
        }
    }

    /// Forgets who is gone for long enough.
    fn sweep(&mut self, now: MonoNs, out: &mut Outbox) {
        let roster = Some(self.state.roster());
        if self.all_here == roster {
            return;
        }
        let (mut gone, mut farewells, mut absent) = (Vec::new(), Vec::new(), false);
        for (index, node) in self.state.iter().skip(1) {
            absent |= !node.is_alive();
            if let Some(left) = node.left {
                if now - left > EXPIRY {
                    gone.push((index, Cause::Left));
                } else if now - left > FAREWELL && node.listed {
                    farewells.push(index);
                }
            } else if node.unreachable.is_some_and(|since| now - since > EXPIRY) {
                gone.push((index, Cause::Expired));
            }
        }
        self.all_here = roster.filter(|_| !absent);
        for index in farewells {
            self.state.unlist(index);
        }
        for (index, cause) in gone {
            let node = self.state.remove(index);
            self.graveyard.bury(node.name, node.version, cause, now);
            let heir = || self.state.iter().find(|(_, other)| other.addr == node.addr).map(|(heir, _)| heir);
            self.links.forget(index, node.addr, heir);
            self.detector.remove(index);
            self.eager.forget(index);
            self.passing.retain(|p| p.suspect.node != node.name);
            out.events.push(Event::Expired { node: node.id });
        }
    }

    /// Is this old news of a node that is gone?
    pub(super) fn is_buried(&self, node: NodeRef, version: u64) -> bool {
        self.graveyard.get(node).is_some_and(|grave| version <= grave.version)
    }

    /// May an unknown node become a member?
    pub(super) fn may_return(&mut self, node: NodeRef, version: u64, itself: bool, now: MonoNs) -> bool {
        let source = if itself { Source::Itself } else { Source::Relayed };
        let claim = Claim { version, source };
        self.graveyard.admit(node, claim, now) != Admission::Refused
    }
}
