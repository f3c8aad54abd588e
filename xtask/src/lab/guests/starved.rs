//! What two guests' nodes call it when one of the machines has no processor for a while.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use probe_user::analysis::verdict::Cause;
use probe_user::analysis::verdict::record::ReplayLine;
use serde::{Deserialize as _, Serialize};

use super::trial::Remains;
use crate::vmtest::kernel::Kernel;

/// Verdicts of the first seconds rest on the journeys of before.
const SETTLE_NS: i64 = 9_000_000_000;

/// What was said of one path.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Said {
    /// Verdicts by cause.
    causes: BTreeMap<String, u32>,
    /// One sentence of the cause that was said most.
    evidence: BTreeMap<String, String>,
}

/// What a trial came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Outcome {
    kernel: String,
    pass: bool,
    /// By who says it, and of which path.
    said: BTreeMap<String, Said>,
}

/// Calls it the network, without a doubt whether it was a host.
fn is_plain_network(cause: Cause) -> bool {
    matches!(cause, Cause::Network | Cause::LossNetwork)
}

impl Outcome {
    /// Takes in what both nodes said from then on when the starving had an effect, to the end.
    pub(super) fn of(kernel: Kernel, remains: &Remains) -> Result<Self> {
        let lasted = match remains.stretches[..] {
            [.., from, to] => (to - from).as_nanos(),
            _ => 0,
        };
        let mut said: BTreeMap<String, Said> = BTreeMap::new();
        let (mut plain, mut trouble) = (0, 0);
        for guest in &remains.guests {
            let mut verdicts = Vec::new();
            for record in guest.records.iter().filter(|record| record.get("line").is_some()) {
                let line = ReplayLine::deserialize(record);
                let line = line.with_context(|| format!("guest {}'s record", guest.name))?;
                if let ReplayLine::Evaluation { path, now, verdict, .. } = line {
                    verdicts.push((path, now.as_nanos(), verdict));
                }
            }
            // The record ends with the trial, within a second.
            let end = verdicts.iter().map(|(_, now, _)| *now).max().unwrap_or_default();
            for (path, _, verdict) in verdicts.iter().filter(|(_, now, _)| *now > end - lasted + SETTLE_NS) {
                plain += u32::from(is_plain_network(verdict.cause));
                trouble += u32::from(verdict.cause.is_trouble());
                let said = said.entry(format!("{}: {} to {}", guest.name, path.from, path.to)).or_default();
                let name = verdict.cause.name().to_owned();
                *said.causes.entry(name.clone()).or_default() += 1;
                said.evidence.insert(name, verdict.evidence.clone());
            }
        }
        // That nobody noticed would prove nothing.
        let pass = plain == 0 && trouble > 0;
        Ok(Self { kernel: kernel.to_string(), pass, said })
    }

    pub(super) fn passes(&self) -> bool {
        self.pass
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "two guests with kernel {}, b's machine starved:", self.kernel)?;
        for (path, said) in &self.said {
            for (cause, count) in &said.causes {
                writeln!(f, "  {path}: {cause} {count} times; {}", said.evidence[cause])?;
            }
        }
        let verdict = if self.pass { "ok  " } else { "FAIL" };
        writeln!(f, "  {verdict} it is noticed, and nobody calls it plain network")
    }
}
