//! `pikoscope status` and `top`: the report as text.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use probe_ebpf::time::Span;
use probe_user::analysis::align::Correction;
use probe_user::analysis::breakdown::Segment;
use probe_user::analysis::verdict::Cause;

use super::table::{Table, printable};
use super::{Failure, print};
use crate::control::client;
use crate::proto::MemberStatus;
use crate::report::{AccountingReport, ClockReport, EntryReport, NodeReport, PathReport, QuantileReport};

/// A table is not longer, so that what matters does not scroll away in a large cluster.
const MOST_ROWS: usize = 40;

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
    let mut out = headline(report);
    let mut facts = Table::new(&["node", &head(report)]);
    facts.row(["clock".into(), printable(&report.clock.sentence())]);
    facts.row(["stamps".into(), stamps(report)]);
    if let Some(hardware) = &report.hardware {
        facts.row(["T4".into(), printable(&hardware.sentence())]);
    }
    facts.row(["probe".into(), accounting(&report.accounting)]);
    facts.row(["drops".into(), drops(report)]);
    if report.probe.run_cnt > 0 {
        let cost =
            format!("{:.0} ns per packet over {} runs", report.probe.ns_per_packet, report.probe.run_cnt);
        facts.row(["cost".into(), cost]);
    }
    for hook in report.hooks.iter().filter(|hook| hook.run_cnt > 0) {
        let cost =
            format!("{}: {:.0} ns for each of {} packets", hook.program, hook.ns_per_packet, hook.run_cnt);
        facts.row([String::new(), cost]);
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
    section(&mut out, "Verdicts on the paths to and from ring neighbours", &verdicts(report));
    section(&mut out, "Packets from each peer to this node, p50 / p99", &paths(report));
    let ports = ports::source_ports(report, MOST_ROWS);
    if !ports.is_empty() {
        section(&mut out, "The same by source port: parallel paths take packets by their ports", &ports);
    }
    section(
        &mut out,
        "Entries set by users, from their creation to here, p50 / p99",
        &entries(&report.entries),
    );
    section(&mut out, "Beacons, from their creation to here, p50 / p99", &entries(&report.beacons));
    section(&mut out, "Clocks of the peers against this one", &peer_clocks(&report.clock));
    section(&mut out, "Members", &members(report));
    out
}

/// What whoever was woken by an alarm wants to know first: is anything wrong, and where.
fn headline(report: &NodeReport) -> String {
    let mut lines = Vec::new();
    if let Some((diagnosis, hosts)) = &report.diagnosis {
        let members = report.members.len();
        lines.push(format!("{} (told by {hosts} of {members} nodes)", printable(&diagnosis.sentence)));
        lines.extend(diagnosis.evidence.iter().map(|line| format!("  {}", printable(line))));
    }
    lines.extend(absent(report));
    if report.clock.bound_ns.is_none() {
        lines.push(
            "this host's clock is not synchronised: one-way times from and to here are not to be relied on"
                .into(),
        );
    }
    if report.accounting.rcvbuf_dropped > 0 {
        lines.push(format!(
            "{} datagrams were dropped at this node's full receive buffer since it started",
            report.accounting.rcvbuf_dropped
        ));
    }
    lines.into_iter().fold(String::new(), |text, line| text + &line + "\n") + "\n"
}

/// Who ought to be there and is not.
pub(super) fn absent(report: &NodeReport) -> Option<String> {
    let unreachable = MemberStatus::Unreachable.name();
    let gone: Vec<&str> =
        report.members.iter().filter(|m| m.status == unreachable).map(|m| m.id.as_str()).collect();
    let names: Vec<String> = gone.iter().take(8).map(|id| printable(id)).collect();
    let others = if gone.len() > names.len() { " and others" } else { "" };
    (!gone.is_empty()).then(|| {
        format!(
            "unreachable: {}{others} ({} of {} nodes)",
            names.join(", "),
            gone.len(),
            report.members.len()
        )
    })
}

fn section(out: &mut String, title: &str, table: &Table) {
    let body = if table.is_empty() { "  none yet\n".to_owned() } else { table.to_string() };
    // Writing to a String does not fail.
    let _ = write!(out, "\n{title}\n{body}");
}

fn head(report: &NodeReport) -> String {
    format!("{} at {}, kernel {}", printable(&report.id), report.address, report.kernel)
}

fn verdicts(report: &NodeReport) -> Table {
    let header = ["path", "verdict", "confidence", "excess", "journeys", "since", "evidence"];
    let mut table = Table::new(&header).right(&[3, 4]).most(MOST_ROWS);
    // What is wrong first, the worst before the rest.
    let rank = |cause: Cause| match cause {
        Cause::ClockUncertain => 1,
        Cause::Unknown => 2,
        Cause::Ok => 3,
        _ => 0,
    };
    let mut verdicts: Vec<_> = report.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| (rank(verdict.cause), Reverse(verdict.effect_ns)));
    for verdict in verdicts {
        let also = verdict.also.map(|also| format!(" and {}", also.name())).unwrap_or_default();
        table.row([
            format!("{} > {}", printable(&verdict.from), printable(&verdict.to)),
            format!("{}{also}", verdict.cause.name()),
            verdict.confidence.name().to_owned(),
            if verdict.cause.is_trouble() {
                Span::from_nanos(verdict.effect_ns).to_string()
            } else {
                "-".into()
            },
            verdict.samples.to_string(),
            Span::from_nanos(verdict.for_ns).to_string(),
            printable(&verdict.evidence),
        ]);
    }
    table
}

fn peer_clocks(clock: &ClockReport) -> Table {
    let header = ["peer", "clock", "+-", "by", "drift", "least round trip", "packets"];
    let mut table = Table::new(&header).most(MOST_ROWS);
    let span = |ns| Span::from_nanos(ns).to_string();
    let unknown = || "-".to_owned();
    for peer in &clock.peers {
        let by = match peer.correction {
            Correction::Ntp => "ntp",
            Correction::Fused => "ntp and packets",
            Correction::PeerOnly if peer.disagreement_ns.is_some() => "CONTRADICTION",
            Correction::PeerOnly => "packets only: asymmetry is not seen",
            Correction::None => "nothing",
        };
        let drift = peer.drift_ppm.zip(peer.drift_bound_ppm);
        table.row([
            printable(&peer.peer),
            span(peer.delta_ns),
            peer.bound_ns.map_or_else(unknown, span),
            by.to_owned(),
            drift.map_or_else(unknown, |(ppm, bound)| format!("{ppm:.2} +- {bound:.2} ppm")),
            peer.min_round_trip_ns.map_or_else(unknown, span),
            peer.samples.to_string(),
        ]);
    }
    table
}

fn stamps(report: &NodeReport) -> String {
    let mut text = match report.tier {
        Some(2) => "tier 2: eBPF socket filter, and hooks on the way out".to_owned(),
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
        "{} seen = {} matched + {} unmatched + {} late + {} ring full + {} dropped + {} pending; {} without event",
        a.seen, a.matched, a.unmatched, a.late, a.ring_failed, a.dropped, a.pending, a.without_event
    )
}

/// What this host's kernel dropped at the socket, and what was lost on the paths to here.
fn drops(report: &NodeReport) -> String {
    let list = |reasons: &BTreeMap<String, u64>| {
        reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{} at the socket", report.accounting.rcvbuf_dropped);
    if !report.drops.by_reason.is_empty() {
        text += &format!(" ({})", list(&report.drops.by_reason));
    }
    let mut here: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, n) in report.paths.iter().flat_map(|path| &path.lost_here) {
        *here.entry(reason.clone()).or_default() += n;
    }
    let outside: u64 = report.paths.iter().map(|path| path.lost_outside).sum();
    text += &format!("; peers' packets lost: {} here", here.values().sum::<u64>());
    if !here.is_empty() {
        text += &format!(" ({})", list(&here));
    }
    text += &format!(", {outside} outside");
    if let Some(note) = &report.drops.note {
        text += &format!(" [{note}]");
    }
    text
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
    let mut table = Table::new(&header).right(&right).most(MOST_ROWS);
    let mut paths: Vec<_> = report.paths.iter().collect();
    if paths.len() > MOST_ROWS {
        // Those that somebody may be looking for: the ones that lose, then the slowest.
        let slowest = |path: &PathReport| path.segments.values().map(|segment| segment.p99_ns).max();
        paths.sort_by_key(|path| Reverse((path.lost, slowest(path))));
    }
    for path in paths {
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
    let mut table = Table::new(&header).right(&[1, 2, 3, 4, 5]).most(MOST_ROWS);
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
    let mut table = Table::new(&header).right(&[4, 5, 6]).most(MOST_ROWS);
    let mut members: Vec<_> = report.members.iter().collect();
    if members.len() > MOST_ROWS {
        members.sort_by_key(|member| member.status == MemberStatus::Alive.name());
    }
    for member in members {
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

mod ports;
#[cfg(test)]
mod tests;
