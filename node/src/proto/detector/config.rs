//! How long the detector waits for what.

use probe_ebpf::time::Span;

/// What the detector is told at start; everything else follows from it and from the size of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Time between rounds, on this node and, as far as it knows, on all others.
    pub(crate) interval: Span,
    /// Peers asked in a round.
    pub(crate) fanout: usize,
    /// Requests in a row without answer before a peer is suspected, when no packets get lost. More are needed
    /// on a lossy network. Default 4.
    pub(crate) probes: u8,
    /// Probes sent per interval, at most, beside those of the rounds. Default 4.
    pub(crate) probes_per_interval: u8,
    /// How long a peer just learnt, and so all of them after a start, cannot be suspected on this node's own
    /// evidence. Default 2 s.
    pub(crate) grace: Span,
    /// How far a rumour's version may lie above the known one to be believed. Default 2^32, as in
    /// [`Limits`](crate::proto::Limits).
    pub(crate) version_jump: u64,
}

impl Config {
    /// The largest [`probes`](Self::probes) that a lossy network can make necessary.
    pub(crate) const PROBES_MAX: u8 = 20;
    /// Nodes that check a rumour with probes of their own at once (one more each follows later, see
    /// [`Detector::accused`](super::Detector::accused)).
    pub(super) const CHECKERS: f64 = 10.0;
    /// Accusers beyond the first that bring a suspicion down to its shortest time (Lifeguard's K).
    const CONFIRMATIONS: usize = 3;
    /// A peer is probed when chance alone explains its silence in one case of 10^2,
    pub(super) const PHI_PROBE: f64 = 2.0;
    /// and suspected whatever the probes say (they may have been out of budget) in one of 10^8.
    pub(super) const PHI_SUSPECT: f64 = 8.0;

    /// The defaults for these rounds.
    pub(crate) const fn new(interval: Span, fanout: usize) -> Self {
        Self {
            interval,
            fanout,
            probes: 4,
            probes_per_interval: 4,
            grace: Span::from_secs(2),
            version_jump: 1 << 32,
        }
    }

    /// Mean time between packets from one peer in a cluster of `nodes`, this one included: each of the two
    /// asks the other about every (N - 1) / fanout intervals. Not below three intervals, for in a cluster of
    /// two a single lost packet would else look like death.
    pub(super) fn expected(&self, nodes: usize) -> Span {
        let intervals = nodes.saturating_sub(1) as f64 / (2 * self.fanout.max(1)) as f64;
        times(self.interval, intervals.max(3.0))
    }

    /// Shortest and longest time from suspicion to verdict. A rumour reaches all nodes in about log2(N) rounds,
    /// and so does the suspect's answer to it; the shortest leaves half as much again. Not below one second: a
    /// busy machine may let a healthy process wait that long.
    pub(super) fn suspicion(&self, nodes: usize) -> (Span, Span) {
        let intervals = (3.0 * (nodes.max(2) as f64).log2()).max(15.0);
        let shortest = times(self.interval, intervals).max(Span::from_secs(1));
        (shortest, times(shortest, 3.0))
    }

    /// From suspicion to verdict when `accusers` nodes suspect (this one included): Lifeguard's logarithm
    /// (Dadgar, Phillips, Currey: "Lifeguard: SWIM-ing with Situational Awareness", 2018, section IV.B).
    pub(super) fn verdict_after(&self, nodes: usize, accusers: usize) -> Span {
        let (shortest, longest) = self.suspicion(nodes);
        let wanted = Self::CONFIRMATIONS.min(nodes.saturating_sub(2));
        let have = accusers.saturating_sub(1).min(wanted);
        if have == wanted {
            return shortest;
        }
        let share = (have as f64 + 1.0).ln() / (wanted as f64 + 1.0).ln();
        longest - times(longest - shortest, share)
    }

    /// Accusers that make a difference.
    pub(super) fn accusers_wanted(nodes: usize) -> usize {
        1 + Self::CONFIRMATIONS.min(nodes.saturating_sub(2))
    }
}

/// `span` times `factor`.
pub(super) fn times(span: Span, factor: f64) -> Span {
    Span::from_nanos((span.as_nanos() as f64 * factor) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config::new(Span::from_millis(100), 1);

    #[test]
    fn expectations_grow_with_the_cluster_and_shrink_with_the_fanout() {
        assert_eq!(CONFIG.expected(101), Span::from_secs(5));
        assert_eq!(Config::new(Span::from_millis(100), 5).expected(101), Span::from_secs(1));
        assert_eq!(CONFIG.expected(2), Span::from_millis(300));
        assert_eq!(CONFIG.expected(0), Span::from_millis(300));
    }

    #[test]
    fn each_accuser_shortens_the_suspicion_down_to_the_shortest() {
        let (shortest, longest) = CONFIG.suspicion(100);
        let times: Vec<Span> = (0..6).map(|accusers| CONFIG.verdict_after(100, accusers)).collect();
        assert_eq!(times[0], longest);
        assert_eq!(times[1], longest);
        assert!(times[1] > times[2] && times[2] > times[3] && times[3] > times[4], "{times:?}");
        assert_eq!((times[4], times[5]), (shortest, shortest));
        assert!(shortest > Span::from_millis(1900) && shortest < Span::from_millis(2100), "{shortest}");
    }

    #[test]
    fn in_a_tiny_cluster_nobody_waits_for_accusers_that_do_not_exist() {
        assert_eq!(CONFIG.verdict_after(2, 1), Span::from_millis(1500));
        assert_eq!(CONFIG.verdict_after(3, 2), Span::from_millis(1500));
        assert_eq!(CONFIG.verdict_after(3, 1), Span::from_millis(4500));
    }
}
