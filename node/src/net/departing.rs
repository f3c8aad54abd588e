//! When this node's packets left its host: T2 and T3, from the socket's error queue or from hooks (tier 2).

use std::os::fd::AsFd;

use probe_ebpf::time::MonoNs;
use probe_user::clock::Mapping;
use probe_user::departures::{Departure, DepartureCounts, Departures, HookDepartures};
use probe_user::hooks::{HookCost, Hooks};
use probe_user::transmit::{self, StampBatch};

use crate::proto::NodeId;
use crate::wire::v1::Sending;

/// Totals since the start, by name.
pub(super) type DepartureTotals = [(&'static str, u64); 12];

/// The packets under way, and whose they are.
#[derive(Debug)]
pub(super) struct Departing {
    source: Source,
    /// By cookie, modulo its length: to whom, and the packet's counter there. `None` for what nobody is to be told of.
    who: Box<[Option<(NodeId, u32)>]>,
    next: u64,
    /// Sends since the error queue was last read.
    unread: usize,
    /// Reads that failed.
    failed_reads: u64,
}

/// Who stamps.
#[derive(Debug)]
enum Source {
    /// Tiers 0 and 1: the kernel, for the socket's error queue.
    ErrorQueue { departures: Departures, batch: StampBatch },
    /// Tier 2.
    Hooks { departures: HookDepartures, hooks: Box<Hooks>, lost: u64 },
}

impl Departing {
    /// The totals of a node that does not stamp.
    pub(super) const NOTHING: DepartureTotals = [
        ("complete", 0),
        ("without_t2", 0),
        ("given_up", 0),
        ("overrun", 0),
        ("unknown_id", 0),
        ("before_t1", 0),
        ("late", 0),
        ("repeated", 0),
        ("slips", 0),
        ("restarts", 0),
        ("unread", 0),
        ("hook_ring_failed", 0),
    ];

    /// Of a socket whose stamps were just switched on.
    pub(super) fn new() -> Self {
        Self::of(Source::ErrorQueue { departures: Departures::default(), batch: StampBatch::new() })
    }

    /// Of a socket that has hooks.
    pub(super) fn hooked(hooks: Hooks) -> Self {
        Self::of(Source::Hooks { departures: HookDepartures::default(), hooks: Box::new(hooks), lost: 0 })
    }

    fn of(source: Source) -> Self {
        Self { source, who: vec![None; Departures::SLOTS].into(), next: 0, unread: 0, failed_reads: 0 }
    }

    /// A packet was sent, `t1` just before. `who`: the member it went to, and its counter there.
    pub(super) fn sent(&mut self, who: Option<(NodeId, u32)>, t1: MonoNs) {
        let slot = self.slot(self.next);
        self.who[slot] = who;
        match &mut self.source {
            // What it pushes out was given up long ago, or never left.
            Source::ErrorQueue { departures, .. } => {
                let _ = departures.push(self.next, t1);
            }
            Source::Hooks { departures, .. } => departures.push(self.next, t1),
        }
        self.next += 1;
        self.unread += 1;
    }

    /// A packet could not be sent, which was tried at `t1`.
    pub(super) fn failed(&mut self, t1: MonoNs) {
        match &mut self.source {
            Source::ErrorQueue { departures, .. } => departures.push_failed(),
            Source::Hooks { departures, .. } => departures.push_failed(t1),
        }
    }

    /// What hooks cost the host, if there are any.
    pub(super) fn hook_costs(&self) -> Option<[HookCost; 2]> {
        match &self.source {
            Source::ErrorQueue { .. } => None,
            Source::Hooks { hooks, .. } => Some(hooks.costs()),
        }
    }

    /// Was anything sent since it was last read?
    pub(super) fn is_due(&self) -> bool {
        self.unread > 0
    }

    /// Reads it, and calls `each` for every member's packet that left: to whom, T1, and its report. `all`: also what
    /// came later than its packet was sent.
    pub(super) fn read(
        &mut self,
        socket: impl AsFd,
        mapping: &Mapping,
        all: bool,
        mut each: impl FnMut(&NodeId, MonoNs, Sending),
    ) {
        let expected = 2 * std::mem::take(&mut self.unread);
        let who = &mut self.who;
        let mut tell = |departure: Departure, hooked| {
            let slot = (departure.cookie % who.len() as u64) as usize;
            if let Some((to, counter)) = who[slot].take() {
                each(&to, departure.t1, report(&departure, counter, hooked));
            }
        };
        match &mut self.source {
            Source::ErrorQueue { departures, batch } => {
                let take = |stamp| {
                    if let Some(departure) = departures.stamp(stamp, mapping) {
                        tell(departure, false);
                    }
                };
                let read = if all { batch.read(socket, take) } else { batch.take(socket, expected, take) };
                self.failed_reads += u64::from(read.is_err());
            }
            Source::Hooks { departures, hooks, .. } => {
                hooks.drain(|event| departures.take(event));
                departures.finish(|departure| tell(departure, true));
            }
        }
    }

    /// Is there something to read although nothing woke us? Only hooks leave things without a word: those of packets
    /// that had to wait in a queue.
    pub(super) fn has_to_be_asked(&self) -> bool {
        match &self.source {
            Source::ErrorQueue { .. } => false,
            Source::Hooks { departures, .. } => departures.pending() > 0,
        }
    }

    /// Once a second: gives up what never left, and counts anew when the kernel's count was lost.
    pub(super) fn housekeep(&mut self, socket: impl AsFd, now: MonoNs) {
        match &mut self.source {
            Source::ErrorQueue { departures, .. } => {
                while departures.expire(now).is_some() {}
                if departures.is_lost() {
                    match transmit::enable(socket) {
                        Ok(()) => departures.restart(),
                        Err(e) => tracing::debug!("transmit stamps could not be switched on again: {e}"),
                    }
                }
            }
            Source::Hooks { departures, hooks, lost } => {
                while departures.expire(now).is_some() {}
                *lost = hooks.lost().iter().sum();
            }
        }
    }

    fn counts(&self) -> (DepartureCounts, u64) {
        match &self.source {
            Source::ErrorQueue { departures, .. } => (departures.counts(), 0),
            Source::Hooks { departures, lost, .. } => (departures.counts(), *lost),
        }
    }

    /// Totals since the start, by name.
    pub(super) fn labelled(&self) -> DepartureTotals {
        let (counts, hooks_lost) = self.counts();
        [
            ("complete", counts.complete),
            ("without_t2", counts.without_t2),
            ("given_up", counts.given_up),
            ("overrun", counts.overrun),
            ("unknown_id", counts.unknown_id),
            ("before_t1", counts.before_t1),
            ("late", counts.late),
            ("repeated", counts.repeated),
            ("slips", counts.slips),
            ("restarts", counts.restarts),
            ("unread", self.failed_reads),
            ("hook_ring_failed", hooks_lost),
        ]
    }

    fn slot(&self, cookie: u64) -> usize {
        (cookie % self.who.len() as u64) as usize
    }
}

fn report(departure: &Departure, counter: u32, hooked: bool) -> Sending {
    let egress = departure.t2.map(|t2| t2.at - departure.t1);
    let qdisc = departure.t3.map(|t3| t3.at - departure.t2.map_or(departure.t1, |t2| t2.at));
    Sending { counter, egress, qdisc, hooked }
}
