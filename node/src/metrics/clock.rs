//! The local clock.

use probe_user::clock::{ClockSource, ClockState};
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

use crate::report::ClockReport;

const STATES: [ClockState; 3] =
    [ClockState::Synchronised, ClockState::FreeRunning, ClockState::Unsynchronised];
const SOURCES: [ClockSource; 2] = [ClockSource::Chrony, ClockSource::Adjtimex];

/// The name under which a state is exported.
const fn state_name(state: ClockState) -> &'static str {
    match state {
        ClockState::Synchronised => "synchronised",
        ClockState::FreeRunning => "free_running",
        ClockState::Unsynchronised => "unsynchronised",
    }
}

/// The name under which a source is exported.
const fn source_name(source: ClockSource) -> &'static str {
    match source {
        ClockSource::Chrony => "chrony",
        ClockSource::Adjtimex => "adjtimex",
    }
}

#[derive(Debug)]
pub(super) struct ClockMetrics {
    skew: Gauge,
    bound: Gauge,
    epoch: IntGauge,
    states: [IntGauge; STATES.len()],
    sources: [IntGauge; SOURCES.len()],
}

impl ClockMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let set = |name: &str, help: &str, label: &str| {
            super::register(r, IntGaugeVec::new(Opts::new(name, help), &[label])?)
        };
        let states = set(
            "pikoscope_clock_state",
            "State of the local clock: 1 for the present one, 0 for the others.",
            "state",
        )?;
        let sources = set(
            "pikoscope_clock_source",
            "Source of the local clock's offset: 1 for the present one, 0 for the others.",
            "source",
        )?;
        let this = Self {
            skew: super::gauge(
                r,
                "piko_gossip_clock_skew_seconds",
                "Offset of the local clock from true time, positive when it is fast; NaN when it is not known.",
            )?,
            bound: super::gauge(
                r,
                "pikoscope_clock_bound_seconds",
                "How far off piko_gossip_clock_skew_seconds can be; +Inf when nothing is known.",
            )?,
            epoch: super::register(
                r,
                IntGauge::new("pikoscope_clock_epoch", "Steps of the wall clock seen since the start.")?,
            )?,
            states: STATES.map(|s| states.with_label_values(&[state_name(s)])),
            sources: SOURCES.map(|s| sources.with_label_values(&[source_name(s)])),
        };
        // Before the first reading nothing is known, and zero would be a lie.
        this.skew.set(f64::NAN);
        this.bound.set(f64::INFINITY);
        Ok(this)
    }

    pub(super) fn set(&self, clock: &ClockReport) {
        let seconds = |ns: i64| ns as f64 / 1e9;
        self.skew.set(clock.bound_ns.map_or(f64::NAN, |_| seconds(clock.offset_ns)));
        self.bound.set(clock.bound_ns.map_or(f64::INFINITY, seconds));
        self.epoch.set(clock.epoch.into());
        for (state, gauge) in STATES.iter().zip(&self.states) {
            gauge.set((*state == clock.state).into());
        }
        for (source, gauge) in SOURCES.iter().zip(&self.sources) {
            gauge.set((*source == clock.source).into());
        }
    }
}
