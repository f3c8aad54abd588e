//! From the hooks' events to departures. Pure.
//!
//! T2 happens inside of `sendmsg`, and one thread sends: it is of the packet whose send began last before it. It also
//! tells the kernel's name for the packet while it is under way, by which T3 is found. Another packet may get the name
//! afterwards, but has a T2 of its own first.

use probe_ebpf::departure::{DepartureEvent, Hook};
use probe_ebpf::time::MonoNs;

use super::{Departure, DepartureCounts, Departures};
use crate::analysis::breakdown::Stamp;

/// Devices on top of others that are remembered; a packet passes a handful at most.
const STACKED: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Send {
    departure: Departure,
    failed: bool,
    /// The packet's name, with T2.
    skb: u64,
    /// The device of T3.
    device: u32,
    told: bool,
}

/// Joins sends with the hooks' events. Memory is allocated in [`new`](Self::new) only.
#[derive(Debug)]
pub struct HookDepartures {
    sends: Box<[Option<Send>]>,
    /// Sends so far; the newest is at `pushed - 1`, in the slot of that number modulo the ring's length.
    pushed: u64,
    /// All before this one are done with.
    open: u64,
    /// Devices that hand packets to others: what they were given has not left. The oldest makes room.
    stacked: [u32; STACKED],
    next_stacked: usize,
    counts: DepartureCounts,
}

impl HookDepartures {
    /// Remembers the last `slots` sends (at least one).
    pub fn new(slots: usize) -> Self {
        Self {
            sends: vec![None; slots.max(1)].into(),
            pushed: 0,
            open: 0,
            stacked: [0; STACKED],
            next_stacked: 0,
            counts: DepartureCounts::default(),
        }
    }

    /// A send that succeeded, in the order of the sends, before its events are handed over.
    pub fn push(&mut self, cookie: u64, t1: MonoNs) {
        self.put(cookie, t1, false);
    }

    /// A send that failed: it may have come as far as T2.
    pub fn push_failed(&mut self, t1: MonoNs) {
        self.put(0, t1, true);
    }

    fn put(&mut self, cookie: u64, t1: MonoNs, failed: bool) {
        let departure = Departure { cookie, t1, t2: None, t3: None };
        let slot = self.slot(self.pushed);
        let old = self.sends[slot].replace(Send { departure, failed, skb: 0, device: 0, told: false });
        self.pushed += 1;
        let first = self.pushed.saturating_sub(self.sends.len() as u64);
        if self.open < first {
            self.open = first;
            self.counts.overrun += u64::from(old.is_some_and(|old| !old.failed && !old.told));
        }
    }

    /// Takes an event. What it completes is told by [`finish`](Self::finish).
    pub fn take(&mut self, event: DepartureEvent) {
        match event.hook() {
            Some(Hook::Egress) => self.egress(event),
            Some(Hook::Xmit) => self.xmit(event),
            None => self.counts.unknown_id += 1,
        }
    }

    fn egress(&mut self, event: DepartureEvent) {
        let begun = self.find(|send| send.departure.t1 <= event.at());
        let Some(send) = begun.and_then(|i| self.send_mut(i)) else {
            self.counts.unknown_id += 1;
            return;
        };
        if send.departure.t2.is_some() {
            // Once more for the outer packet of a tunnel: T2 is the first.
            self.counts.repeated += 1;
            return;
        }
        send.departure.t2 = Some(Stamp::exact(event.at()));
        send.skb = event.skb;
    }

    fn xmit(&mut self, event: DepartureEvent) {
        let is = |send: &Send| {
            send.skb == event.skb && send.departure.t2.is_some_and(|t2| t2.at <= event.at()) && !send.failed
        };
        let Some(index) = self.find(is) else {
            self.counts.unknown_id += 1;
            return;
        };
        let given_up = index < self.open;
        let Some(send) = self.send_mut(index) else { return };
        let (before, told) = (send.device, send.told);
        if send.departure.t3.is_some() {
            if before == event.device {
                // A packet does not come to a device twice: another one has its name, and lost its T2.
                self.counts.repeated += 1;
                return;
            }
            if told || given_up {
                self.learn(before);
                self.counts.late += 1;
                return;
            }
        } else if given_up {
            self.counts.late += 1;
            return;
        }
        send.departure.t3 = Some(Stamp::exact(event.at()));
        send.device = event.device;
        if before != 0 {
            self.learn(before);
        }
    }

    /// Calls `each` for every send that is complete, once. For when all events that are there have been taken: where
    /// devices are stacked, the last T3 counts.
    pub fn finish(&mut self, mut each: impl FnMut(Departure)) {
        for index in self.open..self.pushed {
            let slot = self.slot(index);
            let stacked = &self.stacked;
            let Some(send) = &mut self.sends[slot] else { continue };
            if send.departure.t3.is_none() || send.told || stacked.contains(&send.device) {
                continue;
            }
            send.told = true;
            self.counts.complete += 1;
            each(send.departure);
        }
        // So that the next call begins at the first that waits.
        while self.open < self.pushed
            && self.sends[self.slot(self.open)].is_some_and(|send| send.told || send.failed)
        {
            self.open += 1;
        }
    }

    /// Gives up the oldest send whose T3 has not come in [`Departures::PATIENCE`]. Call until it returns `None`.
    pub fn expire(&mut self, now: MonoNs) -> Option<Departure> {
        while self.open < self.pushed {
            let send = *self.sends[self.slot(self.open)].as_ref()?;
            if !send.told && !send.failed {
                if now - send.departure.t1 < Departures::PATIENCE {
                    return None;
                }
                self.open += 1;
                self.counts.given_up += 1;
                // What a stacked device was given did not leave, as far as is known.
                return Some(Departure { t3: None, ..send.departure });
            }
            self.open += 1;
        }
        None
    }

    /// Sends that wait for their T3.
    pub fn pending(&self) -> usize {
        let waits = |i: &u64| self.sends[self.slot(*i)].is_some_and(|send| !send.told && !send.failed);
        (self.open..self.pushed).filter(waits).count()
    }

    /// What became of sends and events so far.
    pub fn counts(&self) -> DepartureCounts {
        self.counts
    }

    fn learn(&mut self, device: u32) {
        if !self.stacked.contains(&device) {
            self.stacked[self.next_stacked] = device;
            self.next_stacked = (self.next_stacked + 1) % STACKED;
        }
    }

    /// The newest send for which `is` holds.
    fn find(&self, is: impl Fn(&Send) -> bool) -> Option<u64> {
        let first = self.pushed.saturating_sub(self.sends.len() as u64);
        (first..self.pushed).rev().find(|i| self.sends[self.slot(*i)].as_ref().is_some_and(&is))
    }

    fn send_mut(&mut self, index: u64) -> Option<&mut Send> {
        let slot = self.slot(index);
        self.sends[slot].as_mut()
    }

    fn slot(&self, index: u64) -> usize {
        (index % self.sends.len() as u64) as usize
    }
}

impl Default for HookDepartures {
    fn default() -> Self {
        Self::new(Departures::SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LO: u32 = 1;

    fn at(us: i64) -> MonoNs {
        MonoNs::from_nanos(us * 1000)
    }
    fn event(hook: Hook, skb: u64, device: u32, us: i64) -> DepartureEvent {
        DepartureEvent { at: at(us).as_nanos() as u64, skb, device, hook: hook as u32 }
    }
    fn egress(skb: u64, us: i64) -> DepartureEvent {
        event(Hook::Egress, skb, 0, us)
    }
    fn xmit(skb: u64, device: u32, us: i64) -> DepartureEvent {
        event(Hook::Xmit, skb, device, us)
    }
    /// Takes them, and gives cookie, T2 and T3 in microseconds of what they complete.
    fn done(joiner: &mut HookDepartures, events: &[DepartureEvent]) -> Vec<(u64, i64, i64)> {
        events.iter().for_each(|event| joiner.take(*event));
        let mut done = Vec::new();
        let us = |stamp: Option<Stamp>| stamp.expect("a stamp").at.as_nanos() / 1000;
        joiner.finish(|d| done.push((d.cookie, us(d.t2), us(d.t3))));
        done
    }

    #[test]
    fn packets_are_told_apart_though_their_names_are_used_again() {
        let mut joiner = HookDepartures::default();
        for n in 0..3 {
            joiner.push(n, at(10 * n as i64));
        }
        let events =
            [egress(7, 1), xmit(7, LO, 2), egress(7, 11), xmit(7, LO, 12), egress(7, 21), xmit(7, LO, 25)];
        assert_eq!(done(&mut joiner, &events), [(0, 1, 2), (1, 11, 12), (2, 21, 25)]);
        assert_eq!(joiner.counts(), DepartureCounts { complete: 3, ..Default::default() });
        assert_eq!(joiner.pending(), 0);
    }

    #[test]
    fn packets_that_wait_in_a_queue_may_leave_in_another_order() {
        let mut joiner = HookDepartures::default();
        joiner.push(0, at(0));
        joiner.push(1, at(10));
        assert_eq!(done(&mut joiner, &[egress(7, 1), egress(8, 11)]), []);
        assert_eq!(done(&mut joiner, &[xmit(8, LO, 30)]), [(1, 11, 30)]);
        assert_eq!(done(&mut joiner, &[xmit(7, LO, 40)]), [(0, 1, 40)]);
    }

    #[test]
    fn where_devices_are_stacked_the_last_one_counts() {
        let (vlan, nic) = (5, 2);
        let mut joiner = HookDepartures::default();
        joiner.push(0, at(0));
        assert_eq!(done(&mut joiner, &[egress(7, 1), xmit(7, vlan, 2), xmit(7, nic, 3)]), [(0, 1, 3)]);
        // From now on it is known: what only the upper device was given is not gone yet.
        joiner.push(1, at(10));
        assert_eq!(done(&mut joiner, &[egress(7, 11), xmit(7, vlan, 12)]), []);
        assert_eq!(done(&mut joiner, &[xmit(7, nic, 19)]), [(1, 11, 19)]);
        joiner.push(2, at(20));
        assert_eq!(done(&mut joiner, &[egress(7, 21), xmit(7, vlan, 22)]), []);
        let lost = joiner.expire(at(20) + Departures::PATIENCE).expect("given up");
        assert_eq!((lost.cookie, lost.t3), (2, None));
        assert_eq!(joiner.counts().given_up, 1);
    }

    #[test]
    fn what_was_told_too_early_is_counted_and_happens_once() {
        let (vlan, nic) = (5, 2);
        let mut joiner = HookDepartures::default();
        joiner.push(0, at(0));
        assert_eq!(done(&mut joiner, &[egress(7, 1), xmit(7, vlan, 2)]), [(0, 1, 2)]);
        assert_eq!(done(&mut joiner, &[xmit(7, nic, 9)]), []);
        assert_eq!(joiner.counts().late, 1);
        joiner.push(1, at(10));
        assert_eq!(done(&mut joiner, &[egress(7, 11), xmit(7, vlan, 12)]), []);
    }

    #[test]
    fn strangers_are_counted_and_change_nothing() {
        let mut joiner = HookDepartures::default();
        joiner.push_failed(at(0));
        joiner.push(1, at(10));
        // Of a failed send; of a send from before the first; a name that no packet has; no hook.
        let strangers =
            [egress(6, 1), xmit(6, LO, 2), egress(9, -5), xmit(9, LO, 3), event(Hook::Xmit, 7, 1, 4)];
        assert_eq!(done(&mut joiner, &strangers), []);
        let none = DepartureEvent { hook: 3, ..egress(7, 12) };
        assert_eq!(done(&mut joiner, &[none, egress(7, 12), xmit(7, LO, 13)]), [(1, 12, 13)]);
        // A packet whose T2 was lost, under the name of one that is gone.
        assert_eq!(done(&mut joiner, &[xmit(7, LO, 99)]), []);
        let counts = joiner.counts();
        assert_eq!((counts.unknown_id, counts.repeated, counts.complete), (5, 1, 1));
    }

    #[test]
    fn every_send_ends_once() {
        let mut joiner = HookDepartures::new(4);
        for n in 0..10 {
            joiner.push(n, at(n as i64));
        }
        assert_eq!((joiner.counts().overrun, joiner.pending()), (6, 4));
        let after = at(20) + Departures::PATIENCE;
        let given_up: Vec<u64> = std::iter::from_fn(|| joiner.expire(after)).map(|d| d.cookie).collect();
        assert_eq!(given_up, [6, 7, 8, 9]);
        assert_eq!((joiner.counts().given_up, joiner.pending()), (4, 0));
    }
}
