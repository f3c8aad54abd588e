//! Where a path's trouble comes from: the verdict (DESIGN sections 1 and 3).
//!
//! Each directed path has a [`PathJudge`], run by either end. It is fed with whole and half journeys and with loss, and
//! says about once a second what is wrong, with the evidence in one sentence. What it compares with is the path's own
//! quiet past ([`learn`]), beyond absolute floors ([`leg`]):
//!
//! * a leg is too long by its *median* (a delayed way) or by its *tail* (a process that stops for 200 ms each second:
//!   the median journey is normal); the leg with most of the excess time of all journeys is the cause;
//! * one-way times cross clocks: a change counts when it exceeds its relative bound, and when the sum of both directions,
//!   in which the clocks cancel, changed too; an antisymmetric change is a clock's;
//! * a cause is said after two evaluations in a row that found it, and no more after three that did not.
//!
//! Blind spot: T4 is taken after NIC, interrupt and NAPI (unless the NIC stamps it), and T3 before the driver's queue. A
//! host that is short of CPU can lengthen `network`; then the verdict is [`Cause::NetworkOrHostSoftirq`].
//!
//! No IO, no clock reads; the same input gives the same verdicts ([`record`]). About 20 kB per path.

mod cause;
mod circumstances;
mod judge;
mod learn;
mod leg;
mod localise;
mod loss;
mod network;
mod ports;
pub mod record;
mod sentence;
mod serial;
mod standing;
mod summary;
#[cfg(test)]
mod tests;
mod window;

use probe_ebpf::time::{Bounded, MonoNs, Span};

pub use cause::{Cause, Confidence};
pub use circumstances::{Change, Circumstances, HostEvidence, STALE};
pub use judge::{LEAST_SAMPLES, PathJudge};
pub use localise::{Diagnosis, Place, diagnose};
pub use loss::{LEAST_LOST, Loss};
pub use ports::LostByPort;
pub use summary::{MOST_BYTES, MOST_WORST, Summary, SummaryError, Worst, short_name};

/// One leg in an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LegNumbers {
    /// Journeys in which it is known.
    pub samples: u32,
    /// Its normal median; `None` while nothing is learnt.
    pub baseline: Option<Span>,
    /// Its median now.
    pub now: Span,
    /// Its 99th percentile now.
    pub p99: Span,
    /// `now` less `baseline`, with the relative bound.
    pub change: Option<Bounded>,
    /// Excess beyond the baseline per journey, counted in journeys that exceed the limit.
    pub excess: Span,
}

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The main cause.
    pub cause: Cause,
    /// A second one at the same time.
    pub also: Option<Cause>,
    /// Journeys that it rests on.
    pub samples: u32,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// Why, in one sentence.
    pub evidence: String,
    /// Since when the main cause stands.
    pub since: MonoNs,
    /// How bad it is: excess time per journey; zero for losses, `ok` and `unknown`.
    pub effect: Span,
    /// By [`Leg::index`](super::journey::Leg::index); `None` for a leg that no journey knows.
    pub legs: [Option<LegNumbers>; 7],
    /// The last half minute.
    pub loss: Loss,
}
