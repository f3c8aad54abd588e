//! Two hosts' stamps on one timeline (DESIGN section 3).
//!
//! `d(A->B) = (R_B + c_B) - (S_A + c_A)` with `c = -theta`; bound `E = eps_A + eps_B + mapping errors`.
//! Negative results are possible (two errors larger than the path) and are kept.

use probe_ebpf::time::{Bounded, MonoNs, Span, UtcNs, WallNs};
use serde::{Deserialize, Serialize};

use crate::clock::{ClockState, ClockView, DRIFT_PPB, correct};

/// Which stamp stands for the moment of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxStage {
    /// T1: just before `sendmsg`; the sender's stack and qdisc are inside the measured time.
    AppTx,
}

/// How a one-way time was moved onto one timeline, and so what it can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Both hosts' NTP readings: sees asymmetric paths, but not a clock that lies.
    Ntp,
    /// NTP's interval, narrowed by what the packets between the hosts allow: sees asymmetric paths as far as the bound
    /// tells, and a clock that lies by more than the bounds and the least one-way time.
    Fused,
    /// The packets between the hosts alone: sees changes and drift, but not asymmetry, since it makes the least times
    /// of both directions the same.
    PeerOnly,
    /// Nothing is known of the clocks: the two walls' plain difference, which shows changes at most.
    None,
}

/// The sender's clock reading as it travels in a v1 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerClock {
    /// The sender's `theta` at the time of sending.
    pub theta: Span,
    /// Its bound, mapping error included.
    pub bound: Span,
    /// How far the sender trusts it.
    pub state: ClockState,
    /// Number of the sender's clock epoch, modulo 128: a change means that the wall clock was stepped between.
    pub epoch: u8,
}

impl PeerClock {
    /// What this host tells its peers of its clock at `when`.
    pub fn of(local: &ClockView, when: MonoNs) -> Self {
        let theta = local.offset.at(when);
        Self {
            theta: theta.value,
            bound: theta.bound + local.mapping.error,
            state: local.offset.state,
            epoch: (local.mapping.epoch % 128) as u8,
        }
    }
}

impl PeerClock {
    /// The reading after `age` has passed (of either sign): the bound grows as in [`ClockOffset::at`](crate::clock::ClockOffset::at).
    pub fn at(&self, age: Span) -> Bounded {
        Bounded::new(self.theta, self.bound + age.drift(DRIFT_PPB))
    }
}

/// When and by which clock a packet was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentStamp {
    /// The sender's wall clock, uncorrected.
    pub wall: WallNs,
    /// The sender's clock reading.
    pub clock: PeerClock,
    /// Which stamp `wall` is.
    pub stage: TxStage,
}

impl OneWay {
    /// The wire's part and the sender's kernel's, as far as they can be told apart.
    pub fn split(&self) -> (Bounded, Bounded) {
        let egress = self.egress.unwrap_or_default();
        (self.time - egress, egress)
    }

    /// The same, when T4 is known to this much only.
    pub fn stamped_to(self, error: Span) -> Self {
        Self { time: Bounded::new(self.time.value, self.time.bound + error), ..self }
    }
}

impl SentStamp {
    /// On the true timeline, with bound.
    pub fn utc(&self) -> (UtcNs, Span) {
        (correct(self.wall, self.clock.theta), self.clock.bound)
    }
}

/// A one-way network time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// Time with its absolute bound; corrected unless [`Correction::None`].
    pub time: Bounded,
    /// What the correction rests on.
    pub correction: Correction,
    /// The same difference without any correction (for reports and tests).
    pub uncorrected: Span,
    /// What the sender's kernel and queue (T1 to T3), which are inside of it, took lately: an estimate until the sender
    /// has told it of this packet. `None` when it never did.
    pub egress: Option<Bounded>,
}

/// Moves another host's stamps onto this host's timeline.
pub trait Align: std::fmt::Debug {
    /// Network time of a packet that `peer` sent at `sent` and this host's kernel stamped at `received` (T4).
    fn one_way(&self, peer: &str, sent: &SentStamp, received: MonoNs, local: &ClockView) -> OneWay;
}

/// By the two hosts' own clock readings and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByReadings;

impl Align for ByReadings {
    fn one_way(&self, _: &str, sent: &SentStamp, received: MonoNs, local: &ClockView) -> OneWay {
        one_way(sent, received, local)
    }
}

/// Network time of a packet sent at `sent` and stamped by this host's kernel at `received` (T4).
pub fn one_way(sent: &SentStamp, received: MonoNs, local: &ClockView) -> OneWay {
    let (from, from_bound) = sent.utc();
    let (to, to_bound) = local.utc(received);
    let trusted = |state| !matches!(state, ClockState::Unsynchronised);
    let uncorrected = local.mapping.wall(received) - sent.wall;
    let (value, correction) = if trusted(sent.clock.state) && trusted(local.offset.state) {
        (to - from, Correction::Ntp)
    } else {
        // Half a correction would be worse than none.
        (uncorrected, Correction::None)
    };
    OneWay { time: Bounded::new(value, from_bound + to_bound), correction, uncorrected, egress: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ClockOffset, ClockSource, Mapping};

    fn view(theta_ms: i64, state: ClockState) -> ClockView {
        ClockView {
            mapping: Mapping {
                real_minus_mono: Span::from_secs(1_000_000),
                error: Span::from_nanos(20),
                epoch: 0,
                injected: Span::from_millis(theta_ms).into(),
            },
            offset: ClockOffset {
                theta: Span::from_millis(theta_ms),
                bound_at_read: Span::from_micros(10),
                read_at: MonoNs::from_nanos(0),
                source: ClockSource::Chrony,
                state,
                rate: None,
            },
        }
    }

    /// Both nodes share MONOTONIC here, so `received - sent` is the truth.
    fn measure(a: &ClockView, b: &ClockView) -> OneWay {
        let (sent, received) = (MonoNs::from_nanos(1_000), MonoNs::from_nanos(41_000));
        let stamp =
            SentStamp { wall: a.mapping.wall(sent), clock: PeerClock::of(a, sent), stage: TxStage::AppTx };
        one_way(&stamp, received, b)
    }

    #[test]
    fn a_known_skew_is_taken_out_in_both_directions() {
        let good = view(0, ClockState::Synchronised);
        let slow = view(-50, ClockState::Synchronised);
        for (a, b, raw_ms) in [(&good, &slow, -50), (&slow, &good, 50)] {
            let got = measure(a, b);
            assert_eq!(got.time.value, Span::from_nanos(40_000));
            assert_eq!(got.uncorrected, Span::from_nanos(40_000) + Span::from_millis(raw_ms));
            // Two NTP bounds, two mapping errors, and the readings' age of 1 and 41 us at 50 ppm, rounded up.
            assert_eq!(got.time.bound, Span::from_nanos(2 * 10_000 + 2 * 20 + 1 + 3));
            assert_eq!(got.correction, Correction::Ntp);
        }
    }

    #[test]
    fn one_unsynchronised_clock_is_enough_to_say_so() {
        let (good, bad) = (view(0, ClockState::FreeRunning), view(0, ClockState::Unsynchronised));
        assert_eq!(measure(&good, &good).correction, Correction::Ntp);
        assert_eq!(measure(&good, &bad).correction, Correction::None);
        assert_eq!(measure(&bad, &good).correction, Correction::None);
    }
}
