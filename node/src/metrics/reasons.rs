//! A counter by reason.

use prometheus::{IntCounter, Registry};

/// Counts by reason, for a fixed set of reasons. One that is not in the set is counted as `other`: the
/// number of series stays bounded and nothing goes uncounted.
#[derive(Debug)]
pub struct Reasons {
    known: Vec<(&'static str, IntCounter)>,
    other: IntCounter,
}

impl Reasons {
    pub(super) fn new(
        r: &Registry,
        name: &str,
        help: &str,
        reasons: &[&'static str],
    ) -> prometheus::Result<Self> {
        let family = super::counters(r, name, help, "reason")?;
        Ok(Self {
            known: reasons.iter().map(|reason| (*reason, family.with_label_values(&[*reason]))).collect(),
            other: family.with_label_values(&["other"]),
        })
    }

    /// Once more, for this reason. Takes no lock.
    pub fn inc(&self, reason: &str) {
        self.known.iter().find(|(known, _)| *known == reason).map_or(&self.other, |(_, c)| c).inc();
    }
}
