//! The local clock.

use probe_user::analysis::align::Correction;
use probe_user::clock::{ClockSource, ClockState};
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use crate::report::ClockReport;

const STATES: [ClockState; 3] =
    [ClockState::Synchronised, ClockState::FreeRunning, ClockState::Unsynchronised];
const SOURCES: [ClockSource; 6] = [
    ClockSource::Chrony,
    ClockSource::ClockBound,
    ClockSource::NtpdRs,
    ClockSource::Ntpd,
    ClockSource::Sntp,
    ClockSource::Adjtimex,
];

const VERDICTS: [&str; 4] = ["honest", "lies", "unsure", "unchecked"];
/// What one-way times can be corrected by, as exported.
pub(super) const CORRECTIONS: [(Correction, &str); 4] = [
    (Correction::Ntp, "ntp"),
    (Correction::Fused, "fused"),
    (Correction::PeerOnly, "peer_only"),
    (Correction::None, "none"),
];

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
        ClockSource::ClockBound => "clockbound",
        ClockSource::NtpdRs => "ntpd_rs",
        ClockSource::Ntpd => "ntpd",
        ClockSource::Sntp => "sntp",
        ClockSource::Adjtimex => "adjtimex",
    }
}

#[derive(Debug)]
pub(super) struct ClockMetrics {
    skew: Gauge,
    bound: Gauge,
    drift: Gauge,
    drift_bound: Gauge,
    disagreements: IntCounter,
    epoch: IntGauge,
    states: [IntGauge; STATES.len()],
    sources: [IntGauge; SOURCES.len()],
    verdicts: [IntGauge; VERDICTS.len()],
    own_lie: IntGauge,
    disagreement: Gauge,
    bias: Gauge,
    corrections: [IntGauge; CORRECTIONS.len()],
    peer_bound: Gauge,
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
        let verdicts = set(
            "pikoscope_clock_verdict",
            "Do this host's clock and its peers' agree with the packets between them? 1 for the present verdict, 0 for \
             the others.",
            "verdict",
        )?;
        let corrections = set(
            "pikoscope_clock_peers",
            "Peers by what one-way times from them are corrected with: ntp, fused (NTP narrowed by packets), peer_only \
             (packets alone: asymmetry cannot be seen), none.",
            "correction",
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
            drift: super::gauge(
                r,
                "pikoscope_clock_drift_ppm",
                "What the local clock gains on true time, by its last readings; NaN when they do not tell.",
            )?,
            drift_bound: super::gauge(
                r,
                "pikoscope_clock_drift_bound_ppm",
                "How far off pikoscope_clock_drift_ppm can be; +Inf when it is not known.",
            )?,
            disagreements: super::register(
                r,
                IntCounter::new(
                    "pikoscope_clock_disagreements_total",
                    "How often one of the local clock's sources began to contradict the one in use.",
                )?,
            )?,
            epoch: super::register(
                r,
                IntGauge::new("pikoscope_clock_epoch", "Steps of the wall clock seen since the start.")?,
            )?,
            states: STATES.map(|s| states.with_label_values(&[state_name(s)])),
            sources: SOURCES.map(|s| sources.with_label_values(&[source_name(s)])),
            verdicts: VERDICTS.map(|verdict| verdicts.with_label_values(&[verdict])),
            own_lie: super::register(
                r,
                IntGauge::new(
                    "pikoscope_clock_own_lie",
                    "1 when most peers' packets show that this host's clock is wrong by more than its bound.",
                )?,
            )?,
            disagreement: super::gauge(
                r,
                "pikoscope_clock_disagreement_seconds",
                "How far NTP's word and the packets' are apart at least, on the worst path; 0 when they agree.",
            )?,
            bias: super::gauge(
                r,
                "pikoscope_clock_bias_seconds",
                "What piko_gossip_clock_skew_seconds is wrong by if most peers are right; NaN without a majority.",
            )?,
            corrections: CORRECTIONS.map(|(_, name)| corrections.with_label_values(&[name])),
            peer_bound: super::gauge(
                r,
                "pikoscope_clock_peer_bound_seconds",
                "Median over the peers of how far off the difference to their clocks can be; NaN without peers.",
            )?,
        };
        // Before the first reading nothing is known, and zero would be a lie.
        this.skew.set(f64::NAN);
        this.bound.set(f64::INFINITY);
        this.drift.set(f64::NAN);
        this.drift_bound.set(f64::INFINITY);
        Ok(this)
    }

    pub(super) fn set(&self, clock: &ClockReport) {
        let seconds = |ns: i64| ns as f64 / 1e9;
        self.skew.set(clock.bound_ns.map_or(f64::NAN, |_| seconds(clock.offset_ns)));
        self.bound.set(clock.bound_ns.map_or(f64::INFINITY, seconds));
        self.drift.set(clock.drift_ppb.map_or(f64::NAN, |ppb| f64::from(ppb) / 1e3));
        self.drift_bound.set(clock.drift_bound_ppb.map_or(f64::INFINITY, |ppb| f64::from(ppb) / 1e3));
        self.disagreements.inc_by(clock.disagreements.saturating_sub(self.disagreements.get()));
        self.epoch.set(clock.epoch.into());
        for (verdict, gauge) in VERDICTS.iter().zip(&self.verdicts) {
            gauge.set((*verdict == clock.honesty.verdict).into());
        }
        self.own_lie.set(clock.honesty.own_lie.into());
        self.disagreement.set(clock.honesty.disagreement_ns.map_or(0.0, seconds));
        self.bias.set(clock.honesty.own_bias_ns.map_or(f64::NAN, seconds));
        for ((correction, _), gauge) in CORRECTIONS.iter().zip(&self.corrections) {
            gauge.set(clock.peers.iter().filter(|peer| peer.correction == *correction).count() as i64);
        }
        let mut bounds: Vec<i64> = clock.peers.iter().map(|peer| peer.bound_ns.unwrap_or(i64::MAX)).collect();
        bounds.sort_unstable();
        let median =
            bounds.get(bounds.len() / 2).map(|ns| if *ns == i64::MAX { f64::INFINITY } else { seconds(*ns) });
        self.peer_bound.set(median.unwrap_or(f64::NAN));
        for (state, gauge) in STATES.iter().zip(&self.states) {
            gauge.set((*state == clock.state).into());
        }
        for (source, gauge) in SOURCES.iter().zip(&self.sources) {
            gauge.set((*source == clock.source).into());
        }
    }
}
