//! This node's own entries.

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::PeerClock;
use probe_user::clock::ClockView;

use super::WriteError;
use super::core::Core;
use super::entry::Stored;
use super::node::cost;
use super::ports;
use super::state::SELF;
use crate::wire::v1::{self, Egress, EntryStamp};
use crate::wire::{BEACON_KEY, COMPACT_KEY, INTERNAL_PREFIX, KEY_MAX, LEFT_KEY, PORTS_KEY, PROTO_KEY, v0};

/// The shortest time between two jumps past an earlier run's versions: each makes all own entries travel again.
const RESTART_PAUSE: Span = Span::from_secs(1);
/// The shortest time between two answers to suspicions: each is a change that all nodes pass on.
const REFUTE_PAUSE: Span = Span::from_millis(250);
/// Bytes that a beacon may tell.
const TOLD_MAX: usize = 160;
/// Tombstones that are kept without writing everything anew.
const TOMBSTONES: usize = 32;

impl Core {
    /// Writes an entry of this node, created now. Returns its version.
    ///
    /// # Errors
    /// [`WriteError`] when it cannot be held or cannot travel; nothing changed then.
    pub fn set(
        &mut self,
        key: &str,
        value: &[u8],
        trace_id: Option<[u8; 16]>,
        now: MonoNs,
        clock: &ClockView,
    ) -> Result<u64, WriteError> {
        self.may_write(key, value)?;
        Ok(self.put_own(key, value, Flags { trace_id, ..Flags::default() }, now, clock))
    }

    /// Deletes an entry of this node: a tombstone takes its place and travels like a value.
    ///
    /// # Errors
    /// [`WriteError::NotFound`] when there is none, and those of [`set`](Self::set).
    pub fn delete(&mut self, key: &str, now: MonoNs, clock: &ClockView) -> Result<u64, WriteError> {
        if self.state[SELF].get(key).is_none_or(|held| held.deleted) {
            return Err(WriteError::NotFound);
        }
        self.may_write(key, &[])?;
        let version = self.put_own(key, &[], Flags { deleted: true, ..Flags::default() }, now, clock);
        let tombstones = self.state[SELF].by_key().filter(|(_, entry)| entry.deleted).count();
        if tombstones > TOMBSTONES.max(self.state[SELF].len() / 2) {
            self.rewrite(0, now, clock);
            self.counters.compactions += 1;
        }
        Ok(version)
    }

    fn may_write(&self, key: &str, value: &[u8]) -> Result<(), WriteError> {
        let (own, limits) = (&self.state[SELF], &self.config.limits);
        if !(1..=KEY_MAX).contains(&key.len()) {
            return Err(WriteError::Key { len: key.len() });
        }
        if key.starts_with(INTERNAL_PREFIX) {
            return Err(WriteError::Reserved);
        }
        // It must fit either format: what does not would block all that comes after it.
        let (max, id, addr) = (self.config.max_packet, self.config.id.as_str().len(), self.advertise.len());
        let limit = v1::value_limit(max, id, key.len()).min(v0::value_limit(max, id, addr, key.len()));
        if value.len() > limit {
            return Err(WriteError::TooLarge { len: value.len(), limit });
        }
        let replaced = own.get(key).map(|old| cost(key, &old.value));
        if replaced.is_none() && own.len() >= limits.entries_per_node {
            return Err(WriteError::TooManyEntries { limit: limits.entries_per_node });
        }
        let more = cost(key, value) - replaced.unwrap_or(0).min(cost(key, value));
        for (bytes, limit) in [(own.bytes, limits.bytes_per_node), (self.state.bytes, limits.bytes)] {
            if bytes + more > limit {
                return Err(WriteError::TooManyBytes { bytes: bytes + more, limit });
            }
        }
        if own.version == u64::MAX { Err(WriteError::VersionsUsedUp) } else { Ok(()) }
    }

    fn put_own(&mut self, key: &str, value: &[u8], flags: Flags, now: MonoNs, clock: &ClockView) -> u64 {
        let reading = PeerClock::of(clock, now);
        let stamp = EntryStamp {
            created: clock.mapping.wall(now),
            theta: reading.theta,
            bound: reading.bound,
            hops: 0,
            network: Some(Bounded::default()),
            kernel: Some(Bounded::default()),
            trace_id: flags.trace_id,
            egress: Egress::default(),
        };
        let entry = Stored {
            key: key.into(),
            value: value.into(),
            internal: flags.internal,
            deleted: flags.deleted,
            reversioned: flags.reversioned,
            stamp: Some(stamp),
        };
        let before = self.state[SELF].version;
        let version = before.saturating_add(1);
        self.state.put(SELF, version, entry, now);
        if key != BEACON_KEY {
            self.eager.note(SELF, before, now);
        }
        version
    }

    /// What every node says of itself at the start.
    pub(super) fn introduce(&mut self, now: MonoNs, clock: &ClockView) {
        if let Some(version) = self.config.told_version() {
            self.put_own(PROTO_KEY, version.to_string().as_bytes(), Flags::INTERNAL, now, clock);
        }
        if !self.config.source_ports.is_empty() {
            let ports = ports::write(&self.config.source_ports);
            self.put_own(PORTS_KEY, ports.as_bytes(), Flags::INTERNAL, now, clock);
            self.note_ports_told();
        }
        self.beacon(now, clock);
    }

    /// What the next beacons tell all nodes besides their number: a short text, in which this core sees no meaning. A
    /// longer one than [`TOLD_MAX`] is not told.
    pub fn tell(&mut self, text: &str) {
        if text.len() <= TOLD_MAX {
            text.clone_into(&mut self.told);
        }
    }

    pub(super) fn beacon(&mut self, now: MonoNs, clock: &ClockView) {
        self.beacons += 1;
        let value = match self.told.as_str() {
            "" => self.beacons.to_string(),
            told => format!("{} {told}", self.beacons),
        };
        self.put_own(BEACON_KEY, value.as_bytes(), Flags::INTERNAL, now, clock);
    }

    /// Someone suspects this node, known at `version`.
    pub(super) fn suspected(&mut self, version: u64, now: MonoNs, clock: &ClockView) {
        let own = self.state[SELF].version;
        if version > own {
            // Of an earlier run, or forged: no version could ever be above it.
            self.counters.suspected_ahead += 1;
            self.find_restart(version, now);
        } else if version == own {
            if now >= self.refute_at {
                self.refute(now, clock);
            } else {
                self.refute_due = true;
                self.beacon_at = self.beacon_at.min(self.refute_at);
            }
        }
    }

    /// Says that this node is alive after all: a version that nobody who suspects it has seen.
    pub(super) fn refute(&mut self, now: MonoNs, clock: &ClockView) {
        self.counters.refutations += 1;
        self.refute_at = now + REFUTE_PAUSE;
        self.refute_due = false;
        let before = self.state[SELF].version;
        self.beacon(now, clock);
        self.eager.note(SELF, before, now);
    }

    /// Says that this node leaves.
    pub(super) fn say_goodbye(&mut self, now: MonoNs, clock: &ClockView) {
        self.put_own(LEFT_KEY, &[], Flags::INTERNAL, now, clock);
    }

    /// Someone knows this node at `version`. If this run never told anyone of that one, it is from an earlier run
    /// under the same id: whoever knows it would take nothing from us, or mix the two up. So jump past it, with
    /// everything we have.
    pub(super) fn find_restart(&mut self, version: u64, now: MonoNs) {
        self.find_past(version, self.given.max(self.given_by_join), now);
    }

    /// A seed knew this node at `version` before this run asked to join.
    pub(super) fn find_restart_at_join(&mut self, version: u64, now: MonoNs) {
        self.find_past(version, self.given, now);
    }

    fn find_past(&mut self, version: u64, given: u64, now: MonoNs) {
        let own = self.state[SELF].version;
        if version <= given || now < self.restart_at {
            return;
        }
        if version.saturating_sub(own) > self.config.limits.version_jump {
            self.counters.version_jump += 1;
            return;
        }
        self.restart_at = now + RESTART_PAUSE;
        self.restart_above = self.restart_above.max(version);
    }

    /// Jumps past an earlier run's versions, if one was found.
    pub(super) fn restart(&mut self, now: MonoNs, clock: &ClockView) {
        let above = std::mem::take(&mut self.restart_above);
        if above > 0 {
            self.counters.restarts_found += 1;
            self.rewrite(above, now, clock);
        }
    }

    /// Puts everything live under new versions and voids what was before.
    fn rewrite(&mut self, floor: u64, now: MonoNs, clock: &ClockView) {
        let void = self.state.reversion_own(floor, now);
        let flags = Flags { reversioned: true, ..Flags::INTERNAL };
        self.put_own(COMPACT_KEY, void.to_string().as_bytes(), flags, now, clock);
        self.note_ports_told();
    }

    /// Someone was told of a node's entries up to `version`.
    pub(super) fn gave(&mut self, index: usize, version: Option<u64>) {
        if index == SELF {
            self.given = self.given.max(version.unwrap_or(0));
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    internal: bool,
    deleted: bool,
    reversioned: bool,
    trace_id: Option<[u8; 16]>,
}

impl Flags {
    const INTERNAL: Self = Self { internal: true, deleted: false, reversioned: false, trace_id: None };
}
