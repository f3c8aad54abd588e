//! What happens by the passing of time alone.

use probe_ebpf::time::{MonoNs, Span};
use rand::Rng;

use super::config::times;
use super::peer::{Peer, Phase};
use super::{Config, Detector, Finding, Reachability, Transition};

impl<K: Copy + Ord> Detector<K> {
    /// With fewer peers nobody can tell whether all others are gone or this node is cut off.
    const SILENCE_PEERS: usize = 3;

    /// When [`tick`](Self::tick) should come next: at least once in one and a quarter intervals.
    pub(crate) fn next_due(&self) -> MonoNs {
        let latest = self.last_tick + times(self.config.interval, 1.25);
        self.timers.first().map_or(latest, |(at, _)| latest.min(*at))
    }

    /// Does what is due and adds to `out` what the caller has to do.
    pub(crate) fn tick(&mut self, now: MonoNs, rng: &mut impl Rng, out: &mut Vec<Finding<K>>) {
        self.look_at_oneself(now);
        let mut due = Vec::new();
        while let Some((at, peer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, peer));
            due.push(peer);
        }
        for peer in due {
            if let Some(mut record) = self.peers.get(&peer).copied() {
                record.wake = None;
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
            self.health.raise(1 + intervals.clamp(0, 8) as u8, now);
            self.excuse(lost, now);
        } else if self.heard_since_tick {
            self.health.well(times(interval, 5.0), now);
        }
        let alive = || self.peers.values().filter(|peer| peer.phase == Phase::Alive).count();
        let patience = times(interval, 10.0).max(Span::from_secs(1));
        if now - self.any_heard > patience && alive() >= Self::SILENCE_PEERS {
            self.any_heard = now;
            self.counters.silences += 1;
            self.health.raise(1, now);
        }
        self.heard_since_tick = false;
        self.last_tick = self.last_tick.max(now);
    }

    /// This node did not run for a while: what did not happen then is nobody's fault.
    fn excuse(&mut self, lost: Span, now: MonoNs) {
        if self.any_heard <= self.last_tick {
            self.any_heard = self.any_heard + lost;
        }
        let around = self.surroundings();
        self.timers.clear();
        for (key, peer) in &mut self.peers {
            peer.excuse(self.last_tick, lost);
            let wake = peer.attention_at(&around, now);
            peer.wake = Some(wake);
            self.timers.insert((wake, *key));
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
            peer.awaiting = None;
            // While it is too early to blame it, failures do not add up to more than a last chance.
            let most = if peer.in_grace(&around, now) { around.probes - 1 } else { u8::MAX };
            peer.failed = peer.failed.saturating_add(1).min(most.max(peer.failed));
            peer.probe_at = peer.pause(&around).map(|pause| now + pause);
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
                    peer.failed = peer.failed.max(around.probes);
                    self.counters.unreachable += 1;
                    let (from, to) = (Reachability::Suspect, Reachability::Unreachable);
                    out.push(Finding::Changed(Transition { peer: key, from, to, at: now }));
                } else if now >= verdict_at - times(verdict_at - since, 0.5) && peer.is_unseen() {
                    // Nobody is given up unseen, but not all nodes look at the same moment.
                    let within = times(verdict_at - now, 0.5 * rng.random::<f64>());
                    peer.probe_at = Some(now + within);
                }
            }
            Phase::Unreachable(_) => {}
        }
        if matches!(peer.phase, Phase::Unreachable(_)) && peer.awaiting.is_none() && peer.probe_at.is_none() {
            // Rounds do not ask it any more: how else would two halves of a cluster find each other again?
            peer.probe_at = peer.pause(&around).map(|pause| now + pause);
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
}
