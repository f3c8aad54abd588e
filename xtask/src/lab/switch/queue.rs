//! What is under way, by the time at which it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use probe_ebpf::time::MonoNs;

/// Room made at once.
const FIRST: usize = 4_096;

/// Items with a time each. Those of the same time leave in the order in which they came.
#[derive(Debug)]
pub struct Departures<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    pushed: u64,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<T> {
    due: (MonoNs, u64),
    item: T,
}

impl<T> Departures<T> {
    /// Room for so many.
    pub fn new(capacity: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(capacity.min(FIRST)), pushed: 0, capacity }
    }

    /// Adds one, or gives it back when there is no room.
    pub fn push(&mut self, at: MonoNs, item: T) -> Result<(), T> {
        if self.heap.len() >= self.capacity {
            return Err(item);
        }
        self.heap.push(Reverse(Entry { due: (at, self.pushed), item }));
        self.pushed += 1;
        Ok(())
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<MonoNs> {
        self.heap.peek().map(|Reverse(entry)| entry.due.0)
    }

    /// The next one if it is due at `now`, with its time.
    pub fn pop_due(&mut self, now: MonoNs) -> Option<(MonoNs, T)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.due.0, entry.item))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Everything that is left, in the order of time.
    pub fn drain(&mut self) -> impl Iterator<Item = (MonoNs, T)> + '_ {
        std::iter::from_fn(|| self.heap.pop().map(|Reverse(entry)| (entry.due.0, entry.item)))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ns: i64) -> MonoNs {
        MonoNs::from_nanos(ns)
    }

    #[test]
    fn items_leave_by_time_and_ties_in_order() {
        let mut queue = Departures::new(10);
        for (time, item) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(at(time), item).unwrap();
        }
        assert_eq!(queue.next(), Some(at(1)));
        assert_eq!(queue.pop_due(at(0)), None);
        assert_eq!(queue.pop_due(at(1)), Some((at(1), 'a')));
        assert_eq!(queue.pop_due(at(1)), None);
        assert_eq!(queue.drain().collect::<Vec<_>>(), [(at(2), 'b'), (at(5), 'c'), (at(5), 'd')]);
        assert!(queue.is_empty() && queue.next().is_none());
    }

    #[test]
    fn many_of_the_same_time_keep_their_order() {
        let mut queue = Departures::new(1_000);
        for i in 0..1_000 {
            queue.push(at(7), i).unwrap();
        }
        assert!(queue.drain().map(|(_, item)| item).eq(0..1_000));
    }

    #[test]
    fn what_does_not_fit_comes_back() {
        let mut queue = Departures::new(1);
        queue.push(at(1), 'a').unwrap();
        assert_eq!(queue.push(at(2), 'b'), Err('b'));
        assert_eq!(queue.len(), 1);
    }
}
