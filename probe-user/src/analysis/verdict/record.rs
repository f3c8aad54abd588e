//! What a judge was told and what it said, as JSON lines, so that a file replays to the same verdicts.

use std::collections::BTreeMap;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::{Deserialize, Serialize};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, SourcePort};

use super::serial::{mono_serde, span_serde};
use super::{Cause, Circumstances, Confidence, Loss, PathJudge, Verdict};

/// Version of the format; a reader takes no other.
pub const VERSION: u32 = 1;
/// Paths that a replay keeps judges for.
const PATHS: usize = 4096;

/// A directed path by its ends' names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PathName {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
}

/// A journey; times in nanoseconds, legs as pairs of value and bound in the order of [`Leg::ALL`](crate::analysis::journey::Leg::ALL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JourneyRecord {
    /// [`Journey::counter`].
    pub counter: u32,
    /// [`Journey::at`].
    pub at: i64,
    /// [`Journey::legs`].
    pub legs: [Option<(i64, i64)>; 7],
    /// [`Journey::network_has_egress`].
    pub network_has_egress: bool,
    /// [`Journey::queue_has_ingress`].
    pub queue_has_ingress: bool,
    /// [`Journey::correction`].
    pub correction: Correction,
    /// [`Journey::stamps`].
    pub stamps: i64,
    /// [`Journey::epochs`].
    pub epochs: u64,
    /// [`Journey::source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourcePort>,
}

impl From<&Journey> for JourneyRecord {
    fn from(journey: &Journey) -> Self {
        Self {
            counter: journey.counter,
            at: journey.at.as_nanos(),
            legs: journey.legs.map(|leg| leg.map(|leg| (leg.value.as_nanos(), leg.bound.as_nanos()))),
            network_has_egress: journey.network_has_egress,
            queue_has_ingress: journey.queue_has_ingress,
            correction: journey.correction,
            stamps: journey.stamps.as_nanos(),
            epochs: journey.epochs,
            source: journey.source,
        }
    }
}

impl From<&JourneyRecord> for Journey {
    fn from(record: &JourneyRecord) -> Self {
        let bounded = |(value, bound)| Bounded::new(Span::from_nanos(value), Span::from_nanos(bound));
        Self {
            counter: record.counter,
            at: MonoNs::from_nanos(record.at),
            legs: record.legs.map(|leg| leg.map(bounded)),
            network_has_egress: record.network_has_egress,
            departed_by_hooks: false,
            queue_has_ingress: record.queue_has_ingress,
            correction: record.correction,
            stamps: Span::from_nanos(record.stamps),
            epochs: record.epochs,
            source: record.source,
        }
    }
}

/// A verdict, as far as a replay is compared with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// [`Verdict::cause`].
    pub cause: Cause,
    /// [`Verdict::also`].
    pub also: Option<Cause>,
    /// [`Verdict::samples`].
    pub samples: u32,
    /// [`Verdict::confidence`].
    pub confidence: Confidence,
    /// [`Verdict::evidence`].
    pub evidence: String,
    /// [`Verdict::since`].
    #[serde(with = "mono_serde")]
    pub since: MonoNs,
    /// [`Verdict::effect`].
    #[serde(with = "span_serde")]
    pub effect: Span,
}

impl From<&Verdict> for VerdictRecord {
    fn from(verdict: &Verdict) -> Self {
        Self {
            cause: verdict.cause,
            also: verdict.also,
            samples: verdict.samples,
            confidence: verdict.confidence,
            evidence: verdict.evidence.clone(),
            since: verdict.since,
            effect: verdict.effect,
        }
    }
}

/// One line of a file. The first is [`ReplayLine::Head`]; the others stand in the order in which the judge was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum ReplayLine {
    /// What the file is.
    Head {
        /// [`VERSION`].
        version: u32,
        /// The recording host.
        host: String,
    },
    /// [`PathJudge::observe`].
    Journey {
        /// Which path.
        path: PathName,
        /// What was told.
        journey: JourneyRecord,
    },
    /// [`PathJudge::observe_loss`].
    Loss {
        /// Which path.
        path: PathName,
        /// When, by MONOTONIC.
        #[serde(with = "mono_serde")]
        at: MonoNs,
        /// What was told.
        loss: Loss,
    },
    /// [`PathJudge::evaluate`].
    Evaluation {
        /// Which path.
        path: PathName,
        /// When, by MONOTONIC.
        #[serde(with = "mono_serde")]
        now: MonoNs,
        /// What was told.
        circumstances: Circumstances,
        /// What was said.
        verdict: VerdictRecord,
    },
    /// The path's judge was given up: the peer left.
    Forgotten {
        /// Which path.
        path: PathName,
    },
}

/// Why a file does not replay.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not one of the lines.
    #[error("line {number} is not a record ({source}); the lines before it hold")]
    Syntax {
        /// 1-based.
        number: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Another program's or another version's file.
    #[error("the file begins with {found}, not with a head of version {VERSION}; record it anew")]
    Head {
        /// What stands there, in short.
        found: String,
    },
    /// More paths than any node has.
    #[error("line {number} opens path number {PATHS} and one: this is no node's file")]
    Paths {
        /// 1-based.
        number: usize,
    },
    /// A value that cannot be written.
    #[error("a record cannot be written ({0}); the ones before it hold")]
    Write(serde_json::Error),
}

/// One line, without the line break.
pub fn write_line(line: &ReplayLine) -> Result<String, RecordError> {
    serde_json::to_string(line).map_err(RecordError::Write)
}

/// The opposite; `number` is told in the error.
pub fn read_line(line: &str, number: usize) -> Result<ReplayLine, RecordError> {
    serde_json::from_str(line).map_err(|source| RecordError::Syntax { number, source })
}

/// An evaluation, done again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// 1-based line in the file.
    pub number: usize,
    /// Which path.
    pub path: PathName,
    /// When.
    pub now: MonoNs,
    /// What was said then.
    pub recorded: VerdictRecord,
    /// What is said now.
    pub again: Verdict,
}

impl Replayed {
    /// Is it the same?
    pub fn is_same(&self) -> bool {
        VerdictRecord::from(&self.again) == self.recorded
    }
}

/// Tells judges line by line what a file says, and yields each evaluation.
#[derive(Debug, Default)]
pub struct Replay {
    judges: BTreeMap<PathName, PathJudge>,
    number: usize,
}

impl Replay {
    /// Takes the next line; empty ones are skipped.
    pub fn line(&mut self, line: &str) -> Result<Option<Replayed>, RecordError> {
        self.number += 1;
        let number = self.number;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let parsed = read_line(line, number);
        if number == 1 {
            let head = matches!(parsed, Ok(ReplayLine::Head { version: VERSION, .. }));
            let found = || line.chars().take(60).collect();
            return if head { Ok(None) } else { Err(RecordError::Head { found: found() }) };
        }
        match parsed? {
            ReplayLine::Head { .. } => {
                Err(RecordError::Head { found: format!("a second head in line {number}") })
            }
            ReplayLine::Journey { path, journey } => {
                self.judge(path)?.observe(&Journey::from(&journey));
                Ok(None)
            }
            ReplayLine::Loss { path, at, loss } => {
                self.judge(path)?.observe_loss(at, &loss);
                Ok(None)
            }
            ReplayLine::Evaluation { path, now, circumstances, verdict: recorded } => {
                let again = self.judge(path.clone())?.evaluate(now, &circumstances);
                Ok(Some(Replayed { number, path, now, recorded, again }))
            }
            ReplayLine::Forgotten { path } => {
                self.judges.remove(&path);
                Ok(None)
            }
        }
    }

    fn judge(&mut self, path: PathName) -> Result<&mut PathJudge, RecordError> {
        if self.judges.len() >= PATHS && !self.judges.contains_key(&path) {
            return Err(RecordError::Paths { number: self.number });
        }
        let new = || PathJudge::new(path.from.clone(), path.to.clone());
        Ok(self.judges.entry(path.clone()).or_insert_with(new))
    }
}

/// All evaluations of a file.
pub fn replay(text: &str) -> Result<Vec<Replayed>, RecordError> {
    let mut replay = Replay::default();
    text.lines().filter_map(|line| replay.line(line).transpose()).collect()
}
