//! The packets that lately went to one peer.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};

/// Packets remembered per peer. Answers come within a round trip; a report that rides on a later round may take
/// seconds, and with it a few dozen packets.
const KEPT: usize = 64;

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
    /// The peer has reported its receipt.
    pub(super) reported: bool,
}

/// The last packets to a peer, by rising counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(VecDeque<SentPacket>);

impl Sent {
    pub(super) fn push(&mut self, counter: u32, sent: MonoNs, queued: Span, epoch: u32) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(SentPacket { counter, sent, queued, left: None, epoch, reported: false });
    }

    /// The packet with this counter; `None` when it was never sent, or too long ago.
    pub(super) fn find(&mut self, counter: u32) -> Option<&mut SentPacket> {
        // The newest are asked for as a rule. (Counters start anew after four thousand million: then it is not found.)
        self.0.iter_mut().rev().find(|packet| packet.counter == counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_packets_are_found_and_no_others() {
        let mut sent = Sent::default();
        for counter in 1..=100 {
            sent.push(counter, MonoNs::from_nanos(counter.into()), Span::ZERO, 0);
        }
        assert_eq!(sent.find(100).unwrap().sent, MonoNs::from_nanos(100));
        assert_eq!(sent.find(37).unwrap().counter, 37);
        assert!(sent.find(36).is_none() && sent.find(101).is_none());
    }
}
