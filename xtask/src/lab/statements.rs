//! What the nodes said of their paths, second by second, from their records; or what they would say now.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use probe_user::analysis::verdict::record::{Replay, ReplayLine, read_line};
use probe_user::analysis::verdict::{Cause, Confidence};
use serde::{Deserialize, Serialize};

use crate::lab::scenario::host_index;

/// One verdict on one path at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Who says it.
    pub by: usize,
    /// Of what comes from there...
    pub from: usize,
    /// ...to here.
    pub to: usize,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at: i64,
    /// What.
    pub cause: Cause,
    /// And what else.
    pub also: Option<Cause>,
    /// How surely.
    pub confidence: Confidence,
    /// Why.
    pub evidence: String,
}

/// What the lines of packets do not have.
const MARK: &str = "\"line\":";

/// All that a record holds. `again`: as the judges of this program judge it.
pub fn of(record: &Path, by: usize, again: bool) -> Result<Vec<Statement>> {
    let file = File::open(record).with_context(|| format!("opening {}", record.display()))?;
    let mut replay = Replay::default();
    let mut all = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line?;
        if !line.contains(MARK) {
            continue;
        }
        let told = if again {
            replay.line(&line)?.map(|done| {
                let verdict = done.again;
                (done.path, done.now, verdict.cause, verdict.also, verdict.confidence, verdict.evidence)
            })
        } else {
            match read_line(&line, number)? {
                ReplayLine::Evaluation { path, now, verdict, .. } => {
                    Some((path, now, verdict.cause, verdict.also, verdict.confidence, verdict.evidence))
                }
                _ => None,
            }
        };
        let Some((path, now, cause, also, confidence, evidence)) = told else { continue };
        let (Some(from), Some(to)) = (host_index(&path.from), host_index(&path.to)) else { continue };
        all.push(Statement { by, from, to, at: now.as_nanos(), cause, also, confidence, evidence });
    }
    Ok(all)
}
