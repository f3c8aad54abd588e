//! `pikoscope self-check`: what both tiers say of the same packets.

use std::path::Path;
use std::process::ExitCode;

use probe_user::self_check::{self, Differences, Findings, Options};

use super::table::Table;
use super::{Failure, print};

/// Exit code 1 when the stamps are not what they should be, or could not be compared.
pub(super) fn self_check(packets: u32, json: Option<&Path>) -> Result<ExitCode, Failure> {
    let found = self_check::run(&Options { packets, ..Options::default() })?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&found)? + "\n";
        std::fs::write(file, text).map_err(|e| format!("writing {}: {e}", file.display()))?;
    }
    print(&render(&found))?;
    Ok(if found.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(found: &Findings) -> String {
    let mut table = Table::new(&["DIFFERENCE, ns", "PACKETS", "MIN", "P50", "MAX", "P99 OF SIZES"])
        .right(&[1, 2, 3, 4, 5]);
    let mut row = |what: &str, d: &Differences| {
        let cells = [d.pairs.into(), d.min_ns, d.p50_ns, d.max_ns, d.p99_magnitude_ns].map(|n| n.to_string());
        table.row([what.to_owned()].into_iter().chain(cells));
    };
    row("T4: socket filter - SCM_TIMESTAMPING", &found.t4);
    if let Ok(transmit) = &found.tier_2 {
        row("T3: net_dev_start_xmit - TX_SOFTWARE", &transmit.t3);
        row("T2: cgroup egress - TX_SCHED", &transmit.t2);
    }
    let mut out = format!("{table}\n");
    if let Err(why) = &found.tier_2 {
        out += &format!("T2 and T3 not compared: {}\n", super::one_line(why));
    }
    out +=
        &format!("REALTIME stamps are moved to MONOTONIC with an error of {} ns\n", found.mapping_error_ns);
    for failure in &found.failures {
        out += &format!("FAILED: {failure}\n");
    }
    if found.failures.is_empty() {
        out += "all stamps are as they should be\n";
    }
    out
}
