//! The last readings of one clock, and how fast it runs by them. Pure.
//!
//! A reading is a point; what is wanted is the offset at the moment of a stamp, which lies between two readings or
//! (mostly) after the newest. So the history interpolates, and extrapolates by the slope that the readings show.
//!
//! That slope is the Theil-Sen estimate: the median of the slopes of pairs of readings, here of pairs that lie far
//! apart, so that jitter of a few microseconds counts little; up to three readings in ten may be off without harm.

use std::collections::VecDeque;

use probe_ebpf::time::{Bounded, MonoNs, Span};

use super::{ClockOffset, ClockSource, ClockState, DRIFT_PPB, Rate};

/// Readings kept: half a minute of them at two a second.
const KEPT: usize = 64;
/// Of three readings within this time only the outer two are kept, so that a caller in a hurry does not shorten the
/// history: with four readings a second every other one stays.
const APART: Span = Span::from_millis(625);
/// Older readings than this are dropped, however few are left: oscillators follow the room's temperature.
const OLDEST: Span = Span::from_secs(600);
/// The rate comes from this many of the newest readings; after a change of rate it is right again as soon as they
/// have been replaced.
const FITTED: usize = 32;
/// Readings closer together than this say nothing about a rate: 5 us of jitter would look like 3 ppm already.
const LEAST_SPAN: Span = Span::from_secs(2);
/// What kernel and daemons allow at most as a frequency error (`MAXFREQ`, RFC 5905 appendix A.1, and
/// include/linux/timex.h); what is faster is being slewed, and stops doing so at any moment.
const MOST_PPB: f64 = 500_000.0;

/// The offset at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAt {
    /// `theta` then, and its bound.
    pub theta: Bounded,
    /// Of the nearest reading.
    pub state: ClockState,
    /// Of the nearest reading.
    pub source: ClockSource,
    /// When the nearest reading was taken.
    pub read_at: MonoNs,
}

/// Readings of one source within one epoch of the mapping, at most 64 and ten minutes of them.
#[derive(Clone, Debug, Default)]
pub struct ClockHistory {
    /// Whose readings these are.
    origin: Option<Origin>,
    readings: VecDeque<ClockOffset>,
}

/// Readings of different origins do not compare.
type Origin = (u32, usize, ClockSource);

impl ClockHistory {
    /// Takes the reading that source number `index` gave in this `epoch` of the mapping, and gives it back with the
    /// rate that is now known.
    ///
    /// A change of epoch (the clock was stepped) or of the source starts anew, and so does a reading of which nothing
    /// is known. A reading that is not newer than the newest is that one again, and replaces it.
    pub fn push(&mut self, epoch: u32, index: usize, reading: ClockOffset) -> ClockOffset {
        let origin = (epoch, index, reading.source);
        if self.origin != Some(origin) {
            self.readings.clear();
            self.origin = Some(origin);
        }
        if reading.state == ClockState::Unsynchronised {
            self.readings.clear();
            return ClockOffset { rate: None, ..reading };
        }
        while self.readings.back().is_some_and(|newest| newest.read_at >= reading.read_at) {
            self.readings.pop_back();
        }
        let crowded = |before: &ClockOffset| reading.read_at - before.read_at < APART;
        if self.readings.len() >= 2 && self.readings.get(self.readings.len() - 2).is_some_and(crowded) {
            self.readings.pop_back();
        }
        self.readings.push_back(reading);
        while self.readings.len() > KEPT
            || self.readings.front().is_some_and(|oldest| reading.read_at - oldest.read_at > OLDEST)
        {
            self.readings.pop_front();
        }
        let rate = self.fit();
        if let Some(newest) = self.readings.back_mut() {
            newest.rate = rate;
        }
        ClockOffset { rate, ..reading }
    }

    /// How fast the clock gains on true time by the newest readings; `None` before they span two seconds.
    pub fn rate(&self) -> Option<Rate> {
        self.readings.back()?.rate
    }

    /// The offset at `when`; `None` without readings.
    ///
    /// Between two readings it lies on the line through them. True time may have bent away from that line by
    /// `2 x DRIFT_PPB x (when - earlier) x (later - when) / (later - earlier)`: the furthest that a rate which stays
    /// within [`DRIFT_PPB`] of its mean can lead away from the chord. Outside the readings it is
    /// [`ClockOffset::at`] of the nearest.
    pub fn at(&self, when: MonoNs) -> Option<OffsetAt> {
        let after = self.readings.partition_point(|reading| reading.read_at < when);
        let told = |nearest: &ClockOffset, theta| OffsetAt {
            theta,
            state: nearest.state,
            source: nearest.source,
            read_at: nearest.read_at,
        };
        let (Some(later), Some(earlier)) =
            (self.readings.get(after), after.checked_sub(1).and_then(|before| self.readings.get(before)))
        else {
            // The oldest knows the rate only as it was at the time, which was before there was one.
            let nearest = self.readings.get(after.min(self.readings.len().checked_sub(1)?))?;
            let rate = nearest.rate.or(self.rate());
            return Some(told(nearest, ClockOffset { rate, ..*nearest }.at(when)));
        };
        let (since, until) = (when - earlier.read_at, later.read_at - when);
        let nearest = if since < until { earlier } else { later };
        // `earlier < when <= later`, at most ten minutes apart: no overflow, no division by zero.
        let share = since.as_secs_f64() / (later.read_at - earlier.read_at).as_secs_f64();
        let gained = Span::from_secs_f64((later.theta - earlier.theta).as_secs_f64() * share);
        let bend = Span::from_secs_f64(2.0 * until.as_secs_f64() * share).drift(DRIFT_PPB);
        let bound = earlier.bound_at_read.max(later.bound_at_read) + bend;
        Some(told(nearest, Bounded::new(earlier.theta + gained, bound)))
    }

    /// The rate by the newest readings, see the module. Its bound is the largest distance of a pair's slope from it:
    /// jitter is in there, and so is a rate that changed meanwhile, be it within the last second.
    ///
    /// Too fast to be an oscillator: a daemon is slewing the clock and may stop at any time, so nothing is
    /// extrapolated, and the bound holds all of it. Where the slopes scatter by more than [`DRIFT_PPB`] and the
    /// readings' own bounds explain that, nothing has been learnt.
    fn fit(&self) -> Option<Rate> {
        let recent = self.readings.len().saturating_sub(FITTED);
        let readings: Vec<&ClockOffset> = self.readings.range(recent..).collect();
        let span = readings.last()?.read_at - readings.first()?.read_at;
        if span < LEAST_SPAN {
            return None;
        }
        let mut slopes = Vec::new();
        let mut explained = true;
        for (i, earlier) in readings.iter().enumerate() {
            for later in &readings[i + 1..] {
                if (later.read_at - earlier.read_at).as_nanos() < span.as_nanos() / 2 {
                    continue;
                }
                let (slope, own) = slope(earlier, later);
                explained &= slope.abs() <= f64::from(DRIFT_PPB) + own;
                slopes.push(slope);
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        let median = *slopes.get(slopes.len() / 2)?;
        let mut off = (slopes.last()? - median).max(median - slopes.first()?);
        if slopes.len() == 1 {
            // A single pair agrees with itself, which is no reason to believe it.
            return None;
        }
        // Far pairs notice a change of rate late. The last second notices it at once, if it is more than the readings'
        // own bounds can explain.
        let newest = readings.last()?;
        let last_second =
            readings.iter().rev().find(|reading| newest.read_at - reading.read_at >= Span::from_secs(1));
        if let Some((slope, own)) = last_second.map(|reading| slope(reading, newest))
            && (slope - median).abs() > own
        {
            off = off.max((slope - median).abs());
            explained = false;
        }
        // `as` saturates.
        if median.abs() > MOST_PPB {
            return Some(Rate { ppb: 0, bound_ppb: (median.abs() + off).ceil() as u32 });
        }
        if off > f64::from(DRIFT_PPB) && explained {
            return None;
        }
        Some(Rate { ppb: median.round() as i32, bound_ppb: off.ceil() as u32 })
    }
}

/// The slope from one reading to a later one, and how much of it their own bounds can explain, in parts per billion
/// (nanoseconds a second).
fn slope(earlier: &ClockOffset, later: &ClockOffset) -> (f64, f64) {
    let apart = (later.read_at - earlier.read_at).as_secs_f64();
    let per_second = |span: Span| span.as_nanos() as f64 / apart;
    (per_second(later.theta - earlier.theta), per_second(later.bound_at_read + earlier.bound_at_read))
}

#[cfg(test)]
mod tests;
