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
    /// The last request to it: its packet counter, and when.
    pub(super) asked: Option<Asked>,
    pub(super) received: Tracker,
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
/// it takes several over a while, and none that knows more in between.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rebirth {
    signs: u8,
    since: MonoNs,
    /// The earlier run's version and when it was given up: until its news have died out, only the node itself is
    /// believed.
    past: Option<(u64, MonoNs)>,
}

/// Signs that it takes...
const SIGNS: u8 = 3;
/// ...over at least this long.
const SIGNS_OVER: Span = Span::from_secs(1);
/// Longer than anybody holds the earlier run's entries: unreachable nodes are forgotten before.
const PAST: Span = Span::from_secs(120);

impl Rebirth {
    /// The node itself showed its own version, `shown`, where `known` is known. Is it anew?
    pub(super) fn sign(&mut self, shown: u64, known: u64, now: MonoNs) -> bool {
        if shown >= known {
            self.signs = 0;
            return false;
        }
        if self.signs == 0 {
            self.since = now;
        }
        self.signs = self.signs.saturating_add(1);
        let anew = self.signs >= SIGNS && now - self.since >= SIGNS_OVER;
        if anew {
            *self = Self { past: Some((known, now)), ..Self::default() };
        }
        anew
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
        assert!(!r.sign(4, 9, at(0)) && !r.sign(4, 9, at(900)) && !r.sign(9, 9, at(950)));
        assert!(!r.sign(4, 9, at(1000)) && !r.sign(4, 9, at(1900)), "two are not enough");
        assert!(r.sign(5, 9, at(2100)));
        assert!(r.only_itself(5, at(2100)) && r.only_itself(9, at(100_000)));
        assert!(!r.only_itself(10, at(3000)), "beyond its past there is nothing to mix up");
    }
}
