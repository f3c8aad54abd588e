//! Judging the verdicts: cases right, wrong and undecided, the confusion matrix, and what was said of paths that
//! nobody disturbed. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use probe_user::analysis::verdict::{Cause, Confidence};
use serde::{Deserialize, Serialize};

use super::case::{Case, Grade, Kind};
use crate::lab::statements::Statement;

/// From when on a verdict counts, after the trouble's start: it rests on the journeys of some seconds.
pub const SETTLED_NS: i64 = 9_000_000_000;
/// A verdict on an undisturbed path may be this much after the end of what came before.
pub const OVER_NS: i64 = 12_000_000_000;

/// A case that took place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What was done.
    pub case: Case,
    /// From then, in nanoseconds of CLOCK_MONOTONIC...
    pub from_ns: i64,
    /// ...until then.
    pub to_ns: i64,
}

/// How one case was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which kind.
    pub kind: Kind,
    /// What was done.
    pub did: String,
    /// What was said most.
    pub said: Cause,
    /// Whether that is right.
    pub grade: Grade,
    /// Of two causes, whether both were named.
    pub both: bool,
    /// A confident verdict took the network for a process, or the other way round.
    pub mixed_up: bool,
    /// One sentence of a single statement that did so.
    #[serde(default)]
    pub mix_up: Option<String>,
    /// How often everything was said.
    pub all: BTreeMap<String, u32>,
    /// One sentence of what was said most.
    pub evidence: String,
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub from_ns: i64,
}

/// The result; several add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Of the first run.
    pub seed: u64,
    /// Of all.
    pub seeds: Vec<u64>,
    /// How many.
    pub cases: u32,
    /// Rightly judged.
    pub right: u32,
    /// Wrongly judged.
    pub wrong: u32,
    /// Left open.
    pub undecided: u32,
    /// Of two causes: both named.
    pub both_named: u32,
    /// Cases whose verdict took the network for a process, or the other way round.
    pub confident_network_app_mixups: u32,
    /// Cause injected, verdict, number of cases.
    pub matrix: BTreeMap<String, BTreeMap<String, u32>>,
    /// Single statements about the cases' paths.
    pub statements: u32,
    /// Of those that were mix-ups of high confidence.
    pub statements_mixed_up_high: u32,
    /// Of those that were mix-ups of any confidence.
    pub statements_mixed_up: u32,
    /// Statements about paths that nobody disturbed.
    pub undisturbed: u32,
    /// Of those, what named a trouble.
    pub false_alarms: BTreeMap<String, u32>,
    /// Seconds with load average, at each bed's start and end.
    pub load: Vec<f64>,
    /// Case by case.
    pub outcomes: Vec<Outcome>,
}

/// Judges a run.
pub fn score(seed: u64, cases: &[Done], statements: &[Statement]) -> Score {
    let mut score = Score { seed, seeds: vec![seed], ..Score::default() };
    for done in cases {
        if let Some(outcome) = judge(done, statements, &mut score) {
            score.count(outcome);
        }
    }
    undisturbed(cases, statements, &mut score);
    score
}

fn judge(done: &Done, statements: &[Statement], score: &mut Score) -> Option<Outcome> {
    let Done { case, from_ns, to_ns } = done;
    let paths = case.paths();
    let of: Vec<&Statement> = statements
        .iter()
        .filter(|said| {
            case.hosts.contains(&said.by)
                && paths.contains(&(said.from, said.to))
                && said.at >= from_ns + SETTLED_NS
                && said.at < *to_ns
        })
        .collect();
    let mut counts: BTreeMap<Cause, u32> = BTreeMap::new();
    let mut mix_up = None;
    for said in &of {
        *counts.entry(said.cause).or_default() += 1;
        let mixed_up = case.is_mixed_up((said.from, said.to), said.cause);
        if mixed_up {
            mix_up = Some(format!("{}: {}", said.cause.name(), said.evidence));
        }
        score.statements_mixed_up += u32::from(mixed_up);
        score.statements_mixed_up_high += u32::from(mixed_up && said.confidence == Confidence::High);
    }
    score.statements += u32::try_from(of.len()).unwrap_or(u32::MAX);
    let (said, _) = counts.iter().max_by_key(|(_, count)| **count)?;
    let example = of.iter().rfind(|statement| statement.cause == *said)?;
    let path = (example.from, example.to);
    let needed = case.troubles.iter().map(|trouble| trouble.blames(path.0, path.1));
    let named = |statement: &&&Statement| {
        let names = [Some(statement.cause), statement.also];
        needed.clone().all(|right| names.iter().flatten().any(|name| right.contains(name)))
    };
    let both = case.troubles.len() > 1 && 2 * of.iter().filter(named).count() > of.len();
    let all = counts.iter().map(|(cause, count)| (cause.name().to_owned(), *count)).collect();
    Some(Outcome {
        kind: case.kind,
        did: case.words(),
        said: *said,
        grade: case.grade(path, *said),
        both,
        mixed_up: case.is_mixed_up(path, *said),
        mix_up,
        all,
        evidence: example.evidence.clone(),
        from_ns: *from_ns,
    })
}

/// What was said of paths that no trouble touches, at times when nothing else is remembered.
fn undisturbed(cases: &[Done], statements: &[Statement], score: &mut Score) {
    for said in statements {
        let during = |done: &Done| said.at >= done.from_ns + SETTLED_NS && said.at < done.to_ns;
        let touched =
            |done: &Done| Cause::ALL.iter().any(|cause| done.case.allows((said.from, said.to), *cause));
        // What was until just now may still be remembered.
        let remembered = |done: &Done| said.at >= done.from_ns && said.at < done.to_ns + OVER_NS;
        if !cases.iter().any(during) || cases.iter().any(|done| remembered(done) && touched(done)) {
            continue;
        }
        score.undisturbed += 1;
        if said.cause.is_trouble() || said.cause == Cause::ClockUncertain {
            *score.false_alarms.entry(said.cause.name().to_owned()).or_default() += 1;
        }
    }
}

impl Score {
    fn count(&mut self, outcome: Outcome) {
        self.cases += 1;
        match outcome.grade {
            Grade::Right => self.right += 1,
            Grade::Wrong => self.wrong += 1,
            Grade::Undecided => self.undecided += 1,
        }
        self.both_named += u32::from(outcome.both);
        self.confident_network_app_mixups += u32::from(outcome.mixed_up);
        let row = self.matrix.entry(outcome.kind.name().to_owned()).or_default();
        *row.entry(outcome.said.name().to_owned()).or_default() += 1;
        self.outcomes.push(outcome);
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        if self.seeds.is_empty() {
            self.seed = other.seed;
        }
        self.seeds.extend(other.seeds);
        for (mine, more) in [
            (&mut self.cases, other.cases),
            (&mut self.right, other.right),
            (&mut self.wrong, other.wrong),
            (&mut self.undecided, other.undecided),
            (&mut self.both_named, other.both_named),
            (&mut self.confident_network_app_mixups, other.confident_network_app_mixups),
            (&mut self.statements, other.statements),
            (&mut self.statements_mixed_up_high, other.statements_mixed_up_high),
            (&mut self.statements_mixed_up, other.statements_mixed_up),
            (&mut self.undisturbed, other.undisturbed),
        ] {
            *mine += more;
        }
        for (kind, row) in other.matrix {
            let mine = self.matrix.entry(kind).or_default();
            row.into_iter().for_each(|(said, count)| *mine.entry(said).or_default() += count);
        }
        for (cause, count) in other.false_alarms {
            *self.false_alarms.entry(cause).or_default() += count;
        }
        self.load.extend(other.load);
        self.outcomes.extend(other.outcomes);
    }

    /// The share of cases rightly judged, in percent.
    pub fn right_percent(&self) -> f64 {
        100.0 * f64::from(self.right) / f64::from(self.cases.max(1))
    }

    /// The matrix and what does not fit into it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut said: Vec<Cause> = Cause::ALL.to_vec();
        said.retain(|cause| self.matrix.values().any(|row| row.contains_key(cause.name())));
        let short = |cause: &Cause| cause.name().replace("network_or_host_softirq", "net_or_softirq");
        // Writing to a String does not fail.
        let _ = write!(out, "{:18}", "cause \\ verdict");
        for cause in &said {
            let _ = write!(out, " {:>16}", short(cause));
        }
        let _ = writeln!(out, "    right");
        for kind in Kind::ALL {
            let Some(row) = self.matrix.get(kind.name()) else { continue };
            let _ = write!(out, "{:18}", kind.name());
            for cause in &said {
                let count = row.get(cause.name()).map_or_else(|| ".".to_owned(), u32::to_string);
                let _ = write!(out, " {count:>16}");
            }
            let of = || self.outcomes.iter().filter(|outcome| outcome.kind == kind);
            let right = of().filter(|outcome| outcome.grade == Grade::Right).count();
            let _ = writeln!(out, "  {right:3}/{}", of().count());
        }
        for outcome in
            self.outcomes.iter().filter(|outcome| outcome.grade != Grade::Right || outcome.mixed_up)
        {
            let Outcome { kind, did, said, grade, all, evidence, .. } = outcome;
            let all: Vec<String> = all.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
            let _ = writeln!(
                out,
                "{grade:?}: {} ({did}): {} ({}); {evidence}",
                kind.name(),
                said.name(),
                all.join(", ")
            );
        }
        for outcome in &self.outcomes {
            if let Some(said) = &outcome.mix_up {
                let _ = writeln!(out, "Mix-up in {} ({}): {said}", outcome.kind.name(), outcome.did);
            }
        }
        let _ = writeln!(
            out,
            "{} cases (seeds {:?}): {} right ({:.1} %), {} wrong, {} undecided, {} mix-ups of network and process; of two \
             causes both named {} times",
            self.cases,
            self.seeds,
            self.right,
            self.right_percent(),
            self.wrong,
            self.undecided,
            self.confident_network_app_mixups,
            self.both_named
        );
        let alarms: Vec<String> =
            self.false_alarms.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        let _ = writeln!(
            out,
            "{} single statements, {} of them mix-ups ({} of high confidence); {} on undisturbed paths, false alarms: {}",
            self.statements,
            self.statements_mixed_up,
            self.statements_mixed_up_high,
            self.undisturbed,
            if alarms.is_empty() { "none".to_owned() } else { alarms.join(", ") }
        );
        let load: Vec<String> = self.load.iter().map(|load| format!("{load:.1}")).collect();
        let _ = writeln!(out, "load average of the machine at each start and end: {}", load.join(" "));
        out
    }
}
