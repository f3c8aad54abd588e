//! Cases on a bed, round after round.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::case::{Case, Kind};
use super::hands::Hands;
use super::score::Done;
use super::trouble::Trouble;
use crate::lab::bed::Bed;
use crate::lab::load::Writer;
use crate::lab::scenario::Scenario;
use crate::lab::statements::{self, Statement};
use crate::lab::switch::clock::mono_now;
use crate::lab::timeline::Step;
use crate::rig::Stopwatch;
use crate::rig::interrupt::Interrupt;

/// How long a trouble lasts.
const EFFECT: Duration = Duration::from_secs(20);
/// For the nodes to learn what is normal.
const LEARN: Duration = Duration::from_secs(25);
/// Between a round and the next: what was lost is remembered for so long.
const QUIET: Duration = Duration::from_secs(14);
/// The same after a clock's lie.
const QUIET_CLOCK: Duration = Duration::from_secs(28);
/// The load: few packets, as gossip is.
const LOAD: &str = "{ changes_per_s = 10, value_bytes = 16 }";

/// What a bed leaves: what was done and what was said.
#[derive(Debug)]
pub struct Ran {
    /// The cases.
    pub cases: Vec<Done>,
    /// All verdicts.
    pub statements: Vec<Statement>,
    /// The machine's load average at the start and the end.
    pub load: [f64; 2],
}

/// A pulse's edge: when it is due after the round's start, and what is done.
type Edge = (Duration, Step);

/// Brings a bed up, runs the rounds, takes it down. `keep`: where the records and the cases are to be left.
pub fn rounds(
    rounds: &[Vec<Case>],
    pairs: usize,
    seed: u64,
    binary: &Path,
    keep: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Ran> {
    let hosts = 2 * pairs;
    let text = format!("about = 'attribution'\nhosts = {hosts}\nseconds = 3600\nload = {LOAD}\n");
    let scenario = Scenario::parse("attribution", &text)?;
    let watch = Stopwatch::start();
    let tell = |what: &str| eprintln!("lab: {:7.1} s  {what}", watch.elapsed().as_secs_f64());
    let before = load_average();
    let mut bed = Bed::up(&scenario, seed, binary, &mut |what| tell(what))?;
    let writer = Writer::start(&scenario.load, bed.places());
    let mut hands = Hands::default();
    let mut cases = Vec::new();
    wait(LEARN, &mut bed, interrupt)?;
    for (number, round) in rounds.iter().enumerate() {
        let words: Vec<String> = round.iter().map(|case| format!("[{}]", case.words())).collect();
        tell(&format!("round {} of {}: {}", number + 1, rounds.len(), words.join(" ")));
        cases.extend(one(round, &scenario, &mut bed, &mut hands, interrupt)?);
        let clock = round.iter().any(|case| case.kind == Kind::ClockLie);
        wait(if clock { QUIET_CLOCK } else { QUIET }, &mut bed, interrupt)?;
    }
    writer.stop();
    let remains = bed.down()?;
    let mut all = Vec::new();
    for (host, records) in remains.records.iter().enumerate() {
        for record in records {
            all.extend(statements::of(record, host, false)?);
            if let Some(dir) = keep {
                fs::create_dir_all(dir)?;
                fs::copy(record, dir.join(format!("{host}.record")))
                    .with_context(|| format!("keeping {}", record.display()))?;
            }
        }
    }
    if let Some(dir) = keep {
        fs::write(dir.join("cases.json"), serde_json::to_vec_pretty(&cases)?)?;
    }
    Ok(Ran { cases, statements: all, load: [before, load_average()] })
}

/// One round: all of it begins at once and ends at once.
fn one(
    round: &[Case],
    scenario: &Scenario,
    bed: &mut Bed,
    hands: &mut Hands,
    interrupt: &Interrupt,
) -> Result<Vec<Done>> {
    let troubles: Vec<Trouble> = round.iter().flat_map(|case| case.troubles.iter().copied()).collect();
    let from_ns = mono_now().as_nanos();
    for trouble in &troubles {
        hands.begin(trouble, scenario, bed).with_context(|| trouble.words())?;
    }
    let mut edges: Vec<Edge> = troubles.iter().flat_map(pulses).collect();
    edges.sort_by_key(|(at, _)| *at);
    let watch = Stopwatch::start();
    for (at, step) in edges {
        wait(at.saturating_sub(watch.elapsed()), bed, interrupt)?;
        hands.step(&step, scenario, bed)?;
    }
    wait(EFFECT.saturating_sub(watch.elapsed()), bed, interrupt)?;
    let to_ns = mono_now().as_nanos();
    for trouble in &troubles {
        hands.end(trouble, scenario, bed).with_context(|| format!("ending: {}", trouble.words()))?;
    }
    Ok(round.iter().map(|case| Done { case: case.clone(), from_ns, to_ns }).collect())
}

/// A stopped node's pauses.
fn pulses(trouble: &Trouble) -> Vec<Edge> {
    let Trouble::Stop { host, pulse_ms, every_ms } = *trouble else { return Vec::new() };
    let (pulse, every) = (Duration::from_millis(pulse_ms.into()), Duration::from_millis(every_ms.into()));
    (0..)
        .map(|count| every * count)
        .take_while(|at| *at + pulse <= EFFECT)
        .flat_map(|at| [(at, Step::Pause(host)), (at + pulse, Step::Resume(host))])
        .collect()
}

fn wait(time: Duration, bed: &mut Bed, interrupt: &Interrupt) -> Result<()> {
    let watch = Stopwatch::start();
    loop {
        ensure!(!interrupt.is_raised(), "interrupted");
        let left = time.saturating_sub(watch.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        // The pace of the experiment, not a wait for anything; short, since it is how long Ctrl-C may take.
        thread::sleep(left.min(Duration::from_millis(200)));
        if left > Duration::from_millis(200) {
            bed.ensure_running()?;
        }
    }
}

/// The machine's load average over a minute; NaN where it is not told.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
