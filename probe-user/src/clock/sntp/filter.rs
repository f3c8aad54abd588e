//! The last measurements of one server, and which of them to believe. Pure.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, RealNs, Span};

use super::{Reply, SntpError};
use crate::clock::{ClockOffset, ClockSource, ClockState, DRIFT_PPB, Leap};

/// Measurements kept, as the clock filter of RFC 5905 (section 10) does.
const KEPT: usize = 8;
/// Reading a clock before or after a system call costs about this much.
const READ_ERROR: Span = Span::from_micros(1);
/// A round trip may come out this much below zero: the server's clock runs at another rate and has a resolution.
const DELAY_SLACK: Span = Span::from_micros(10);
/// Beyond this between the two local clocks, REALTIME was stepped in the middle of the exchange; a slew of 10 % over
/// the longest round trip stays below it.
const STEP: Span = Span::from_millis(100);

/// One exchange with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Local clock minus the server's.
    pub theta: Span,
    /// Of `theta`: half the round trip, half the root delay, root dispersion, precision, and reading the clocks.
    pub bound: Span,
    /// When the reply came.
    pub at: MonoNs,
    /// What the server announces.
    pub leap: Leap,
}

impl Sample {
    /// From a reply, and when request and reply passed the local clocks: `(monotonic, real)` each.
    pub fn new(reply: &Reply, sent: (MonoNs, RealNs), received: (MonoNs, RealNs)) -> Result<Self, SntpError> {
        let passed = received.0 - sent.0;
        if (passed - (received.1 - sent.1)).abs() > STEP {
            return Err(SntpError::Absurd("the local clock was stepped meanwhile"));
        }
        let (theta, delay) = reply.exchange(sent.1, received.1);
        if delay < -(DELAY_SLACK + reply.precision) || delay > passed + STEP {
            return Err(SntpError::Absurd("it kept the request for longer than the answer took"));
        }
        let bound = delay.abs().half_up()
            + reply.root_delay.half_up()
            + reply.root_dispersion
            + reply.precision
            + READ_ERROR
            + passed.drift(DRIFT_PPB);
        Ok(Self { theta, bound, at: received.0, leap: reply.leap })
    }

    fn bound_at(&self, now: MonoNs) -> Span {
        self.bound + (now - self.at).drift(DRIFT_PPB)
    }
}

/// The last eight samples of one server.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    samples: VecDeque<Sample>,
}

impl Filter {
    /// Takes the next one.
    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Forgets all: the local clock was stepped.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// The one that says most now, that is with the smallest bound at `now`: a short round trip had the least to hide,
    /// and a new one beats an old one by what the clock may have drifted. Also the newest one's age and leap status.
    pub fn best(&self, now: MonoNs, silent_after: Span) -> Option<(ClockOffset, Span, Leap)> {
        let best = self.samples.iter().rev().min_by_key(|sample| sample.bound_at(now))?;
        let newest = self.samples.back()?;
        let age = now - newest.at;
        let state = if age > silent_after { ClockState::FreeRunning } else { ClockState::Synchronised };
        let offset = ClockOffset {
            theta: best.theta,
            bound_at_read: best.bound,
            read_at: best.at,
            source: ClockSource::Sntp,
            state,
            rate: None,
        };
        Some((offset, age, newest.leap))
    }
}

#[cfg(test)]
mod tests;
