//! What nodes say about clocks, held against the clock that all hosts of the lab share. Pure.
//!
//! All hosts run on one machine, so T4 - T1 of a packet on its CLOCK_MONOTONIC is the one-way time that the receiving
//! node would measure if it knew both wall clocks exactly. What its corrected value is off by is the correction's error
//! and nothing else; the bound that it states must cover it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::expectation::{Correction, Expectation, Stat};
use super::packets::{NETWORK, Packet, host_of, quantile};

/// The packets that an expectation is about: those sent in its window, with its kind of correction.
fn meant<'a>(
    expectation: &'a Expectation,
    packets: &'a [Packet],
) -> impl Iterator<Item = &'a Packet> + use<'a> {
    packets.iter().filter(|packet| {
        expectation.during.is_none_or(|[from, to]| (from..to).contains(&packet.sent_s))
            && expectation.correction.is_none_or(|kind| packet.correction == Some(kind))
    })
}

fn stat(stat: Stat, values: impl Iterator<Item = i64>) -> Option<f64> {
    quantile(values, stat.share()).map(|ns| ns as f64)
}

/// How far off the corrected network times are.
pub fn error(expectation: &Expectation, packets: &[Packet]) -> Option<f64> {
    stat(expectation.stat, meant(expectation, packets).filter_map(Packet::clock_error))
}

/// How far off they are from driver to receive stamp, against packet sockets at the hosts' edges.
pub fn wire_error(expectation: &Expectation, packets: &[Packet]) -> Option<f64> {
    stat(expectation.stat, meant(expectation, packets).filter_map(Packet::wire_error))
}

/// How far off they may be; a packet without any bound is off by as much as a number can say.
pub fn bound(expectation: &Expectation, packets: &[Packet]) -> Option<f64> {
    let judged = meant(expectation, packets).filter(|packet| packet.measured[NETWORK].is_some());
    stat(expectation.stat, judged.map(|packet| packet.bound.unwrap_or(i64::MAX)))
}

/// Share of the packets whose network time is within its bound of the truth, in percent.
pub fn covered<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> Option<f64> {
    percent(packets.into_iter().filter_map(|packet| Some(packet.clock_error()? <= packet.bound?)))
}

/// The same of an expectation's packets.
pub fn covered_percent(expectation: &Expectation, packets: &[Packet]) -> Option<f64> {
    covered(meant(expectation, packets))
}

/// Share of the packets in the window that were corrected as the expectation says, in percent.
pub fn corrected_percent(expectation: &Expectation, packets: &[Packet]) -> Option<f64> {
    let in_time = Expectation { correction: None, ..expectation.clone() };
    let kinds: Vec<Correction> = meant(&in_time, packets).filter_map(|packet| packet.correction).collect();
    percent(kinds.into_iter().map(|kind| Some(kind) == expectation.correction))
}

/// Packets of which both the network time and the truth are known.
pub fn count(expectation: &Expectation, packets: &[Packet]) -> usize {
    meant(expectation, packets).filter_map(Packet::clock_error).count()
}

fn percent(held: impl Iterator<Item = bool>) -> Option<f64> {
    let (held, all) = held.fold((0u64, 0u64), |(held, all), is| (held + u64::from(is), all + 1));
    (all > 0).then(|| 100.0 * held as f64 / all as f64)
}

/// The least time that a packet there and one back took together, by the clock that all share.
pub fn least_round_trip(packets: &[Packet], from: usize, to: usize) -> Option<i64> {
    let least = |from: usize, to: usize| {
        let way = packets.iter().filter(|packet| (packet.from, packet.to) == (from, to));
        way.filter_map(|packet| packet.elapsed).min()
    };
    Some(least(from, to)? + least(to, from)?)
}

/// Error, coverage and bound of some packets.
fn figures<'a>(packets: impl Iterator<Item = &'a Packet> + Clone) -> Option<Value> {
    let errors: Vec<i64> = packets.clone().filter_map(Packet::clock_error).collect();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(errors.iter().copied(), share));
    let bound = quantile(packets.clone().filter_map(|packet| packet.bound), 0.5);
    Some(json!({
        "count": errors.len(), "p50_ns": p50?, "p99_ns": p99?, "max_ns": max?,
        "covered_percent": covered(packets), "bound_p50_ns": bound,
    }))
}

/// The same of all packets, and of those of each kind of correction, by its name; as `wire`, the errors from driver to
/// receive stamp against the hosts' edges.
pub fn all_figures(packets: &[Packet]) -> Value {
    let mut by_kind: BTreeMap<Correction, Vec<&Packet>> = BTreeMap::new();
    for packet in packets {
        if let Some(kind) = packet.correction {
            by_kind.entry(kind).or_default().push(packet);
        }
    }
    let kinds = by_kind.iter().map(|(kind, packets)| (kind.name(), figures(packets.iter().copied())));
    let all = [("all", figures(packets.iter())), ("wire", wire_figures(packets))].into_iter();
    let named = all.chain(kinds).filter_map(|(name, figures)| Some((name.to_owned(), figures?)));
    named.collect::<serde_json::Map<_, _>>().into()
}

fn wire_figures(packets: &[Packet]) -> Option<Value> {
    let errors: Vec<i64> = packets.iter().filter_map(Packet::wire_error).collect();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(errors.iter().copied(), share));
    Some(json!({ "count": errors.len(), "p50_ns": p50?, "p99_ns": p99?, "max_ns": max? }))
}

/// A change of what a node thinks of the clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, on CLOCK_MONOTONIC.
    pub at: i64,
    /// Hosts that it names from then on.
    pub liars: Vec<usize>,
}

/// The changes that a node's final report tells of, in the order of time.
pub fn changes(report: &Value) -> Vec<Change> {
    let one = |change: &Value| {
        let names = change["liars"].as_array()?;
        let liars = names.iter().filter_map(|name| host_of(name.as_str()?)).collect();
        Some(Change { at: change["at_mono_ns"].as_i64()?, liars })
    };
    report["clock"]["honesty"]["changes"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// Since when a node names exactly these, in nanoseconds; or what it says instead.
pub fn named_since(report: &Value, liars: &[usize]) -> Result<i64, String> {
    let same = |change: &Change| change.liars.len() == liars.len() && named(change, liars);
    match changes(report).last() {
        Some(change) if same(change) => Ok(change.at),
        _ => {
            let honesty = &report["clock"]["honesty"];
            let word = |key: &str| honesty[key].as_str().unwrap_or("nothing").to_owned();
            Err(format!("says `{}`: {}", word("verdict"), word("sentence")))
        }
    }
}

fn named(change: &Change, liars: &[usize]) -> bool {
    liars.iter().all(|liar| change.liars.contains(liar))
}

/// Hosts that a node named at any time and that are not among these.
pub fn wrongly_named(report: &Value, liars: &[usize]) -> Vec<usize> {
    let mut wrong: Vec<usize> = changes(report).into_iter().flat_map(|change| change.liars).collect();
    wrong.retain(|host| !liars.contains(host));
    wrong.sort_unstable();
    wrong.dedup();
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenario::Scenario;

    fn expectation(text: &str) -> Expectation {
        let text =
            format!("about = 'x'\nseconds = 9\n[[expect]]\nname = 'n'\nof = 'bound'\nat_most = 1\n{text}");
        Scenario::parse("test", &text).unwrap().expectations.remove(0)
    }

    fn packet(sent_s: f64, network: i64, elapsed: i64, bound: i64, kind: Correction) -> Packet {
        Packet {
            from: 0,
            to: 1,
            from_number: 0,
            to_last: true,
            sent_s,
            measured: [Some(network), None, None, None],
            truth: [Some(network - 45), None, None, None],
            bound: Some(bound),
            elapsed: Some(elapsed),
            correction: Some(kind),
            left: [None; 3],
            wire: Some(network - 40),
        }
    }

    fn packets() -> [Packet; 4] {
        [
            packet(1.0, 100, 110, 10, Correction::Ntp),
            packet(2.0, 100, 89, 10, Correction::Ntp),
            packet(3.0, -50, 120, 200, Correction::PeerOnly),
            Packet { from: 1, to: 0, ..packet(4.0, 100, 100, 30, Correction::Fused) },
        ]
    }

    #[test]
    fn errors_and_bounds_are_split_by_time_and_kind() {
        let packets = packets();
        let ntp = expectation("correction = 'ntp'\nstat = 'max'");
        assert_eq!((error(&ntp, &packets), bound(&ntp, &packets)), (Some(11.0), Some(10.0)));
        assert_eq!(covered_percent(&ntp, &packets), Some(50.0), "an error as large as the bound is covered");
        let late = expectation("during = [2.5, 9]");
        assert_eq!((count(&late, &packets), covered_percent(&late, &packets)), (2, Some(100.0)));
        assert_eq!(corrected_percent(&expectation("correction = 'ntp'"), &packets), Some(50.0));
        let later = expectation("correction = 'ntp'\nduring = [2.5, 9]");
        assert_eq!((corrected_percent(&later, &packets), error(&later, &packets)), (Some(0.0), None));
        let figures = all_figures(&packets);
        assert_eq!((&figures["all"]["count"], &figures["all"]["covered_percent"]), (&4.into(), &75.0.into()));
        assert_eq!(figures["peer_only"]["max_ns"], 170);
        assert_eq!(
            wire_error(&ntp, &packets),
            Some(5.0),
            "from driver to stamp 40 less, at the edges 45 less"
        );
        assert_eq!(figures["wire"]["count"], 4);
        assert_eq!(least_round_trip(&packets, 0, 1), Some(189));
        let unbounded = [Packet { bound: None, ..packets[0] }];
        assert_eq!(
            bound(&expectation(""), &unbounded),
            Some(i64::MAX as f64),
            "no bound is not a narrow one"
        );
    }

    #[test]
    fn a_liar_is_named_when_all_and_only_they_are() {
        let report = |changes: Value| json!({ "clock": { "honesty": { "changes": changes, "verdict": "unsure", "sentence": "hm" } } });
        let told = report(json!([
            { "at_mono_ns": 1, "liars": [] }, { "at_mono_ns": 5, "liars": ["c"] }, { "at_mono_ns": 9, "liars": ["b"] },
        ]));
        assert_eq!(named_since(&told, &[1]), Ok(9));
        assert_eq!(named_since(&told, &[2]), Err("says `unsure`: hm".to_owned()));
        assert_eq!(named_since(&told, &[1, 2]), Err("says `unsure`: hm".to_owned()));
        assert_eq!((wrongly_named(&told, &[1]), wrongly_named(&told, &[1, 2])), (vec![2], vec![]));
        assert!(named_since(&report(json!([])), &[1]).is_err());
    }
}
