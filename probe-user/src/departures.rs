//! From transmit stamps to departures: which of our packets went when (T1, T2, T3). Pure.
//!
//! The kernel names a packet by a count of the socket's sends ([`TxStamp::id`]). Successful sends count one each. A
//! send that fails counts or does not, by where it failed and in which kernel: an unreachable destination never does,
//! a packet filter's or cgroup's refusal always does, a packet too large or a full send buffer does before Linux 6.8
//! (net/ipv4/ip_output.c, `__ip_append_data`). So after a failure our count may be behind the kernel's, never ahead,
//! and then a stamp names a later packet than the one it was taken of: one not sent yet, or one sent after the stamp.
//! Either is impossible, and the packet that was being sent at the time of the stamp tells how many ids were skipped.

use probe_ebpf::time::{MonoNs, Span};

use crate::analysis::breakdown::Stamp;
use crate::clock::Mapping;
use crate::clock::mapping::STEP_SLACK;
use crate::transmit::{Stage, TxStamp};

mod hooked;

pub use hooked::HookDepartures;

/// So many stamps in a row that fit no packet mean that the count is lost: see [`Departures::is_lost`].
const MISFITS: u32 = 16;

/// One packet on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// What the caller knows the packet by.
    pub cookie: u64,
    /// T1: `sendmsg` is called.
    pub t1: MonoNs,
    /// T2: about to enter the queueing discipline. The first one, where devices are stacked.
    pub t2: Option<Stamp>,
    /// T3: the driver took it. `None` once given up: dropped on this host, a driver that does not stamp, or a stamp
    /// lost to a full receive buffer.
    pub t3: Option<Stamp>,
}

/// What became of sends and of stamps.
///
/// Every send ends as one of `complete`, `given_up` and `overrun`, or is still [pending](Departures::pending).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DepartureCounts {
    /// Sends whose T3 came.
    pub complete: u64,
    /// Of these, how many had no T2.
    pub without_t2: u64,
    /// Sends whose T3 had not come in [`Departures::PATIENCE`].
    pub given_up: u64,
    /// Sends pushed out by later ones before their T3 came: the ring is too small for the queue ahead.
    pub overrun: u64,
    /// Stamps whose id no send in the ring has.
    pub unknown_id: u64,
    /// Stamps from before the send that their id names: of another packet, or the clock was stepped.
    pub before_t1: u64,
    /// T3 stamps of sends that had been given up.
    pub late: u64,
    /// Stamps that came again for the same send: devices are stacked.
    pub repeated: u64,
    /// How often the kernel was found to have counted failed sends.
    pub slips: u64,
    /// How often the count was lost and begun anew.
    pub restarts: u64,
}

#[derive(Clone, Copy, Debug)]
struct Send {
    id: u32,
    /// Failed sends before it; wraps.
    failed: u32,
    departure: Departure,
}

/// Joins sends with their stamps. Memory is allocated in [`new`](Self::new) only.
#[derive(Debug)]
pub struct Departures {
    sends: Box<[Option<Send>]>,
    /// Sends so far; the newest is at `pushed - 1`, in the slot of that number modulo the ring's length.
    pushed: u64,
    /// All before this one are done with.
    open: u64,
    next_id: u32,
    failed: u32,
    /// Of the failed ones, those of which it is known whether the kernel counted them.
    settled: u32,
    misfits: u32,
    counts: DepartureCounts,
}

impl Departures {
    /// How long to wait for T3: longer than any queue that still is one.
    pub const PATIENCE: Span = Span::from_secs(10);
    /// Sends kept by [`Default`].
    pub const SLOTS: usize = 256;

    /// Remembers the last `slots` sends (at least one).
    pub fn new(slots: usize) -> Self {
        Self {
            sends: vec![None; slots.max(1)].into(),
            pushed: 0,
            open: 0,
            next_id: 0,
            failed: 0,
            settled: 0,
            misfits: 0,
            counts: DepartureCounts::default(),
        }
    }

    /// A send that succeeded, in the order of the sends, before its stamps are handed over. Returns what is known of
    /// a send that it pushes out.
    pub fn push(&mut self, cookie: u64, t1: MonoNs) -> Option<Departure> {
        let departure = Departure { cookie, t1, t2: None, t3: None };
        let slot = self.slot(self.pushed);
        let old = self.sends[slot].replace(Send { id: self.next_id, failed: self.failed, departure });
        self.pushed += 1;
        self.next_id = self.next_id.wrapping_add(1);
        let out = old.map(|old| old.departure).filter(|old| old.t3.is_none());
        let first = self.pushed.saturating_sub(self.sends.len() as u64);
        if self.open >= first {
            return None; // it was given up before
        }
        self.open = first;
        self.counts.overrun += u64::from(out.is_some());
        out
    }

    /// A send that failed, whatever the error.
    pub fn push_failed(&mut self) {
        self.failed = self.failed.wrapping_add(1);
    }

    /// Takes a stamp; returns the departure that it completes.
    pub fn stamp(&mut self, stamp: TxStamp, mapping: &Mapping) -> Option<Departure> {
        let at = Stamp { at: mapping.mono_of_real(stamp.at), error: mapping.error };
        let latest_t1 = at.at + mapping.error + STEP_SLACK;
        let named = self.find(|send| send.id == stamp.id);
        let fits = |i: &u64| self.send(*i).is_some_and(|send| send.departure.t1 <= latest_t1);
        let index = match named.filter(fits) {
            Some(index) => {
                self.misfits = 0;
                index
            }
            None => match self.resync(stamp, latest_t1) {
                Some(index) => index,
                None => {
                    self.misfits = self.misfits.saturating_add(1);
                    let count = match named {
                        Some(_) => &mut self.counts.before_t1,
                        None => &mut self.counts.unknown_id,
                    };
                    *count += 1;
                    return None;
                }
            },
        };
        let slot = self.slot(index);
        let send = self.sends[slot].as_mut()?;
        let place = match stamp.stage {
            Stage::Sched => &mut send.departure.t2,
            Stage::Software => &mut send.departure.t3,
        };
        if place.is_some() {
            self.counts.repeated += 1;
            return None;
        }
        *place = Some(at);
        match stamp.stage {
            Stage::Sched => {
                // Whether the failures before this send were counted is known now.
                if send.failed.wrapping_sub(self.settled) <= self.failed.wrapping_sub(self.settled) {
                    self.settled = send.failed;
                }
                None
            }
            Stage::Software if index < self.open => {
                self.counts.late += 1;
                None
            }
            Stage::Software => {
                self.counts.complete += 1;
                self.counts.without_t2 += u64::from(send.departure.t2.is_none());
                Some(send.departure)
            }
        }
    }

    /// Gives up the oldest send whose T3 has not come in [`PATIENCE`](Self::PATIENCE). Call until it returns `None`.
    pub fn expire(&mut self, now: MonoNs) -> Option<Departure> {
        while self.open < self.pushed {
            let departure = self.send(self.open)?.departure;
            if departure.t3.is_none() {
                if now - departure.t1 < Self::PATIENCE {
                    return None;
                }
                self.open += 1;
                self.counts.given_up += 1;
                return Some(departure);
            }
            self.open += 1;
        }
        None
    }

    /// Do so many stamps fit no send that the count must be lost? Then switch the stamps on again
    /// ([`transmit::enable`](crate::transmit::enable)) and [`restart`](Self::restart).
    pub fn is_lost(&self) -> bool {
        self.misfits >= MISFITS
    }

    /// The kernel counts from 0 again. Gives up what is pending, without telling each.
    pub fn restart(&mut self) {
        self.counts.given_up += self.pending() as u64;
        self.counts.restarts += 1;
        self.sends.fill(None);
        (self.next_id, self.settled, self.misfits) = (0, self.failed, 0);
        self.open = self.pushed;
    }

    /// Sends that wait for their T3.
    pub fn pending(&self) -> usize {
        (self.open..self.pushed)
            .filter(|i| self.send(*i).is_some_and(|send| send.departure.t3.is_none()))
            .count()
    }

    /// What became of sends and stamps so far.
    pub fn counts(&self) -> DepartureCounts {
        self.counts
    }

    /// After a stamp that can't be of the send it names: finds the send whose it is and renumbers from there on.
    ///
    /// Only T2 is taken during `sendmsg`, so only it says by its time which send that was. No more ids are skipped
    /// than sends failed.
    fn resync(&mut self, stamp: TxStamp, latest_t1: MonoNs) -> Option<u64> {
        if stamp.stage != Stage::Sched || self.failed == self.settled {
            return None;
        }
        let index = self.find(|send| send.departure.t1 <= latest_t1)?;
        let send = self.send(index)?;
        let skipped = stamp.id.wrapping_sub(send.id);
        let possible = send.failed.wrapping_sub(self.settled);
        // Beyond half of the range the difference is negative: before what is settled.
        if possible > u32::MAX / 2 || !(1..=possible).contains(&skipped) {
            return None;
        }
        let failed = send.failed;
        for i in index..self.pushed {
            let slot = self.slot(i);
            if let Some(send) = &mut self.sends[slot] {
                send.id = send.id.wrapping_add(skipped);
            }
        }
        self.next_id = self.next_id.wrapping_add(skipped);
        (self.settled, self.misfits) = (failed, 0);
        self.counts.slips += 1;
        Some(index)
    }

    /// The newest send for which `is` holds.
    fn find(&self, is: impl Fn(&Send) -> bool) -> Option<u64> {
        let first = self.pushed.saturating_sub(self.sends.len() as u64);
        (first..self.pushed).rev().find(|i| self.send(*i).is_some_and(&is))
    }

    fn send(&self, index: u64) -> Option<&Send> {
        self.sends[self.slot(index)].as_ref()
    }

    fn slot(&self, index: u64) -> usize {
        (index % self.sends.len() as u64) as usize
    }
}

impl Default for Departures {
    fn default() -> Self {
        Self::new(Self::SLOTS)
    }
}

#[cfg(test)]
mod tests;
