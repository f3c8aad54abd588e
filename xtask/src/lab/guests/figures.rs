//! The figures of one direction: what its packets took, what the nodes say, and how far that is right.

use std::collections::BTreeMap;
use std::fmt;

use probe_ebpf::time::Span;
use serde::Serialize;

use super::packets::{Correction, Packet};
use super::trial::{ADDED, NAMES};
use crate::lab::packets::quantile;

/// One direction, with or without delay from the first guest to the second. Times are medians in nanoseconds unless
/// they say otherwise; without packets there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) path: String,
    /// Whether the first path had delay added.
    pub(super) delayed: bool,
    /// What this one had.
    pub(super) added_ns: i64,
    pub(super) packets: usize,
    /// Of these, the ones without a network time that is corrected by both clocks; they are not in what is measured.
    pub(super) uncorrected: usize,
    /// What corrections rest on.
    pub(super) corrections: BTreeMap<Correction, usize>,
    /// From TAP device to TAP device.
    pub(super) transit_p50_ns: Option<i64>,
    /// From T1 to T4, on the host's clock.
    pub(super) truth_p50_ns: Option<i64>,
    /// How far the truth may be off.
    pub(super) truth_bound_p50_ns: Option<i64>,
    /// Truth less transit: emulated processors, devices and interrupts.
    pub(super) emulation_p50_ns: Option<i64>,
    /// By the receiving node.
    pub(super) measured_p50_ns: Option<i64>,
    /// Measured less transit.
    pub(super) residual_p50_ns: Option<i64>,
    /// Measured less truth, without sign.
    pub(super) error_p50_ns: Option<i64>,
    pub(super) error_p99_ns: Option<i64>,
    /// By the receiving node.
    pub(super) bound_p50_ns: Option<i64>,
    /// Share of packets whose truth, taken from the middle of what it can be, lies within the bound.
    pub(super) covered_percent: f64,
    /// Share of packets whose truth lies within the bound, wherever in its own bound it is.
    pub(super) certain_percent: f64,
    /// Share of packets whose truth lies outside the bound, wherever in its own bound it is.
    pub(super) missed_percent: f64,
    /// Share of packets whose transit alone lies within the bound.
    pub(super) transit_covered_percent: f64,
}

impl Figures {
    /// Of packets that all have this in common.
    pub(super) fn of(from: usize, delayed: bool, packets: &[Packet]) -> Self {
        let quantile = |value: &dyn Fn(&Packet) -> Option<Span>, share: f64| {
            quantile(packets.iter().filter_map(value).map(Span::as_nanos), share)
        };
        let correction = |packet: &Packet| packet.measured?.correction;
        let is_by_clocks = |packet: &&Packet| correction(packet).is_some_and(Correction::is_by_clocks);
        let corrected: Vec<Packet> = packets.iter().filter(is_by_clocks).copied().collect();
        // A node that says that it cannot correct a time claims nothing of it.
        let measured = |packet: &Packet| Some(packet.measured.filter(|_| is_by_clocks(&packet))?.time);
        let share = |holds: &dyn Fn(&Packet) -> bool| {
            100.0 * corrected.iter().filter(|packet| holds(packet)).count() as f64
                / corrected.len().max(1) as f64
        };
        let mut corrections = BTreeMap::new();
        for correction in packets.iter().filter_map(correction) {
            *corrections.entry(correction).or_default() += 1;
        }
        let error = |packet: &Packet| Some((measured(packet)?.value - packet.truth.value).abs());
        let bound = |packet: &Packet| measured(packet).map(|measured| measured.bound);
        let slack = |packet: &Packet| Some(bound(packet)? - error(packet)?);
        Self {
            path: format!("{}>{}", NAMES[from], NAMES[1 - from]),
            delayed,
            added_ns: if delayed && from == 0 { ADDED.as_nanos() } else { 0 },
            packets: packets.len(),
            uncorrected: packets.len() - corrected.len(),
            corrections,
            transit_p50_ns: quantile(&|packet| Some(packet.transit), 0.5),
            truth_p50_ns: quantile(&|packet| Some(packet.truth.value), 0.5),
            truth_bound_p50_ns: quantile(&|packet| Some(packet.truth.bound), 0.5),
            emulation_p50_ns: quantile(&|packet| Some(packet.truth.value - packet.transit), 0.5),
            measured_p50_ns: quantile(&|packet| measured(packet).map(|measured| measured.value), 0.5),
            residual_p50_ns: quantile(&|packet| Some(measured(packet)?.value - packet.transit), 0.5),
            error_p50_ns: quantile(&error, 0.5),
            error_p99_ns: quantile(&error, 0.99),
            bound_p50_ns: quantile(&bound, 0.5),
            covered_percent: share(&|packet| slack(packet).is_some_and(|slack| slack >= Span::ZERO)),
            certain_percent: share(&|packet| slack(packet).is_some_and(|slack| slack >= packet.truth.bound)),
            missed_percent: share(&|packet| {
                slack(packet).is_none_or(|slack| slack + packet.truth.bound < Span::ZERO)
            }),
            transit_covered_percent: share(&|packet| {
                measured(packet).is_some_and(|measured| measured.covers(packet.transit))
            }),
        }
    }

    /// The columns' names.
    pub(super) fn heading() -> String {
        format!(
            "{:4} {:>9} {:>7} {:>8} {:>15} {:>9} {:>9} {:>9} {:>15} {:>7} {:>9} {:>9} {:>8} {:>13}",
            "path",
            "a>b has",
            "packets",
            "transit",
            "truth",
            "emulation",
            "measured",
            "residual",
            "error p50, p99",
            "bound",
            "covered",
            "certainly",
            "missed",
            "transit alone"
        )
    }

    /// What they mean.
    pub(super) const LEGEND: &str = "\
        Medians in ms. transit: from TAP device to TAP device, by the host's stamps. truth: from T1 in the sending to T4 in\n\
        the receiving guest, their clocks bracketed on the host's by causality alone. emulation: truth less transit, which\n\
        passes inside the guests and so belongs to what they measure. residual: measured less transit. error: measured\n\
        less truth. covered: the truth is inside the node's bound; certainly so, or certainly missed: wherever within its\n\
        own ± it is. transit alone: so often the transit would be inside; the bound is not for it, as it leaves the emulation out.";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: Option<i64>| ns.map_or("-".to_owned(), |ns| format!("{:.3}", ns as f64 / 1e6));
        write!(
            f,
            "{:4} {:>9} {:7} {:>8} {:>15} {:>9} {:>9} {:>9} {:>15} {:>7} {:8.2}% {:8.2}% {:7.2}% {:12.2}%",
            self.path,
            if self.delayed { format!("{ADDED} more") } else { "no delay".to_owned() },
            self.packets,
            ms(self.transit_p50_ns),
            format!("{} ± {}", ms(self.truth_p50_ns), ms(self.truth_bound_p50_ns)),
            ms(self.emulation_p50_ns),
            ms(self.measured_p50_ns),
            ms(self.residual_p50_ns),
            format!("{}, {}", ms(self.error_p50_ns), ms(self.error_p99_ns)),
            ms(self.bound_p50_ns),
            self.covered_percent,
            self.certain_percent,
            self.missed_percent,
            self.transit_covered_percent,
        )
    }
}
