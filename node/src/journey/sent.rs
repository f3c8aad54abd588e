//! The packets that lately went to one peer.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::journey::SourcePort;

/// For so long packets are remembered: one that takes seconds on the way must not be unknown when it is reported, or
/// only the quick ones would make journeys.
const REMEMBERED: Span = Span::from_secs(10);
/// Packets remembered per peer, at most; at a hundred a second to one peer those of ten seconds.
const KEPT: usize = 1024;

/// One packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentPacket {
    /// Its counter on the way to this peer.
    pub(super) counter: u32,
    /// T1.
    pub(super) sent: MonoNs,
    /// T1 - T0.
    pub(super) queued: Span,
    /// T2 - T1 and T3 - T2, once it left.
    pub(super) left: Option<(Span, Span)>,
    /// Epoch of the local wall clock then.
    pub(super) epoch: u32,
    /// Where it was sent from, of several ports.
    pub(super) source: Option<SourcePort>,
    /// The peer has reported its receipt.
    pub(super) reported: bool,
}

/// The last packets to a peer, by rising counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(VecDeque<SentPacket>);

impl Sent {
    pub(super) fn push(&mut self, packet: SentPacket) {
        let old = |oldest: &SentPacket| packet.sent - oldest.sent > REMEMBERED;
        while self.0.front().is_some_and(|oldest| self.0.len() >= KEPT || old(oldest)) {
            self.0.pop_front();
        }
        self.0.push_back(packet);
    }

    /// The packet with this counter; `None` when it was never sent, or too long ago.
    pub(super) fn find(&mut self, counter: u32) -> Option<&mut SentPacket> {
        // Counters have hardly a gap, and mostly one of the newest is asked for: counted back from there it is found
        // at once. (They start anew after four thousand million: then some are not found for a while.)
        let newest = self.0.back()?.counter;
        let guess = (self.0.len() - 1).checked_sub(newest.checked_sub(counter)? as usize);
        let there = guess.filter(|&place| self.0[place].counter == counter);
        let place = there.or_else(|| self.0.binary_search_by_key(&counter, |packet| packet.counter).ok())?;
        self.0.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_packets_are_found_and_no_others() {
        let mut sent = Sent::default();
        let at = |ms: u32| MonoNs::from_nanos(i64::from(ms) * 1_000_000);
        let packet = |counter, sent| SentPacket {
            counter,
            sent,
            queued: Span::ZERO,
            left: None,
            epoch: 0,
            source: None,
            reported: false,
        };
        for counter in 1..=3000 {
            sent.push(packet(counter, at(counter)));
        }
        assert_eq!(sent.find(3000).unwrap().sent, at(3000));
        assert_eq!(sent.find(1977).unwrap().counter, 1977);
        assert!(sent.find(1976).is_none() && sent.find(3001).is_none());
        // After gaps, too.
        sent.push(packet(3010, at(3_010)));
        sent.push(packet(3020, at(3_020)));
        assert!(
            [3000, 3010, 3020, 1979].iter().all(|counter| sent.find(*counter).unwrap().counter == *counter)
        );
        assert!([3011, 3019, 1978, 0].iter().all(|counter| sent.find(*counter).is_none()));
        sent.push(packet(3021, at(12_900)));
        assert!(sent.find(2900).is_some() && sent.find(2899).is_none(), "older than ten seconds");
    }
}
