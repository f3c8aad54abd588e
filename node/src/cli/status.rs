//! `pikoscope status` and `top`: the report as text.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use probe_ebpf::time::Span;
use probe_user::analysis::breakdown::Segment;

use super::table::{Table, printable};
use super::{Failure, print};
use crate::control::client;
use crate::report::{AccountingReport, ClockReport, EntryReport, NodeReport, QuantileReport};

pub(super) fn status(control: &Path, json: bool) -> Result<(), Failure> {
    let report = client::status(control)?;
    if json {
        return print(&(serde_json::to_string_pretty(&report)? + "\n")).map(drop);
    }
    print(&render(&report)).map(drop)
}

/// Until it is interrupted, its reader goes away or the node does.
pub(super) fn top(control: &Path) -> Result<(), Failure> {
    loop {
        let report = client::status(control)?;
        // Home, the text with the rest of every line cleared, then the rest of the screen.
        let text = render(&report).replace('\n', "\x1b[K\n");
        if !print(&format!("\x1b[H{text}\x1b[J"))? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The report for a reader: times as `median / 99th percentile`.
pub fn render(report: &NodeReport) -> String {
    let mut out = String::new();
    let mut facts = Table::new(&["node", &head(report)]);
    facts.row(["clock".into(), clock(&report.clock)]);
    facts.row(["stamps".into(), stamps(report)]);
    facts.row(["probe".into(), accounting(&report.accounting)]);
    if report.probe.run_cnt > 0 {
        let cost =
            format!("{:.0} ns per packet over {} runs", report.probe.ns_per_packet, report.probe.run_cnt);
        facts.row(["cost".into(), cost]);
    }
    if report.gossip.local_health > 0 {
        let health =
            format!("doubts itself ({} of 8): it ran late or heard from nobody", report.gossip.local_health);
        facts.row(["health".into(), health]);
    }
    for (name, reasons) in [
        ("refused", &report.rejected),
        ("TCP from", &report.gossip.inbound_failed),
        ("TCP to", &report.gossip.outbound_failed),
        ("no samples", &report.not_samples),
    ] {
        let list: Vec<_> =
            reasons.iter().filter(|(_, n)| **n > 0).map(|(why, n)| format!("{why} {n}")).collect();
        if !list.is_empty() {
            facts.row([name.into(), list.join(", ")]);
        }
    }
    let _ = write!(out, "{facts}");
    section(&mut out, "Packets from each peer to this node, p50 / p99", &paths(report));
    section(
        &mut out,
        "Entries set by users, from their creation to here, p50 / p99",
        &entries(&report.entries),
    );
    section(&mut out, "Beacons, from their creation to here, p50 / p99", &entries(&report.beacons));
    section(&mut out, "Members", &members(report));
    out
}

fn section(out: &mut String, title: &str, table: &Table) {
    let body = if table.is_empty() { "  none yet\n".to_owned() } else { table.to_string() };
    // Writing to a String does not fail.
    let _ = write!(out, "\n{title}\n{body}");
}

fn head(report: &NodeReport) -> String {
    format!("{} at {}, kernel {}", printable(&report.id), report.address, report.kernel)
}

fn clock(clock: &ClockReport) -> String {
    use probe_user::clock::{ClockSource, ClockState};
    let span = Span::from_nanos;
    let source = match clock.source {
        ClockSource::Chrony => "chronyd",
        ClockSource::Adjtimex => "the kernel (adjtimex)",
    };
    let state = match clock.state {
        ClockState::Synchronised => "synchronised",
        ClockState::FreeRunning => "free-running",
        ClockState::Unsynchronised => "NOT SYNCHRONISED",
    };
    let mut text = if let Some(bound) = clock.bound_ns {
        let direction = if clock.offset_ns < 0 { "slow" } else { "fast" };
        format!(
            "{state}, {} {direction} +- {}, according to {source} {} ago",
            span(clock.offset_ns).abs(),
            span(bound),
            span(clock.age_ns)
        )
    } else {
        format!("{state}, offset unknown, according to {source}")
    };
    if clock.epoch > 0 {
        text += &format!("; stepped {} times", clock.epoch);
    }
    if let Some(note) = &clock.note {
        text += &format!("; {note}");
    }
    text
}

fn stamps(report: &NodeReport) -> String {
    let mut text = match report.tier {
        Some(1) => "tier 1: eBPF socket filter".to_owned(),
        Some(tier) => format!("tier {tier}: SO_TIMESTAMPING"),
        None => "none from the kernel".to_owned(),
    };
    if let Some(reason) = &report.tier_reason {
        text += &format!(" ({reason})");
    }
    text
}

fn accounting(a: &AccountingReport) -> String {
    format!(
        "{} seen = {} matched + {} unmatched + {} late + {} ring full + {} pending; {} without event; {} dropped at the full receive buffer",
        a.seen, a.matched, a.unmatched, a.late, a.ring_failed, a.pending, a.without_event, a.rcvbuf_dropped
    )
}

fn paths(report: &NodeReport) -> Table {
    // Only the columns that some path has: the tiers tell different segments.
    let shown: Vec<Segment> = Segment::ALL
        .into_iter()
        .filter(|s| report.paths.iter().any(|p| p.segments.contains_key(s.name())))
        .collect();
    let mut header = vec!["FROM".to_owned(), "PACKETS".into(), "LOST".into()];
    for segment in &shown {
        header.push(segment.name().to_uppercase().replace('_', " "));
        if *segment == Segment::Network {
            header.push("+-".into());
        }
    }
    header.push("NETWORK FROM".into());
    let right: Vec<usize> = (1..header.len() - 1).collect();
    let mut table = Table::new(&header).right(&right);
    for path in &report.paths {
        let mut row = vec![path.from.clone(), path.packets.to_string(), path.lost.to_string()];
        for segment in &shown {
            let found = path.segments.get(segment.name());
            row.push(found.map_or("-".into(), |s: &QuantileReport| pair(s.p50_ns, s.p99_ns)));
            if *segment == Segment::Network {
                row.push(found.map_or("-".into(), |s| bound(s.bound_ns)));
            }
        }
        row.push(path.network_from.clone());
        table.row(row);
    }
    table
}

fn bound(ns: Option<i64>) -> String {
    ns.map_or_else(|| "unknown".into(), |ns| Span::from_nanos(ns).to_string())
}

fn entries(reports: &[EntryReport]) -> Table {
    let header = ["FROM", "COUNT", "TOTAL", "+-", "NETWORK", "APPLICATION"];
    let mut table = Table::new(&header).right(&[1, 2, 3, 4, 5]);
    let of = |q: &QuantileReport| pair(q.p50_ns, q.p99_ns);
    for entry in reports {
        table.row([
            entry.from.clone(),
            entry.count.to_string(),
            of(&entry.total),
            bound(entry.total.bound_ns),
            of(&entry.network),
            of(&entry.application),
        ]);
    }
    table
}

fn members(report: &NodeReport) -> Table {
    let header = ["ID", "ADDRESS", "STATUS", "PROTOCOL", "ROUND TRIP", "VERSION", "ENTRIES"];
    let mut table = Table::new(&header).right(&[4, 5, 6]);
    for member in &report.members {
        table.row([
            member.id.clone(),
            member.address.clone(),
            member.status.clone(),
            member.protocol.clone(),
            member.round_trip_ns.map_or_else(|| "-".into(), |ns| Span::from_nanos(ns).to_string()),
            member.version.to_string(),
            member.entries.to_string(),
        ]);
    }
    table
}

fn pair(p50: i64, p99: i64) -> String {
    format!("{} / {}", Span::from_nanos(p50), Span::from_nanos(p99))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{GossipReport, MemberReport, PathReport, ProbeReport};
    use probe_user::clock::{ClockSource, ClockState};
    use std::collections::BTreeMap;

    fn report() -> NodeReport {
        let segment = |p50_ns| QuantileReport {
            count: 9,
            p50_ns,
            p95_ns: 2 * p50_ns,
            p99_ns: 3 * p50_ns,
            bound_ns: Some(5_000),
            negative: 0,
        };
        NodeReport {
            id: "b".into(),
            address: "10.0.0.2:7176".into(),
            kernel: "6.18.0".into(),
            tier: Some(1),
            tier_reason: None,
            clock: ClockReport {
                source: ClockSource::Chrony,
                state: ClockState::Synchronised,
                offset_ns: -50_000_000,
                bound_ns: Some(1_000_000),
                age_ns: 300_000_000,
                epoch: 0,
                note: None,
            },
            accounting: AccountingReport { seen: 9, matched: 9, ..AccountingReport::default() },
            probe: ProbeReport { run_cnt: 9, ns_per_packet: 217.6 },
            paths: vec![PathReport {
                from: "a\u{1b}c".into(),
                to: "b".into(),
                packets: 9,
                lost: 1,
                network_from: "app_tx, ntp".into(),
                segments: BTreeMap::from([
                    ("network".into(), segment(70_000)),
                    ("handling".into(), segment(900)),
                ]),
            }],
            entries: Vec::new(),
            beacons: Vec::new(),
            members: vec![MemberReport {
                id: "b".into(),
                address: "10.0.0.2:7176".into(),
                version: 4,
                entries: 2,
                protocol: "v1".into(),
                status: "alive".into(),
                round_trip_ns: Some(250_000),
            }],
            gossip: GossipReport {
                local_health: 2,
                events: BTreeMap::from([("duplicates".into(), 5)]),
                inbound_failed: BTreeMap::from([("slow".into(), 4)]),
                ..GossipReport::default()
            },
            rejected: BTreeMap::from([("truncated".into(), 3), ("trailing".into(), 0)]),
            not_samples: BTreeMap::new(),
        }
    }

    #[test]
    fn a_reader_finds_clock_accounting_paths_and_members() {
        let text = render(&report());
        for expected in [
            "node      b at 10.0.0.2:7176, kernel 6.18.0\n",
            "synchronised, 50.00 ms slow +- 1.00 ms, according to chronyd 300.00 ms ago\n",
            "9 seen = 9 matched + 0 unmatched + 0 late + 0 ring full + 0 pending",
            "218 ns per packet over 9 runs",
            "refused   truncated 3\n",
            "TCP from  slow 4\n",
            "health    doubts itself (2 of 8)",
            "b   10.0.0.2:7176  alive   v1          250.0 us        4        2\n",
            "FROM      PACKETS  LOST             NETWORK      +-         HANDLING  NETWORK FROM\n",
            "a\\u{1b}c        9     1  70.0 us / 210.0 us  5.0 us  900 ns / 2.7 us  app_tx, ntp\n",
            "users, from their creation to here, p50 / p99\n  none yet\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("INGRESS"), "{text}");
    }

    #[test]
    fn an_unknown_offset_is_not_shown_as_a_number() {
        let mut report = report();
        report.clock.bound_ns = None;
        report.clock.state = ClockState::Unsynchronised;
        report.clock.note = Some("chronyd does not answer at 127.0.0.1:323".into());
        let text = render(&report);
        assert!(
            text.contains("NOT SYNCHRONISED, offset unknown, according to chronyd; chronyd does not answer"),
            "{text}"
        );
    }
}
