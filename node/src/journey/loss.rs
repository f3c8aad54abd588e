//! Losses on the way out: only the peer sees them, and tells.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::verdict::Loss;

use super::counters::ReportRefused;
use crate::wire::v1::LossReport;

/// For so long after the last loss the peer is told of what comes, too: a loss is judged by its share.
const TOLD_FOR: Span = Span::from_secs(30);
/// Evaluations, one a second, after which packets that the peer did not tell of are not told of any more: it sums up
/// losses until a packet goes here, and waits two seconds for late ones.
const TOLD_WITHIN: usize = 60;
/// Packets that are not counted when they are sent, as long as nobody is known at the address, but when they come.
const UNCOUNTED: u64 = 16;
/// The reason that stands for all of a peer's: it tells how many its kernel dropped, not why.
const BY_ITS_WORD: &str = "by its word";

/// What of the losses between this node and a peer waits to be told, or was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Losses on the way in, for the peer.
    waiting: Option<LossReport>,
    lossy_until: Option<MonoNs>,
    /// Losses on the way out, by the peer's word, for the judge.
    heard: Loss,
    /// Packets that the peer told of...
    accounted: u64,
    /// ...of those that were sent to it.
    sent: u64,
    /// `sent` at the last evaluations.
    sent_before: VecDeque<u64>,
}

impl Told {
    /// This was settled about the way in. Who is no neighbour is told nothing, and of nothing later.
    pub(super) fn settled(&mut self, loss: &Loss, neighbour: bool, now: MonoNs) {
        if !neighbour {
            return self.forget_waiting();
        }
        if loss.here() + loss.lost_outside > 0 {
            self.lossy_until = Some(now + TOLD_FOR);
        }
        if self.lossy_until.is_some_and(|until| now < until) {
            self.waiting.get_or_insert_default().add(loss);
        }
    }

    /// What the peer is to be told next.
    pub(super) fn waiting(&self) -> Option<&LossReport> {
        self.waiting.as_ref()
    }

    /// That was told.
    pub(super) fn told(&mut self) {
        self.waiting = None;
    }

    /// Nothing of before is to be told any more.
    pub(super) fn forget_waiting(&mut self) {
        (self.waiting, self.lossy_until) = (None, None);
    }

    /// A packet was sent to the peer.
    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// The peer tells of the way out.
    pub(super) fn heard(&mut self, report: &LossReport) -> Result<(), ReportRefused> {
        let LossReport { here, outside, received } = *report;
        let all = [here, outside, received].iter().fold(self.accounted, |sum, n| sum.saturating_add(*n));
        if all > self.sent.saturating_add(UNCOUNTED) {
            return Err(ReportRefused::Implausible);
        }
        self.accounted = all;
        let mut loss = Loss { lost_outside: outside, received, ..Loss::default() };
        if here > 0 {
            loss.lost_here.insert(BY_ITS_WORD.to_owned(), here);
        }
        self.heard.add(&loss);
        Ok(())
    }

    /// Once a second: what was heard since the last call.
    pub(super) fn take(&mut self) -> Loss {
        self.sent_before.push_back(self.sent);
        if self.sent_before.len() > TOLD_WITHIN
            && let Some(long_ago) = self.sent_before.pop_front()
        {
            self.accounted = self.accounted.max(long_ago);
        }
        std::mem::take(&mut self.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(seconds)
    }

    #[test]
    fn nothing_is_told_before_a_loss_and_all_for_half_a_minute_after_one() {
        let mut told = Told::default();
        let calm = Loss { received: 10, ..Loss::default() };
        told.settled(&calm, true, at(0));
        assert_eq!(told.waiting(), None);
        let lossy = Loss { lost_outside: 2, lost_here: [("X".to_owned(), 1)].into(), ..calm.clone() };
        told.settled(&lossy, true, at(1));
        told.settled(&calm, true, at(2));
        assert_eq!(told.waiting(), Some(&LossReport { here: 1, outside: 2, received: 20 }), "not told yet");
        told.told();
        told.settled(&calm, true, at(30));
        assert_eq!(told.waiting(), Some(&LossReport { here: 0, outside: 0, received: 10 }));
        told.told();
        told.settled(&calm, true, at(31));
        assert_eq!(told.waiting(), None);
        told.settled(&lossy, true, at(40));
        told.settled(&calm, false, at(41));
        told.settled(&calm, true, at(42));
        assert_eq!(told.waiting(), None, "it was no neighbour in between");
    }

    #[test]
    fn a_peer_cannot_tell_of_more_packets_than_were_sent() {
        let mut told = Told::default();
        (0..100).for_each(|_| told.sent());
        let report = |here, outside, received| LossReport { here, outside, received };
        assert_eq!(told.heard(&report(3, 7, 90)), Ok(()));
        for wild in [report(0, 17, 0), report(u64::MAX, u64::MAX, 1)] {
            assert_eq!(told.heard(&wild), Err(ReportRefused::Implausible));
        }
        let loss = told.take();
        assert_eq!((loss.here(), loss.lost_outside, loss.received), (3, 7, 90));
        assert_eq!(told.take(), Loss::default());
        // What was sent while nothing was lost is not told of a minute later.
        (0..1000).for_each(|_| told.sent());
        (0..=TOLD_WITHIN).for_each(|_| drop(told.take()));
        (0..10).for_each(|_| told.sent());
        assert_eq!(told.heard(&report(0, 27, 0)), Err(ReportRefused::Implausible));
        assert_eq!(told.heard(&report(0, 9, 1)), Ok(()));
    }
}
