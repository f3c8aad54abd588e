//! What the switch did to each packet.

use std::io::{self, Write};

use probe_ebpf::time::{MonoNs, Span};
use serde::{Serialize, Serializer};

use super::frame::{Class, Key, Port};
use super::link::Cause;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Written to the receiver's device.
    Delivered,
    /// Dropped, and why.
    Dropped(Cause),
    /// Still under way when the log was closed.
    Queued,
}

/// One packet to one port; a second copy that a link made has a record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Whose device it was read from.
    pub from: Port,
    /// Whose device it is for.
    pub to: Port,
    /// How it is recognised elsewhere.
    #[serde(flatten)]
    pub key: Key,
    /// What it is.
    pub class: Class,
    /// Bytes of the whole frame.
    pub length: u16,
    /// Whether this is the copy that the link made.
    pub copy: bool,
    /// When it was read, on CLOCK_MONOTONIC. It was sent earlier: it waited in the device's ring.
    #[serde(rename = "arrival_ns", serialize_with = "mono")]
    pub arrival: MonoNs,
    /// When the link wanted it to leave; the arrival if it was dropped right there.
    #[serde(rename = "asked_ns", serialize_with = "mono")]
    pub asked: MonoNs,
    /// When it left or was dropped.
    #[serde(rename = "departure_ns", serialize_with = "mono")]
    pub departure: MonoNs,
    /// What became of it.
    pub outcome: Outcome,
}

impl Record {
    const BLANK: Self = {
        let zero = MonoNs::from_nanos(0);
        Self {
            from: Port::HUB,
            to: Port::HUB,
            key: Key::Hash(0),
            class: Class::Other,
            length: 0,
            copy: false,
            arrival: zero,
            asked: zero,
            departure: zero,
            outcome: Outcome::Queued,
        }
    };

    /// How much later than asked it left.
    pub fn error(&self) -> Span {
        self.departure - self.asked
    }

    /// How long the switch kept it.
    pub fn held(&self) -> Span {
        self.departure - self.arrival
    }
}

fn mono<S: Serializer>(at: &MonoNs, to: S) -> Result<S::Ok, S::Error> {
    at.as_nanos().serialize(to)
}

/// Records, up to a number; how many more there would have been is counted.
#[derive(Clone, Debug)]
pub struct Log {
    records: Vec<Record>,
    capacity: usize,
    omitted: u64,
}

impl Log {
    /// Room for so many, all of it written to once: whoever pushes need not wait for the kernel to find pages.
    pub fn new(capacity: usize) -> Self {
        let mut records = vec![Record::BLANK; capacity];
        records.clear();
        Self { records, capacity, omitted: 0 }
    }

    /// Adds one if there is room.
    pub fn push(&mut self, record: Record) {
        if self.records.len() < self.capacity {
            self.records.push(record);
        } else {
            self.omitted += 1;
        }
    }

    /// What it has, in the order in which fates were known.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How many records found no room.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// One line of JSON for each record, and a last one `{"omitted":N}`.
    pub fn write_json(&self, to: &mut impl Write) -> io::Result<()> {
        for record in &self.records {
            serde_json::to_writer(&mut *to, record)?;
            to.write_all(b"\n")?;
        }
        writeln!(to, "{{\"omitted\":{}}}", self.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ns: i64) -> MonoNs {
        MonoNs::from_nanos(ns)
    }

    fn record(outcome: Outcome) -> Record {
        Record {
            from: Port::host(0),
            to: Port::HUB,
            key: Key::Id(9),
            class: Class::Udp,
            length: 60,
            copy: false,
            arrival: at(10),
            asked: at(30),
            departure: at(33),
            outcome,
        }
    }

    /// What [`Settings`](super::super::Settings) says about memory.
    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 56, "{}", size_of::<Record>());
    }

    #[test]
    fn a_full_log_counts_what_it_leaves_out() {
        let mut log = Log::new(2);
        assert!(log.records().is_empty());
        for _ in 0..5 {
            log.push(record(Outcome::Delivered));
        }
        assert_eq!((log.records().len(), log.omitted()), (2, 3));
    }

    #[test]
    fn lines_of_json_have_all_there_is_to_know() {
        let mut log = Log::new(1);
        log.push(record(Outcome::Dropped(Cause::Queue)));
        log.push(record(Outcome::Delivered));
        let mut text = Vec::new();
        log.write_json(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"from\":\"h1\",\"to\":\"hub\",\"id\":9,\"class\":\"udp\",\"length\":60,\"copy\":false,\"arrival_ns\":10,\
             \"asked_ns\":30,\"departure_ns\":33,\"outcome\":{\"dropped\":\"queue\"}}\n{\"omitted\":1}\n"
        );
        assert_eq!(
            (record(Outcome::Delivered).error(), record(Outcome::Delivered).held()),
            (Span::from_nanos(3), Span::from_nanos(23))
        );
    }
}
