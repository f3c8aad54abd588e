//! What this host's kernel dropped at the node's socket, until it is known who misses it.
//!
//! Most drops come with the packet's id: then the peer in whose ids the gap shows is the one. Of others there is only a
//! number; those are shared out among the peers of whom something is missing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use probe_ebpf::parse::{PacketId, Prelude};
use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::verdict::Loss;

use crate::proto::NodeId;

/// A gap shows with the next packet of the peer. Until then a drop is remembered, but not for longer than this: what
/// nobody misses was nobody's that is known, and must not be blamed for a loss elsewhere later.
const REMEMBERED: Span = Span::from_secs(10);
/// Drops that are remembered by id; older ones are remembered by number.
const CAPACITY: usize = 4096;

/// Packets dropped here, by reason.
pub(super) type Reasons = BTreeMap<Arc<str>, u64>;

#[derive(Debug, Default)]
pub(super) struct Drops {
    by_id: HashMap<PacketId, Arc<str>>,
    /// The ids in the order in which they came; those that were missed are not in the map any more.
    order: VecDeque<(MonoNs, PacketId)>,
    by_number: BTreeMap<Arc<str>, Number>,
}

#[derive(Clone, Copy, Debug)]
struct Number {
    count: u64,
    newest: MonoNs,
}

impl Drops {
    /// A datagram that begins like this was dropped.
    pub(super) fn packet(&mut self, head: &[u8], reason: &Arc<str>, now: MonoNs) {
        // Without an id nobody misses it: v0 does not count.
        let Some(Prelude { version: 1, id, .. }) = Prelude::parse(head) else { return };
        if self.order.len() == CAPACITY
            && let Some((_, oldest)) = self.order.pop_front()
            && let Some(reason) = self.by_id.remove(&oldest)
        {
            self.number(&reason, 1, now);
        }
        if self.by_id.insert(id, Arc::clone(reason)).is_none() {
            self.order.push_back((now, id));
        }
    }

    /// So many were dropped for this reason, nobody knows whose.
    pub(super) fn number(&mut self, reason: &Arc<str>, count: u64, now: MonoNs) {
        if count == 0 {
            return;
        }
        let number = self.by_number.entry(Arc::clone(reason)).or_insert(Number { count: 0, newest: now });
        number.count = number.count.saturating_add(count);
        number.newest = now;
    }

    /// The `missing` packets before `id` did not come: calls `each` with the reason of every one that was dropped here.
    pub(super) fn missed(&mut self, id: PacketId, missing: u32, mut each: impl FnMut(Arc<str>)) {
        if self.by_id.is_empty() {
            return;
        }
        if missing as usize <= self.by_id.len() {
            for back in 1..=missing {
                let lost = PacketId { counter: id.counter.wrapping_sub(back), ..id };
                if let Some(reason) = self.by_id.remove(&lost) {
                    each(reason);
                }
            }
        } else {
            self.by_id.retain(|lost, reason| {
                let back = id.counter.wrapping_sub(lost.counter);
                let is = lost.incarnation == id.incarnation && (1..=missing).contains(&back);
                if is {
                    each(Arc::clone(reason));
                }
                !is
            });
        }
    }

    /// Shares what is known by number only out among those of whom something is missing.
    pub(super) fn share(&mut self, losses: &mut BTreeMap<NodeId, Loss>) {
        let missing: u64 = losses.values().map(|loss| loss.lost_outside).sum();
        if missing == 0 {
            return;
        }
        let mut total = missing;
        self.by_number.retain(|reason, number| {
            let dropped = number.count.min(total);
            let mut left = dropped;
            for loss in losses.values_mut() {
                let share = u128::from(dropped) * u128::from(loss.lost_outside);
                let share = share.div_ceil(u128::from(total.max(1)));
                let share = u64::try_from(share).unwrap_or(u64::MAX).min(left).min(loss.lost_outside);
                if share > 0 {
                    loss.lost_outside -= share;
                    left -= share;
                    *loss.lost_here.entry(reason.to_string()).or_default() += share;
                }
            }
            total -= dropped - left;
            number.count -= dropped - left;
            number.count > 0
        });
    }

    /// Forgets what nobody missed.
    pub(super) fn expire(&mut self, now: MonoNs) {
        while let Some((at, id)) = self.order.front()
            && (now - *at > REMEMBERED || !self.by_id.contains_key(id))
        {
            self.by_id.remove(id);
            self.order.pop_front();
        }
        self.by_number.retain(|_, number| now - number.newest <= REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(seconds)
    }
    fn id(incarnation: u32, counter: u32) -> PacketId {
        PacketId { incarnation, counter }
    }
    fn head(id: PacketId) -> [u8; 12] {
        Prelude { kind: 1, version: 1, flags: 0, id }.to_bytes()
    }
    fn missed(drops: &mut Drops, id: PacketId, missing: u32) -> usize {
        let mut count = 0;
        drops.missed(id, missing, |reason| {
            assert_eq!(&*reason, "WHY");
            count += 1;
        });
        count
    }

    #[test]
    fn a_gap_is_laid_on_the_drops_that_made_it_and_on_no_others() {
        let (mut drops, why): (_, Arc<str>) = (Drops::default(), "WHY".into());
        for counter in [3, 4, 6] {
            drops.packet(&head(id(7, counter)), &why, at(0));
        }
        drops.packet(&head(id(8, 5)), &why, at(0));
        drops.packet(&[0; 12], &why, at(0));
        assert_eq!(missed(&mut drops, id(7, 6), 4), 2, "3 and 4 of 2 to 5");
        assert_eq!(missed(&mut drops, id(7, 6), 4), 0, "each once");
        assert_eq!(missed(&mut drops, id(7, 100), 99), 1, "6, when the gap is wider than what is remembered");
        assert_eq!(missed(&mut drops, id(8, 2), 0), 0);
        drops.expire(at(11));
        assert_eq!(missed(&mut drops, id(8, 6), 1), 0, "too long ago");
        assert!(drops.order.is_empty());
        drops.packet(&head(id(9, u32::MAX)), &why, at(12));
        assert_eq!(missed(&mut drops, id(9, 1), 2), 1, "counters wrap");
    }

    #[test]
    fn numbers_are_shared_out_up_to_what_is_missing_and_forgotten_after_a_while() {
        let (mut drops, why): (_, Arc<str>) = (Drops::default(), "WHY".into());
        let node = |name| NodeId::new(name).expect("a name");
        let losses = |a, b| {
            let loss = |lost_outside| Loss { lost_outside, ..Loss::default() };
            BTreeMap::from([(node("a"), loss(a)), (node("b"), loss(b))])
        };
        drops.number(&why, 8, at(0));
        let mut first = losses(2, 4);
        drops.share(&mut first);
        assert_eq!(first.values().map(Loss::here).collect::<Vec<_>>(), [2, 4]);
        let mut second = losses(0, 5);
        drops.share(&mut second);
        assert_eq!((second[&node("b")].here(), second[&node("b")].lost_outside), (2, 3), "8 were dropped");
        drops.number(&why, 8, at(0));
        drops.expire(at(11));
        let mut third = losses(1, 1);
        drops.share(&mut third);
        assert_eq!(third.values().map(Loss::here).sum::<u64>(), 0);
    }

    #[test]
    fn it_is_bounded_and_what_is_pushed_out_is_a_number_still() {
        let (mut drops, why): (_, Arc<str>) = (Drops::default(), "WHY".into());
        for counter in 0..CAPACITY as u32 + 5 {
            drops.packet(&head(id(7, counter)), &why, at(0));
        }
        assert_eq!((drops.order.len(), drops.by_id.len()), (CAPACITY, CAPACITY));
        assert_eq!(drops.by_number[&why].count, 5);
    }
}
