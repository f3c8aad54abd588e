//! The last journeys of a path, compact, in an order that does not depend on that of their arrival.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, Leg, SourcePort};

/// Journeys held: 11 kB.
const HELD: usize = 128;
/// What an evaluation looks at ...
pub(super) const RECENT: Span = Span::from_secs(5);
/// ... unless that has fewer journeys than this: then further back,
pub(super) const ENOUGH: usize = 20;
/// ... to here at most.
pub(super) const FURTHEST: Span = Span::from_secs(15);
/// A journey may be this far ahead of the evaluation's time and still be one of the recent.
const AHEAD: Span = Span::from_secs(1);
/// When the journeys held cover less, only a share of them is kept.
const COVERED: Span = Span::from_secs(10);

/// Network times compare within one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) epochs: u64,
    pub(super) correction: Correction,
    pub(super) has_egress: bool,
}

impl Series {
    pub(super) fn key(&self) -> (u64, u8, bool) {
        (self.epochs, self.correction as u8, self.has_egress)
    }

    /// Are both of the same clocks' one-way times, corrected in one way or another?
    pub(super) fn is_kin(&self, other: &Self) -> bool {
        let corrected = self.correction != Correction::None && other.correction != Correction::None;
        corrected && (self.epochs, self.has_egress) == (other.epochs, other.has_egress)
    }
}

/// One journey. Legs on one host are kept with 24 bits of precision, the network time whole, since an offset of the
/// clocks of many seconds may be in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: MonoNs,
    counter: u32,
    /// NaN where it is not known.
    local: [f32; 7],
    network: Option<Span>,
    pub(super) stamps: Span,
    pub(super) series: Series,
    pub(super) queue_has_ingress: bool,
    pub(super) source: Option<SourcePort>,
}

impl From<&Journey> for Sample {
    fn from(journey: &Journey) -> Self {
        let value = |leg: &Leg| journey.leg(*leg).map(|bounded| bounded.value);
        Self {
            at: journey.at,
            counter: journey.counter,
            local: Leg::ALL.map(|leg| match leg {
                Leg::Network => f32::NAN,
                _ => value(&leg).map_or(f32::NAN, |span| span.as_nanos() as f32),
            }),
            network: value(&Leg::Network),
            stamps: journey.stamps.abs(),
            series: Series {
                epochs: journey.epochs,
                correction: journey.correction,
                has_egress: journey.network_has_egress,
            },
            queue_has_ingress: journey.queue_has_ingress,
            source: journey.source,
        }
    }
}

impl Sample {
    /// One leg.
    pub(super) fn leg(&self, leg: Leg) -> Option<Span> {
        match leg {
            Leg::Network => self.network,
            _ => {
                let ns = self.local[leg.index()];
                (!ns.is_nan()).then(|| Span::from_nanos(ns as i64))
            }
        }
    }

    /// All legs that are known, together.
    pub(super) fn total(&self) -> Span {
        Leg::ALL.iter().filter_map(|leg| self.leg(*leg)).fold(Span::ZERO, |sum, leg| sum + leg)
    }

    /// A total order: samples that compare equal are the same.
    fn key(&self) -> impl Ord + use<> {
        let local = self.local.map(f32::to_bits);
        let rest = (self.network, self.stamps, self.queue_has_ingress, self.source);
        (self.at, self.counter, self.series.key(), local, rest)
    }
}

/// The journeys held, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
    /// One of `1 << thinned` journeys is kept.
    thinned: u32,
}

impl Window {
    pub(super) fn observe(&mut self, journey: &Journey) {
        let sample = Sample::from(journey);
        if !self.keeps(&sample) {
            return;
        }
        let key = sample.key();
        let place = self.samples.partition_point(|held| held.key() < key);
        self.samples.insert(place, sample);
        while self.samples.len() > HELD {
            if self.span() < COVERED && self.thinned < 16 {
                self.thinned += 1;
                let kept = Self { samples: VecDeque::new(), thinned: self.thinned };
                self.samples.retain(|held| kept.keeps(held));
            } else {
                self.samples.pop_front();
            }
        }
    }

    /// Which journeys are kept depends on their counters alone, scattered so that no pattern of sending is preferred.
    fn keeps(&self, sample: &Sample) -> bool {
        let scattered = sample.counter.wrapping_mul(0x9e37_79b1);
        self.thinned == 0 || scattered >> (32 - self.thinned) == 0
    }

    fn span(&self) -> Span {
        match (self.samples.front(), self.samples.back()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => Span::ZERO,
        }
    }

    /// Once a second: keeps more again when there are fewer.
    pub(super) fn relax(&mut self, now: MonoNs) {
        self.samples.retain(|sample| sample.at > now - COVERED - FURTHEST);
        if self.thinned > 0 && self.samples.len() < HELD / 4 {
            self.thinned -= 1;
        }
    }

    /// What an evaluation looks at, oldest first.
    pub(super) fn recent(&self, now: MonoNs) -> Vec<&Sample> {
        let mut found: Vec<&Sample> = Vec::with_capacity(HELD);
        for sample in self.samples.iter().rev().filter(|sample| sample.at <= now + AHEAD) {
            let age = now - sample.at;
            if age >= FURTHEST || (age >= RECENT && found.len() >= ENOUGH) {
                break;
            }
            found.push(sample);
        }
        found.reverse();
        found
    }

    /// Those of `from..to`, oldest first.
    pub(super) fn between(&self, from: MonoNs, to: MonoNs) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.at >= from && sample.at < to).collect()
    }
}

/// The series whose network times are judged: of the newest journey's epochs; rather one that knows T3; rather the one
/// with the most journeys.
pub(super) fn judged_series(samples: &[&Sample], least: usize) -> Option<Series> {
    let with_network = || samples.iter().filter(|sample| sample.network.is_some());
    let epochs = with_network().next_back()?.series.epochs;
    let mut counts: Vec<(Series, usize)> = Vec::new();
    for sample in with_network().filter(|sample| sample.series.epochs == epochs) {
        match counts.iter_mut().find(|(series, _)| *series == sample.series) {
            Some((_, count)) => *count += 1,
            None => counts.push((sample.series, 1)),
        }
    }
    let best = counts.into_iter().max_by_key(|(series, count)| {
        let enough = *count >= least;
        (enough && !series.has_egress, *count, series.key())
    });
    best.map(|(series, _)| series)
}
