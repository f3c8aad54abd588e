//! What a run showed: the nodes' figures beside the truth.

use std::collections::BTreeMap;

use probe_ebpf::time::MonoNs;
use serde::Serialize;
use serde_json::{Value, json};

use super::bed::Remains;
use super::clocks;
use super::counters::{Counters, Usage};
use super::packets::{Packet, Packets, SEGMENTS, host_of, number_of, quantile};
use super::scenario::host_name;
use super::statements::Statement;
use super::switch::{Class, Port, Record};

/// Everything that expectations and reports are made of.
#[derive(Debug)]
pub struct Measured {
    /// Every packet.
    pub packets: Packets,
    /// What is left of the run.
    pub remains: Remains,
    /// By host, what its node used while the scenario ran; none of those that were killed.
    pub usage: Vec<Option<Used>>,
    /// Live nodes that did not know all live ones at the end.
    pub not_converged: usize,
    /// How long it took to come up, in nanoseconds.
    pub up_ns: i64,
    /// Whether the gossip went over IPv6.
    pub ipv6: bool,
    /// What the nodes said of their paths, in no order.
    pub statements: Vec<Statement>,
    /// The scenario's start on CLOCK_MONOTONIC.
    pub start: i64,
    /// When a chronyd first was told to say something else, or else the scenario's start, on CLOCK_MONOTONIC.
    pub lies_from: i64,
}

/// What a node used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Used {
    /// Processor time in percent of one CPU while the scenario ran.
    pub cpu_percent: f64,
    /// Resident memory in bytes, the most.
    pub rss_bytes: u64,
    /// Open files.
    pub fds: u64,
}

impl Used {
    /// Between two looks at one process, `seconds` apart.
    pub fn between(before: Usage, after: Usage, seconds: f64) -> Self {
        let cpu_percent = 100.0 * (after.cpu_s - before.cpu_s) / seconds;
        Self { cpu_percent, rss_bytes: after.rss_bytes, fds: after.fds }
    }
}

impl Measured {
    /// A host's final report, if its node lived to the end.
    pub fn report(&self, host: usize) -> Option<&Value> {
        self.remains.reports.get(host)?.as_ref()
    }

    /// What a host's final report says that its clock is off by, and what it was off by then; in nanoseconds.
    pub fn clock_offset(&self, host: usize) -> Option<(f64, f64)> {
        let clock = &self.report(host)?["clock"];
        let then = MonoNs::from_nanos(clock["at_mono_ns"].as_i64()?);
        Some((clock["offset_ns"].as_f64()?, self.remains.skews.get(host)?.at(then) as f64))
    }

    /// UDP packets that the hosts' kernels sent, less those that the switch read, by host.
    pub fn unaccounted(&self) -> Vec<i64> {
        let counters = self.remains.counters.iter().enumerate();
        let sent = |host: usize, counted: &Counters| {
            // ICMP messages that did not go to another host told a question to the own chronyd that nobody listens.
            let outside = if self.ipv6 { 0 } else { self.unicasts(host, Class::Icmp) };
            counted.udp_sent_out(counted.icmp_sent.saturating_sub(outside)) as i64
        };
        counters.map(|(host, counted)| sent(host, counted) - self.unicasts(host, Class::Udp) as i64).collect()
    }

    /// Frames to one other port that the switch read from a host. One that is for all has a record for each.
    fn unicasts(&self, host: usize, class: Class) -> u64 {
        let mut records: BTreeMap<MonoNs, u64> = BTreeMap::new();
        let own = |record: &&Record| record.from == Port::host(host) && record.class == class && !record.copy;
        for record in self.remains.switch.log.records().iter().filter(own) {
            *records.entry(record.arrival).or_default() += 1;
        }
        records.values().filter(|records| **records == 1).sum()
    }

    /// The paths as the final reports have them, each segment also with `truth_p50_ns`: over the same packets, null
    /// where nothing is known from outside.
    pub fn paths(&self) -> Vec<Value> {
        let mut truth: BTreeMap<(usize, u32, usize, usize), Vec<i64>> = BTreeMap::new();
        for packet in self.packets.joined.iter().filter(|packet| packet.to_last) {
            for (place, value) in packet.truth.iter().enumerate() {
                if let Some(value) = value.filter(|_| packet.measured[place].is_some()) {
                    truth.entry((packet.from, packet.from_number, packet.to, place)).or_default().push(value);
                }
            }
        }
        let mut paths = Vec::new();
        for (to, report) in self.remains.reports.iter().enumerate() {
            for path in report.iter().flat_map(|report| report["paths"].as_array()).flatten() {
                let mut path = path.clone();
                let name = path["from"].as_str().unwrap_or_default();
                let Some((from, number)) = host_of(name).zip(Some(number_of(name))) else { continue };
                for (place, name) in SEGMENTS.iter().enumerate() {
                    if let Some(Value::Object(segment)) = path["segments"].get_mut(name) {
                        let values = truth.get(&(from, number, to, place)).cloned().unwrap_or_default();
                        segment.insert("truth_p50_ns".to_owned(), json!(quantile(values, 0.5)));
                    }
                }
                paths.push(path);
            }
        }
        paths.sort_by_key(|path| (path["from"].to_string(), path["to"].to_string()));
        paths
    }

    /// How long entries took from one node's application to another's, as the final reports have it, by path.
    pub fn propagation(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for (to, report) in self.remains.reports.iter().enumerate() {
            for entry in report.iter().flat_map(|report| report["entries"].as_array()).flatten() {
                let mut entry = entry.clone();
                if let Value::Object(fields) = &mut entry {
                    fields.insert("to".to_owned(), json!(host_name(to)));
                }
                all.push(entry);
            }
        }
        all.sort_by_key(|entry| (entry["from"].to_string(), entry["to"].to_string()));
        all
    }

    /// How far off each packet was, without sign, by segment; only segments of which something is known from outside.
    pub fn errors(&self) -> Value {
        let segment = |(place, name): (usize, &&str)| {
            let off = |packet: &Packet| Some((packet.measured[place]? - packet.truth[place]?).abs());
            let errors: Vec<i64> = self.packets.joined.iter().filter_map(off).collect();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(errors.iter().copied(), share));
            let value = json!({ "count": errors.len(), "p50_ns": p50?, "p99_ns": p99?, "max_ns": max? });
            Some(((*name).to_owned(), value))
        };
        SEGMENTS.iter().enumerate().filter_map(segment).collect::<serde_json::Map<_, _>>().into()
    }

    /// Error, coverage and bound of the corrected network times against the clock that all hosts share.
    pub fn clock(&self) -> Value {
        clocks::all_figures(&self.packets.joined)
    }

    /// What the final reports say of the clocks, by node.
    pub fn clocks(&self) -> Value {
        let named = (0..self.remains.reports.len())
            .filter_map(|host| Some((host_name(host), self.report(host)?["clock"].clone())));
        named.collect::<serde_json::Map<_, _>>().into()
    }

    /// Packets lost by the final reports, over all paths.
    pub fn lost_by_nodes(&self) -> u64 {
        let reports = self.remains.reports.iter().flatten();
        reports
            .flat_map(|report| report["paths"].as_array())
            .flatten()
            .filter_map(|path| path["lost"].as_u64())
            .sum()
    }

    /// What each node used, by name.
    pub fn resources(&self) -> Value {
        let named = self.usage.iter().enumerate();
        named
            .filter_map(|(host, used)| Some((host_name(host), json!((*used)?))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}
