//! Where T4 is from, when the NIC's stamps were asked for.

use probe_user::hardware::{Outcome, Outcomes};
use prometheus::{IntCounter, Registry};

#[derive(Debug)]
pub(super) struct HardwareMetrics([IntCounter; Outcome::ALL.len()]);

impl HardwareMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let results = super::counters(
            r,
            "pikoscope_hardware_stamps_total",
            "Gossip datagrams received with --hardware-stamps, by what became of the NIC's stamp: \"used\" as T4, or the kernel's stamp was, because the NIC's is missing, of another NIC (other_nic), its clock is not known well enough (no_mapping), or the kernel's stamp is not there (unchecked) or contradicts it (implausible).",
            "result",
        )?;
        Ok(Self(Outcome::ALL.map(|outcome| results.with_label_values(&[outcome.name()]))))
    }

    /// Totals since the start.
    pub(super) fn set(&self, totals: &Outcomes) {
        for (counter, total) in self.0.iter().zip(totals) {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}
