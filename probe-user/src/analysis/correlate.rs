//! Joins the kernel's events with the datagrams that userspace received.
//!
//! The filter runs before a datagram is queued, so its event is in the ring *before* `recvmsg` returns:
//! after draining the ring, every received datagram's event is here, unless the ring was full. What stays
//! behind are events of datagrams that were dropped after the filter (receive buffer full) or that wait in
//! the socket still. They expire after [`Correlator::WINDOW`], counted from the moment they were drained and
//! not from T5: a process that was stopped for a minute finds both events and datagrams when it wakes up.
//!
//! Two CPUs can deliver at once. A filter that is preempted between reserving its slot and submitting it holds
//! back the events behind its own, so now and then a datagram is read before its event: that event is *late*.
//!
//! Where the kernel tells what it dropped ([`crate::drops`]), an event whose datagram was dropped is known as such: by
//! its key, or, where the kernel tells only a number, as one of so many that were given up.
//!
//! Accounting is complete: `drained = matched + unmatched + late + dropped + pending`.

use std::collections::{HashMap, VecDeque};

use probe_ebpf::event::{PacketEvent, PacketKey};
use probe_ebpf::time::{MonoNs, Span};

/// Where the events went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Joined with their datagram.
    pub matched: u64,
    /// Expired without one, or pushed out by newer events, and the kernel told of no drop.
    pub unmatched: u64,
    /// The kernel dropped their datagram after the filter.
    pub dropped: u64,
    /// Came after their datagram had been handled, or were given up and then the datagram came after all.
    pub late: u64,
    /// Datagrams for which there was no event.
    pub without_event: u64,
    /// Drops that are told by key and for which there was no event: before the filter, or the ring was full.
    pub dropped_without_event: u64,
}

/// A bounded, expiring window of events.
#[derive(Debug)]
pub struct Correlator {
    waiting: HashMap<PacketKey, Waiting>,
    /// Every event in the order of draining, for expiry; matched ones leave it when they reach its head.
    order: VecDeque<Drained>,
    /// Keys given up lately, so that a datagram that comes after all is known as late.
    given_up: VecDeque<GivenUp>,
    /// Keys of datagrams for which there was no event, lately.
    missed: VecDeque<PacketKey>,
    capacity: usize,
    outcomes: Outcomes,
    drained: u64,
    pending: u64,
    /// Drops after the filter that are known by number only, and how many events were given up as theirs.
    by_number: u64,
    credited: u64,
}

#[derive(Debug, Clone, Copy)]
struct GivenUp {
    key: PacketKey,
    /// As dropped, or as unmatched?
    dropped: bool,
}

#[derive(Debug, Clone, Copy)]
struct Drained {
    at: MonoNs,
    key: PacketKey,
    number: u64,
}

/// Events under one key, oldest first: nearly always one. Copies made by the network share a key when there
/// is no receive stamp to tell them apart.
#[derive(Debug)]
struct Waiting {
    number: u64,
    event: PacketEvent,
    more: VecDeque<(u64, PacketEvent)>,
}

impl Correlator {
    /// How long an event waits for its datagram after it was drained.
    pub const WINDOW: Span = Span::from_secs(2);
    /// How many given-up keys are remembered.
    const REMEMBERED: usize = 1024;
    /// How many datagrams without an event are remembered: an event is late by a slot or two, or not at all.
    const MISSED: usize = 64;

    /// A window of at most `capacity` waiting events; its memory is allocated here.
    pub fn new(capacity: usize) -> Self {
        Self {
            waiting: HashMap::with_capacity(capacity),
            order: VecDeque::with_capacity(2 * capacity),
            given_up: VecDeque::with_capacity(Self::REMEMBERED),
            missed: VecDeque::with_capacity(Self::MISSED),
            capacity,
            outcomes: Outcomes::default(),
            drained: 0,
            pending: 0,
            by_number: 0,
            credited: 0,
        }
    }

    /// Takes an event drained from the ring at `now`.
    pub fn push(&mut self, event: PacketEvent, now: MonoNs) {
        while self.pending as usize >= self.capacity || self.order.len() >= 2 * self.capacity {
            if !self.give_up_oldest() {
                break;
            }
        }
        let (key, number) = (event.key(), self.drained);
        self.drained += 1;
        let bare = key.without_tstamp();
        if let Some(at) =
            self.missed.iter().position(|m| *m == key || (key == bare && m.without_tstamp() == bare))
        {
            self.missed.remove(at);
            self.outcomes.without_event -= 1;
            self.outcomes.late += 1;
            return;
        }
        self.pending += 1;
        self.order.push_back(Drained { at: now, key, number });
        match self.waiting.get_mut(&key) {
            Some(waiting) => waiting.more.push_back((number, event)),
            None => {
                self.waiting.insert(key, Waiting { number, event, more: VecDeque::new() });
            }
        }
    }

    /// The event of a received datagram, or `None` (counted) when there is none.
    pub fn take(&mut self, key: PacketKey) -> Option<PacketEvent> {
        let bare = key.without_tstamp();
        let found = self.remove_oldest(&key).or_else(|| {
            // The kernel stamps a packet only once some socket asked for it: the very first may lack T4.
            if bare == key { None } else { self.remove_oldest(&bare) }
        });
        match found {
            Some(_) => self.outcomes.matched += 1,
            None => match self.find_given_up(&key, |_| true) {
                Some(given_up) => {
                    self.take_back(given_up);
                    self.outcomes.late += 1;
                }
                None => {
                    self.outcomes.without_event += 1;
                    if self.missed.len() == Self::MISSED {
                        self.missed.pop_front();
                    }
                    self.missed.push_back(key);
                }
            },
        }
        found
    }

    /// The kernel dropped the datagram of this key.
    pub fn dropped(&mut self, key: PacketKey) {
        if self.remove_oldest(&key).is_some() {
            self.outcomes.dropped += 1;
        } else if let Some(given_up) = self.find_given_up(&key, |given_up| !given_up.dropped) {
            self.take_back(given_up);
            self.outcomes.dropped += 1;
        } else {
            self.outcomes.dropped_without_event += 1;
        }
    }

    /// So many datagrams were dropped after the filter, since the start, of which the keys are not told.
    pub fn set_dropped_by_number(&mut self, total: u64) {
        self.by_number = self.by_number.max(total);
    }

    fn find_given_up(&mut self, key: &PacketKey, is: impl Fn(&GivenUp) -> bool) -> Option<GivenUp> {
        let bare = key.without_tstamp();
        let at = self.given_up.iter().position(|g| (g.key == *key || g.key == bare) && is(g))?;
        self.given_up.remove(at)
    }

    fn take_back(&mut self, given_up: GivenUp) {
        if given_up.dropped {
            self.outcomes.dropped -= 1;
            self.credited -= 1;
        } else {
            self.outcomes.unmatched -= 1;
        }
    }

    /// Gives up events that have waited for longer than [`Self::WINDOW`].
    pub fn expire(&mut self, now: MonoNs) {
        while self.order.front().is_some_and(|head| now - head.at > Self::WINDOW) {
            self.give_up_oldest();
        }
    }

    /// Gives up everything that still waits (at the end of a run).
    pub fn flush(&mut self) {
        while self.give_up_oldest() {}
    }

    /// Where the events went so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Events drained so far.
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Events that still wait.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    fn remove_oldest(&mut self, key: &PacketKey) -> Option<PacketEvent> {
        let waiting = self.waiting.get_mut(key)?;
        self.pending -= 1;
        match waiting.more.pop_front() {
            Some((number, next)) => {
                waiting.number = number;
                Some(std::mem::replace(&mut waiting.event, next))
            }
            None => self.waiting.remove(key).map(|w| w.event),
        }
    }

    /// Removes the head of `order`, and its event with it unless that was matched; `false` if there is none.
    fn give_up_oldest(&mut self) -> bool {
        let Some(head) = self.order.pop_front() else { return false };
        if self.waiting.get(&head.key).is_some_and(|w| w.number == head.number) {
            self.remove_oldest(&head.key);
            let dropped = self.credited < self.by_number;
            if dropped {
                self.outcomes.dropped += 1;
                self.credited += 1;
            } else {
                self.outcomes.unmatched += 1;
            }
            if self.given_up.len() == Self::REMEMBERED {
                self.given_up.pop_front();
            }
            self.given_up.push_back(GivenUp { key: head.key, dropped });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(id: u8, tstamp: u64) -> PacketEvent {
        PacketEvent { filter_mono: 1, tstamp, head: [id; 16], udp: [0, 9, 0, 0, 0, 100, 0, 0] }
    }
    fn at(ms: i64) -> MonoNs {
        MonoNs::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn same_bytes_at_different_times_are_told_apart() {
        let mut c = Correlator::new(8);
        c.push(event(1, 100), at(0));
        c.push(event(1, 200), at(0));
        assert_eq!(c.take(event(1, 200).key()), Some(event(1, 200)));
        assert_eq!(c.take(event(1, 100).key()), Some(event(1, 100)));
        assert_eq!(c.take(event(1, 100).key()), None);
        assert_eq!(c.outcomes(), Outcomes { matched: 2, without_event: 1, ..Outcomes::default() });
    }

    #[test]
    fn an_unstamped_event_still_matches_a_stamped_datagram() {
        let mut c = Correlator::new(8);
        c.push(event(1, 0), at(0));
        assert!(c.take(event(1, 500).key()).is_some());
    }

    #[test]
    fn waiting_is_counted_from_draining_and_late_is_not_unmatched() {
        let mut c = Correlator::new(8);
        c.push(event(1, 1), at(60_000)); // stopped for a minute: T5 is long past
        c.expire(at(61_000));
        assert_eq!(c.pending(), 1);
        c.expire(at(63_000));
        assert_eq!((c.pending(), c.outcomes().unmatched), (0, 1));
        assert_eq!(c.take(event(1, 1).key()), None);
        assert_eq!(c.outcomes(), Outcomes { late: 1, ..Outcomes::default() });
    }

    #[test]
    fn an_event_behind_its_datagram_is_late_and_neither_unmatched_nor_missing() {
        let mut c = Correlator::new(8);
        assert_eq!(c.take(event(1, 1).key()), None);
        assert_eq!(c.outcomes().without_event, 1);
        c.push(event(1, 1), at(0));
        assert_eq!((c.outcomes(), c.pending()), (Outcomes { late: 1, ..Outcomes::default() }, 0));
        c.push(event(1, 1), at(0));
        assert!(c.take(event(1, 1).key()).is_some());
    }

    #[test]
    fn a_full_window_gives_up_the_oldest() {
        let mut c = Correlator::new(2);
        for i in 0..3 {
            c.push(event(i, 1), at(0));
        }
        assert_eq!((c.pending(), c.outcomes().unmatched), (2, 1));
        assert!(c.take(event(0, 1).key()).is_none());
        assert!(c.take(event(2, 1).key()).is_some());
    }

    #[test]
    fn a_drop_is_found_by_its_key_also_after_its_event_was_given_up() {
        let mut c = Correlator::new(8);
        for id in 0..3 {
            c.push(event(id, 1), at(0));
        }
        c.dropped(event(0, 1).key());
        c.dropped(event(7, 1).key());
        c.expire(at(3000));
        assert_eq!(
            c.outcomes(),
            Outcomes { dropped: 1, unmatched: 2, dropped_without_event: 1, ..Outcomes::default() }
        );
        c.dropped(event(1, 1).key());
        assert_eq!((c.outcomes().dropped, c.outcomes().unmatched), (2, 1));
    }

    #[test]
    fn so_many_as_were_dropped_are_given_up_as_dropped_and_one_that_comes_after_all_is_late() {
        let mut c = Correlator::new(8);
        for id in 0..3 {
            c.push(event(id, 1), at(0));
        }
        c.set_dropped_by_number(2);
        c.expire(at(3000));
        assert_eq!(c.outcomes(), Outcomes { dropped: 2, unmatched: 1, ..Outcomes::default() });
        assert_eq!(c.take(event(0, 1).key()), None);
        assert_eq!(c.outcomes(), Outcomes { dropped: 1, unmatched: 1, late: 1, ..Outcomes::default() });
    }

    proptest! {
        #[test]
        fn every_event_is_accounted_for(steps in prop::collection::vec((0u8..6, 0u8..3, 0u64..2), 0..400)) {
            let mut c = Correlator::new(5);
            let mut now = at(0);
            for (step, id, tstamp) in steps {
                match step {
                    0 | 1 => c.push(event(id, tstamp), now),
                    2 => { c.take(event(id, tstamp).key()); }
                    3 => c.dropped(event(id, tstamp).key()),
                    4 => c.set_dropped_by_number(u64::from(id)),
                    _ => { now = now + Span::from_millis(700); c.expire(now); }
                }
                let o = c.outcomes();
                prop_assert_eq!(c.drained(), o.matched + o.unmatched + o.late + o.dropped + c.pending());
                prop_assert!(c.pending() <= 5);
            }
            c.flush();
            prop_assert_eq!(c.pending(), 0);
        }
    }
}
