//! Times and verdicts of single paths: of the worst few, so that the number of series does not grow with the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use probe_ebpf::time::Span;
use probe_user::analysis::journey::Leg;
use probe_user::analysis::verdict::Verdict;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

/// Directed paths that have series, at most: all of a node with four ring neighbours.
pub(super) const SHOWN: usize = 8;
/// A path takes another's place when it is worse by so many times: series that come and go are of no use.
const WORSE: i64 = 2;

/// From and to.
type PathName<'a> = (&'a str, &'a str);

#[derive(Debug)]
pub(super) struct PathMetrics {
    times: GaugeVec,
    changes: GaugeVec,
    verdicts: IntGaugeVec,
    /// The label values that exist. Only the gossip thread takes this lock, once a second.
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    times: BTreeSet<(String, String, &'static str)>,
    /// Of each path that is shown.
    verdicts: BTreeMap<(String, String), &'static str>,
}

/// How bad a path is: what its legs take at the 99th percentile, together.
fn badness(verdict: &Verdict) -> Span {
    verdict.legs.iter().flatten().fold(Span::ZERO, |sum, leg| sum + leg.p99)
}

/// The paths to be shown: those that were, while there are no others that are much worse; of the rest, the worst.
fn choose<'a>(
    before: &BTreeMap<(String, String), &'static str>,
    now: &BTreeMap<PathName<'a>, &Verdict>,
) -> BTreeSet<PathName<'a>> {
    let mut ranked: Vec<(i64, PathName<'a>)> = now
        .iter()
        .map(|(name, verdict)| {
            let held = before.keys().any(|(from, to)| (from.as_str(), to.as_str()) == *name);
            (badness(verdict).as_nanos().saturating_mul(if held { WORSE } else { 1 }), *name)
        })
        .collect();
    ranked.sort_unstable_by(|one, other| other.cmp(one));
    ranked.into_iter().take(SHOWN).map(|(_, name)| name).collect()
}

impl PathMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let times = Opts::new(
            "pikoscope_path_segment_seconds",
            "Time of the last seconds' packets on a path between this node and a ring neighbour, by segment: the median and the 99th percentile. At most 8 paths, the worst; others take their place when they are twice as bad.",
        );
        let changes = Opts::new(
            "pikoscope_path_network_change_bound_seconds",
            "How far off the change of a path's network time against its usual one can be, by the clocks' drift and the stamps.",
        );
        let verdicts =
            Opts::new("pikoscope_path_verdict_info", "The verdict on such a path, in the label; always 1.");
        Ok(Self {
            times: super::register(r, GaugeVec::new(times, &["from", "to", "segment", "percentile"])?)?,
            changes: super::register(r, GaugeVec::new(changes, &["from", "to"])?)?,
            verdicts: super::register(r, IntGaugeVec::new(verdicts, &["from", "to", "verdict"])?)?,
            shown: Mutex::default(),
        })
    }

    /// The verdicts that hold now, each with where its path begins and ends.
    pub(super) fn set<'a>(&self, verdicts: impl Iterator<Item = (PathName<'a>, &'a Verdict)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let all: BTreeMap<PathName<'_>, &Verdict> = verdicts.collect();
        let chosen = choose(&shown.verdicts, &all);
        let mut next = Shown::default();
        for (name, verdict) in all.iter().filter(|(name, _)| chosen.contains(*name)) {
            let (from, to) = *name;
            for leg in Leg::ALL {
                let Some(numbers) = &verdict.legs[leg.index()] else { continue };
                for (percentile, value) in [("50", numbers.now), ("99", numbers.p99)] {
                    self.times
                        .with_label_values(&[from, to, leg.name(), percentile])
                        .set(value.as_secs_f64());
                }
                next.times.insert((from.to_owned(), to.to_owned(), leg.name()));
            }
            let change = verdict.legs[Leg::Network.index()].and_then(|numbers| numbers.change);
            let bound = change.map_or(f64::NAN, |change| change.bound.as_secs_f64());
            self.changes.with_label_values(&[from, to]).set(bound);
            self.verdicts.with_label_values(&[from, to, verdict.cause.name()]).set(1);
            next.verdicts.insert((from.to_owned(), to.to_owned()), verdict.cause.name());
        }
        // What is not there is no error: it is gone, as it should be.
        for (from, to, segment) in shown.times.difference(&next.times) {
            for percentile in ["50", "99"] {
                let _ = self.times.remove_label_values(&[from.as_str(), to, segment, percentile]);
            }
        }
        for (path @ (from, to), verdict) in &shown.verdicts {
            let now = next.verdicts.get(path);
            if now != Some(verdict) {
                let _ = self.verdicts.remove_label_values(&[from.as_str(), to, verdict]);
            }
            if now.is_none() {
                let _ = self.changes.remove_label_values(&[from, to]);
            }
        }
        *shown = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::time::{Bounded, MonoNs};
    use probe_user::analysis::verdict::{Cause, Confidence, LegNumbers, Loss};
    use prometheus::TextEncoder;

    fn verdict(cause: Cause, network_ms: i64) -> Verdict {
        let mut legs = [None; 7];
        let p99 = Span::from_millis(network_ms);
        let change = Some(Bounded::new(Span::ZERO, Span::from_micros(5)));
        let now = Span::from_millis(1);
        legs[Leg::Network.index()] =
            Some(LegNumbers { samples: 20, baseline: None, now, p99, change, excess: Span::ZERO });
        Verdict {
            cause,
            also: None,
            samples: 20,
            confidence: Confidence::High,
            evidence: String::new(),
            since: MonoNs::from_nanos(0),
            effect: Span::ZERO,
            legs,
            loss: Loss::default(),
        }
    }

    fn text(metrics: &PathMetrics, r: &Registry, all: &[(&str, Verdict)]) -> String {
        metrics.set(all.iter().map(|(from, verdict)| ((*from, "here"), verdict)));
        TextEncoder::new().encode_to_string(&r.gather()).unwrap()
    }

    #[test]
    fn a_path_has_its_times_and_one_verdict_until_it_is_gone() {
        let r = Registry::new();
        let metrics = PathMetrics::new(&r).unwrap();
        let out = text(&metrics, &r, &[("a", verdict(Cause::Ok, 2))]);
        for line in [
            "pikoscope_path_segment_seconds{from=\"a\",percentile=\"50\",segment=\"network\",to=\"here\"} 0.001",
            "pikoscope_path_segment_seconds{from=\"a\",percentile=\"99\",segment=\"network\",to=\"here\"} 0.002",
            "pikoscope_path_verdict_info{from=\"a\",to=\"here\",verdict=\"ok\"} 1",
            "pikoscope_path_network_change_bound_seconds{from=\"a\",to=\"here\"} 0.000005",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}\n{out}");
        }
        let out = text(&metrics, &r, &[("a", verdict(Cause::Network, 9))]);
        assert!(out.contains("verdict=\"network\"") && !out.contains("verdict=\"ok\""), "{out}");
        assert!(!text(&metrics, &r, &[]).contains("from="), "nothing is left");
    }

    #[test]
    fn the_worst_are_shown_and_change_places_for_much_worse_ones_only() {
        let r = Registry::new();
        let metrics = PathMetrics::new(&r).unwrap();
        let names: Vec<String> = (0..SHOWN + 2).map(|n| format!("n{n}")).collect();
        let all = |ms: &dyn Fn(usize) -> i64| -> Vec<(&str, Verdict)> {
            names.iter().enumerate().map(|(n, name)| (name.as_str(), verdict(Cause::Ok, ms(n)))).collect()
        };
        let shown = |out: &str, name: &str| out.contains(&format!("from=\"{name}\""));
        let out = text(&metrics, &r, &all(&|n| 10 + n as i64));
        assert!(!shown(&out, "n0") && !shown(&out, "n1") && shown(&out, "n2"), "{out}");
        let out = text(&metrics, &r, &all(&|n| if n == 0 { 20 } else { 10 + n as i64 }));
        assert!(!shown(&out, "n0") && shown(&out, "n2"), "somewhat worse is not enough: {out}");
        let out = text(&metrics, &r, &all(&|n| if n == 0 { 30 } else { 10 + n as i64 }));
        assert!(shown(&out, "n0") && !shown(&out, "n2") && shown(&out, "n3"), "{out}");
    }
}
