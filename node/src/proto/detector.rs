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
mod tests;

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
use self::peer::{NEVER, Peer, Phase, Surroundings};

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
    /// Share of requests, first ones only, that went unanswered lately.
    loss: f64,
    /// When any peer was last heard; moved on by each silence that was noticed.
    any_heard: MonoNs,
    heard_since_tick: bool,
    last_tick: MonoNs,
    quiet_until: MonoNs,
    counters: DetectorCounters,
}

impl<K: Copy + Ord> Detector<K> {
    /// Weight of one request in [`loss`](Self::loss).
    const LOSS_WEIGHT: f64 = 1.0 / 64.0;
    /// A living peer is accused by chance once in so many rounds, at most.
    const CHANCE: f64 = 1e-6;
    /// With fewer peers nobody can tell whether all others are gone or this node is cut off.
    const SILENCE_PEERS: usize = 3;

    /// A node that knows no peers, started now.
    pub(crate) fn new(config: Config, now: MonoNs) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            health: Health::default(),
            budget: Budget::new(config.probes_per_interval, config.interval, now),
            loss: 0.0,
            any_heard: now,
            heard_since_tick: false,
            last_tick: now,
            quiet_until: now + config.grace,
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
        if let Some(record) = self.peers.remove(&peer) {
            self.timers.remove(&(record.wake, peer));
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
        let Some(mut record) = self.peers.get(&peer).copied() else { return };
        if record.awaiting.is_none() {
            record.awaiting = Some(now);
            self.put(peer, record, now);
        }
    }

    /// A packet came from a peer itself, authenticated as far as the protocol does that.
    pub(crate) fn heard(&mut self, peer: K, contact: Contact, now: MonoNs) -> Option<Transition<K>> {
        let mut record = self.peers.get(&peer).copied()?;
        self.any_heard = self.any_heard.max(now);
        self.heard_since_tick = true;
        if let Some(asked) = record.awaiting.take() {
            match (record.failed, contact) {
                (0, Contact::Answer) => record.rtt.sample(now - asked),
                (0, Contact::Other) => {}
                _ => record.rtt.late(),
            }
            if record.failed == 0 {
                self.count_loss(0.0);
            }
        }
        let was = record.phase;
        record.heard = Some(now);
        record.silent_since = now;
        record.failed = 0;
        record.probe_at = None;
        record.holds = 0;
        record.hold_until = now;
        record.phase = Phase::Alive;
        let own = record.charge.is_own();
        record.charge = charge::Charge::NONE;
        match was {
            // The usual case: its timer is too early now, and finds that out by itself.
            Phase::Alive => {
                self.peers.insert(peer, record);
                return None;
            }
            Phase::Suspect(_) => self.counters.refuted_directly += 1,
            Phase::Unreachable(_) => self.counters.recovered += 1,
        }
        if own {
            self.health.raise(1);
        }
        self.put(peer, record, now);
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
        let record = self.peers.get_mut(&peer)?;
        record.version = record.version.max(version);
        if record.charge.is_empty() || record.version <= record.charge.version() {
            return None;
        }
        let (was, own) = (record.phase, record.charge.is_own());
        let mut record = *record;
        record.charge = charge::Charge::NONE;
        record.phase = Phase::Alive;
        record.silent_since = now;
        record.failed = 0;
        record.probe_at = None;
        if own {
            // It lives, but not for this node: a path is broken. Saying so again and again helps nobody.
            let (_, longest) = self.config.suspicion(self.peers.len() + 1);
            record.hold_until = now + times(longest, f64::from(1 << record.holds));
            record.holds = (record.holds + 1).min(6);
            self.health.raise(1);
        }
        self.put(peer, record, now);
        match was {
            Phase::Alive => return None,
            Phase::Suspect(_) => self.counters.refuted_by_version += 1,
            Phase::Unreachable(_) => self.counters.recovered += 1,
        }
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
        }
        let transition = if record.direct_only || record.phase != Phase::Alive || record.is_fresh(now) {
            None
        } else {
            Some(self.suspect(peer, &mut record, now))
        };
        self.put(peer, record, now);
        Rumour::Taken(transition)
    }

    /// When [`tick`](Self::tick) should come next: at least once in one and a quarter intervals.
    pub(crate) fn next_due(&self) -> MonoNs {
        let latest = self.last_tick + times(self.config.interval, 1.25);
        self.timers.first().map_or(latest, |(at, _)| latest.min(*at))
    }

    /// Does what is due and adds to `out` what the caller has to do.
    pub(crate) fn tick(&mut self, now: MonoNs, rng: &mut impl Rng, out: &mut Vec<Finding<K>>) {
        self.look_at_oneself(now);
        while let Some((at, peer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, peer));
            if let Some(mut record) = self.peers.get(&peer).copied() {
                record.wake = NEVER;
                self.attend(peer, &mut record, now, rng, out);
                self.put(peer, record, now);
            }
        }
    }

    /// Is this node itself in a state to judge others?
    fn look_at_oneself(&mut self, now: MonoNs) {
        let interval = self.config.interval;
        let lost = now - self.last_tick - times(interval, 1.25);
        if lost > interval.half_up().max(Span::from_millis(50)) {
            self.counters.late_ticks += 1;
            let intervals = lost.as_nanos() / interval.as_nanos().max(1) / 5;
            self.health.raise(1 + intervals.clamp(0, 8) as u8);
            self.excuse(lost, now);
        } else if self.heard_since_tick && now > self.last_tick {
            self.health.good_tick();
        }
        let alive = || self.peers.values().filter(|peer| peer.phase == Phase::Alive).count();
        let patience = times(interval, 10.0).max(Span::from_secs(1));
        if now - self.any_heard > patience && alive() >= Self::SILENCE_PEERS {
            self.any_heard = now;
            self.counters.silences += 1;
            self.health.raise(1);
        }
        self.heard_since_tick = false;
        self.last_tick = self.last_tick.max(now);
    }

    /// This node did not run for a while: what did not happen then is nobody's fault.
    fn excuse(&mut self, lost: Span, now: MonoNs) {
        if self.any_heard <= self.last_tick {
            self.any_heard = self.any_heard + lost;
        }
        if lost > Span::from_secs(1) {
            self.quiet_until = self.quiet_until.max(now + self.config.grace);
        }
        let around = self.surroundings();
        self.timers.clear();
        for (key, peer) in &mut self.peers {
            peer.excuse(self.last_tick, lost);
            peer.wake = peer.attention_at(&around, now);
            self.timers.insert((peer.wake, *key));
        }
    }

    /// Looks after one peer whose timer ran out.
    fn attend(
        &mut self,
        key: K,
        peer: &mut Peer<K>,
        now: MonoNs,
        rng: &mut impl Rng,
        out: &mut Vec<Finding<K>>,
    ) {
        let around = self.surroundings();
        if peer.awaiting.is_some_and(|asked| now >= asked + peer.answer_timeout(&around)) {
            self.counters.unanswered += 1;
            if peer.failed == 0 {
                self.count_loss(1.0);
            }
            peer.awaiting = None;
            // While it may not be accused, failures do not add up to more than a last chance.
            let most = if peer.may_accuse(&around, now) { u8::MAX } else { around.probes - 1 };
            peer.failed = peer.failed.saturating_add(1).min(most);
            peer.probe_at = Some(now + peer.pause(&around));
        }
        let phi = peer.phi(&around, now);
        let silent = peer.phase == Phase::Alive && phi >= Config::PHI_SUSPECT;
        if (peer.failed >= around.probes || silent) && peer.may_accuse(&around, now) {
            self.accuse(key, peer, now, out);
        }
        match peer.phase {
            Phase::Alive => {
                if !peer.charge.is_empty() && !peer.direct_only && !peer.is_fresh(now) {
                    out.push(Finding::Changed(self.suspect(key, peer, now)));
                } else if phi >= Config::PHI_PROBE && peer.probe_at.is_none() {
                    peer.probe_at = Some(now);
                }
            }
            Phase::Suspect(since) => {
                let verdict_at = peer.verdict_at(since, &around);
                if now >= verdict_at {
                    peer.phase = Phase::Unreachable(now);
                    self.counters.unreachable += 1;
                    let (from, to) = (Reachability::Suspect, Reachability::Unreachable);
                    out.push(Finding::Changed(Transition { peer: key, from, to, at: now }));
                } else if now >= verdict_at - times(verdict_at - since, 0.5) && peer.probe_at.is_none() {
                    // Nobody is given up unseen; but not all nodes look at the same moment.
                    let within = times(verdict_at - now, 0.5 * rng.random::<f64>());
                    peer.probe_at = Some(now + within);
                }
            }
            Phase::Unreachable(_) => {}
        }
        if peer.awaiting.is_none() && peer.probe_at.is_some_and(|at| now >= at) {
            match self.budget.take(now) {
                Ok(()) => {
                    self.counters.probes += 1;
                    peer.probe_at = None;
                    peer.awaiting = Some(now);
                    out.push(Finding::Probe(key));
                }
                Err(later) => {
                    self.counters.probes_deferred += 1;
                    peer.probe_at = Some(later);
                }
            }
        }
    }

    /// This node has seen for itself that a peer does not answer.
    fn accuse(&mut self, key: K, peer: &mut Peer<K>, now: MonoNs, out: &mut Vec<Finding<K>>) {
        let known = peer.charge.is_own() || matches!(peer.phase, Phase::Unreachable(_));
        if known {
            return;
        }
        let news = peer.charge.count() < Config::accusers_wanted(self.peers.len() + 1);
        peer.charge.accuse(peer.version);
        if news {
            self.counters.accusations += 1;
            out.push(Finding::Accuse { peer: key, version: peer.charge.version() });
        }
        if peer.phase == Phase::Alive {
            out.push(Finding::Changed(self.suspect(key, peer, now)));
        }
    }

    fn suspect(&mut self, key: K, peer: &mut Peer<K>, now: MonoNs) -> Transition<K> {
        self.counters.suspected += 1;
        let from = peer.phase.reachability();
        peer.phase = Phase::Suspect(now);
        Transition { peer: key, from, to: Reachability::Suspect, at: now }
    }

    /// Puts a record back and sets its timer.
    fn put(&mut self, key: K, mut peer: Peer<K>, now: MonoNs) {
        // Never at once again: whatever a record says, a tick comes to an end.
        let wake = peer.attention_at(&self.surroundings(), now).max(now + Span::from_millis(1));
        if wake != peer.wake {
            self.timers.remove(&(peer.wake, key));
            self.timers.insert((wake, key));
            peer.wake = wake;
        }
        self.peers.insert(key, peer);
    }

    fn count_loss(&mut self, lost: f64) {
        self.loss += (lost - self.loss) * Self::LOSS_WEIGHT;
    }

    fn surroundings(&self) -> Surroundings {
        // So many failures that a living peer has them by chance only once in a million.
        let needed = if self.loss > 0.0 { Self::CHANCE.ln() / self.loss.min(0.99).ln() } else { 0.0 };
        let least = self.config.probes.clamp(1, Config::PROBES_MAX);
        Surroundings {
            config: self.config,
            nodes: self.peers.len() + 1,
            doubt: self.health.factor(),
            probes: (needed.ceil().min(255.0) as u8).clamp(least, Config::PROBES_MAX),
            quiet_until: self.quiet_until,
        }
    }
}

/// What it thinks.
impl<K: Copy + Ord> Detector<K> {
    /// Of a peer; `None` if it is not known.
    pub(crate) fn reachability(&self, peer: K) -> Option<Reachability> {
        self.peers.get(&peer).map(|record| record.phase.reachability())
    }
    /// Since when a peer is unreachable.
    pub(crate) fn unreachable_since(&self, peer: K) -> Option<MonoNs> {
        match self.peers.get(&peer)?.phase {
            Phase::Unreachable(since) => Some(since),
            _ => None,
        }
    }
    /// The last packet from a peer itself.
    pub(crate) fn last_heard(&self, peer: K) -> Option<MonoNs> {
        self.peers.get(&peer)?.heard
    }
    /// How surprising a peer's silence is: 2 means that chance explains it in one case of 10^2.
    pub(crate) fn phi(&self, peer: K, now: MonoNs) -> Option<f64> {
        self.peers.get(&peer).map(|record| record.phi(&self.surroundings(), now))
    }
    /// The smoothed round-trip time to a peer.
    pub(crate) fn rtt(&self, peer: K) -> Option<Span> {
        self.peers.get(&peer)?.rtt.smoothed()
    }
    /// 0 when this node is well, up to 8 when it should not trust its own eyes.
    pub(crate) fn health(&self) -> u8 {
        self.health.score()
    }
    /// Share of requests that went unanswered lately (round trips, peers that died included).
    pub(crate) fn loss(&self) -> f64 {
        self.loss
    }
    /// Totals since start.
    pub(crate) fn counters(&self) -> &DetectorCounters {
        &self.counters
    }
}
