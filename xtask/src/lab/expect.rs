//! Expectations held against what was measured.

use serde::Serialize;

use super::clocks;
use super::expectation::{Expectation, Reference, Stat, Subject};
use super::measure::Measured;
use super::packets::{HANDLING, INGRESS_STACK, NETWORK, Packet, SOCKET_QUEUE, host_of, quantile};
use super::scenario::{host_index, host_name};
use super::statements::Statement;

/// What became of an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It holds.
    Pass,
    /// It does not, or there was nothing to look at.
    Fail,
}

/// One expectation, judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// In words, with the path or node that is worst if it is about several, or with what is missing.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// What the nodes say.
    pub measured: Option<f64>,
    /// What it was compared with; none if there was nothing but limits.
    pub truth: Option<f64>,
    /// Of both.
    pub unit: &'static str,
}

/// One value that an expectation is about.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    /// Path or node; and why nothing was measured there, if that is known.
    place: String,
    measured: Option<f64>,
    truth: Option<f64>,
}

/// Judges all.
pub fn judge(expectations: &[Expectation], measured: &Measured) -> Vec<Judged> {
    expectations.iter().map(|expectation| one(expectation, measured)).collect()
}

fn one(expectation: &Expectation, measured: &Measured) -> Judged {
    let unit = unit(expectation.of);
    let cases = cases(expectation, measured);
    let many = cases.len() > 1;
    // The worst first; nothing to look at is worse than anything.
    let worst = cases.into_iter().max_by(|a, b| excess(expectation, a).total_cmp(&excess(expectation, b)));
    let Some(worst) = worst else {
        let name = format!("{}: nothing to look at", expectation.name);
        return Judged { name, status: Status::Fail, measured: None, truth: None, unit };
    };
    let status = if excess(expectation, &worst) <= 0.0 { Status::Pass } else { Status::Fail };
    let name = match many || status == Status::Fail && !worst.place.is_empty() {
        true => format!("{} (worst: {})", expectation.name, worst.place),
        false => expectation.name.clone(),
    };
    Judged { name, status, measured: worst.measured, truth: worst.truth, unit }
}

/// By how much a case misses what is expected; not positive if it does not.
fn excess(expectation: &Expectation, case: &Case) -> f64 {
    let Some(value) = case.measured else { return f64::INFINITY };
    let mut excess = f64::NEG_INFINITY;
    if let (Some(_), Some(within)) = (expectation.near, expectation.within) {
        let Some(truth) = case.truth else { return f64::INFINITY };
        excess = excess.max((value - truth).abs() - within.0);
    }
    if let Some(least) = expectation.at_least {
        excess = excess.max(least.0 - value);
    }
    if let Some(most) = expectation.at_most {
        excess = excess.max(value - most.0);
    }
    excess
}

fn unit(of: Subject) -> &'static str {
    match of {
        Subject::SendQueue
        | Subject::EgressStack
        | Subject::Qdisc
        | Subject::Network
        | Subject::Wire
        | Subject::IngressStack
        | Subject::SocketQueue
        | Subject::Handling
        | Subject::EntryTotal
        | Subject::EntryNetwork
        | Subject::EntryApplication
        | Subject::ClockError
        | Subject::WireError
        | Subject::Bound
        | Subject::BoundBeyondHalfRoundTrip
        | Subject::LieNamed
        | Subject::StepSeen
        | Subject::ClockOffset
        | Subject::Up
        | Subject::Down => "ns",
        Subject::CoveredPercent
        | Subject::CorrectedPercent
        | Subject::UnmatchedPercent
        | Subject::CpuPercent
        | Subject::Verdict => "percent",
        Subject::Lost | Subject::Unaccounted | Subject::Packets => "packets",
        Subject::WronglyNamed => "hosts",
        Subject::RcvbufDropped | Subject::AccountingGap => "datagrams",
        Subject::NotConverged => "nodes",
        Subject::RssBytes => "bytes",
        Subject::Fds => "files",
    }
}

fn cases(expectation: &Expectation, measured: &Measured) -> Vec<Case> {
    let of = |value: &Pick<'_>, truth: &Pick<'_>| {
        paths(expectation, measured, |packets| segment(expectation, value, truth, packets))
    };
    let segment = |place: usize| of(&|packet| packet.measured[place], &|packet| packet.truth[place]);
    let at_nodes = |value: &dyn Fn(usize) -> Option<(f64, Option<f64>)>| nodes(expectation, measured, value);
    let by_clock = |value: &dyn Fn(&Expectation, &[Packet]) -> Option<f64>| {
        paths(expectation, measured, |packets| (value(expectation, packets), None))
    };
    let counter = |host: usize, name: &str| measured.report(host)?["accounting"][name].as_f64();
    let whole = |value: f64| vec![Case { place: String::new(), measured: Some(value), truth: None }];
    let used = |value: fn(&super::measure::Used) -> f64| {
        at_nodes(&|host| Some((value(measured.usage.get(host)?.as_ref()?), None)))
    };
    match expectation.of {
        Subject::Network => segment(NETWORK),
        Subject::IngressStack => segment(INGRESS_STACK),
        Subject::SocketQueue => segment(SOCKET_QUEUE),
        Subject::Handling => segment(HANDLING),
        Subject::EntryTotal => entries(expectation, measured, "total"),
        Subject::EntryNetwork => entries(expectation, measured, "network"),
        Subject::EntryApplication => entries(expectation, measured, "application"),
        Subject::ClockError => by_clock(&clocks::error),
        Subject::WireError => by_clock(&clocks::wire_error),
        Subject::Bound => by_clock(&clocks::bound),
        Subject::BoundBeyondHalfRoundTrip => by_clock(&|expectation, packets| {
            let Packet { from, to, .. } = packets.first()?;
            let round_trip = clocks::least_round_trip(&measured.packets.joined, *from, *to)?;
            Some(clocks::bound(expectation, packets)? - round_trip as f64 / 2.0)
        }),
        Subject::CoveredPercent => by_clock(&clocks::covered_percent),
        Subject::CorrectedPercent => by_clock(&clocks::corrected_percent),
        Subject::Packets => whole(clocks::count(expectation, &measured.packets.joined) as f64),
        Subject::LieNamed => naming(expectation, measured),
        Subject::WronglyNamed => at_nodes(&|host| {
            let wrong = clocks::wrongly_named(measured.report(host)?, &hosts(&expectation.liars));
            Some((wrong.len() as f64, Some(0.0)))
        }),
        Subject::StepSeen => at_nodes(&|host| {
            let stepped = measured.remains.skews.get(host)?.step?.at.as_nanos();
            Some(((measured.packets.new_epochs.get(&host)? - stepped) as f64, None))
        }),
        Subject::Lost => lost(expectation, measured),
        Subject::RcvbufDropped => at_nodes(&|host| {
            let truth = measured.remains.counters.get(host)?.udp_rcvbuf_errors as f64;
            Some((counter(host, "rcvbuf_dropped")?, Some(truth)))
        }),
        Subject::ClockOffset => at_nodes(&|host| {
            let (offset, truth) = measured.clock_offset(host)?;
            Some((offset, Some(truth)))
        }),
        Subject::Unaccounted => {
            let unaccounted = measured.unaccounted();
            at_nodes(&|host| {
                let missing = measured.packets.unseen.iter().filter(|(from, _)| *from == host).count();
                let kernels = unaccounted.get(host)?.unsigned_abs() as f64;
                Some((kernels.max(missing as f64), Some(0.0)))
            })
        }
        Subject::AccountingGap => at_nodes(&|host| {
            let sum: f64 = ["matched", "unmatched", "late", "ring_failed", "dropped", "pending"]
                .iter()
                .map(|name| counter(host, name))
                .sum::<Option<f64>>()?;
            Some(((counter(host, "seen")? - sum).abs(), Some(0.0)))
        }),
        Subject::UnmatchedPercent => at_nodes(&|host| {
            let bad = counter(host, "unmatched")? + counter(host, "late")?;
            Some((100.0 * bad / counter(host, "seen")?.max(1.0), None))
        }),
        Subject::NotConverged => {
            vec![Case {
                place: String::new(),
                measured: Some(measured.not_converged as f64),
                truth: Some(0.0),
            }]
        }
        Subject::Up => whole(measured.up_ns as f64),
        Subject::Down => whole(measured.remains.down.as_nanos() as f64),
        Subject::CpuPercent => used(|used| used.cpu_percent),
        Subject::RssBytes => used(|used| used.rss_bytes as f64),
        Subject::Fds => used(|used| used.fds as f64),
        Subject::Wire => of(&|packet| packet.wire, &|packet| packet.truth[NETWORK]),
        Subject::SendQueue => of(&|packet| packet.left[0], &|_| None),
        Subject::EgressStack => of(&|packet| packet.left[1], &|_| None),
        Subject::Qdisc => of(&|packet| packet.left[2], &|_| None),
        Subject::Verdict => verdicts(expectation, measured),
    }
}

/// A time of a packet.
type Pick<'a> = dyn Fn(&Packet) -> Option<i64> + 'a;

/// So many nodes are all ring neighbours of each other: they judge every path.
const ALL_NEIGHBOURS: usize = 5;

/// A case for each path that is meant and that carried packets, or of which something was said in the window.
fn verdicts(expectation: &Expectation, measured: &Measured) -> Vec<Case> {
    let [from, until] = expectation.during.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
    // Of each path how many were hits, of how many; and the last that was none.
    let mut paths: std::collections::BTreeMap<(usize, usize), (u32, u32, Option<&Statement>)> =
        Default::default();
    // A path of which nobody says anything fails, where all nodes are ring neighbours of each other.
    if measured.remains.reports.len() <= ALL_NEIGHBOURS {
        let carried = measured.packets.joined.iter().map(|packet| (packet.from, packet.to));
        paths.extend(
            carried.filter(|(from, to)| is_meant(expectation, *from, *to)).map(|path| (path, (0, 0, None))),
        );
    }
    let by = expectation.node.as_deref().and_then(host_index);
    let meant =
        |said: &&Statement| is_meant(expectation, said.from, said.to) && by.is_none_or(|by| by == said.by);
    for said in measured.statements.iter().filter(meant) {
        if (from..until).contains(&((said.at - measured.start) as f64 / 1e9)) {
            let blamed = |cause| expectation.causes.contains(&cause);
            let (hits, all, other) = paths.entry((said.from, said.to)).or_default();
            *all += 1;
            let told = expectation.says.as_ref().is_none_or(|says| said.evidence.contains(says));
            if told && (blamed(said.cause) || said.also.is_some_and(blamed)) {
                *hits += 1;
            } else if other.is_none_or(|other| other.at < said.at) {
                *other = Some(said);
            }
        }
    }
    let mut cases = Vec::new();
    for ((from, to), (hits, all, other)) in paths {
        let mut place = format!("{} > {}", host_name(from), host_name(to));
        if let Some(said) = other {
            let Statement { by, cause, evidence, .. } = said;
            place += &format!("; {} said {}: {evidence}", host_name(*by), cause.name());
        }
        let measured = (all > 0).then(|| 100.0 * f64::from(hits) / f64::from(all));
        if measured.is_none() {
            place += "; nobody said anything";
        }
        cases.push(Case { place, measured, truth: None });
    }
    cases
}

/// A case for each path that is meant and carried packets.
fn paths(
    expectation: &Expectation,
    measured: &Measured,
    value: impl Fn(&[Packet]) -> (Option<f64>, Option<f64>),
) -> Vec<Case> {
    let mut by_path: std::collections::BTreeMap<(usize, usize), Vec<Packet>> = Default::default();
    for packet in
        measured.packets.joined.iter().filter(|packet| is_meant(expectation, packet.from, packet.to))
    {
        by_path.entry((packet.from, packet.to)).or_default().push(*packet);
    }
    let case = |((from, to), packets): ((usize, usize), Vec<Packet>)| {
        let (measured, truth) = value(&packets);
        Case { place: format!("{} > {}", host_name(from), host_name(to)), measured, truth }
    };
    by_path.into_iter().map(case).collect()
}

fn is_meant(expectation: &Expectation, from: usize, to: usize) -> bool {
    let Some((a, b)) = expectation.path.as_deref().and_then(|path| path.split_once('>')) else { return true };
    let is = |side: &str, host: usize| side == "*" || host_index(side) == Some(host);
    is(a, from) && is(b, to)
}

/// Measured, and what it is compared with: the truth about the same packets, or the same in the quiet window.
fn segment(
    expectation: &Expectation,
    value: &Pick<'_>,
    truth: &Pick<'_>,
    packets: &[Packet],
) -> (Option<f64>, Option<f64>) {
    let stat = |window: Option<[f64; 2]>, pick: &Pick<'_>| {
        let inside = |packet: &&Packet| window.is_none_or(|[from, to]| (from..to).contains(&packet.sent_s));
        quantile(packets.iter().filter(inside).filter_map(pick), expectation.stat.share()).map(|ns| ns as f64)
    };
    let known = |packet: &Packet| truth(packet).filter(|_| value(packet).is_some());
    let reference = match expectation.near {
        Some(Reference::Quiet) => stat(expectation.quiet, value),
        Some(Reference::Truth) | None => stat(expectation.during, &known),
    };
    (stat(expectation.during, value), reference)
}

/// How long each node took to name the liars, itself included, from when they began to lie; below zero when they lied
/// before the scenario's start.
fn naming(expectation: &Expectation, measured: &Measured) -> Vec<Case> {
    let liars = hosts(&expectation.liars);
    let only = expectation.node.as_deref().and_then(host_index);
    let nodes = (0..measured.remains.reports.len()).filter(|host| only.is_none_or(|only| only == *host));
    let case = |host: usize| {
        let since = match measured.report(host) {
            Some(report) => clocks::named_since(report, &liars),
            None => Err("left no report".to_owned()),
        };
        let place = match &since {
            Ok(_) => host_name(host),
            Err(instead) => format!("{} {instead}", host_name(host)),
        };
        let took = since.ok().map(|since| (since - measured.lies_from) as f64);
        Case { place, measured: took, truth: None }
    };
    nodes.map(case).collect()
}

fn hosts(names: &[String]) -> Vec<usize> {
    names.iter().filter_map(|name| host_index(name)).collect()
}

fn lost(expectation: &Expectation, measured: &Measured) -> Vec<Case> {
    let mut cases = Vec::new();
    for (to, report) in measured.remains.reports.iter().enumerate() {
        for path in report.iter().flat_map(|report| report["paths"].as_array()).flatten() {
            let Some(from) = path["from"].as_str().and_then(host_of) else { continue };
            if is_meant(expectation, from, to) {
                let truth = measured.packets.lost.get(&(from, to)).copied().unwrap_or(0);
                cases.push(Case {
                    place: format!("{} > {}", host_name(from), host_name(to)),
                    measured: path["lost"].as_f64(),
                    truth: Some(truth as f64),
                });
            }
        }
    }
    cases
}

fn entries(expectation: &Expectation, measured: &Measured, part: &str) -> Vec<Case> {
    let key = match expectation.stat {
        Stat::P50 => "p50_ns",
        Stat::P95 => "p95_ns",
        Stat::P99 | Stat::Max => "p99_ns",
    };
    let mut cases = Vec::new();
    for (to, report) in measured.remains.reports.iter().enumerate() {
        for one in report.iter().flat_map(|report| report["entries"].as_array()).flatten() {
            let Some(from) = one["from"].as_str().and_then(host_of) else { continue };
            if is_meant(expectation, from, to) && one["count"].as_u64() > Some(0) {
                cases.push(Case {
                    place: format!("{} > {}", host_name(from), host_name(to)),
                    measured: one[part][key].as_f64(),
                    truth: None,
                });
            }
        }
    }
    cases
}

fn nodes(
    expectation: &Expectation,
    measured: &Measured,
    value: &dyn Fn(usize) -> Option<(f64, Option<f64>)>,
) -> Vec<Case> {
    let only = expectation.node.as_deref().and_then(host_index);
    (0..measured.remains.reports.len())
        .filter(|host| only.is_none_or(|only| only == *host))
        .filter_map(|host| {
            let (measured, truth) = value(host)?;
            Some(Case { place: host_name(host), measured: Some(measured), truth })
        })
        .collect()
}

#[cfg(test)]
mod tests;
