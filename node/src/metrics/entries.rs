//! Propagation of entries.

use probe_ebpf::time::Span;
use probe_user::analysis::breakdown::Propagation;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, Registry};

use crate::stats::EntryKind;

/// 100 us to a minute. Both 1 s and 10 s are among them: they are the limits people alert on.
const BUCKETS: [f64; 18] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Total and parts of the propagation of one kind of entry.
#[derive(Debug)]
pub struct EntryMetrics {
    median: Gauge,
    /// In the order of [`parts`].
    times: [Histogram; 4],
    negative: [IntCounter; 4],
}

/// The total, and the parts in the order of [`COMPONENTS`].
fn parts(way: &Propagation) -> [Span; 4] {
    [way.total.value, way.network.value, way.kernel.value, way.application.value]
}

const COMPONENTS: [&str; 3] = ["network", "kernel", "application"];

struct Names {
    kind: EntryKind,
    total: &'static str,
    component: &'static str,
    negative: &'static str,
    what: &'static str,
}

impl EntryMetrics {
    pub(super) fn entries(r: &Registry, latency: &GaugeVec) -> prometheus::Result<Self> {
        Self::new(
            r,
            latency,
            &Names {
                kind: EntryKind::Entry,
                total: "piko_gossip_entry_propagation_seconds",
                component: "piko_gossip_entry_propagation_component_seconds",
                negative: "pikoscope_entry_negative_total",
                what: "an entry",
            },
        )
    }

    pub(super) fn beacons(r: &Registry, latency: &GaugeVec) -> prometheus::Result<Self> {
        Self::new(
            r,
            latency,
            &Names {
                kind: EntryKind::Beacon,
                total: "pikoscope_beacon_propagation_seconds",
                component: "pikoscope_beacon_propagation_component_seconds",
                negative: "pikoscope_beacon_negative_total",
                what: "a beacon",
            },
        )
    }

    fn new(r: &Registry, latency: &GaugeVec, names: &Names) -> prometheus::Result<Self> {
        let what = names.what;
        let total = super::register(
            r,
            Histogram::with_opts(
                HistogramOpts::new(
                    names.total,
                    format!("Time from the creation of {what} at its origin to its application here, corrected for clock offsets."),
                )
                .buckets(BUCKETS.to_vec()),
            )?,
        )?;
        let components = super::register(
            r,
            HistogramVec::new(
                HistogramOpts::new(
                    names.component,
                    format!("Parts of the propagation time of {what}: network and kernel over all hops, and the rest, application, with its waiting for gossip rounds."),
                )
                .buckets(BUCKETS.to_vec()),
                &["component"],
            )?,
        )?;
        let negative = super::counters(
            r,
            names.negative,
            &format!(
                "Propagation times of {what}, and parts of it, that came out below zero: the clocks' errors are larger than the time itself."
            ),
            "component",
        )?;
        let median = latency.with_label_values(&[names.kind.name()]);
        median.set(f64::NAN);
        let [network, kernel, application] = COMPONENTS.map(|c| components.with_label_values(&[c]));
        Ok(Self {
            median,
            times: [total, network, kernel, application],
            negative: ["total", "network", "kernel", "application"].map(|c| negative.with_label_values(&[c])),
        })
    }

    /// One that propagated to here. Takes no lock.
    pub fn observe(&self, way: &Propagation) {
        for (i, time) in parts(way).into_iter().enumerate() {
            self.observe_part(i, time);
        }
    }

    /// One that came over a hop which could not measure its part: only the total is known.
    pub fn observe_without_parts(&self, total: Span) {
        self.observe_part(0, total);
    }

    fn observe_part(&self, part: usize, time: Span) {
        if time.is_negative() {
            self.negative[part].inc();
        } else {
            self.times[part].observe(time.as_secs_f64());
        }
    }

    pub(super) fn set_median(&self, median: Option<Span>) {
        self.median.set(median.map_or(f64::NAN, Span::as_secs_f64));
    }
}
