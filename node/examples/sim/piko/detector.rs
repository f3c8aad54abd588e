//! Piko's failure detector: a peer is unreachable when nothing was heard of it for twenty times the mean time between
//! its last fifty deltas.

use probe_ebpf::time::{MonoNs, Span};

use crate::host::Host;
use crate::member::Liveness;

/// Gaps that the mean is taken of.
const SAMPLES: usize = 50;
/// Means without a delta.
const THRESHOLD: i64 = 20;
/// From being unreachable to being forgotten.
const EXPIRY: Span = Span::from_secs(60);

pub(super) struct Detector {
    /// The first gap of every peer, which nobody measured.
    first_gap: Span,
    /// By host.
    peers: Vec<Peer>,
}

#[derive(Clone, Default)]
struct Peer {
    /// When its silence will have been too long; `None` before it is watched.
    until: Option<MonoNs>,
    unreachable_since: Option<MonoNs>,
    last: MonoNs,
    /// In microseconds, the oldest at `next` once there are [`SAMPLES`].
    gaps: Vec<u32>,
    next: usize,
    sum: u64,
}

impl Detector {
    pub(super) const fn new(interval: Span) -> Self {
        Self { first_gap: Span::from_nanos(interval.as_nanos() * 2), peers: Vec::new() }
    }
    fn peer(&mut self, host: Host) -> &mut Peer {
        if self.peers.len() <= host.index() {
            self.peers.resize(host.index() + 1, Peer::default());
        }
        &mut self.peers[host.index()]
    }
    /// A delta came from `host`.
    pub(super) fn report(&mut self, host: Host, now: MonoNs) {
        let first_gap = self.first_gap;
        self.peer(host).report(first_gap, now);
    }
    /// Looks at all `known` nodes but `own`; who changed goes to `changes`.
    pub(super) fn judge(
        &mut self,
        known: &[Host],
        own: Host,
        now: MonoNs,
        changes: &mut Vec<(Host, Liveness)>,
    ) {
        let first_gap = self.first_gap;
        for host in known.iter().copied().filter(|host| *host != own) {
            let peer = self.peer(host);
            if peer.until.is_none() {
                peer.report(first_gap, now);
            }
            let silent = peer.until.is_some_and(|until| now > until);
            match (silent, peer.unreachable_since) {
                (true, None) => {
                    peer.unreachable_since = Some(now);
                    changes.push((host, Liveness::Unreachable));
                }
                (false, Some(_)) => {
                    peer.unreachable_since = None;
                    changes.push((host, Liveness::Reachable));
                }
                _ => (),
            }
        }
    }
    pub(super) fn is_unreachable(&self, host: Host) -> bool {
        self.peers.get(host.index()).is_some_and(|peer| peer.unreachable_since.is_some())
    }
    /// Those who have been unreachable for so long that they are to be forgotten.
    pub(super) fn expired(&self, now: MonoNs) -> Vec<Host> {
        let long = |peer: &Peer| peer.unreachable_since.is_some_and(|since| now - since > EXPIRY);
        (0..self.peers.len()).filter(|index| long(&self.peers[*index])).map(Host::at).collect()
    }
    pub(super) fn remove(&mut self, host: Host) {
        *self.peer(host) = Peer::default();
    }
}

impl Peer {
    fn report(&mut self, first_gap: Span, now: MonoNs) {
        let gap = if self.until.is_none() { first_gap } else { now - self.last };
        let gap = u32::try_from(gap.as_nanos() / 1000).unwrap_or(u32::MAX);
        if self.gaps.len() < SAMPLES {
            self.gaps.push(gap);
        } else {
            self.sum -= u64::from(std::mem::replace(&mut self.gaps[self.next], gap));
            self.next = (self.next + 1) % SAMPLES;
        }
        self.sum += u64::from(gap);
        self.last = now;
        let mean = self.sum as i64 / self.gaps.len() as i64;
        self.until = Some(now + Span::from_micros(mean * THRESHOLD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_in_mean_gaps_of_the_last_fifty() {
        let (own, peer, known) = (Host(0), Host(1), [Host(0), Host(1)]);
        let at = |ms: i64| MonoNs::from_nanos(ms * 1_000_000);
        let mut detector = Detector::new(Span::from_millis(100));
        let judge = |detector: &mut Detector, ms| {
            let mut changes = Vec::new();
            detector.judge(&known, own, at(ms), &mut changes);
            changes
        };
        assert_eq!(judge(&mut detector, 0), [], "watched from here, with a gap of 200 ms");
        assert_eq!(judge(&mut detector, 4000), []);
        assert_eq!(judge(&mut detector, 4001), [(peer, Liveness::Unreachable)]);
        assert_eq!(judge(&mut detector, 4002), [], "said once");
        assert!(detector.is_unreachable(peer) && !detector.is_unreachable(own));
        assert!(detector.expired(at(64_000)).is_empty());
        assert_eq!(detector.expired(at(64_002)), [peer]);
        detector.report(peer, at(5000));
        assert_eq!(judge(&mut detector, 5001), [(peer, Liveness::Reachable)]);
        for n in 1..=50 {
            detector.report(peer, at(5000 + 100 * n));
        }
        assert_eq!(judge(&mut detector, 12_000), []);
        assert_eq!(judge(&mut detector, 12_001), [(peer, Liveness::Unreachable)]);
    }
}
