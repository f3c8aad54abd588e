//! Whether the figures of a trial are what they must be.

use std::fmt;

use anyhow::Result;
use probe_ebpf::time::Span;
use serde::Serialize;

use super::figures::Figures;
use super::packets::{Packet, Packets};
use super::trial::{ADDED, NAMES, Remains};
use crate::vmtest::kernel::Kernel;

/// Packets that a figure rests on, at least.
const ENOUGH: usize = 50;
/// A reading that comes late on a busy machine leaves a node without a correction for a while; so many packets in
/// percent have to have one.
const CORRECTED_PERCENT: f64 = 90.0;
/// The bound has to hold for so many packets, in percent.
const COVERED_PERCENT: f64 = 99.0;
/// How exactly the added delay has to be found.
const SHIFT_WITHIN: Span = Span::from_millis(1);

/// A guest and its clock.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Machine {
    name: String,
    release: Option<String>,
    /// The hardware that it keeps time by, at the start and at the end.
    clocksources: Vec<String>,
    tier: Option<i64>,
    /// What its node says at last, positive when it is fast.
    wall_clock_error_ns: Option<i64>,
    /// What its clocks gain on the host's, at least and at most.
    drift_ppm: (f64, f64),
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Expectation {
    name: String,
    pass: bool,
    found: String,
}

/// What a trial came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    kernel: String,
    pass: bool,
    /// From power-on to running nodes.
    booted_s: f64,
    /// From power-on to nodes that know each other and the time.
    ready_s: f64,
    guests: Vec<Machine>,
    paths: Vec<Figures>,
    expectations: Vec<Expectation>,
}

impl Outcome {
    /// Joins the packets and judges them.
    pub(super) fn of(kernel: Kernel, remains: &Remains) -> Result<Self> {
        let packets = Packets::join(remains)?;
        let mut paths = Vec::new();
        for delayed in [false, true] {
            for from in 0..NAMES.len() {
                let of = |packet: &&Packet| packet.delayed == delayed && packet.from == from;
                let packets: Vec<Packet> = packets.joined.iter().filter(of).copied().collect();
                paths.push(Figures::of(from, delayed, &packets));
            }
        }
        let guests = remains.guests.iter().zip(&packets.clocks).map(|(guest, clock)| {
            let (least, most) = clock.drift_ppb();
            Machine {
                name: guest.name.clone(),
                release: guest.release.clone(),
                clocksources: guest.clocksources.clone(),
                tier: guest.report["tier"].as_i64(),
                wall_clock_error_ns: guest.report["clock"]["offset_ns"].as_i64(),
                drift_ppm: (least / 1e3, most / 1e3),
            }
        });
        let guests: Vec<Machine> = guests.collect();
        let mut expectations: Vec<Expectation> = guests.iter().map(|guest| guest.expect(kernel)).collect();
        expectations.push(accounted(remains, &packets));
        expectations.extend(paths.iter().flat_map(rests_and_covers));
        let (before, after) = paths.split_at(NAMES.len());
        expectations.extend(
            before
                .iter()
                .zip(after)
                .zip([ADDED, Span::ZERO])
                .map(|((before, after), by)| shifted(before, after, by)),
        );
        Ok(Self {
            kernel: kernel.to_string(),
            pass: expectations.iter().all(|expectation| expectation.pass),
            booted_s: remains.booted.as_secs_f64(),
            ready_s: remains.ready.as_secs_f64(),
            guests,
            paths,
            expectations,
        })
    }

    pub(super) fn passes(&self) -> bool {
        self.pass
    }
}

impl Machine {
    fn tier(&self) -> String {
        self.tier.map_or("no tier".to_owned(), |tier| format!("tier {tier}"))
    }

    fn expect(&self, kernel: Kernel) -> Expectation {
        let release = self.release.as_deref().unwrap_or("none");
        Expectation {
            name: format!("guest {} runs kernel {kernel} with the eBPF probe", self.name),
            pass: kernel.is_release(release) && self.tier == Some(1),
            found: format!("{release}, {}", self.tier()),
        }
    }
}

fn accounted(remains: &Remains, packets: &Packets) -> Expectation {
    let closing = &remains.closing;
    let found = if closing.closes() {
        format!("{} sent, {} received, {} unmatched", closing.sent, closing.received, packets.unmatched)
    } else {
        format!("{closing:?}")
    };
    Expectation {
        name: "every datagram is accounted for at both edges, in the switch and by the nodes".to_owned(),
        pass: closing.closes() && packets.unmatched == 0,
        found,
    }
}

fn rests_and_covers(one: &Figures) -> [Expectation; 3] {
    let with = if one.delayed { "with" } else { "without" };
    let corrected = one.packets - one.uncorrected;
    let path = format!("{} {with} {ADDED} more from a to b", one.path);
    [
        Expectation {
            name: format!(
                "{path}: at least {ENOUGH} packets, {CORRECTED_PERCENT} % corrected by both clocks"
            ),
            pass: corrected >= ENOUGH && corrected as f64 >= one.packets as f64 * CORRECTED_PERCENT / 100.0,
            found: format!(
                "{} packets, {} of them not; by {:?}",
                one.packets, one.uncorrected, one.corrections
            ),
        },
        Expectation {
            name: format!("{path}: the bound covers the truth of {COVERED_PERCENT} %"),
            pass: one.covered_percent >= COVERED_PERCENT,
            found: format!(
                "{:.2} % covered, {:.2} % certainly so, {:.2} % certainly missed",
                one.covered_percent, one.certain_percent, one.missed_percent
            ),
        },
        Expectation {
            name: format!("{path}: the truth is known better than the node says it knows it"),
            pass: one.truth_bound_p50_ns.is_some_and(|truth| Some(truth) < one.bound_p50_ns),
            found: format!("{} beside {}", text(one.truth_bound_p50_ns), text(one.bound_p50_ns)),
        },
    ]
}

fn text(ns: Option<i64>) -> String {
    ns.map_or("nothing".to_owned(), |ns| Span::from_nanos(ns).to_string())
}

/// That the nodes see what the delay changes, and in which direction. On a busy machine what the emulation takes changes
/// by as much, which they have to see as well: so their medians are held against the truth's, and the switch's part of it
/// against what it was asked for.
fn shifted(before: &Figures, after: &Figures, by: Span) -> Expectation {
    let between =
        |before: Option<i64>, after: Option<i64>| Some(Span::from_nanos(after?.checked_sub(before?)?));
    let measured = between(before.measured_p50_ns, after.measured_p50_ns);
    let truth = between(before.truth_p50_ns, after.truth_p50_ns);
    let transit = between(before.transit_p50_ns, after.transit_p50_ns);
    let near = |one: Option<Span>, other: Option<Span>| {
        one.zip(other).is_some_and(|(one, other)| (one - other).abs() <= SHIFT_WITHIN)
    };
    let text = |shift: Option<Span>| shift.map_or("nothing".to_owned(), |shift| shift.to_string());
    Expectation {
        name: format!(
            "{} with {ADDED} more from a to b: the change of the median is found to {SHIFT_WITHIN}",
            before.path
        ),
        pass: near(measured, truth) && near(transit, Some(by)),
        found: format!(
            "measured {}, in truth {}, of which the switch {}",
            text(measured),
            text(truth),
            text(transit)
        ),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, booted_s, ready_s, .. } = self;
        writeln!(
            f,
            "two guests with kernel {kernel}: booted after {booted_s:.1} s, ready after {ready_s:.1} s"
        )?;
        for guest in &self.guests {
            let ms = guest.wall_clock_error_ns.map_or(f64::NAN, |ns| ns as f64 / 1e6);
            let (least, most) = guest.drift_ppm;
            let Machine { name, release, clocksources, .. } = guest;
            writeln!(
                f,
                "  {name}: {}, {}, time by {}; by its node its wall clock is off by {ms:+.3} ms; by the packets it \
                 gains {least:.1} to {most:.1} ppm on the host's",
                release.as_deref().unwrap_or("no release"),
                guest.tier(),
                clocksources.join(" and "),
            )?;
        }
        writeln!(f, "  {}", Figures::heading())?;
        for figures in &self.paths {
            writeln!(f, "  {figures}")?;
        }
        writeln!(f, "  {}", Figures::LEGEND.replace('\n', "\n  "))?;
        for Expectation { name, pass, found } in &self.expectations {
            writeln!(f, "  {} {name}: {found}", if *pass { "ok  " } else { "FAIL" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::packets::tests::remains;
    use serde_json::json;

    use super::*;

    fn judge(remains: &Remains) -> Outcome {
        Outcome::of("6.1".parse().unwrap(), remains).unwrap()
    }

    fn failed(outcome: &Outcome) -> Vec<String> {
        let failed = outcome.expectations.iter().filter(|expectation| !expectation.pass);
        failed.map(|expectation| expectation.name.clone()).collect()
    }

    #[test]
    fn a_good_trial_passes_and_shows_its_figures() {
        let outcome = judge(&remains(10_000, 1_000_000));
        assert!(outcome.passes(), "{outcome}");
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!((&json["pass"], &json["paths"][2]["added_ns"]), (&json!(true), &json!(5_000_000)));
        assert_eq!((&json["paths"][2]["path"], &json["paths"][2]["packets"]), (&json!("a>b"), &json!(100)));
        assert!(
            outcome.to_string().contains("ok   a>b with 5.00 ms more from a to b: the change"),
            "{outcome}"
        );
    }

    #[test]
    fn a_bound_that_is_too_small_is_found_in_each_direction() {
        let outcome = judge(&remains(2_000_000, 1_000_000));
        let failed = failed(&outcome);
        assert_eq!(failed.len(), 4, "{failed:?}");
        assert!(failed.iter().all(|name| name.contains("covers the truth")), "{failed:?}");
        assert!(outcome.paths.iter().all(|one| one.missed_percent == 100.0));
    }

    /// Nobody could say whether such a bound is right.
    #[test]
    fn a_bound_within_what_is_not_known_of_the_truth_fails() {
        let outcome = judge(&remains(0, 150_000));
        let failed = failed(&outcome);
        assert_eq!(failed.len(), 4, "{outcome}");
        assert!(failed.iter().all(|name| name.contains("is known better")), "{outcome}");
        let undecided = |one: &Figures| (one.certain_percent, one.missed_percent) == (0.0, 0.0);
        assert!(outcome.paths.iter().all(undecided), "{outcome}");
    }

    #[test]
    fn a_delay_that_lands_in_the_other_direction_fails_both() {
        let mut swapped = remains(0, 100_000_000);
        let swap = swapped.stretches.clone();
        let is_delayed = |at: i64| swap.iter().filter(|since| since.as_nanos() <= at).count() % 2 == 0;
        for (guest, sign) in [(1, -1), (0, 1)] {
            for line in &mut swapped.guests[guest].records {
                let boot = [5_000, 5_003][guest] * 1_000_000_000;
                if line["t4_mono_ns"].as_i64().is_some_and(|at| is_delayed(at + boot - 5_500_000)) {
                    line["network_ns"] = json!(line["network_ns"].as_i64().unwrap() + sign * 5_000_000);
                }
            }
        }
        let failed = failed(&judge(&swapped));
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed.iter().all(|name| name.contains("the change of the median")), "{failed:?}");
    }

    #[test]
    fn what_is_not_right_around_the_figures_fails_too() {
        type Damage = fn(&mut Remains);
        let damages: [(Damage, &str); 6] = [
            (|remains| remains.guests[0].release = Some("6.12.1".to_owned()), "guest a runs kernel"),
            (|remains| remains.guests[1].report["tier"] = json!(0), "guest b runs kernel"),
            // What was delayed passes for what was not.
            (
                |remains| {
                    remains.stretches.remove(0);
                },
                "the change of the median",
            ),
            (|remains| remains.closing.unread = 1, "accounted for"),
            (|remains| remains.stretches.truncate(2), "at least 50 packets"),
            (
                |remains| {
                    remains.guests[1].records.iter_mut().for_each(|line| line["correction"] = json!("none"))
                },
                "% corrected by both clocks",
            ),
        ];
        for (damage, said) in damages {
            let mut remains = remains(0, 1_000_000);
            damage(&mut remains);
            let failed = failed(&judge(&remains));
            assert!(failed.iter().any(|name| name.contains(said)), "{said}: {failed:?}");
        }
    }
}
