//! The driver's clocks: when they are read, and what makes void what was known.

use probe_user::clock::ClockOffset;
use probe_user::clock::honesty::Verdict;
use probe_user::clock::mapping::mono_now;
use probe_user::clock::reader::Reading;
use probe_user::clock::watch::Disturbance;

use super::Driver;
use crate::journey::honesty_sentence;
use crate::proto::NodeId;

impl Driver {
    /// Reads where the clocks stand to each other. A new epoch makes all void that was known of this clock.
    pub(super) fn read_mapping(&mut self) {
        let epoch = self.clock.mapping.epoch;
        self.clock.mapping = self.mapping.read();
        if self.clock.mapping.epoch != epoch {
            tracing::warn!("the wall clock begins a new epoch ({})", self.clock.mapping.epoch);
            self.clock.offset = self.clock.offset.voided();
            self.stepped_at = mono_now();
            self.stamping.stepped(self.stepped_at);
        }
    }

    /// Once a second: what happened to the clocks.
    pub(super) fn look_at_clocks(&mut self) {
        if let Some(disturbance) = self.disturbances.look() {
            match disturbance {
                Disturbance::Slept { time } => tracing::warn!("the host slept for {time}"),
                Disturbance::Slew { ppb } => {
                    tracing::warn!(
                        "the clock's rate was changed by {:.1} ppm: it is slewed",
                        ppb as f64 / 1e3
                    );
                }
            }
            self.mapping.begin_epoch();
        }
        self.read_mapping();
        if let Some(hardware) = &mut self.stamping.hardware {
            hardware.read_clock();
        }
        if self.disturbances.is_slewing() {
            // Readings are out of date as soon as they are taken.
            self.stepped_at = mono_now();
            self.clock.offset = self.clock.offset.voided();
        }
    }

    /// Uses what the daemons last said, if that is new, and holds: not from before a step, nor while the clock is slewed.
    pub(super) fn take_reading(&mut self) {
        if let Some(reading) = self.readings.changed()
            && reading.offset.read_at >= self.stepped_at
            && !self.disturbances.is_slewing()
        {
            // Not whenever the note changes: it tells ages, which change with every reading.
            let kind =
                |offset: &ClockOffset, note: &Option<String>| (offset.source, offset.state, note.is_some());
            if kind(&reading.offset, &reading.note) != kind(&self.clock.offset, &self.clock_note)
                || reading.disagreements != self.disagreements
            {
                tell(&reading);
            }
            self.clock.offset = reading.offset;
            self.clock_note = reading.note;
            self.disagreements = reading.disagreements;
        }
    }
}

/// One line about the clock, as it is told at the start and when something about it changes.
pub(super) fn tell(reading: &Reading) {
    let (source, state) = (reading.offset.source, reading.offset.state);
    match &reading.note {
        Some(note) => tracing::warn!(?source, ?state, "clock: {note}"),
        None => tracing::info!(?source, ?state, "clock: all is well"),
    }
}

/// One line when clocks begin or cease to contradict each other.
pub(super) fn tell_honesty(verdict: &Verdict<NodeId>) {
    match verdict {
        Verdict::Honest => tracing::info!("clocks: no clock contradicts another"),
        Verdict::Unchecked => tracing::info!("clocks: there is no other clock to compare with"),
        verdict => tracing::warn!("clocks: {}", honesty_sentence(verdict)),
    }
}
