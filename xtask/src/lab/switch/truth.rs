//! What really happened to each datagram: the edges' stamps and the switch's records, put together.

use std::collections::HashMap;

use probe_ebpf::time::{MonoNs, Span};
use serde::Serialize;

use super::capture::{Direction, Stamp};
use super::frame::{Class, Key, Port};
use super::link::Cause;
use super::log::{Outcome, Record};

/// One UDP datagram from edge to edge. A copy that a link made is a journey of its own with the same `sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// The sender.
    pub from: Port,
    /// The receiver.
    pub to: Port,
    /// How it is recognised.
    pub key: Key,
    /// When the sender's kernel handed it to its device.
    pub sent: Option<MonoNs>,
    /// What the switch did.
    pub record: Option<Record>,
    /// When the receiver's kernel took it from its device.
    pub received: Option<MonoNs>,
}

impl Journey {
    /// What the wire took, from edge to edge: the truth that a measured network time is held against.
    pub fn network(&self) -> Option<Span> {
        Some(self.received? - self.sent?)
    }
}

/// How many datagrams were seen where. Everything is UDP between ports, whether from the log or from the edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Closing {
    /// Seen leaving a host.
    pub sent: u64,
    /// Read by the switch.
    pub read: u64,
    /// Copies that links made.
    pub copied: u64,
    /// Delivered by the switch, copies included.
    pub delivered: u64,
    /// Dropped because a link was asked to.
    pub ordered: u64,
    /// Dropped by the switch without being asked.
    pub unasked: u64,
    /// Still under way in the switch at its end.
    pub queued: u64,
    /// Seen entering a host.
    pub received: u64,
    /// Sent but never read by the switch: lost by, or left in, a device's ring.
    pub unread: u64,
    /// Read by the switch but not seen leaving a host.
    pub unsent: u64,
    /// Delivered but not seen entering a host.
    pub unreceived: u64,
    /// Seen entering a host but not delivered by the switch.
    pub undelivered: u64,
}

impl Closing {
    /// Whether every datagram is accounted for, one by one and in sum:
    /// sent + copied = delivered + dropped by order + still queued, and what was delivered was received.
    pub fn closes(&self) -> bool {
        let strays = self.unread + self.unsent + self.unreceived + self.undelivered + self.unasked;
        strays == 0
            && self.sent + self.copied == self.delivered + self.ordered + self.queued
            && self.delivered == self.received
    }
}

#[derive(Default)]
struct Group {
    sent: Vec<MonoNs>,
    records: Vec<Record>,
    received: Vec<MonoNs>,
}

/// Joins stamps and records that belong together, by link and key.
///
/// Datagrams that are equal byte for byte are told apart by their order: first sent is first read, first to leave
/// the switch is first received. One of them lost in a device's ring shifts the others of its kind by one.
pub fn join(stamps: &[Stamp], records: &[Record]) -> (Vec<Journey>, Closing) {
    let mut groups: HashMap<(Port, Port, Key), Group> = HashMap::new();
    let mut closing = Closing::default();
    for stamp in stamps {
        let group = groups.entry((stamp.from, stamp.to, stamp.key)).or_default();
        match stamp.direction {
            Direction::Sent => group.sent.push(stamp.at),
            Direction::Received => group.received.push(stamp.at),
        }
    }
    for record in records.iter().filter(|record| record.class == Class::Udp) {
        groups.entry((record.from, record.to, record.key)).or_default().records.push(*record);
    }
    let mut journeys = Vec::new();
    for (link, group) in groups {
        join_group(link, group, &mut journeys, &mut closing);
    }
    journeys.sort_unstable_by_key(|journey| {
        (journey.sent.or(journey.record.map(|record| record.arrival)), journey.from, journey.to)
    });
    (journeys, closing)
}

fn join_group(
    (from, to, key): (Port, Port, Key),
    mut group: Group,
    journeys: &mut Vec<Journey>,
    closing: &mut Closing,
) {
    group.sent.sort_unstable();
    group.received.sort_unstable();
    closing.sent += group.sent.len() as u64;
    closing.received += group.received.len() as u64;

    let start = journeys.len();
    // An original stands before its copies, which share its arrival and its stamp.
    group.records.sort_by_key(|record| (record.arrival, record.copy));
    let mut sent = group.sent.into_iter();
    let mut current = None;
    for record in group.records {
        if record.copy {
            closing.copied += 1;
        } else {
            closing.read += 1;
            current = sent.next();
            closing.unsent += u64::from(current.is_none());
        }
        match record.outcome {
            Outcome::Delivered => closing.delivered += 1,
            Outcome::Queued => closing.queued += 1,
            Outcome::Dropped(cause) if Cause::is_ordered(cause) => closing.ordered += 1,
            Outcome::Dropped(_) => closing.unasked += 1,
        }
        journeys.push(Journey { from, to, key, sent: current, record: Some(record), received: None });
    }
    for at in sent {
        closing.unread += 1;
        journeys.push(Journey { from, to, key, sent: Some(at), record: None, received: None });
    }

    let mut delivered: Vec<(MonoNs, usize)> = journeys[start..]
        .iter()
        .enumerate()
        .filter_map(|(i, journey)| {
            let record = journey.record.filter(|record| record.outcome == Outcome::Delivered)?;
            Some((record.departure, start + i))
        })
        .collect();
    delivered.sort_unstable();
    let mut received = group.received.into_iter();
    for (_, index) in delivered {
        journeys[index].received = received.next();
        closing.unreceived += u64::from(journeys[index].received.is_none());
    }
    for at in received {
        closing.undelivered += 1;
        journeys.push(Journey { from, to, key, sent: None, record: None, received: Some(at) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ns: i64) -> MonoNs {
        MonoNs::from_nanos(ns)
    }

    fn a() -> Port {
        Port::host(0)
    }

    fn b() -> Port {
        Port::host(1)
    }

    fn stamp(direction: Direction, id: u64, ns: i64) -> Stamp {
        Stamp { direction, from: a(), to: b(), key: Key::Id(id), at: at(ns) }
    }

    fn record(id: u64, arrival: i64, departure: i64, outcome: Outcome) -> Record {
        Record {
            from: a(),
            to: b(),
            key: Key::Id(id),
            class: Class::Udp,
            length: 60,
            copy: false,
            arrival: at(arrival),
            asked: at(departure),
            departure: at(departure),
            outcome,
        }
    }

    use Direction::{Received, Sent};

    #[test]
    fn a_datagram_is_followed_from_edge_to_edge_and_the_account_closes() {
        let stamps = [stamp(Sent, 1, 10), stamp(Sent, 2, 20), stamp(Sent, 3, 30), stamp(Received, 1, 150)];
        let records = [
            record(1, 12, 140, Outcome::Delivered),
            record(2, 22, 22, Outcome::Dropped(Cause::Loss)),
            record(3, 33, 160, Outcome::Queued),
        ];
        let (journeys, closing) = join(&stamps, &records);
        assert_eq!(journeys.len(), 3);
        assert_eq!(journeys[0].network(), Some(Span::from_nanos(140)));
        assert_eq!(journeys[1].network(), None);
        assert_eq!((closing.sent, closing.delivered, closing.ordered, closing.queued), (3, 1, 1, 1));
        assert!(closing.closes(), "{closing:?}");
    }

    #[test]
    fn each_kind_of_stray_is_counted_and_keeps_the_account_open() {
        let sent = stamp(Sent, 1, 10);
        let received = stamp(Received, 1, 30);
        let delivered = record(1, 12, 25, Outcome::Delivered);
        let whole = join(&[sent, received], &[delivered]).1;
        assert!(whole.closes());
        let unread = join(&[sent], &[]).1;
        assert_eq!((unread.unread, unread.closes()), (1, false));
        let unsent = join(&[received], &[delivered]).1;
        assert_eq!((unsent.unsent, unsent.closes()), (1, false));
        let unreceived = join(&[sent], &[delivered]).1;
        assert_eq!((unreceived.unreceived, unreceived.closes()), (1, false));
        let undelivered = join(&[received], &[]).1;
        assert_eq!((undelivered.undelivered, undelivered.closes()), (1, false));
        let refused = join(&[sent], &[record(1, 12, 25, Outcome::Dropped(Cause::Refused))]).1;
        assert_eq!((refused.unasked, refused.closes()), (1, false));
    }

    #[test]
    fn equal_datagrams_are_told_apart_by_their_order_and_copies_share_their_origin() {
        let stamps = [
            stamp(Sent, 1, 10),
            stamp(Sent, 1, 20),
            // The second one overtook the first, and was doubled.
            stamp(Received, 1, 51),
            stamp(Received, 1, 52),
            stamp(Received, 1, 91),
        ];
        let second = record(1, 22, 50, Outcome::Delivered);
        let records = [
            record(1, 11, 90, Outcome::Delivered),
            second,
            Record { copy: true, departure: at(51), ..second },
        ];
        let (journeys, closing) = join(&stamps, &records);
        assert!(closing.closes(), "{closing:?}");
        let times: Vec<_> = journeys.iter().map(|j| (j.sent, j.received)).collect();
        let some = |ns| Some(at(ns));
        assert_eq!(times, [(some(10), some(91)), (some(20), some(51)), (some(20), some(52))]);
    }

    #[test]
    fn other_frames_are_no_part_of_it() {
        let arp = Record { class: Class::Other, ..record(1, 1, 2, Outcome::Delivered) };
        assert_eq!(join(&[], &[arp]), (Vec::new(), Closing::default()));
    }
}
