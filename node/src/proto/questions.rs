//! What v0 peers were asked: their answers do not say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use probe_ebpf::time::{MonoNs, Span};

use crate::wire::v1::NodeRef;

/// How long an answer may take.
const ANSWER: Span = Span::from_secs(10);
/// Questions remembered of a kind, at most.
const MOST: usize = 8192;

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Addresses where digests went, apart from members': those are remembered with the member, so that no number of
    /// strangers can crowd them out.
    asked: Recent<SocketAddr>,
    /// Unknown nodes that were asked for from their beginning.
    from_zero: Recent<NodeRef>,
}

impl Questions {
    /// A digest went there.
    pub(super) fn ask(&mut self, addr: SocketAddr, now: MonoNs) {
        self.asked.note(addr, now);
    }
    /// An unknown node comes from its beginning.
    pub(super) fn expect(&mut self, node: NodeRef, now: MonoNs) {
        self.from_zero.note(node, now);
    }
    /// May an answer come from there?
    pub(super) fn is_asked(&self, addr: SocketAddr, now: MonoNs) -> bool {
        is_open(self.asked.get(addr), now)
    }
    /// Does this unknown node come from its beginning?
    pub(super) fn is_expected(&self, node: NodeRef, now: MonoNs) -> bool {
        is_open(self.from_zero.get(node), now)
    }
    /// Gives up what was not answered in time.
    pub(super) fn forget(&mut self, now: MonoNs) {
        self.asked.forget(now);
        self.from_zero.forget(now);
    }
}

/// May a question of then still be answered?
pub(super) fn is_open(asked: Option<MonoNs>, now: MonoNs) -> bool {
    asked.is_some_and(|at| now - at <= ANSWER)
}

/// Things with the time of their last mention. The oldest give way: to refuse new ones would let anybody who fills it
/// shut all others out until his own are forgotten.
#[derive(Debug)]
struct Recent<K> {
    at: BTreeMap<K, MonoNs>,
    by_age: BTreeSet<(MonoNs, K)>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), by_age: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Recent<K> {
    fn note(&mut self, key: K, now: MonoNs) {
        if let Some(before) = self.at.insert(key, now) {
            self.by_age.remove(&(before, key));
        }
        self.by_age.insert((now, key));
        if self.at.len() > MOST
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.at.remove(&oldest);
        }
    }
    fn get(&self, key: K) -> Option<MonoNs> {
        self.at.get(&key).copied()
    }
    fn forget(&mut self, now: MonoNs) {
        while let Some((at, key)) = self.by_age.first().copied()
            && now - at > ANSWER
        {
            self.by_age.pop_first();
            self.at.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_no_more_than_the_most() {
        let at = |ms: i64| MonoNs::from_nanos(ms * 1_000_000);
        let mut recent = Recent::default();
        for key in 0..MOST + 5 {
            recent.note(key, at(key as i64));
            recent.note(0, at(key as i64));
        }
        assert_eq!((recent.at.len(), recent.by_age.len()), (MOST, MOST));
        assert!(recent.get(0).is_some() && recent.get(1).is_none() && recent.get(6).is_some());
        recent.forget(at(MOST as i64 + 5 + 10_000));
        assert_eq!((recent.at.len(), recent.by_age.len()), (0, 0));
    }
}
