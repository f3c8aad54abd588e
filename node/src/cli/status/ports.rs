//! Paths whose packets are sent from several ports.

use probe_ebpf::time::Span;

use crate::cli::table::{Table, printable};
use crate::report::NodeReport;

/// One line for each source port of each peer that has several; empty when none has.
pub(super) fn source_ports(report: &NodeReport, most: usize) -> Table {
    let mut table =
        Table::new(&["from", "source port", "packets", "lost", "network"]).right(&[1, 2, 3]).most(most);
    for path in &report.paths {
        for (place, port) in path.source_ports.iter().enumerate() {
            let [median, high] = [port.network.p50_ns, port.network.p99_ns].map(Span::from_nanos);
            table.row([
                if place == 0 { printable(&path.from) } else { String::new() },
                port.port.to_string(),
                port.network.count.to_string(),
                port.lost.to_string(),
                if port.network.count == 0 { "-".into() } else { format!("{median} / {high}") },
            ]);
        }
    }
    table
}
