//! What the hooks of tier 2 cost the host.

use probe_user::hooks::HookCost;
use prometheus::{CounterVec, IntCounterVec, Opts, Registry};

#[derive(Debug)]
pub(super) struct HookMetrics {
    runs: IntCounterVec,
    seconds: CounterVec,
}

impl HookMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let seconds = Opts::new(
            "pikoscope_hook_run_seconds_total",
            "Time the kernel spent in a hook of tier 2, for packets of the whole host; none without --probe-stats.",
        );
        Ok(Self {
            runs: super::counters(
                r,
                "pikoscope_hook_runs_total",
                "Runs of a hook of tier 2 that the kernel timed, for packets of the whole host; none without --probe-stats.",
                "program",
            )?,
            seconds: super::register(r, CounterVec::new(seconds, &["program"])?)?,
        })
    }

    /// Totals since the start.
    pub(super) fn set(&self, costs: &[HookCost]) {
        for cost in costs {
            let (runs, seconds) = (
                self.runs.with_label_values(&[cost.program]),
                self.seconds.with_label_values(&[cost.program]),
            );
            runs.inc_by(cost.runs.saturating_sub(runs.get()));
            seconds.inc_by((cost.time.as_secs_f64() - seconds.get()).max(0.0));
        }
    }
}
