//! `pikoscope doctor`: the diagnosis as text or JSON.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use probe_user::clock::spec::SourceSpec;

use super::table::Table;
use super::{Failure, one_line, print};
use crate::doctor::{Diagnosis, Facts, State, examine};

pub(super) fn doctor(
    control: Option<PathBuf>,
    sources: &[SourceSpec],
    json: bool,
) -> Result<ExitCode, Failure> {
    let found = examine(&Facts::gather(sources, control));
    if json {
        print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
    } else {
        print(&render(&found))?;
    }
    Ok(if found.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(found: &Diagnosis) -> String {
    let mut table = Table::new(&["CHECK", "STATE", "FOUND"]);
    for check in &found.checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        table.row([check.name.into(), state.into(), one_line(&check.found)]);
        if let Some(todo) = &check.todo {
            table.row([String::new(), String::new(), format!("-> {}", one_line(todo))]);
        }
    }
    let mut tiers = Table::new(&["TIER", "AVAILABLE", "WHAT"]).right(&[0]);
    for tier in &found.tiers {
        let available = if tier.available { "yes" } else { "NO" };
        tiers.row([tier.tier.to_string(), available.into(), format!("{}: {}", tier.name, tier.cost)]);
        if let Some(reason) = &tier.reason {
            tiers.row([String::new(), String::new(), format!("-> {}", one_line(reason))]);
        }
    }
    let mut out = format!("{table}\n{tiers}\n");
    let stamps = match found.tier {
        Some(tier) => format!("a node would run at tier {tier}"),
        None => "a node would have no kernel stamps".to_owned(),
    };
    // Writing to a String does not fail.
    let _ = match found.ready {
        true => writeln!(out, "ready: {stamps}, and the clock is synchronised"),
        false => writeln!(out, "not ready: {stamps}; see the lines above that are not ok"),
    };
    out
}
