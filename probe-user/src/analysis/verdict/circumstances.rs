//! What else is known when a path is judged: the hosts' load, the clocks, the opposite direction.

use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::{Deserialize, Serialize};

use super::serial::span_serde;

/// Evidence older than this is not used.
pub const STALE: Span = Span::from_secs(10);

/// A host's own view of how loaded it is, over its last reporting interval (about a second). A field is `None` where
/// the host cannot tell. Shares are in tenths of a percent (per mille).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostEvidence {
    /// How old it is at the time of the evaluation; beyond [`STALE`] nothing of it is used.
    #[serde(with = "span_serde")]
    pub age: Span,
    /// Packets that the backlog dropped (`/proc/net/softnet_stat`, second column, all CPUs): change over the interval.
    pub softnet_dropped: Option<u32>,
    /// Times that NAPI ran out of its budget (third column): change over the interval.
    pub time_squeeze: Option<u32>,
    /// Share of the time in which some task waited for a CPU (`/proc/pressure/cpu`, `some`).
    pub cpu_some: Option<u16>,
    /// Share of the time in which all tasks of the node's cgroup waited for a CPU (`cpu.pressure`, `full`).
    pub cpu_full: Option<u16>,
    /// Share of the time that the hypervisor took away (`/proc/stat`).
    pub steal: Option<u16>,
    /// Share of one CPU's time in softirq, of the busiest CPU (`/proc/stat`).
    pub softirq: Option<u16>,
    /// How full the node's socket receive buffer was at most.
    pub receive_buffer: Option<u16>,
    /// By how much the node's own timers came late, all together, as a share of the time: the one sign that a virtual CPU
    /// gives whose hypervisor does not tell of stolen time.
    pub late: Option<u16>,
}

impl HostEvidence {
    /// Itself, unless it is too old to be used.
    pub fn fresh(&self) -> Option<&Self> {
        (self.age.abs() <= STALE).then_some(self)
    }
}

/// How the path's opposite direction changed: [`super::PathJudge::recent_change`] of its judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When it was evaluated.
    #[serde(with = "super::serial::mono_serde")]
    pub at: MonoNs,
    /// Median network time now less its baseline, with the relative bound (drift of the clocks included).
    #[serde(with = "super::serial::bounded_serde")]
    pub network: Bounded,
    /// Trimmed mean of the network times now less the baseline: the clocks cancel in the sum of both directions' at every moment.
    #[serde(with = "span_serde")]
    pub mean: Span,
    /// The part of the bound that does not cancel in the sum of both directions: the stamps' errors.
    #[serde(with = "span_serde")]
    pub stamps: Span,
}

/// All that an evaluation rests on beside the path's own journeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Circumstances {
    /// The sender's.
    pub sender: Option<HostEvidence>,
    /// The receiver's.
    pub receiver: Option<HostEvidence>,
    /// A clock of the two hosts lies, or may ([`crate::clock::honesty::Verdict::clock_uncertain`]).
    pub clock_uncertain: bool,
    /// How fast the error of the correction may change, both hosts together, in parts per billion: the fitted drift's
    /// uncertainty, or both clocks' [`crate::clock::DRIFT_PPB`] when nothing better is known.
    pub drift_ppb: u32,
    /// The opposite direction, if it is judged here too.
    pub opposite: Option<Change>,
    /// The latest step of either host's wall clock.
    #[serde(with = "super::serial::option_mono_serde")]
    pub last_step: Option<MonoNs>,
}

/// Is a share at least so much, and by so much more than usual?
fn over(now: Option<u16>, normal: Option<u16>, least: u16, more: u16) -> bool {
    now.is_some_and(|now| now >= least && now >= normal.unwrap_or(0).saturating_add(more))
}

/// What makes a host slow to receive or send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    Steal,
    Backlog,
    Softirq,
    Squeezed,
    LateTimers,
    TasksWait,
}

impl Pressure {
    /// Is it that it lacks a CPU at times, so that its timers would be late, too?
    pub(super) const fn is_of_the_cpu(self) -> bool {
        matches!(self, Self::Steal | Self::LateTimers | Self::TasksWait)
    }
}

impl std::fmt::Display for Pressure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Steal => "its hypervisor takes CPU time away",
            Self::Backlog => "its backlog drops packets",
            Self::Softirq => "a CPU is busy with softirqs",
            Self::Squeezed => "its NAPI runs out of budget",
            Self::LateTimers => "its timers come late",
            Self::TasksWait => "its tasks wait for a CPU",
        })
    }
}

/// What makes a host slow to receive or send now and then, when it is but some packets that came late: a virtual CPU that
/// is away at times. `host` is as late as it was lately ([`Lateness`]).
///
/// Timers that begin anew after each pause fall into few of the pauses, where packets from elsewhere fall into all: so
/// little of it is enough.
pub(super) fn pressed_at_times(host: &HostEvidence, normal: Option<&HostEvidence>) -> Option<Pressure> {
    over(host.late, normal.and_then(|normal| normal.late), 8, 5).then_some(Pressure::LateTimers)
}

/// What makes a host slow to receive or send, if anything does. `normal` is its usual state, once that is known.
pub(super) fn pressed(host: &HostEvidence, normal: Option<&HostEvidence>) -> Option<Pressure> {
    let normal = normal.copied().unwrap_or_default();
    if over(host.steal, normal.steal, 50, 50) {
        return Some(Pressure::Steal);
    }
    if host.softnet_dropped.is_some_and(|n| n > 0 && n > normal.softnet_dropped.unwrap_or(0)) {
        return Some(Pressure::Backlog);
    }
    if over(host.softirq, normal.softirq, 600, 200) {
        return Some(Pressure::Softirq);
    }
    let squeezed = |n: u32| n >= 10 && n > normal.time_squeeze.unwrap_or(0).saturating_mul(3);
    if host.time_squeeze.is_some_and(squeezed) {
        return Some(Pressure::Squeezed);
    }
    if over(host.late, normal.late, 30, 20) {
        return Some(Pressure::LateTimers);
    }
    // Tasks wait on every busy host. Softirqs come before them: where the node's own thread runs in time, they do.
    let late = host.late.is_none() || over(host.late, normal.late, 8, 5);
    let waits =
        over(host.cpu_full, normal.cpu_full, 150, 100) || over(host.cpu_some, normal.cpu_some, 400, 250);
    if waits && late {
        return Some(Pressure::TasksWait);
    }
    None
}

/// How late a host's timers came at most, lately: what journeys of some seconds are held against.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness(std::collections::VecDeque<(MonoNs, u16)>);

impl Lateness {
    /// Takes in a reading, and forgets those of more than `window` ago.
    pub(super) fn observe(&mut self, now: MonoNs, evidence: Option<&HostEvidence>, window: Span) {
        self.0.retain(|(at, _)| (now - *at).abs() < window);
        self.0.extend(evidence.and_then(|evidence| Some((now, evidence.late?))));
    }

    /// The evidence, with the most of them.
    pub(super) fn with(&self, evidence: &HostEvidence) -> HostEvidence {
        let most = self.0.iter().map(|(_, late)| *late).max();
        HostEvidence { late: evidence.late.max(most), ..*evidence }
    }
}

/// What is usual for a host: the middle of the last readings, taken while nothing was wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Usual {
    kept: std::collections::VecDeque<HostEvidence>,
}

/// Readings that make a usual state; a judgement without them rests on absolute limits.
const USUAL: usize = 12;

impl Usual {
    pub(super) fn learn(&mut self, evidence: &HostEvidence) {
        if self.kept.len() == USUAL {
            self.kept.pop_front();
        }
        self.kept.push_back(*evidence);
    }

    pub(super) fn get(&self) -> Option<HostEvidence> {
        fn middle<T: Ord + Copy>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
            let mut values: Vec<T> = values.flatten().collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        }
        let kept = || self.kept.iter();
        (!self.kept.is_empty()).then(|| HostEvidence {
            age: Span::ZERO,
            softnet_dropped: middle(kept().map(|e| e.softnet_dropped)),
            time_squeeze: middle(kept().map(|e| e.time_squeeze)),
            cpu_some: middle(kept().map(|e| e.cpu_some)),
            cpu_full: middle(kept().map(|e| e.cpu_full)),
            steal: middle(kept().map(|e| e.steal)),
            softirq: middle(kept().map(|e| e.softirq)),
            receive_buffer: middle(kept().map(|e| e.receive_buffer)),
            late: middle(kept().map(|e| e.late)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_judged_against_what_is_usual_for_the_host() {
        let busy = HostEvidence { cpu_some: Some(700), steal: Some(80), ..HostEvidence::default() };
        assert!(pressed(&busy, None).is_some_and(|why| why == Pressure::Steal));
        let mut usual = Usual::default();
        assert_eq!(usual.get(), None);
        (0..USUAL + 3).for_each(|_| usual.learn(&busy));
        assert_eq!(usual.kept.len(), USUAL);
        assert_eq!(pressed(&busy, usual.get().as_ref()), None);
        let more = HostEvidence { steal: Some(200), ..busy };
        assert!(pressed(&more, usual.get().as_ref()).is_some());
    }

    #[test]
    fn tasks_that_wait_are_no_evidence_where_the_nodes_own_thread_runs_in_time() {
        let waits = HostEvidence { cpu_some: Some(900), late: Some(2), ..HostEvidence::default() };
        assert_eq!(pressed(&waits, None), None);
        assert!(pressed(&HostEvidence { late: Some(12), ..waits }, None).is_some());
        assert!(pressed(&HostEvidence { late: None, ..waits }, None).is_some());
        // A virtual CPU that was not there, whose hypervisor says nothing.
        let gone = HostEvidence { cpu_some: Some(0), late: Some(60), steal: Some(0), ..waits };
        assert_eq!(pressed(&gone, None), Some(Pressure::LateTimers));
        let at_times = HostEvidence { late: Some(12), cpu_some: Some(0), ..waits };
        assert_eq!(pressed(&at_times, None), None);
        assert_eq!(pressed_at_times(&at_times, None), Some(Pressure::LateTimers));
    }

    #[test]
    fn lateness_is_remembered_for_as_long_as_the_journeys_that_it_may_explain() {
        let at = |s: i64| MonoNs::from_nanos(0) + Span::from_secs(s);
        let late = |late| HostEvidence { late, ..HostEvidence::default() };
        let mut lateness = Lateness::default();
        for (second, reading) in [(1, Some(40)), (2, Some(3)), (3, None)] {
            lateness.observe(at(second), Some(&late(reading)), Span::from_secs(5));
        }
        assert_eq!(lateness.with(&late(Some(1))).late, Some(40));
        lateness.observe(at(6), None, Span::from_secs(5));
        assert_eq!(lateness.with(&late(None)).late, Some(3));
    }

    #[test]
    fn an_idle_host_is_not_pressed_and_old_evidence_is_none() {
        let idle = HostEvidence {
            softnet_dropped: Some(0),
            time_squeeze: Some(1),
            cpu_some: Some(20),
            steal: Some(0),
            ..HostEvidence::default()
        };
        assert_eq!(pressed(&idle, None), None);
        assert!(idle.fresh().is_some());
        assert!(HostEvidence { age: STALE + Span::from_nanos(1), ..idle }.fresh().is_none());
    }
}
