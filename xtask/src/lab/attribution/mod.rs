//! `lab attribution`: are the verdicts right? Troubles of random kind, place and size happen to hosts that gossip, and
//! what the nodes say of their paths is held against what was done.
//!
//! What is right to say is fixed beforehand ([`trouble`]). Pairs of hosts have a case each at a time, so that several
//! cases share the time that one takes. A case's verdict is what both its hosts said most often of the paths it
//! disturbs, from nine seconds on.

pub mod case;
pub mod hands;
pub mod run;
pub mod score;
pub mod trouble;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::rig::interrupt::Interrupt;
use case::Kind;
use score::{Done, Score};

/// What to try, and where to write what came out.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// So many cases of each kind
    #[arg(long, value_name = "N", default_value_t = 2)]
    repeat: u32,
    /// Decides order, places and sizes
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Only these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Pairs of hosts, each with a case at a time
    #[arg(long, value_name = "P", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    pairs: u8,
    /// Rounds on one set of hosts; then the result so far is written and new hosts are made
    #[arg(long, value_name = "N", default_value_t = 12)]
    rounds: usize,
    /// Write the result to this file, as JSON; what it holds of other seeds already is added to
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the nodes' records and the cases in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Run nothing: judge what was kept in these directories again, by this program's verdicts
    #[arg(long, value_name = "DIR", num_args = 1..)]
    again: Vec<PathBuf>,
    /// Run this node instead of building one
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
}

impl Options {
    /// Does it need hosts?
    pub(super) fn runs(&self) -> bool {
        self.again.is_empty()
    }
}

/// The least share of right verdicts, in percent.
const RIGHT_PERCENT: f64 = 95.0;
/// The largest share of undecided ones.
const UNDECIDED_PERCENT: f64 = 10.0;

/// Judges kept records again.
pub fn again(options: &Options) -> Result<()> {
    let mut sum = Score::default();
    for dir in &options.again {
        let text = fs::read(dir.join("cases.json")).with_context(|| format!("reading {}", dir.display()))?;
        let cases: Vec<Done> = serde_json::from_slice(&text)?;
        let mut statements = Vec::new();
        for host in 0.. {
            let record = dir.join(format!("{host}.record"));
            if !record.exists() {
                break;
            }
            statements.extend(super::statements::of(&record, host, true)?);
        }
        sum.add(score::score(options.seed, &cases, &statements));
    }
    conclude(&sum, options.json.as_deref())
}

/// Runs the experiment. Must be inside a sandbox.
pub fn command(options: &Options, binary: &Path) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let kinds = if options.only.is_empty() { Kind::ALL.to_vec() } else { options.only.clone() };
    let pairs = usize::from(options.pairs);
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let plan = case::plan(&kinds, options.repeat, pairs, &mut random);
    eprintln!("lab: seed {}, {} rounds of up to {pairs} cases", options.seed, plan.len());
    let earlier: Option<Score> = match &options.json {
        Some(file) if file.exists() => {
            let text = fs::read(file)?;
            Some(serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))?)
        }
        _ => None,
    };
    let known = earlier.as_ref().is_some_and(|score| score.seeds.contains(&options.seed));
    ensure!(!known, "the result holds seed {} already; take another seed or another file", options.seed);
    let mut own = Score::default();
    for (bed, rounds) in plan.chunks(options.rounds.max(1)).enumerate() {
        let keep = options.keep.as_ref().map(|dir| dir.join(format!("{}-{bed}", options.seed)));
        let ran = run::rounds(rounds, pairs, options.seed, binary, keep.as_deref(), &interrupt)?;
        let mut part = score::score(options.seed, &ran.cases, &ran.statements);
        part.load.extend(ran.load);
        own.add(part);
        own.seeds = vec![options.seed];
        let mut sum = earlier.clone().unwrap_or_default();
        sum.add(own.clone());
        if let Some(file) = &options.json {
            write(&sum, file)?;
        }
        eprint!("{}", own.text());
    }
    let mut sum = earlier.unwrap_or_default();
    sum.add(own);
    conclude(&sum, options.json.as_deref())
}

fn write(score: &Score, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(score)?;
    fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

fn conclude(score: &Score, json: Option<&Path>) -> Result<()> {
    println!("{}", score.text());
    if let Some(file) = json {
        write(score, file)?;
    }
    ensure!(score.cases > 0, "no case took place");
    ensure!(score.right_percent() >= RIGHT_PERCENT, "{:.1} % are right", score.right_percent());
    let undecided = 100.0 * f64::from(score.undecided) / f64::from(score.cases);
    ensure!(undecided <= UNDECIDED_PERCENT, "{undecided:.1} % are undecided");
    let mixed_up = score.confident_network_app_mixups;
    ensure!(mixed_up == 0, "{mixed_up} verdicts took the network for a process or the other way round");
    Ok(())
}
