//! Two hosts' stamps on one timeline (DESIGN section 3).
//!
//! `d(A->B) = (R_B + c_B) - (S_A + c_A)` with `c = -theta`; bound `E = eps_A + eps_B + mapping errors`.
//! Negative results are possible (two errors larger than the path) and are kept.

use probe_ebpf::time::{Bounded, MonoNs, Span, UtcNs, WallNs};
use serde::{Deserialize, Serialize};

use crate::clock::{ClockState, ClockView, correct};

/// Which stamp stands for the moment of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxStage {
    /// T1: just before `sendmsg`; the sender's stack and qdisc are inside the measured time.
    AppTx,
}

/// How a one-way time was moved onto one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Both hosts' NTP readings.
    Ntp,
    /// At least one host has no synchronised reading: the value may be off by its whole clock error.
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

impl SentStamp {
    /// On the true timeline, with bound.
    pub fn utc(&self) -> (UtcNs, Span) {
        (correct(self.wall, self.clock.theta), self.clock.bound)
    }
}

/// A one-way network time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// Corrected time and its absolute bound.
    pub time: Bounded,
    /// What the correction rests on.
    pub correction: Correction,
    /// The same difference without any correction (for reports and tests).
    pub uncorrected: Span,
}

/// Network time of a packet sent at `sent` and stamped by this host's kernel at `received` (T4).
pub fn one_way(sent: &SentStamp, received: MonoNs, local: &ClockView) -> OneWay {
    let (from, from_bound) = sent.utc();
    let (to, to_bound) = local.utc(received);
    let trusted = |state| !matches!(state, ClockState::Unsynchronised);
    let correction = if trusted(sent.clock.state) && trusted(local.offset.state) {
        Correction::Ntp
    } else {
        Correction::None
    };
    OneWay {
        time: Bounded::new(to - from, from_bound + to_bound),
        correction,
        uncorrected: local.mapping.wall(received) - sent.wall,
    }
}
