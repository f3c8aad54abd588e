//! Is this peer alive? Right at any size of the cluster, and slow to blame others for this node's own trouble.
//!
//! In a large cluster two given nodes meet rarely (every 5 s among 100 nodes at 100 ms), so waiting for packets
//! alone is too slow. A request of a round that is not answered is therefore repeated quickly; after some
//! failures in a row the peer is *suspected* and the suspicion is told to all, the suspect included. It clears
//! itself with any packet, or with a later version of its state, which travels to all. Some nodes check for
//! themselves, and each independent accuser shortens the time until the verdict (SWIM: Das, Gupta,
//! Motivala 2002; Lifeguard: Dadgar, Phillips, Currey 2018). The improbability of a silence (phi accrual:
//! Hayashibara et al. 2004), judged by the meetings that the cluster's size lets expect, triggers a probe, and a
//! suspicion as the last resort.
//!
//! Pure: no clock, no randomness of its own, and every result is a returned value.
//!
//! # What the caller does
//! - [`learn`](Detector::learn) and [`remove`](Detector::remove) a member, [`advanced`](Detector::advanced) when its
//!   known version rises;
//! - [`asked`](Detector::asked) after each request sent, [`heard`](Detector::heard) for each packet that came from a
//!   member itself;
//! - [`accused`](Detector::accused) for each suspicion that a packet carries. If it is about this node itself: no
//!   call, but a new version of its own state above the accused one;
//! - [`tick`](Detector::tick) when [`next_due`](Detector::next_due) has come; it must come at least once an interval, and
//!   do what the findings say;
//! - rounds ask peers that are not [`Unreachable`](Reachability::Unreachable).

mod budget;
mod charge;
mod config;
mod finding;
mod health;
mod peer;
mod rtt;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod tick;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::time::{MonoNs, Span};
use rand::Rng;

use self::budget::Budget;
use self::charge::Noted;
pub(crate) use self::config::Config;
use self::config::times;
pub use self::finding::Reachability;
pub(crate) use self::finding::{DetectorCounters, Finding, Rumour, Transition};
use self::health::Health;
use self::peer::{Peer, Phase, Surroundings};

/// How a packet came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It answers a request of this node, probably: a delta, or a digest that is no request.
    Answer,
    /// It does not.
    Other,
}

/// The failure detector of one node. `K` names a peer: small, ordered, never used for two nodes at once.
#[derive(Debug)]
pub(crate) struct Detector<K> {
    config: Config,
    peers: BTreeMap<K, Peer<K>>,
    /// Every peer's `wake`.
    timers: BTreeSet<(MonoNs, K)>,
    health: Health,
    budget: Budget,
    /// Share of requests to living peers that went unanswered lately: what a dead one does not answer says
    /// nothing about the network, so a run of failures counts, once, when its end shows that the peer lives.
    loss: f64,
    loss_samples: u32,
    /// When any peer was last heard; moved on by each silence that was noticed.
    any_heard: MonoNs,
    heard_since_tick: bool,
    last_tick: MonoNs,
    counters: DetectorCounters,
}

impl<K: Copy + Ord> Detector<K> {
    /// Weight of one request in [`loss`](Self::loss), once there were enough for a mean.
    const LOSS_WEIGHT: f64 = 1.0 / 64.0;
    /// A living peer is accused by chance once in so many rounds, at most.
    const CHANCE: f64 = 1e-6;

    /// A node that knows no peers, started now.
    pub(crate) fn new(config: Config, now: MonoNs) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            health: Health::new(now),
            budget: Budget::new(config.probes_per_interval, config.interval, now),
            loss: 0.0,
            // As if some had been answered: one lost at the start is no lossy network.
            loss_samples: 8,
            any_heard: now,
            heard_since_tick: false,
            last_tick: now,
            counters: DetectorCounters::default(),
        }
    }

    /// A peer became a member, its state known up to `version`. `direct_only`: it speaks v0, so it neither hears of
    /// suspicions nor answers them. Calling it again starts its record afresh.
    pub(crate) fn learn(&mut self, peer: K, version: u64, direct_only: bool, now: MonoNs) {
        self.remove(peer);
        self.put(peer, Peer::new(version, direct_only, now), now);
    }

    /// A peer is no member any more.
    pub(crate) fn remove(&mut self, peer: K) {
        if let Some(at) = self.peers.remove(&peer).and_then(|record| record.wake) {
            self.timers.remove(&(at, peer));
        }
    }

    /// A peer turned out to speak v0, or not to.
    pub(crate) fn set_direct_only(&mut self, peer: K, direct_only: bool) {
        if let Some(record) = self.peers.get_mut(&peer) {
            record.direct_only = direct_only;
        }
    }

    /// A request was sent to a peer: it has to answer.
    pub(crate) fn asked(&mut self, peer: K, now: MonoNs) {
        let Some(record) = self.peers.get_mut(&peer) else { return };
        if record.awaiting.is_none() {
            record.awaiting = Some(now);
            self.arm(peer, now);
        }
    }

    /// A packet came from a peer itself, authenticated as far as the protocol does that.
    pub(crate) fn heard(&mut self, peer: K, contact: Contact, now: MonoNs) -> Option<Transition<K>> {
        let record = self.peers.get_mut(&peer)?;
        self.any_heard = self.any_heard.max(now);
        self.heard_since_tick = true;
        let awaited = record.awaiting.take();
        if let Some(asked) = awaited {
            match (record.failed, contact) {
                (0, Contact::Answer) => record.rtt.sample(now - asked),
                (0, Contact::Other) => {}
                _ => record.rtt.late(),
            }
        }
        if awaited.is_some() || record.failed > 0 {
            let lost = if record.failed > 0 { 1.0 } else { 0.0 };
            self.loss_samples = self.loss_samples.saturating_add(1);
            self.loss += (lost - self.loss) * Self::LOSS_WEIGHT.max(1.0 / f64::from(self.loss_samples));
        }
        let was = record.phase;
        let (own, accused) = (record.charge.is_own(), !record.charge.is_empty());
        record.heard = Some(now);
        record.holds = 0;
        record.hold_until = now;
        record.clear(now);
        match was {
            Phase::Alive => {
                // Else its timer is too early now, and finds that out by itself.
                if awaited.is_some() || accused {
                    self.arm(peer, now);
                }
                return None;
            }
            Phase::Suspect(_) => {
                self.counters.refuted_directly += 1;
                if own {
                    self.health.raise(1, now);
                }
            }
            Phase::Unreachable(_) => self.counters.recovered += 1,
        }
        self.arm(peer, now);
        Some(Transition { peer, from: was.reachability(), to: Reachability::Alive, at: now })
    }

    /// An exact round-trip time, for packets that tell what they answer.
    pub(crate) fn measured(&mut self, peer: K, rtt: Span) {
        if let Some(record) = self.peers.get_mut(&peer) {
            record.rtt.sample(rtt);
        }
    }

    /// A peer's own state is now known up to `version`, from whomever: above the accused version it shows that the
    /// peer lives.
    pub(crate) fn advanced(&mut self, peer: K, version: u64, now: MonoNs) -> Option<Transition<K>> {
        let nodes = self.peers.len() + 1;
        let record = self.peers.get_mut(&peer)?;
        record.version = record.version.max(version);
        if record.charge.is_empty() || record.version <= record.charge.version() {
            return None;
        }
        let (was, own) = (record.phase, record.charge.is_own());
        record.clear(now);
        if own {
            // It lives, but not for this node: a path is broken. Saying so again and again helps nobody.
            let (_, longest) = self.config.suspicion(nodes);
            record.hold_until = now + times(longest, f64::from(1 << record.holds));
            record.holds = (record.holds + 1).min(6);
        }
        match was {
            Phase::Alive => return None,
            Phase::Suspect(_) => {
                self.counters.refuted_by_version += 1;
                if own {
                    self.health.raise(1, now);
                }
            }
            Phase::Unreachable(_) => self.counters.recovered += 1,
        }
        self.arm(peer, now);
        Some(Transition { peer, from: was.reachability(), to: Reachability::Alive, at: now })
    }

    /// `by` says that it suspects `peer` at `version`. About ten nodes of the cluster check that with probes of
    /// their own at once; all others do it once, shortly before the verdict.
    pub(crate) fn accused(
        &mut self,
        peer: K,
        by: K,
        version: u64,
        now: MonoNs,
        rng: &mut impl Rng,
    ) -> Rumour<K> {
        let around = self.surroundings();
        let Some(mut record) = self.peers.get(&peer).copied().filter(|_| peer != by) else {
            self.counters.rumours_void += 1;
            return Rumour::Void;
        };
        if version < record.version {
            self.counters.rumours_stale += 1;
            return Rumour::Stale;
        }
        if version - record.version > self.config.version_jump {
            self.counters.rumours_implausible += 1;
            return Rumour::Implausible;
        }
        let noted = record.charge.note(by, version);
        let full = record.charge.count() > Config::accusers_wanted(around.nodes);
        match noted {
            Noted::New if !full => {}
            Noted::Renewed => {
                if let Phase::Suspect(since) = &mut record.phase {
                    *since = now;
                }
            }
            Noted::Old => {
                self.counters.rumours_stale += 1;
                return Rumour::Stale;
            }
            Noted::New | Noted::Known => {
                self.counters.rumours_known += 1;
                return Rumour::Known;
            }
        }
        self.counters.rumours_taken += 1;
        let others = around.nodes.saturating_sub(1).max(1) as f64;
        let check_within = if record.direct_only {
            // Each node has to see for itself, but not all at the same moment.
            Some(times(self.config.interval, others / 2.0 / Config::CHECKERS))
        } else {
            rng.random_bool((Config::CHECKERS / others).min(1.0)).then_some(self.config.interval)
        };
        if let (Some(within), Phase::Alive, None) = (check_within, record.phase, record.probe_at) {
            record.probe_at = Some(now + times(within, rng.random::<f64>()));
            record.checks = true;
        }
        // Who is asking it already goes on, too.
        record.checks |= record.failed > 0;
        let transition = if record.direct_only || record.phase != Phase::Alive || record.is_fresh(now) {
            None
        } else {
            Some(self.suspect(peer, &mut record, now))
        };
        self.put(peer, record, now);
        Rumour::Taken(transition)
    }

    /// A change of mind, with the counting.
    fn suspect(&mut self, key: K, peer: &mut Peer<K>, now: MonoNs) -> Transition<K> {
        self.counters.suspected += 1;
        let from = peer.phase.reachability();
        peer.phase = Phase::Suspect(now);
        Transition { peer: key, from, to: Reachability::Suspect, at: now }
    }

    /// Puts a record in place and sets its timer.
    fn put(&mut self, key: K, record: Peer<K>, now: MonoNs) {
        self.peers.insert(key, record);
        self.arm(key, now);
    }

    /// Sets the timer of a record that changed.
    fn arm(&mut self, key: K, now: MonoNs) {
        let around = self.surroundings();
        let Some(record) = self.peers.get_mut(&key) else { return };
        // Never at once again: whatever a record says, the caller must not spin.
        let wake = record.attention_at(&around, now).max(now + Span::from_millis(1));
        if record.wake != Some(wake) {
            if let Some(before) = record.wake.replace(wake) {
                self.timers.remove(&(before, key));
            }
            self.timers.insert((wake, key));
        }
    }

    fn surroundings(&self) -> Surroundings {
        // So many failures that a living peer has them by chance only once in a million.
        let needed = if self.loss > 0.0 { Self::CHANCE.ln() / self.loss.min(0.99).ln() } else { 0.0 };
        let least = self.config.probes.clamp(1, Config::PROBES_MAX);
        Surroundings {
            config: self.config,
            nodes: self.peers.len() + 1,
            doubt: self.health.factor(),
            slowness: (0.8 / (1.0 - self.loss.min(0.8))).max(1.0),
            probes: (needed.ceil().min(255.0) as u8).clamp(least, Config::PROBES_MAX),
        }
    }
}
