//! What happens when: the events of a scenario as single steps in the order of time. Pure.

use std::time::Duration;

use super::scenario::{Action, Event, LinkOrder, Scenario, host_index, host_name};
use super::switch::LinkSpec;

/// Something done at one instant. Hosts are indices.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// These directed links change.
    Link(Vec<(usize, usize)>, LinkSpec),
    /// These are as they were at the start.
    Restore(Vec<(usize, usize)>),
    /// All links between the two groups are cut...
    Cut(Vec<usize>, Vec<usize>),
    /// ...and whole again.
    Heal(Vec<usize>, Vec<usize>),
    /// SIGSTOP to a node.
    Pause(usize),
    /// SIGCONT to a node.
    Resume(usize),
    /// SIGKILL to a node.
    Kill(usize),
    /// A node is started again, under this name.
    Start(usize, String),
    /// Busy processes beside a node.
    Starve {
        /// Whose.
        host: usize,
        /// How many.
        hogs: u32,
        /// Their niceness.
        nice: i32,
    },
    /// They go away.
    Feed(usize),
    /// The host's own link becomes slow and shared.
    Throttle {
        /// Whose.
        host: usize,
        /// Rate.
        kbit_per_s: u32,
        /// Room of its queue.
        queue_bytes: u32,
        /// Payload of others.
        competing_kbit_per_s: u32,
    },
    /// It is as before.
    Unthrottle(usize),
    /// The NTP server dies.
    KillNtp,
    /// A host's chronyd starts, and says that the clock lacks so many seconds.
    StartNtp(usize, f64),
    /// A host's chronyd is started anew, and from then on says that the clock lacks so many seconds.
    NtpOffset(usize, f64),
}

/// A step and when it is due after the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// When.
    pub at: Duration,
    /// What.
    pub step: Step,
}

/// An event as it is marked in a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Seconds after the start.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// What.
    pub label: String,
}

/// All directed links that an order is about.
pub fn pairs(order: &LinkOrder, hosts: usize) -> Vec<(usize, usize)> {
    let is = |side: &Option<String>, host: usize| {
        side.as_deref().is_none_or(|name| host_index(name) == Some(host))
    };
    let mut all: Vec<(usize, usize)> = Vec::new();
    for from in 0..hosts {
        for to in (0..hosts).filter(|to| *to != from) {
            let there = is(&order.from, from) && is(&order.to, to);
            let back = !order.one_way && is(&order.from, to) && is(&order.to, from);
            if there || back {
                all.push((from, to));
            }
        }
    }
    all
}

/// The steps of a scenario. At one instant what ends comes before what begins.
pub fn steps(scenario: &Scenario) -> Vec<Timed> {
    let mut all: Vec<Timed> = scenario.events.iter().flat_map(|event| one(event, scenario)).collect();
    for host in 0..scenario.hosts {
        let order = scenario.node(host);
        all.extend(order.ntp_from_s.filter(|_| scenario.ntp).map(|at_s| Timed {
            at: Duration::from_secs_f64(at_s),
            step: Step::StartNtp(host, order.ntp_offset_s()),
        }));
    }
    let begins = |step: &Step| {
        !matches!(
            step,
            Step::Restore(_) | Step::Heal(..) | Step::Resume(_) | Step::Feed(_) | Step::Unthrottle(_)
        )
    };
    all.sort_by_key(|timed| (timed.at, begins(&timed.step)));
    all
}

fn one(event: &Event, scenario: &Scenario) -> Vec<Timed> {
    let start = Duration::from_secs_f64(event.at_s);
    let end = event.for_s.map(|time| start + Duration::from_secs_f64(time));
    let index = |name: &String| host_index(name).unwrap_or_default();
    let indices = |names: &[String]| names.iter().map(index).collect::<Vec<_>>();
    let lasting = |begin: Step, finish: Step| {
        let mut both = vec![Timed { at: start, step: begin }];
        both.extend(end.map(|at| Timed { at, step: finish }));
        both
    };
    // Pairs of steps, `short` apart, every `long`, as long as both fit.
    let repeated = |short_ms: u64, long_ms: u64, both: &dyn Fn(u32) -> (Step, Step)| {
        let (short, long) = (Duration::from_millis(short_ms), Duration::from_millis(long_ms));
        let last = end.unwrap_or(Duration::from_secs_f64(scenario.seconds));
        (0u32..)
            .map(|count| (count, start + long * count))
            .take_while(|(_, at)| *at + short <= last)
            .flat_map(|(count, at)| {
                let (first, second) = both(count);
                [Timed { at, step: first }, Timed { at: at + short, step: second }]
            })
            .collect()
    };
    match &event.action {
        Action::Link(order) => {
            let pairs = pairs(order, scenario.hosts);
            lasting(Step::Link(pairs.clone(), order.is), Step::Restore(pairs))
        }
        Action::Partition { one, other } => {
            let (one, other) = (indices(one), indices(other));
            lasting(Step::Cut(one.clone(), other.clone()), Step::Heal(one, other))
        }
        Action::Stop { node, pulse_ms, every_ms } => {
            let host = index(node);
            repeated(*pulse_ms, *every_ms, &|_| (Step::Pause(host), Step::Resume(host)))
        }
        Action::Churn { node, every_ms, down_ms, new_id } => {
            let host = index(node);
            repeated(*down_ms, *every_ms, &|count| {
                let name = host_name(host);
                let name = if *new_id { format!("{name}{}", count + 2) } else { name };
                (Step::Kill(host), Step::Start(host, name))
            })
        }
        Action::Starve { node, hogs, nice } => {
            let host = index(node);
            lasting(Step::Starve { host, hogs: *hogs, nice: *nice }, Step::Feed(host))
        }
        Action::Throttle { node, kbit_per_s, queue_bytes, competing_kbit_per_s } => {
            let host = index(node);
            let throttle = Step::Throttle {
                host,
                kbit_per_s: *kbit_per_s,
                queue_bytes: *queue_bytes,
                competing_kbit_per_s: *competing_kbit_per_s,
            };
            lasting(throttle, Step::Unthrottle(host))
        }
        Action::KillNtp {} => vec![Timed { at: start, step: Step::KillNtp }],
        Action::NtpOffset { node, ms } => {
            let host = index(node);
            let usual = scenario.node(host).ntp_offset_s();
            lasting(Step::NtpOffset(host, ms / 1e3), Step::NtpOffset(host, usual))
        }
    }
}

/// The events as they are marked in a plot.
pub fn marks(scenario: &Scenario) -> Vec<Mark> {
    let mark = |event: &Event| {
        let to_s = event.for_s.map_or(scenario.seconds, |time| event.at_s + time);
        let label = match &event.action {
            Action::Link(LinkOrder { from, to, .. }) => {
                let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "all".to_owned());
                format!("link {} to {} changed", side(from), side(to))
            }
            Action::Partition { one, other } => format!("{} cut off from {}", one.join(","), other.join(",")),
            Action::Stop { node, pulse_ms, every_ms } => {
                format!("{node} stopped {pulse_ms} of {every_ms} ms")
            }
            Action::Churn { node, every_ms, .. } => format!("{node} killed every {every_ms} ms"),
            Action::Starve { node, hogs, .. } => format!("{hogs} hogs beside {node}"),
            Action::Throttle { node, kbit_per_s, .. } => format!("{node}'s own link at {kbit_per_s} kbit/s"),
            Action::KillNtp {} => "NTP server dead".to_owned(),
            Action::NtpOffset { node, ms } => format!("{node}'s NTP says {ms} ms"),
        };
        Mark { from_s: event.at_s, to_s, label }
    };
    scenario.events.iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(text: &str) -> Scenario {
        Scenario::parse("test", &format!("about = 'x'\nseconds = 10\n{text}")).unwrap()
    }

    #[test]
    fn links_are_meant_both_ways_unless_told_otherwise() {
        let order = |from: Option<&str>, to: Option<&str>, one_way| LinkOrder {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            one_way,
            is: LinkSpec::default(),
        };
        assert_eq!(pairs(&order(Some("a"), Some("c"), false), 3), [(0, 2), (2, 0)]);
        assert_eq!(pairs(&order(Some("a"), Some("c"), true), 3), [(0, 2)]);
        assert_eq!(pairs(&order(None, Some("b"), true), 3), [(0, 1), (2, 1)]);
        assert_eq!(pairs(&order(None, None, false), 3).len(), 6);
    }

    #[test]
    fn pulses_fit_into_their_event_and_end() {
        let steps = steps(&scenario(
            "[[event]]\nat_s = 2\nfor_s = 2.5\ndo.stop = { node = 'b', pulse_ms = 200, every_ms = 1000 }",
        ));
        let ms: Vec<(u128, bool)> =
            steps.iter().map(|s| (s.at.as_millis(), s.step == Step::Pause(1))).collect();
        assert_eq!(
            ms,
            [(2000, true), (2200, false), (3000, true), (3200, false), (4000, true), (4200, false)]
        );
    }

    #[test]
    fn a_churned_node_comes_back_under_its_own_or_a_new_name() {
        let steps = |new_id: &str| {
            steps(&scenario(&format!(
                "[[event]]\nat_s = 1\nfor_s = 4\ndo.churn = {{ node = 'c', every_ms = 2000, down_ms = 500 {new_id} }}"
            )))
        };
        let names = |steps: Vec<Timed>| {
            steps
                .into_iter()
                .filter_map(|s| if let Step::Start(2, name) = s.step { Some(name) } else { None })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(steps("")), ["c", "c"]);
        assert_eq!(names(steps(", new_id = true")), ["c2", "c3"]);
    }

    #[test]
    fn a_late_chronyd_is_started_with_the_truth() {
        let order = "[node.b]\nclock_error_ms = 5\nntp_from_s = 3";
        let late = Timed { at: Duration::from_secs(3), step: Step::StartNtp(1, -0.005) };
        assert_eq!(steps(&scenario(order)), [late]);
        assert_eq!(steps(&scenario(&format!("ntp = false\n{order}"))), []);
    }

    #[test]
    fn what_ends_comes_before_what_begins_at_the_same_time() {
        let steps = steps(&scenario(
            "[[event]]\nat_s = 3\nfor_s = 1\ndo.partition = { one = ['a'], other = ['b'] }\n\
             [[event]]\nat_s = 2\nfor_s = 1\ndo.partition = { one = ['a'], other = ['c'] }",
        ));
        let (a, b, c) = (vec![0], vec![1], vec![2]);
        let only: Vec<Step> = steps.into_iter().map(|s| s.step).collect();
        assert_eq!(
            only,
            [
                Step::Cut(a.clone(), c.clone()),
                Step::Heal(a.clone(), c),
                Step::Cut(a.clone(), b.clone()),
                Step::Heal(a, b)
            ]
        );
    }
}
