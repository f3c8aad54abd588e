//! What is to happen, in the order of virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use probe_ebpf::time::MonoNs;

use crate::host::Host;
use crate::member::Slot;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// A message arrives.
    Arrival { from: Host, to: Host, slot: Slot, way: Way },
    /// A node wanted to be woken.
    Wake(Host),
    /// A node starts.
    Start(Host),
    /// Some node dies, and a new one starts.
    Replace,
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Datagram,
    /// The first message of a TCP connection.
    Request,
    /// The second, and last.
    Response,
}

#[derive(Debug)]
struct Event {
    at: MonoNs,
    /// Counts the events: of two at the same time, the one that was planned first comes first.
    sequence: u64,
    what: What,
}

/// Earliest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Event>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: MonoNs, what: What) {
        self.sequence += 1;
        self.heap.push(Event { at, sequence: self.sequence, what });
    }
    /// The next event, if it is due by `end`.
    pub(crate) fn pop(&mut self, end: MonoNs) -> Option<(MonoNs, What)> {
        self.heap.peek().filter(|next| next.at <= end)?;
        self.heap.pop().map(|event| (event.at, event.what))
    }
    /// Number of events so far.
    pub(crate) const fn total(&self) -> u64 {
        self.sequence
    }
}

impl Ord for Event {
    /// The reverse of time: a [`BinaryHeap`] gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Event {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_planned() {
        let mut queue = Queue::default();
        let at = MonoNs::from_nanos;
        for (host, ns) in [(0, 5), (1, 3), (2, 5), (3, 3), (4, 9)] {
            queue.push(at(ns), What::Wake(Host(host)));
        }
        let mut order = Vec::new();
        while let Some((_, What::Wake(host))) = queue.pop(at(8)) {
            order.push(host.0);
        }
        assert_eq!(order, [1, 3, 0, 2], "the last is not due yet");
        assert!(queue.pop(at(9)).is_some() && queue.pop(at(9)).is_none());
        assert_eq!(queue.total(), 5);
    }
}
