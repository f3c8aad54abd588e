//! The switch without its devices: frames in, links, frames out, and the account of them. No IO, no clock.

use std::collections::BTreeMap;

use probe_ebpf::time::MonoNs;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::frame::{Destination, MAX_FRAME, Port, Summary};
use super::link::{Cause, Fate, Link};
use super::log::{Log, Outcome, Record};
use super::queue::Departures;
use super::spec::LinkSpec;

/// How many packets came to which end. A broadcast counts once for each port that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Read from the sender's device.
    pub arrived: u64,
    /// Second copies that links made.
    pub copied: u64,
    /// Written to the receiver's device, copies included.
    pub delivered: u64,
    /// Dropped, in the order of [`Cause::ALL`].
    pub dropped: [u64; Cause::ALL.len()],
    /// Under way now.
    pub queued: u64,
}

impl Counts {
    /// Dropped for this reason.
    pub fn dropped(&self, cause: Cause) -> u64 {
        self.dropped[cause.index()]
    }

    /// Dropped because a link was asked to.
    pub fn ordered(&self) -> u64 {
        self.sum(Cause::is_ordered)
    }

    /// Dropped although no link was asked to: there should be none.
    pub fn unasked(&self) -> u64 {
        self.sum(|cause| !cause.is_ordered())
    }

    /// Whether every packet is accounted for: arrived + copied = delivered + dropped + queued.
    pub fn closes(&self) -> bool {
        self.arrived + self.copied == self.delivered + self.ordered() + self.unasked() + self.queued
    }

    fn sum(&self, which: impl Fn(Cause) -> bool) -> u64 {
        Cause::ALL.into_iter().filter(|cause| which(*cause)).map(|cause| self.dropped(cause)).sum()
    }

    fn add(&mut self, other: &Self) {
        self.arrived += other.arrived;
        self.copied += other.copied;
        self.delivered += other.delivered;
        self.queued += other.queued;
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
    }
}

/// Everything that was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Over all links.
    pub all: Counts,
    /// Frames that were for no port here, and so were not switched.
    pub unroutable: u64,
    /// By link, those that carried anything.
    #[serde(skip)]
    pub links: BTreeMap<(Port, Port), Counts>,
}

impl Totals {
    /// What one link did.
    pub fn link(&self, from: Port, to: Port) -> Counts {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }
}

/// What leaves the switch: to be written to `to`, and then [settled](Fabric::settle).
#[derive(Debug)]
pub struct Departure {
    /// Whose device it is for.
    pub to: Port,
    /// The whole frame.
    pub frame: Vec<u8>,
    record: Record,
}

/// All links, what is under way on them, and the log.
#[derive(Debug)]
pub struct Fabric {
    ports: Vec<Port>,
    links: BTreeMap<(Port, Port), Cell>,
    departures: Departures<Departure>,
    log: Log,
    unroutable: u64,
    /// Buffers of frames that have left, to be used again.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Cell {
    link: Link<ChaCha8Rng>,
    counts: Counts,
}

/// Frames that may be under way at once; beyond it they are dropped and counted as [`Cause::Overload`].
pub const MAX_UNDER_WAY: usize = 100_000;

const MAX_SPARE: usize = 4_096;
/// Buffers made at once, so that the first packets need not wait for memory.
const FIRST_SPARE: usize = 256;

impl Fabric {
    /// Links in both directions between all of `ports`, each as `spec` says and with random numbers of its own.
    pub fn new(ports: &[Port], spec: LinkSpec, seed: u64, log: Log) -> Self {
        let mut links = BTreeMap::new();
        for &from in ports {
            for &to in ports.iter().filter(|to| **to != from) {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(u64::from(from.number()) << 8 | u64::from(to.number()));
                links.insert((from, to), Cell { link: Link::new(spec, rng), counts: Counts::default() });
            }
        }
        let departures = Departures::new(MAX_UNDER_WAY);
        let spare = (0..FIRST_SPARE).map(|_| Vec::with_capacity(MAX_FRAME)).collect();
        Self { ports: ports.to_vec(), links, departures, log, unroutable: 0, spare }
    }

    /// What is asked of a link; `None` if there is no such link.
    pub fn spec(&self, from: Port, to: Port) -> Option<&LinkSpec> {
        self.links.get(&(from, to)).map(|cell| cell.link.spec())
    }

    /// Asks something else of a link from now on; whether there is such a link.
    pub fn set(&mut self, from: Port, to: Port, spec: LinkSpec) -> bool {
        let cell = self.links.get_mut(&(from, to));
        cell.map(|cell| cell.link.set(spec)).is_some()
    }

    /// Takes in a frame that was read from `from`'s device at `now`.
    pub fn arrive(&mut self, now: MonoNs, from: Port, frame: &[u8]) {
        let Some(summary) = Summary::read(frame) else {
            self.unroutable += 1;
            return;
        };
        match summary.destination {
            Destination::One(to) => self.offer(now, from, to, &summary, frame),
            Destination::All => {
                for i in 0..self.ports.len() {
                    if self.ports[i] != from {
                        self.offer(now, from, self.ports[i], &summary, frame);
                    }
                }
            }
            Destination::Nobody => self.unroutable += 1,
        }
    }

    fn offer(&mut self, now: MonoNs, from: Port, to: Port, summary: &Summary, frame: &[u8]) {
        let Some(cell) = self.links.get_mut(&(from, to)) else {
            self.unroutable += 1;
            return;
        };
        cell.counts.arrived += 1;
        let record = Record {
            from,
            to,
            key: summary.key,
            class: summary.class,
            length: u16::try_from(frame.len()).unwrap_or(u16::MAX),
            copy: false,
            arrival: now,
            asked: now,
            departure: now,
            outcome: Outcome::Queued,
        };
        let elsewhere = cell.link.spec().source_port.is_some_and(|port| summary.source_port != Some(port));
        let fate = if elsewhere {
            Fate::Deliver { at: now, doubled: false }
        } else {
            cell.link.offer(now, frame.len())
        };
        match fate {
            Fate::Drop(cause) => {
                cell.counts.dropped[cause.index()] += 1;
                self.log.push(Record { outcome: Outcome::Dropped(cause), ..record });
            }
            Fate::Deliver { at, doubled } => {
                self.hold(Record { asked: at, ..record }, frame);
                if doubled {
                    self.cell(&record).counts.copied += 1;
                    self.hold(Record { asked: at, copy: true, ..record }, frame);
                }
            }
        }
    }

    fn hold(&mut self, record: Record, frame: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        let departure = Departure { to: record.to, frame: buffer, record };
        match self.departures.push(record.asked, departure) {
            Ok(()) => self.cell(&record).counts.queued += 1,
            Err(departure) => self.drop(departure, record.arrival, Cause::Overload),
        }
    }

    /// When the next frame is due.
    pub fn next(&self) -> Option<MonoNs> {
        self.departures.next()
    }

    /// The next frame that is due at `now`. What a cut link still had under way is dropped instead.
    pub fn depart(&mut self, now: MonoNs) -> Option<Departure> {
        loop {
            let (_, departure) = self.departures.pop_due(now)?;
            let cell = self.cell(&departure.record);
            cell.counts.queued -= 1;
            if !cell.link.spec().partition {
                return Some(departure);
            }
            self.drop(departure, now, Cause::Partition);
        }
    }

    /// Notes that a frame was handed to its device at `at`, or was `refused` by it.
    pub fn settle(&mut self, departure: Departure, at: MonoNs, refused: bool) {
        if refused {
            return self.drop(departure, at, Cause::Refused);
        }
        self.cell(&departure.record).counts.delivered += 1;
        self.log.push(Record { departure: at, outcome: Outcome::Delivered, ..departure.record });
        self.recycle(departure.frame);
    }

    fn drop(&mut self, departure: Departure, at: MonoNs, cause: Cause) {
        self.cell(&departure.record).counts.dropped[cause.index()] += 1;
        self.log.push(Record { departure: at, outcome: Outcome::Dropped(cause), ..departure.record });
        self.recycle(departure.frame);
    }

    fn recycle(&mut self, frame: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(frame);
        }
    }

    fn cell(&mut self, record: &Record) -> &mut Cell {
        self.links.get_mut(&(record.from, record.to)).expect("a record is only made for a link that exists")
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { unroutable: self.unroutable, ..Totals::default() };
        for (link, cell) in &self.links {
            if cell.counts != Counts::default() {
                totals.all.add(&cell.counts);
                totals.links.insert(*link, cell.counts);
            }
        }
        totals
    }

    /// Takes out what was logged so far and goes on with `empty`; packets under way are logged there.
    pub fn take_log(&mut self, empty: Log) -> Log {
        std::mem::replace(&mut self.log, empty)
    }

    /// Ends it at `now`: what is still under way is logged as such.
    pub fn close(mut self, now: MonoNs) -> (Totals, Log) {
        let totals = self.totals();
        for (_, departure) in self.departures.drain() {
            self.log.push(Record { departure: now, ..departure.record });
        }
        (totals, self.log)
    }
}

#[cfg(test)]
mod tests;
