//! A host's wall clock that is wrong in a known way.

use probe_ebpf::time::{MonoNs, Span};

use super::scenario::NodeOrder;

/// By how much a clock errs; positive is fast. On one machine with one clock it is a node's test aid that makes it so,
/// and chronyd is told to report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// Nanoseconds when the scenario's clocks began to drift.
    pub error_ns: i64,
    /// What it gains, in nanoseconds a second.
    pub drift_ppb: i64,
    /// That instant.
    pub since: MonoNs,
    /// Its step, if it is stepped.
    pub step: Option<Step>,
}

/// A step of a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// By how many nanoseconds; positive is forward.
    pub by_ns: i64,
    /// When.
    pub at: MonoNs,
}

impl Skew {
    /// As ordered, drifting from `since` on; `start` is when the scenario starts, from which the step is counted.
    pub fn of(order: &NodeOrder, since: MonoNs, start: MonoNs) -> Self {
        let error_ns = (order.clock_error_ms * 1e6).round() as i64;
        let step = (order.clock_step_ms != 0.0).then(|| Step {
            by_ns: (order.clock_step_ms * 1e6).round() as i64,
            at: start + Span::from_nanos((order.clock_step_at_s * 1e9) as i64),
        });
        Self { error_ns, drift_ppb: (order.clock_drift_ppm * 1e3).round() as i64, since, step }
    }

    /// The error at an instant, in nanoseconds.
    pub fn at(&self, when: MonoNs) -> i64 {
        let stepped = self.step.filter(|step| step.at <= when).map_or(0, |step| step.by_ns);
        let gained = gained(self.drift_ppb, (when - self.since).as_nanos());
        self.error_ns.saturating_add(gained).saturating_add(stepped)
    }

    /// The error that it would have had when CLOCK_MONOTONIC was zero: what the node is told, with the step apart.
    pub fn at_boot(&self) -> i64 {
        self.at(MonoNs::from_nanos(0))
    }
}

/// What a clock gains in so many nanoseconds, rounded down.
fn gained(drift_ppb: i64, ns: i64) -> i64 {
    let gained = (i128::from(drift_ppb) * i128::from(ns)).div_euclid(1_000_000_000);
    i64::try_from(gained).unwrap_or(if gained < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_grows_from_where_it_began_and_is_known_back_to_the_boot() {
        let order = NodeOrder { clock_error_ms: 20.0, clock_drift_ppm: -50.0, ..NodeOrder::default() };
        let second = |s: i64| MonoNs::from_nanos(s * 1_000_000_000);
        let skew = Skew::of(&order, second(1_000), second(1_001));
        assert_eq!(skew.at(second(1_000)), 20_000_000);
        assert_eq!(skew.at(second(1_010)), 19_500_000);
        assert_eq!(skew.at_boot(), 70_000_000);
        let order = NodeOrder {
            clock_error_ms: -50.0,
            clock_step_ms: 7.0,
            clock_step_at_s: 4_000.0,
            ..NodeOrder::default()
        };
        let steady = Skew::of(&order, second(1_000), second(1_001));
        assert_eq!((steady.at_boot(), steady.at(second(5_000))), (-50_000_000, -50_000_000));
        assert_eq!(steady.at(second(5_001)), -43_000_000);
    }

    #[test]
    fn chronyd_tells_the_truth_about_a_clock_unless_it_is_to_lie() {
        let honest = NodeOrder { clock_error_ms: 20.0, clock_drift_ppm: 50.0, ..NodeOrder::default() };
        assert_eq!((honest.ntp_offset_s(), honest.ntp_server_drift_ppm()), (-0.02, -50.0));
        let lying = NodeOrder { ntp_offset_ms: Some(0.0), ntp_drift_ppm: Some(0.0), ..honest };
        assert_eq!((lying.ntp_offset_s(), lying.ntp_server_drift_ppm()), (0.0, 0.0));
    }
}
