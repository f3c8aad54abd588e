//! Who knows what, and since when.

use probe_ebpf::time::{MonoNs, Span};

use crate::host::Host;
use crate::member::Learned;

/// Who has ever had whose application entry.
#[derive(Debug, Default)]
pub(crate) struct Acquaintance {
    /// Host by host a bit for each other.
    rows: Vec<Vec<u64>>,
    running: Vec<bool>,
    /// How many pairs of running nodes are not acquainted.
    missing: usize,
}

impl Acquaintance {
    fn has(&self, host: Host, of: Host) -> bool {
        let word = self.rows[host.index()].get(of.index() / 64).copied().unwrap_or(0);
        host == of || word & bit(of) != 0
    }
    fn missing_with(&self, host: Host) -> usize {
        let others = (0..self.rows.len()).map(Host::at).filter(|other| self.running[other.index()]);
        others.map(|other| usize::from(!self.has(host, other)) + usize::from(!self.has(other, host))).sum()
    }
    /// A node without memory starts.
    pub(crate) fn start(&mut self, host: Host) {
        self.stop(host);
        if self.rows.len() <= host.index() {
            self.rows.resize_with(host.index() + 1, Vec::new);
            self.running.resize(host.index() + 1, false);
        }
        self.rows[host.index()].clear();
        self.missing += self.missing_with(host);
        self.running[host.index()] = true;
    }
    /// A node is gone, and no longer asked about.
    pub(crate) fn stop(&mut self, host: Host) {
        if self.running.get_mut(host.index()).is_some_and(std::mem::take) {
            self.missing -= self.missing_with(host);
        }
    }
    /// `host` has an entry of `of`.
    pub(crate) fn note(&mut self, host: Host, of: Host) {
        if self.has(host, of) || of.index() >= self.running.len() {
            return;
        }
        let row = &mut self.rows[host.index()];
        if row.len() <= of.index() / 64 {
            row.resize(of.index() / 64 + 1, 0);
        }
        row[of.index() / 64] |= bit(of);
        self.missing -= usize::from(self.running[host.index()] && self.running[of.index()]);
    }
    /// Do all running nodes know each other?
    pub(crate) const fn is_complete(&self) -> bool {
        self.missing == 0
    }
    /// Pairs of running nodes of which one does not know the other.
    pub(crate) const fn missing(&self) -> usize {
        self.missing
    }
}

const fn bit(host: Host) -> u64 {
    1 << (host.0 % 64)
}

/// How one change travels.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    origin: Host,
    version: u64,
    at: MonoNs,
    /// Those who are expected to learn of it and have not yet.
    waiting: Vec<bool>,
    left: usize,
    /// Time until each of the others knew it, in rising order.
    pub(crate) times: Vec<Span>,
}

impl Spread {
    /// A change at `origin`, of which all that are `up` are to know.
    pub(crate) fn new(origin: Host, version: u64, at: MonoNs, up: Vec<bool>) -> Self {
        let mut waiting = up;
        waiting[origin.index()] = false;
        let left = waiting.iter().filter(|up| **up).count();
        Self { origin, version, at, waiting, left, times: Vec::with_capacity(left) }
    }
    pub(crate) fn note(&mut self, host: Host, learned: &Learned, now: MonoNs) {
        if learned.origin == self.origin && learned.version >= self.version {
            self.reached(host, now);
        }
    }
    /// `host` knows.
    pub(crate) fn reached(&mut self, host: Host, now: MonoNs) {
        if self.waiting.get_mut(host.index()).is_some_and(std::mem::take) {
            self.left -= 1;
            self.times.push(now - self.at);
        }
    }
    /// `host` will not learn of it any more.
    pub(crate) fn forget(&mut self, host: Host) {
        self.left -= usize::from(self.waiting.get_mut(host.index()).is_some_and(std::mem::take));
    }
    /// Does everybody know?
    pub(crate) const fn is_complete(&self) -> bool {
        self.left == 0
    }
    /// How many do not know.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }
    /// Whose change it is.
    pub(crate) const fn origin(&self) -> Host {
        self.origin
    }
    /// Time until `share` of the nodes knew it, its origin among them; `None` when they never did.
    pub(crate) fn time(&self, share: f64) -> Option<Span> {
        let all = 1 + self.times.len() + self.left;
        match ((share * all as f64).ceil() as usize).checked_sub(2) {
            Some(last) => self.times.get(last).copied(),
            None => Some(Span::ZERO),
        }
    }
    /// Likewise of the nodes without it.
    pub(crate) fn time_of_others(&self, share: f64) -> Option<Span> {
        let all = self.times.len() + self.left;
        self.times.get(((share * all as f64).ceil() as usize).max(1) - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(origin: u32, version: u64) -> Learned {
        Learned { origin: Host(origin), application: true, version }
    }
    const fn ms(ms: i64) -> MonoNs {
        MonoNs::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn acquaintance_counts_pairs_of_running_nodes() {
        let mut known = Acquaintance::default();
        assert!(known.is_complete());
        for host in [0, 1, 2].map(Host) {
            known.start(host);
        }
        assert_eq!(known.missing(), 6);
        for (host, of) in [(0, 1), (0, 1), (1, 0), (2, 1), (2, 2)] {
            known.note(Host(host), Host(of));
        }
        assert_eq!(known.missing(), 3);
        known.stop(Host(2));
        assert!(known.is_complete());
        known.start(Host(2));
        assert_eq!(known.missing(), 4, "it forgot, the others did not know it");
        known.start(Host(1));
        assert_eq!(known.missing(), 5, "a restart forgets too");
    }

    #[test]
    fn a_spread_counts_each_node_once_and_only_this_change() {
        let mut spread = Spread::new(Host(1), 7, ms(100), vec![true, true, false, true, true]);
        spread.note(Host(0), &learned(1, 6), ms(101));
        spread.note(Host(0), &learned(3, 7), ms(101));
        assert_eq!((spread.left(), spread.time(1.0)), (3, None));
        spread.note(Host(0), &learned(1, 8), ms(105));
        spread.note(Host(0), &learned(1, 8), ms(106));
        spread.note(Host(2), &learned(1, 7), ms(107));
        spread.note(Host(4), &learned(1, 7), ms(110));
        assert_eq!(spread.time(0.5), Some(Span::from_millis(5)));
        assert_eq!(spread.time(0.75), Some(Span::from_millis(10)));
        assert_eq!((spread.time(1.0), spread.is_complete()), (None, false));
        spread.forget(Host(3));
        assert_eq!((spread.time(1.0), spread.is_complete()), (Some(Span::from_millis(10)), true));
    }
}
