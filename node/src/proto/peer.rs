//! A node as somebody to talk to.

use probe_ebpf::time::{MonoNs, Span};

use super::sequence::Tracker;

/// Which format a peer is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Piko's: the one that everybody understands.
    #[default]
    V0,
    /// Ours, with stamps.
    V1,
}

impl Protocol {
    /// A label for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        }
    }
}

/// What is known of talking to a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// When the last packet came that was surely its own.
    pub(super) heard: Option<MonoNs>,
    pub(super) protocol: Protocol,
    /// Something sent to its address was answered from there: it may be sent more than it sent.
    pub(super) verified: bool,
    /// It has this node's entry that says from which ports it sends.
    pub(super) knows_ports: bool,
    /// The last request to it: its packet counter, and when.
    pub(super) asked: Option<Asked>,
    pub(super) received: Tracker,
    /// When a v0 digest went to its address.
    pub(super) questioned: Option<MonoNs>,
    /// Signs that it began anew under its old id.
    pub(super) reborn: Rebirth,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Counter of its packet id; 0 for one without (v0).
    pub(super) counter: u32,
    pub(super) at: MonoNs,
}

/// Is this a new run of a node that does not know its own past (Piko's restart under a fixed id)?
///
/// Its digests then show versions below the ones that are known. So does a late or replayed one of an old packet; so
/// it takes several over a while, between which the node was challenged to show that it knows more, and did not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rebirth {
    signs: u8,
    since: MonoNs,
    challenges: u8,
    challenged_at: MonoNs,
    /// The earlier run's version and when it was given up: until its news have died out, only the node itself is
    /// believed.
    past: Option<(u64, MonoNs)>,
}

/// What a node's digest says of its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Nothing that matters now.
    None,
    /// It should be challenged.
    Doubtful,
    /// It began anew.
    Anew,
}

/// Signs that it takes...
const SIGNS: u8 = 3;
/// ...over at least this long...
const SIGNS_OVER: Span = Span::from_secs(1);
/// ...and challenges that stayed unanswered,
const CHALLENGES: u8 = 3;
/// each for this long.
const CHALLENGE_PAUSE: Span = Span::from_millis(200);
/// Longer than anybody holds the earlier run's entries: unreachable nodes are forgotten before.
const PAST: Span = Span::from_secs(120);

impl Rebirth {
    /// The node itself showed its own version, `shown`, where `known` is known.
    pub(super) fn sign(&mut self, shown: u64, known: u64, now: MonoNs) -> Sign {
        if self.shown(shown, known) {
            return Sign::None;
        }
        if self.signs == 0 {
            self.since = now;
        }
        self.signs = self.signs.saturating_add(1);
        if self.challenges > 0 && now - self.challenged_at < CHALLENGE_PAUSE {
            return Sign::None;
        }
        if self.signs >= SIGNS && self.challenges >= CHALLENGES && now - self.since >= SIGNS_OVER {
            *self = Self { past: Some((known, now)), ..Self::default() };
            return Sign::Anew;
        }
        self.challenges = self.challenges.saturating_add(1);
        self.challenged_at = now;
        Sign::Doubtful
    }
    /// The node showed that it knows a version of its own. If it is no less than what is `known`, all signs are void.
    pub(super) fn shown(&mut self, version: u64, known: u64) -> bool {
        let void = version >= known;
        if void {
            (self.signs, self.challenges) = (0, 0);
        }
        void
    }
    /// May others tell of it? Not as long as they may be telling of its past.
    pub(super) fn only_itself(&mut self, version: u64, now: MonoNs) -> bool {
        match self.past {
            Some((past, since)) if version <= past && now - since < PAST => true,
            _ => {
                self.past = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_packets_are_no_rebirth_but_a_steady_lower_version_is() {
        let at = |ms: i64| MonoNs::from_nanos(ms * 1_000_000);
        let mut r = Rebirth::default();
        assert_eq!(r.sign(4, 9, at(0)), Sign::Doubtful);
        assert_eq!(r.sign(4, 9, at(100)), Sign::None, "it has time to answer");
        assert_eq!(r.sign(4, 9, at(900)), Sign::Doubtful);
        assert_eq!(r.sign(9, 9, at(950)), Sign::None);
        assert_eq!(r.sign(4, 9, at(1000)), Sign::Doubtful);
        assert_eq!(r.sign(4, 9, at(1900)), Sign::Doubtful, "two are not enough");
        assert_eq!(r.sign(5, 9, at(2100)), Sign::Doubtful, "nor are two challenges");
        assert!(!r.shown(8, 9));
        assert_eq!(r.sign(5, 9, at(2299)), Sign::None);
        assert_eq!(r.sign(5, 9, at(2300)), Sign::Anew);
        assert!(r.only_itself(5, at(2300)) && r.only_itself(9, at(100_000)));
        assert!(!r.only_itself(10, at(3000)), "beyond its past there is nothing to mix up");
    }
}
