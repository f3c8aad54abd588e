//! The demo's report for people: three tables, a legend, and one sentence per question.

use std::fmt::Write;

use super::report::{Report, SEGMENTS, UNSPLIT, median};

/// What the columns are.
const LEGEND: &str = "\
send: in the sending process  stack: in the sender's kernel  qdisc: in the queue of its link
network: from its driver to the kernel's stamp here (\u{b1}: bound, from both clocks)  ingress: in the kernel
queue: the process is not reading yet  work: in the process (handling)
application: total - network, gossip rounds included
";

/// Of these only the median is shown, so that all fit the width of a terminal.
const MIDDLE_ONLY: [&str; 5] = ["send_queue", "egress_stack", "qdisc", "ingress_stack", "handling"];

/// Tables and legend.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut paths = Table::new(
        &[("", 3), ("sender's medians", 3), ("network", 3), ("", 1), ("queue", 2), ("", 1)],
        &[
            "path", "packets", "lost", "send", "stack", "qdisc", "p50", "p99", "\u{b1}", "ingress", "p50",
            "p99", "work",
        ],
    );
    for path in &report.paths {
        let loss = 100.0 * path.lost as f64 / (path.packets + path.lost).max(1) as f64;
        let mut row =
            vec![format!("{} > {}", path.from, path.to), path.packets.to_string(), format!("{loss:.2}%")];
        for name in SEGMENTS {
            let found = |name: &str| path.segments.get(name).filter(|segment| segment.count > 0);
            // Tier 0 knows only the sum of ingress and queue: shown under the latter, with a star.
            let unsplit = if name == "socket_queue" { found(UNSPLIT) } else { None };
            match found(name).or(unsplit) {
                Some(segment) => {
                    let star = if unsplit.is_some() { "*" } else { "" };
                    let shown = [segment.p50_ns, segment.p99_ns].map(|ns| duration(ns) + star);
                    row.extend(shown.into_iter().take(if MIDDLE_ONLY.contains(&name) { 1 } else { 2 }));
                    if name == "network" {
                        row.push(bound(segment.bound_ns));
                    }
                }
                None => {
                    let columns =
                        if MIDDLE_ONLY.contains(&name) { 1 } else { 2 + usize::from(name == "network") };
                    row.extend(vec!["-".to_owned(); columns]);
                }
            }
        }
        paths.row(row);
    }
    text.push_str(&paths.render());

    let mut entries = Table::new(
        &[("", 2), ("total", 2), ("network", 2), ("application", 2)],
        &["entries", "count", "p50", "p95", "p50", "p95", "p50", "p95"],
    );
    for one in &report.entries {
        let mut row = vec![format!("{} > {}", one.from, one.to), one.count.to_string()];
        for quantiles in [one.total, one.network, one.application] {
            let shown = |ns| if quantiles.count > 0 { duration(ns) } else { "-".to_owned() };
            row.extend([shown(quantiles.p50_ns), shown(quantiles.p95_ns)]);
        }
        entries.row(row);
    }
    text.push('\n');
    text.push_str(&entries.render());

    let mut nodes = Table::new(
        &[("", 2), ("clock", 4), ("datagrams at the probe: seen = all others", 7), ("cost", 1)],
        &[
            "node",
            "tier",
            "source",
            "offset",
            "\u{b1}",
            "state",
            "seen",
            "matched",
            "unmatched",
            "late",
            "ring",
            "dropped",
            "open",
            "each",
        ],
    );
    for node in &report.nodes {
        let sums = node.accounting;
        nodes.row(vec![
            node.id.clone(),
            tier(node.tier),
            node.clock.source.clone(),
            duration(node.clock.offset_ns),
            bound(node.clock.bound_ns),
            node.clock.state.clone(),
            sums.seen.to_string(),
            sums.matched.to_string(),
            sums.unmatched.to_string(),
            sums.late.to_string(),
            sums.ring_failed.to_string(),
            sums.dropped.to_string(),
            sums.pending.to_string(),
            if node.probe.run_cnt > 0 {
                format!("{:.0} ns", node.probe.ns_per_packet)
            } else {
                "-".to_owned()
            },
        ]);
    }
    text.push('\n');
    text.push_str(&nodes.render());
    let mut reasons: Vec<&str> = report
        .nodes
        .iter()
        .flat_map(|node| [node.tier_reason.as_deref(), node.clock.note.as_deref()])
        .flatten()
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        let _ = writeln!(text, "note: {reason}");
    }
    text.push('\n');
    if report.paths.iter().any(|path| path.segments.contains_key(UNSPLIT)) {
        text.push_str("*: ingress and queue together, which tier 0 cannot tell apart\n");
    }
    text.push_str(LEGEND);
    text
}

/// One sentence per question that the demo answers.
pub(super) fn summary(report: &Report) -> String {
    let mut text = String::new();
    let packets: u64 = report.paths.iter().map(|path| path.packets).sum();
    let typical: Vec<(&str, i64)> = SEGMENTS
        .iter()
        .chain([&UNSPLIT])
        .filter_map(|name| report.typical(name).map(|(p50, _)| (*name, p50)))
        .collect();
    if let Some((longest, _)) = typical.iter().max_by_key(|(_, p50)| p50) {
        let parts: Vec<String> =
            typical.iter().map(|(name, p50)| format!("{} {name}", duration(*p50))).collect();
        let _ = writeln!(
            text,
            "Where does a packet's time go?   {} (medians of {packets} packets): mostly {longest}.",
            parts.join(", ")
        );
    }
    let middle = |of: fn(&super::report::Entries) -> i64| {
        median(report.entries.iter().filter(|one| one.count > 0).map(of))
    };
    if let (Some(total), Some(network), Some(application)) = (
        middle(|one| one.total.p50_ns),
        middle(|one| one.network.p50_ns),
        middle(|one| one.application.p50_ns),
    ) {
        let blamed = if network > application { "the network" } else { "the application" };
        let _ = writeln!(
            text,
            "Where does a change's time go?   {} from creation to the other nodes: {} network, {} application \
             (waiting for gossip rounds included): mostly {blamed}.",
            duration(total),
            duration(network),
            duration(application)
        );
    }
    if let Some((_, within)) = report.typical("network") {
        let mut states: Vec<String> =
            report.nodes.iter().map(|node| format!("{} {}", node.clock.source, node.clock.state)).collect();
        states.sort();
        states.dedup();
        let _ = writeln!(
            text,
            "Can the clocks be believed?      {} ({}).",
            match within {
                Some(within) => format!("to \u{b1}{} between two hosts", duration(within)),
                None => "no: nothing bounds their error, so network times are uncorrected".to_owned(),
            },
            states.join("; ")
        );
    }
    let (well, rest): (Vec<_>, Vec<_>) = report.verdicts.iter().partition(|verdict| verdict.cause == "ok");
    if !report.verdicts.is_empty() {
        let all = report.verdicts.len();
        let _ =
            writeln!(text, "Is anything wrong?               {} of {all} paths are judged ok.", well.len());
        for verdict in rest {
            let _ = writeln!(
                text,
                "                                 {} ({}): {}",
                verdict.cause, verdict.confidence, verdict.evidence
            );
        }
    }
    let seen: u64 = report.nodes.iter().map(|node| node.accounting.seen).sum();
    let matched: u64 = report.nodes.iter().map(|node| node.accounting.matched).sum();
    if seen > 0 {
        let closes = report.nodes.iter().all(|node| node.accounting.closes());
        let _ = writeln!(
            text,
            "Is anything left out?            the probe saw {seen} datagrams, {matched} were joined with what the \
             process received; the rest is {}.",
            if closes { "counted by reason" } else { "NOT ALL ACCOUNTED FOR" }
        );
    }
    text
}

/// What a tier is, in words.
pub(super) fn tier(tier: Option<u8>) -> String {
    match tier {
        Some(1) => "1 eBPF".to_owned(),
        Some(0) => "0 sockets".to_owned(),
        Some(other) => other.to_string(),
        None => "none".to_owned(),
    }
}

/// Nanoseconds with three digits and a unit.
fn bound(ns: Option<i64>) -> String {
    ns.map_or_else(|| "unknown".to_owned(), duration)
}

pub(super) fn duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let magnitude = ns.unsigned_abs();
    let scaled = |per: u64, unit: &str| {
        let value = magnitude as f64 / per as f64;
        let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        format!("{sign}{value:.digits$} {unit}")
    };
    match magnitude {
        0..1_000 => format!("{sign}{magnitude} ns"),
        1_000..1_000_000 => scaled(1_000, "us"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        _ => scaled(1_000_000_000, "s"),
    }
}

/// Columns two spaces apart under a line that names groups of them; the first to the left, the others to the
/// right.
struct Table {
    groups: Vec<(&'static str, usize)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// `groups` are names with the number of columns that each spans.
    fn new(groups: &[(&'static str, usize)], header: &[&str]) -> Self {
        Self { groups: groups.to_vec(), rows: vec![header.iter().map(|name| (*name).to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        let mut first = 0;
        for (name, span) in &self.groups {
            let width: usize = widths.iter().skip(first).take(*span).map(|width| width + 2).sum();
            // The first column has no space in front of it.
            let width = if first == 0 { width - 2 } else { width };
            first += span;
            let _ = match name.is_empty() {
                true => write!(text, "{:width$}", ""),
                false => write!(text, "  {:-^width$}", format!(" {name} "), width = width - 2),
            };
        }
        text.push('\n');
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (99_960, "100 us"),
            (-50_000_000, "-50.0 ms"),
            (9_999_999, "10.0 ms"),
            (2_500_000_000, "2.50 s"),
            (i64::MIN, "-9223372037 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn every_line_of_a_table_is_equally_long_and_numbers_are_where_they_belong() {
        let merged = Report::merge(vec![report("a", "b", Some(1)), report("b", "a", Some(1))]);
        let text = render(&merged);
        let lines: Vec<&str> = text.lines().collect();
        let lengths: Vec<usize> = lines[..4].iter().map(|line| line.chars().count()).collect();
        assert_eq!(lengths, [lengths[0]; 4], "{text}");
        assert!(lines[2].starts_with("a > b"), "{text}");
        assert!(lines[2].contains("12.3 us  90.0 us  2.50 us"), "{text}");
        // Fits a terminal of ordinary width.
        assert!(lines.iter().all(|line| line.chars().count() <= 120), "{text}");
        assert!(text.contains("-50.0 ms") && text.contains("410 ns"), "{text}");
    }

    #[test]
    fn without_privilege_and_clock_the_table_says_what_it_does_not_know() {
        let mut merged = Report::merge(vec![report("a", "b", Some(0))]);
        let unknown: Option<i64> = serde_json::from_str("null").unwrap();
        merged.nodes[0].clock.bound_ns = unknown;
        let segments = &mut merged.paths[0].segments;
        segments.get_mut("network").unwrap().bound_ns = unknown;
        segments.remove("ingress_stack");
        let both = segments.remove("socket_queue").unwrap();
        segments.insert(UNSPLIT.to_owned(), both);
        let text = render(&merged);
        assert!(text.contains("90.0 us  unknown        -  12.3 us*"), "{text}");
        assert!(text.contains("tier 0 cannot tell apart"), "{text}");
        assert!(summary(&merged).contains("network times are uncorrected"), "{}", summary(&merged));
    }

    #[test]
    fn the_summary_blames_the_longest_part_and_shows_open_accounts() {
        let mut merged = Report::merge(vec![report("a", "b", Some(1))]);
        merged.paths[0].segments.get_mut("socket_queue").unwrap().p50_ns = 200_000_000;
        assert!(summary(&merged).contains("mostly socket_queue"), "{}", summary(&merged));
        assert!(!summary(&merged).contains("NOT ALL"));
        merged.nodes[0].accounting.seen += 1;
        assert!(summary(&merged).contains("NOT ALL"), "{}", summary(&merged));
    }
}
