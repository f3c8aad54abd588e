//! Every packet as both ends' nodes recorded it, with what is known about it from outside.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::bed::Remains;
use super::expectation::Correction;
use super::scenario::{Scenario, host_index};
use super::switch::{Journey, Outcome, Port};
use super::trouble::Troubles;
use crate::rig::node;

/// The segments that a path is split into so far, as they are named in reports.
pub const SEGMENTS: [&str; 4] = ["network", "ingress_stack", "socket_queue", "handling"];
/// Their places.
pub const NETWORK: usize = 0;
#[expect(missing_docs, reason = "as above")]
pub const INGRESS_STACK: usize = 1;
#[expect(missing_docs, reason = "as above")]
pub const SOCKET_QUEUE: usize = 2;
#[expect(missing_docs, reason = "as above")]
pub const HANDLING: usize = 3;

/// A packet that came to its end. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// Sending host.
    pub from: usize,
    /// Receiving host.
    pub to: usize,
    /// The number behind the letter of the sending node's name, 0 without one.
    pub from_number: u32,
    /// Whether the receiving node is the one that was last started on its host: the one with the final report.
    pub to_last: bool,
    /// T1, in seconds after the scenario's start.
    pub sent_s: f64,
    /// By place in [`SEGMENTS`]: what the receiving node says.
    pub measured: [Option<i64>; SEGMENTS.len()],
    /// By place in [`SEGMENTS`]: what is known from outside.
    pub truth: [Option<i64>; SEGMENTS.len()],
    /// What the receiving node says how far its network time may be off.
    pub bound: Option<i64>,
    /// T4 minus T1 by the clock that all hosts share: what a rightly corrected network time is.
    pub elapsed: Option<i64>,
    /// What the correction rests on.
    pub correction: Option<Correction>,
    /// The sender's parts, once it has told: send queue, kernel, qdisc.
    pub left: [Option<i64>; 3],
    /// Network time from driver to receive stamp, once the sender has told when its driver had the packet.
    pub wire: Option<i64>,
}

impl Packet {
    /// How far off its corrected network time is, without sign.
    pub fn clock_error(&self) -> Option<i64> {
        Some((self.measured[NETWORK]? - self.elapsed?).abs())
    }

    /// How far off its network time from driver to receive stamp is, without sign: against packet sockets at both
    /// hosts' edges, in which nothing of the node has a part.
    pub fn wire_error(&self) -> Option<i64> {
        Some((self.wire? - self.truth[NETWORK]?).abs())
    }
}

/// All packets of a run.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// Those that arrived, with both ends' records.
    pub joined: Vec<Packet>,
    /// Records that the nodes' recorders had to drop.
    pub unrecorded: u64,
    /// Sent by a node's word, but not seen at its host's edge: (from, to).
    pub unseen: Vec<(usize, usize)>,
    /// Dropped by the switch between two packets that arrived, by (from, to).
    pub lost: HashMap<(usize, usize), u64>,
    /// All gossip packets that the switch dropped.
    pub dropped: u64,
    /// By host, T1 of the first packet that its node sent with a clock that it knew to be stepped.
    pub new_epochs: BTreeMap<usize, i64>,
}

/// What a node says of a journey once the sender has told: [`Packet::left`] and [`Packet::wire`].
type Whole = ([Option<i64>; 3], Option<i64>);

/// What happened outside the nodes to the packet with this id.
type Fates<'a> = HashMap<(usize, usize, u64), &'a Journey>;

impl Packets {
    /// Joins the nodes' records with the switch's log. `start` is the scenario's start on CLOCK_MONOTONIC.
    pub fn join(scenario: &Scenario, remains: &Remains, troubles: &Troubles, start: i64) -> Result<Self> {
        let omitted = remains.switch.log.omitted();
        ensure!(omitted == 0, "the switch's log was too small by {omitted}");
        let fates = fates(&remains.journeys);
        let mut packets = Self::default();
        let mut sent: HashMap<(usize, usize, u64), i64> = HashMap::new();
        let mut received = Vec::new();
        let mut whole: HashMap<(usize, usize, u64), Whole> = HashMap::new();
        for (host, files) in remains.records.iter().enumerate() {
            for (number, file) in files.iter().enumerate() {
                let is_last = number + 1 == files.len();
                for line in Remains::lines(file)? {
                    let number = |key: &str| line[key].as_i64();
                    match line["type"].as_str() {
                        Some("tx") => {
                            let to = line["to"].as_str().and_then(|to| addressed(to, scenario));
                            if let (Some(to), Some(id), Some(t1)) =
                                (to, line["id"].as_u64(), number("t1_mono_ns"))
                            {
                                sent.insert((host, to, id), t1);
                                if number("epoch") > Some(0) {
                                    let first = packets.new_epochs.entry(host).or_insert(t1);
                                    *first = t1.min(*first);
                                }
                            }
                        }
                        Some("rx") => received.push((host, is_last, line)),
                        Some("journey") => {
                            let from = line["from"].as_str().and_then(host_of);
                            let of = |segment: &str| line["segments_ns"][segment].as_i64();
                            if let (Some(from), Some(counter)) = (from, line["counter"].as_u64()) {
                                let left = ["send_queue", "egress_stack", "qdisc"].map(of);
                                // Before the sender tells, the network's time begins where it handed the packet over.
                                let wire = of("network").filter(|_| left[2].is_some());
                                whole.insert((from, host, counter), (left, wire));
                            }
                        }
                        Some("end") => packets.unrecorded += line["dropped"].as_u64().unwrap_or(0),
                        _ => {}
                    }
                }
            }
        }
        // What a node that came back under a new name sends to its old one stays in its host.
        packets.unseen = sent
            .keys()
            .filter(|key| key.0 != key.1 && !fates.contains_key(*key))
            .map(|(from, to, _)| (*from, *to))
            .collect();
        // First and last id that arrived, by path and incarnation.
        let mut ranges: HashMap<(usize, usize, u64), (u64, u64)> = HashMap::new();
        for (to, to_last, line) in &received {
            let name = line["from"].as_str().unwrap_or_default();
            let (Some(from), Some(id)) = (host_of(name), line["id"].as_u64()) else { continue };
            let range = ranges.entry((from, *to, id >> 32)).or_insert((id, id));
            *range = (range.0.min(id), range.1.max(id));
            if let Some(t1) = sent.get(&(from, *to, id)) {
                let fate = fates.get(&(from, *to, id)).copied();
                let packet = packet(from, *to, *t1, line, fate, scenario, troubles, start);
                // Counters begin anew with each run of a node, and journeys do not tell which.
                let is_only = scenario.is_steady(from) && scenario.is_steady(*to);
                let told = whole.get(&(from, *to, id & u64::from(u32::MAX))).copied().filter(|_| is_only);
                let (left, wire) = told.unwrap_or_default();
                packets.joined.push(Packet {
                    from_number: number_of(name),
                    to_last: *to_last,
                    left,
                    wire,
                    ..packet
                });
            }
        }
        for ((from, to, id), journey) in fates {
            let dropped = journey.record.is_some_and(|record| matches!(record.outcome, Outcome::Dropped(_)));
            if !dropped {
                continue;
            }
            packets.dropped += 1;
            let range = ranges.get(&(from, to, id >> 32));
            if range.is_some_and(|(first, last)| (*first..=*last).contains(&id)) {
                *packets.lost.entry((from, to)).or_default() += 1;
            }
        }
        packets.joined.sort_by(|a, b| a.sent_s.total_cmp(&b.sent_s));
        Ok(packets)
    }
}

#[expect(clippy::too_many_arguments, reason = "all that is known about one packet, joined in one place")]
fn packet(
    from: usize,
    to: usize,
    t1: i64,
    rx: &Value,
    fate: Option<&Journey>,
    scenario: &Scenario,
    troubles: &Troubles,
    start: i64,
) -> Packet {
    let number = |key: &str| rx[key].as_i64();
    let between = |first: &str, second: &str| Some(number(second)? - number(first)?);
    let arrived = fate.and_then(|journey| journey.received).map(|at| at.as_nanos());
    // A node that is stopped reads nothing until it goes on.
    let is_stopped = troubles.pauses.iter().any(|(host, ..)| *host == to);
    let waited = arrived.filter(|_| is_stopped).map(|arrived| {
        let pause = troubles
            .pauses
            .iter()
            .find(|(host, from, until)| *host == to && (*from..*until).contains(&arrived));
        pause.map_or(0, |(_, _, until)| until - arrived)
    });
    let slow = scenario.node(to).slow_handler_us.and_then(|us| i64::try_from(us * 1_000).ok());
    Packet {
        from,
        to,
        from_number: 0,
        to_last: true,
        sent_s: (t1 - start) as f64 / 1e9,
        measured: [
            number("network_ns"),
            between("t4_mono_ns", "t5_mono_ns"),
            between("t5_mono_ns", "t6_mono_ns"),
            between("t6_mono_ns", "t7_mono_ns"),
        ],
        truth: [fate.and_then(Journey::network).map(|time| time.as_nanos()), None, waited, slow],
        bound: number("network_bound_ns"),
        elapsed: number("t4_mono_ns").map(|t4| t4 - t1),
        correction: serde_json::from_value(rx["correction"].clone()).ok(),
        left: [None; 3],
        wire: None,
    }
}

/// By path and id, the first of all copies to arrive.
fn fates(journeys: &[Journey]) -> Fates<'_> {
    let mut fates = Fates::new();
    for journey in journeys {
        let id = journey.key.packet_id().map(|id| id.to_u64());
        let (Some(from), Some(to), Some(id)) = (journey.from.index(), journey.to.index(), id) else {
            continue;
        };
        let earlier = |known: &&Journey| {
            journey.received.is_some_and(|at| known.received.is_none_or(|first| at < first))
        };
        let known = fates.entry((from, to, id)).or_insert(journey);
        if earlier(&&**known) {
            *known = journey;
        }
    }
    fates
}

/// The host of a node id: its first letter; what follows tells a node's names apart.
pub fn host_of(node_id: &str) -> Option<usize> {
    host_index(node_id.get(..1)?)
}

/// The number behind the letter of a node id, 0 without one.
pub fn number_of(node_id: &str) -> u32 {
    node_id.get(1..).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The host that has this gossip address.
fn addressed(address: &str, scenario: &Scenario) -> Option<usize> {
    let address: std::net::SocketAddr = address.parse().ok()?;
    (0..scenario.hosts).find(|host| {
        let port = Port::host(*host);
        [node::gossip(port.v4()), node::gossip(port.v6())].contains(&address)
    })
}

/// The value at this share of the sorted values, the nearest one; none of none.
pub fn quantile(values: impl IntoIterator<Item = i64>, share: f64) -> Option<i64> {
    let mut values: Vec<i64> = values.into_iter().collect();
    let rank = (values.len().checked_sub(1)? as f64 * share).round() as usize;
    let (_, value, _) = values.select_nth_unstable(rank);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values = [50, 10, 40, 20, 30];
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| quantile(values, share)), [10, 30, 50, 50].map(Some));
        assert_eq!(quantile([], 0.5), None);
    }

    #[test]
    fn a_node_with_a_new_name_is_on_the_same_host() {
        assert_eq!((host_of("c"), host_of("c3"), host_of("")), (Some(2), Some(2), None));
        assert_eq!((number_of("c"), number_of("c13"), number_of("")), (0, 13, 0));
    }
}
