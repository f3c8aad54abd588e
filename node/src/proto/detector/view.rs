//! What the detector thinks.

#[cfg(test)]
use probe_ebpf::time::MonoNs;
use probe_ebpf::time::Span;

#[cfg(test)]
use super::peer::Phase;
use super::{Detector, DetectorCounters, Reachability};

impl<K: Copy + Ord> Detector<K> {
    /// Of a peer; `None` if it is not known.
    pub(crate) fn reachability(&self, peer: K) -> Option<Reachability> {
        self.peers.get(&peer).map(|record| record.phase.reachability())
    }
    /// Since when a peer is unreachable.
    #[cfg(test)]
    pub(crate) fn unreachable_since(&self, peer: K) -> Option<MonoNs> {
        match self.peers.get(&peer)?.phase {
            Phase::Unreachable(since) => Some(since),
            _ => None,
        }
    }
    /// The last packet from a peer itself.
    #[cfg(test)]
    pub(crate) fn last_heard(&self, peer: K) -> Option<MonoNs> {
        self.peers.get(&peer)?.heard
    }
    #[cfg(test)]
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
    /// Share of requests to living peers that went unanswered lately: the loss of both ways together.
    pub(crate) fn loss(&self) -> f64 {
        self.loss
    }
    /// Totals since start.
    pub(crate) fn counters(&self) -> &DetectorCounters {
        &self.counters
    }
}
