//! What the detector knows of one peer.

use probe_ebpf::time::{MonoNs, Span};

use super::Reachability;
use super::charge::Charge;
use super::config::{Config, times};
use super::rtt::Rtt;

/// The record of a peer. Small and plain: there is one for every node of the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<K> {
    /// When it became known here.
    pub(super) learnt: MonoNs,
    /// The last packet that came from itself.
    pub(super) heard: Option<MonoNs>,
    /// Its silence counts from here: `heard` or `learnt`, without the time that this node was not running.
    pub(super) silent_since: MonoNs,
    /// The request whose answer is waited for.
    pub(super) awaiting: Option<MonoNs>,
    /// Requests in a row that were not answered in time.
    pub(super) failed: u8,
    pub(super) rtt: Rtt,
    /// When this node wants to ask it, beside the rounds.
    pub(super) probe_at: Option<MonoNs>,
    /// This node goes on asking it while it is suspected: it is one of the few that check.
    pub(super) checks: bool,
    /// Its own state's newest version that is known here.
    pub(super) version: u64,
    /// It does not know of suspicions (v0): only what it does itself counts.
    pub(super) direct_only: bool,
    pub(super) phase: Phase,
    pub(super) charge: Charge<K>,
    /// Until then this node keeps its suspicions of it to itself: they were wrong before.
    pub(super) hold_until: MonoNs,
    pub(super) holds: u8,
    /// Its timer, while one is set.
    pub(super) wake: Option<MonoNs>,
}

/// Where it stands, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Alive,
    Suspect(MonoNs),
    Unreachable(MonoNs),
}

impl Phase {
    pub(super) fn reachability(self) -> Reachability {
        match self {
            Self::Alive => Reachability::Alive,
            Self::Suspect(_) => Reachability::Suspect,
            Self::Unreachable(_) => Reachability::Unreachable,
        }
    }
}

/// A timer that never runs out.
const NEVER: MonoNs = MonoNs::from_nanos(i64::MAX);

/// What the waiting times depend on, beside the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    pub(super) config: Config,
    /// Members, this node included.
    pub(super) nodes: usize,
    /// By how much this node's own state makes it wait longer.
    pub(super) doubt: f64,
    /// By how much rumours travel more slowly for lost packets: an exchange in five lost is within the margin of
    /// [`Config::suspicion`].
    pub(super) slowness: f64,
    /// Failed requests in a row that make a suspect.
    pub(super) probes: u8,
}

impl<K: Copy + Eq> Peer<K> {
    /// Longest pause between probes of a silent peer.
    const PAUSE_MAX: Span = Span::from_secs(10);
    /// So recent a packet speaks against a rumour, which is older.
    const FRESH: Span = Span::from_secs(1);

    pub(super) fn new(version: u64, direct_only: bool, now: MonoNs) -> Self {
        Self {
            learnt: now,
            heard: None,
            silent_since: now,
            awaiting: None,
            failed: 0,
            rtt: Rtt::default(),
            probe_at: None,
            checks: false,
            version,
            direct_only,
            phase: Phase::Alive,
            charge: Charge::NONE,
            hold_until: now,
            holds: 0,
            wake: None,
        }
    }

    /// How long its answer is waited for.
    pub(super) fn answer_timeout(&self, around: &Surroundings) -> Span {
        times(self.rtt.timeout(), around.doubt)
    }

    /// An answer did not come in time: when to ask again. At once until that makes it a suspect, then ever more
    /// slowly. Of the many that know a suspicion by hearsay only a few go on.
    pub(super) fn pause(&self, around: &Surroundings) -> Option<Span> {
        let hearsay = matches!(self.phase, Phase::Suspect(_)) && !self.charge.is_own() && !self.checks;
        (!hearsay).then(|| match self.failed.checked_sub(around.probes) {
            None => Span::ZERO,
            Some(beyond) => times(self.rtt.timeout(), f64::from(1 << beyond.min(10))).min(Self::PAUSE_MAX),
        })
    }

    /// How surprising its silence is: the negative decimal logarithm of the probability that a living peer is
    /// silent for so long. Meetings of random pairs are a Poisson process, so the silences are exponential.
    pub(super) fn phi(&self, around: &Surroundings, now: MonoNs) -> f64 {
        let expected = around.config.expected(around.nodes).as_secs_f64() * around.doubt;
        (now - self.silent_since).as_secs_f64() / (expected * std::f64::consts::LN_10)
    }
    /// When its silence reaches `phi`.
    fn silent_until(&self, phi: f64, around: &Surroundings) -> MonoNs {
        let expected = around.config.expected(around.nodes);
        self.silent_since + times(expected, phi * std::f64::consts::LN_10 * around.doubt)
    }

    /// Too early to blame it for anything.
    pub(super) fn in_grace(&self, around: &Surroundings, now: MonoNs) -> bool {
        now < self.learnt + around.config.grace
    }
    /// May this node suspect it on its own evidence?
    pub(super) fn may_accuse(&self, around: &Surroundings, now: MonoNs) -> bool {
        !self.in_grace(around, now) && now >= self.hold_until
    }
    /// Was it heard so recently that a rumour cannot be right?
    pub(super) fn is_fresh(&self, now: MonoNs) -> bool {
        self.heard.is_some() && now < self.silent_since + Self::FRESH
    }
    /// When a suspicion since then becomes the verdict.
    pub(super) fn verdict_at(&self, since: MonoNs, around: &Surroundings) -> MonoNs {
        let after = if self.direct_only {
            around.config.suspicion(around.nodes).0
        } else {
            around.config.verdict_after(around.nodes, self.charge.count())
        };
        since + times(after, around.doubt * around.slowness)
    }

    /// Did this node not ask it itself since it was last seen to live?
    pub(super) fn is_unseen(&self) -> bool {
        self.failed == 0 && self.awaiting.is_none() && self.probe_at.is_none()
    }

    /// It lives: whatever was held against it is void.
    pub(super) fn clear(&mut self, now: MonoNs) {
        self.silent_since = now;
        self.awaiting = None;
        self.failed = 0;
        self.probe_at = None;
        self.checks = false;
        self.phase = Phase::Alive;
        self.charge = Charge::NONE;
    }

    /// When it needs attention next.
    pub(super) fn attention_at(&self, around: &Surroundings, now: MonoNs) -> MonoNs {
        let mut at = match (self.awaiting, self.probe_at) {
            (Some(asked), _) => asked + self.answer_timeout(around),
            (None, Some(probe)) => probe,
            (None, None) => NEVER,
        };
        match self.phase {
            Phase::Alive => {
                if !self.charge.is_empty() && !self.direct_only {
                    at = at.min(self.silent_since + Self::FRESH);
                }
                let silent =
                    [Config::PHI_PROBE, Config::PHI_SUSPECT].map(|phi| self.silent_until(phi, around));
                at = silent.into_iter().filter(|t| *t > now).fold(at, MonoNs::min);
            }
            Phase::Suspect(since) => {
                // The verdict's time moves with accusers and with this node's health: look again soon.
                let soon = now + times(around.config.interval, 5.0);
                at = at.min(self.verdict_at(since, around)).min(soon);
            }
            Phase::Unreachable(_) => {}
        }
        at
    }

    /// Moves everything before `last` by the time that this node did not run.
    pub(super) fn excuse(&mut self, last: MonoNs, lost: Span) {
        let shift = |at: &mut MonoNs| {
            if *at <= last {
                *at = *at + lost;
            }
        };
        shift(&mut self.silent_since);
        if let Some(at) = &mut self.awaiting {
            shift(at);
        }
        if let Phase::Suspect(since) = &mut self.phase {
            shift(since);
        }
    }
}
