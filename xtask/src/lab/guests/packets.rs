//! Every packet between the guests: what its receiver's node says that the network took, and what it did take.
//!
//! A node's network time begins at the sender's T1, just before `sendmsg`, and ends at the receiver's T4; both are
//! inside emulated machines, where a millisecond is soon gone. The switch and the stamps at the TAP devices do not see
//! that part. So the truth is made of the guests' own stamps, moved onto the host's clock by their [`Bracket`]s: what
//! is beyond the transit outside is what emulation takes.

use std::collections::HashMap;

use anyhow::{Context, Result};
use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::Serialize;
use serde_json::Value;

use super::bracket::{Bracket, Order, Passing};
use super::trial::{Left, Remains};
use crate::lab::switch::Journey;
use crate::rig::node;

/// A packet from one guest to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Packet {
    /// Index of the sending guest.
    pub(super) from: usize,
    /// Whether it came to the switch while there was delay from the first guest to the second.
    pub(super) delayed: bool,
    /// From the sender's TAP device to the receiver's.
    pub(super) transit: Span,
    /// From the sender's T1 to the receiver's T4, and how exactly that is known.
    pub(super) truth: Bounded,
    /// What the receiving node says, if it says anything.
    pub(super) measured: Option<Measured>,
}

/// A node's word about a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Network time with its absolute bound.
    pub(super) time: Bounded,
    /// What moved it onto one timeline.
    pub(super) correction: Option<Correction>,
}

/// What a network time's correction rests on, by the receiving node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Correction {
    /// Both clocks' readings.
    Ntp,
    /// These, narrowed by the packets between the nodes.
    Fused,
    /// The packets alone, which cannot tell which way a delay is.
    PeerOnly,
    /// Nothing.
    None,
}

impl Correction {
    fn named(name: &str) -> Option<Self> {
        let all =
            [("ntp", Self::Ntp), ("fused", Self::Fused), ("peer_only", Self::PeerOnly), ("none", Self::None)];
        all.into_iter().find(|(known, _)| *known == name).map(|(_, correction)| correction)
    }

    /// Whether it can tell one way from the other.
    pub(super) fn is_by_clocks(self) -> bool {
        matches!(self, Self::Ntp | Self::Fused)
    }
}

/// All packets of a trial.
#[derive(Debug)]
pub(super) struct Packets {
    /// Those of the stretches.
    pub(super) joined: Vec<Packet>,
    /// Received during the stretches, but not seen by the sender's node or at both edges.
    pub(super) unmatched: u64,
    /// By guest, its clock.
    pub(super) clocks: [Bracket; 2],
}

/// What one node recorded.
struct Recorded {
    /// T1 by packet id.
    sent: HashMap<u64, MonoNs>,
    received: HashMap<u64, (MonoNs, Option<Measured>)>,
}

impl Packets {
    /// Joins the nodes' records with the truth at the edges.
    pub(super) fn join(remains: &Remains) -> Result<Self> {
        let [a, b] = &remains.guests[..] else { anyhow::bail!("not two guests") };
        let recorded = [Recorded::of(a, b), Recorded::of(b, a)];
        let mut journeys: HashMap<(usize, u64), &Journey> = HashMap::new();
        for journey in &remains.journeys {
            let id = journey.key.packet_id().map(|id| id.to_u64());
            if let (Some(from), Some(_), Some(id)) = (journey.from.index(), journey.to.index(), id) {
                journeys.insert((from, id), journey);
            }
        }
        let clock = |guest: usize| {
            let passings = passings(guest, &recorded, &journeys);
            Bracket::around(&passings).with_context(|| {
                format!(
                    "no straight clock fits the {} packets of guest {}: {}",
                    passings.len(),
                    remains.guests[guest].name,
                    remains.guests[guest].clocksources.join(", then ")
                )
            })
        };
        let clocks = [clock(0)?, clock(1)?];
        let mut packets = Self { joined: Vec::new(), unmatched: 0, clocks };
        for to in 0..2 {
            let from = 1 - to;
            for (id, (t4, measured)) in &recorded[to].received {
                let (received, received_error) = packets.clocks[to].host(*t4);
                let Some(delayed) = journeys.get(&(from, *id)).map_or_else(
                    || is_delayed(remains, received),
                    |journey| journey.record.and_then(|record| is_delayed(remains, record.arrival)),
                ) else {
                    continue;
                };
                let transit = journeys.get(&(from, *id)).and_then(|journey| journey.network());
                let (Some(transit), Some(t1)) = (transit, recorded[from].sent.get(id)) else {
                    packets.unmatched += 1;
                    continue;
                };
                let (sent, sent_error) = packets.clocks[from].host(*t1);
                let truth = Bounded::new(received - sent, sent_error + received_error + remains.edge_error);
                packets.joined.push(Packet { from, delayed, transit, truth, measured: *measured });
            }
        }
        // Whence they came was a map, whose order is another one each time.
        packets.joined.sort_by_key(|packet| (packet.delayed, packet.from, packet.truth.value));
        Ok(packets)
    }
}

impl Recorded {
    fn of(guest: &Left, peer: &Left) -> Self {
        let to_peer = node::gossip(peer.port.v4()).to_string();
        let mut this = Self { sent: HashMap::new(), received: HashMap::new() };
        for line in &guest.records {
            let mono = |key: &str| line[key].as_i64().map(MonoNs::from_nanos);
            let Some(id) = line["id"].as_u64() else { continue };
            match line["type"].as_str() {
                Some("tx") if line["to"] == to_peer.as_str() => {
                    this.sent.extend(mono("t1_mono_ns").map(|t1| (id, t1)));
                }
                Some("rx") if line["from"] == peer.name.as_str() => {
                    this.received.extend(mono("t4_mono_ns").map(|t4| (id, (t4, measured(line)))));
                }
                _ => {}
            }
        }
        this
    }
}

fn measured(line: &Value) -> Option<Measured> {
    let span = |key: &str| line[key].as_i64().map(Span::from_nanos);
    let time = Bounded::new(span("network_ns")?, span("network_bound_ns")?);
    Some(Measured { time, correction: line["correction"].as_str().and_then(Correction::named) })
}

/// Every packet that went in or out of a guest and was stamped on both sides of its wall.
fn passings(
    guest: usize,
    recorded: &[Recorded; 2],
    journeys: &HashMap<(usize, u64), &Journey>,
) -> Vec<Passing> {
    let mut all = Vec::new();
    for (id, t1) in &recorded[guest].sent {
        let host = journeys.get(&(guest, *id)).and_then(|journey| journey.sent);
        all.extend(host.map(|host| Passing { guest: *t1, host, order: Order::GuestFirst }));
    }
    for (id, (t4, _)) in &recorded[guest].received {
        let host = journeys.get(&(1 - guest, *id)).and_then(|journey| journey.received);
        all.extend(host.map(|host| Passing { guest: *t4, host, order: Order::HostFirst }));
    }
    all.sort_by_key(|passing| (passing.guest, passing.host));
    all
}

/// Whether an instant of the host is in a stretch with delay; nothing outside of all of them.
fn is_delayed(remains: &Remains, at: MonoNs) -> Option<bool> {
    let stretch = remains.stretches.windows(2).position(|ends| (ends[0]..ends[1]).contains(&at))?;
    Some(stretch % 2 == 1)
}

#[cfg(test)]
pub(super) mod tests {
    use probe_ebpf::parse::PacketId;
    use serde_json::json;

    use super::*;
    use crate::lab::switch::{Class, Closing, Key, Outcome, Port, Record};

    const SECOND: i64 = 1_000_000_000;
    /// By guest, what the host's clock shows when its own shows nothing.
    const BOOT: [i64; 2] = [5_000 * SECOND, 5_003 * SECOND];
    /// What a packet takes inside the sender, outside, and inside the receiver.
    const TAKES: [i64; 3] = [200_000, 80_000, 150_000];

    /// A trial in which everything is known: 200 packets each way, 100 of them while there are 5 ms more from a to b.
    /// The nodes err by `error` from a to b and by as much the other way round.
    pub(in super::super) fn remains(error: i64, bound: i64) -> Remains {
        let (ports, names) = ([Port::host(0), Port::host(1)], ["a", "b"]);
        let mut records = [Vec::new(), Vec::new()];
        let mut journeys = Vec::new();
        for i in 0..400_i64 {
            let (from, to) = if i % 2 == 0 { (0, 1) } else { (1, 0) };
            let id = 1_u64 << 32 | i as u64;
            let start = 5_010 * SECOND + i * SECOND / 20;
            let added = if (i / 100) % 2 == 1 && from == 0 { 5_000_000 } else { 0 };
            let sent = start + TAKES[0];
            let received = sent + TAKES[1] + added;
            // Sometimes faster, so that both clocks are bracketed.
            let end = received + if i % 20 < 2 { TAKES[2] / 10 } else { TAKES[2] };
            let sign = if from == 0 { 1 } else { -1 };
            let address = node::gossip(ports[to].v4()).to_string();
            records[from]
                .push(json!({ "type": "tx", "to": address, "id": id, "t1_mono_ns": start - BOOT[from] }));
            records[to].push(json!({
                "type": "rx", "from": names[from], "id": id, "t4_mono_ns": end - BOOT[to],
                "network_ns": end - start + sign * error, "network_bound_ns": bound, "correction": "ntp",
            }));
            let [sent, received] = [sent, received].map(MonoNs::from_nanos);
            let (from, to) = (ports[from], ports[to]);
            let key = Key::Id(PacketId::from_u64(id).to_u64());
            let record = Record {
                from,
                to,
                key,
                class: Class::Udp,
                length: 100,
                copy: false,
                arrival: sent,
                asked: received,
                departure: received,
                outcome: Outcome::Delivered,
            };
            journeys.push(Journey {
                from,
                to,
                key,
                sent: Some(sent),
                record: Some(record),
                received: Some(received),
            });
        }
        let guests = ports.iter().zip(names).zip(records).map(|((port, name), records)| Left {
            port: *port,
            name: name.to_owned(),
            release: Some("6.1.0-56-cloud-amd64".to_owned()),
            clocksources: vec!["tsc".to_owned(); 2],
            records,
            report: json!({ "tier": 1, "clock": { "offset_ns": 1 } }),
        });
        let at = |s: i64| MonoNs::from_nanos((5_010 + s) * SECOND);
        Remains {
            guests: guests.collect(),
            journeys,
            closing: Closing::default(),
            edge_error: Span::from_nanos(100),
            stretches: [0, 5, 10, 15, 30].map(at).to_vec(),
            booted: std::time::Duration::from_secs(9),
            ready: std::time::Duration::from_secs(12),
        }
    }

    #[test]
    fn the_truth_is_made_of_both_ends_stamps_and_what_is_not_known_of_them_is_told() {
        let packets = Packets::join(&remains(0, 1_000_000)).unwrap();
        assert_eq!((packets.joined.len(), packets.unmatched), (400, 0));
        for packet in &packets.joined {
            let measured = packet.measured.unwrap();
            let off = (packet.truth.value - measured.time.value).abs();
            assert!(off <= packet.truth.bound, "{packet:?}");
            // Half of what the fastest take within each guest, and more at the ends.
            assert!(packet.truth.bound <= Span::from_micros(2 * 120), "{packet:?}");
            let added = if packet.delayed && packet.from == 0 { 5_000_000 } else { 0 };
            assert_eq!(packet.transit, Span::from_nanos(TAKES[1] + added));
        }
        assert_eq!(packets.joined.iter().filter(|packet| packet.delayed).count(), 200);
    }

    #[test]
    fn what_is_missing_at_one_end_is_counted() {
        let mut lost = remains(0, 1_000_000);
        lost.guests[0].records.retain(|line| line["type"] != "tx" || line["id"].as_u64().unwrap() % 40 != 0);
        let packets = Packets::join(&lost).unwrap();
        assert_eq!((packets.joined.len(), packets.unmatched), (400 - 10, 10));
    }

    #[test]
    fn a_clock_that_was_stepped_is_an_error_that_names_the_guest() {
        let mut stepped = remains(0, 1_000_000);
        for line in stepped.guests[1].records.iter_mut().skip(200) {
            for key in ["t1_mono_ns", "t4_mono_ns"] {
                if let Some(at) = line[key].as_i64() {
                    line[key] = json!(at + 2_000_000);
                }
            }
        }
        let error = format!("{:#}", Packets::join(&stepped).unwrap_err());
        assert!(error.contains("guest b") && error.contains("tsc"), "{error}");
    }
}
