//! What is wrong with the paths between this node and its ring neighbours.

use probe_user::analysis::verdict::{Cause, Verdict};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

#[derive(Debug)]
pub(super) struct VerdictMetrics {
    worst: [IntGauge; Cause::ALL.len()],
    paths: [IntGauge; Cause::ALL.len()],
}

impl VerdictMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let set = |name: &str, help: &str| {
            let family = super::register(r, IntGaugeVec::new(Opts::new(name, help), &["verdict"])?)?;
            Ok::<_, prometheus::Error>(Cause::ALL.map(|cause| family.with_label_values(&[cause.name()])))
        };
        Ok(Self {
            worst: set(
                "pikoscope_verdict",
                "The verdict on the worst path between this node and its ring neighbours: 1 for it, 0 for the others.",
            )?,
            paths: set(
                "pikoscope_verdict_paths",
                "Directed paths between this node and its ring neighbours, by verdict.",
            )?,
        })
    }

    pub(super) fn set<'a>(&self, worst: Option<&Verdict>, all: impl Iterator<Item = &'a Verdict>) {
        let worst = worst.map(|verdict| verdict.cause);
        let mut counts = [0; Cause::ALL.len()];
        all.for_each(|verdict| counts[verdict.cause.index()] += 1);
        for cause in Cause::ALL {
            self.worst[cause.index()].set((worst == Some(cause)).into());
            self.paths[cause.index()].set(counts[cause.index()]);
        }
    }
}
