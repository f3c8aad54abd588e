//! `pikoscope doctor`: what this host can measure, why not more, and what to do about it.
//!
//! [`Facts::gather`] looks at the host; [`examine`] judges, without IO. The two things that matter are tried
//! out rather than guessed: the probe is attached to a socket of our own, and the clock is asked.
//!
//! A host is *ready* when tier 1 works and its clock is synchronised; only then is the exit code 0. A node
//! runs on other hosts too, and says what it lacks.

use serde::Serialize;

mod checks;
mod facts;
mod hardware;
mod privileges;

pub use checks::examine;
pub use facts::Facts;

/// What `doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Tier 1 works and the clock is synchronised.
    pub ready: bool,
    /// The tier that a node would run at; `None` without kernel stamps.
    pub tier: Option<u8>,
    /// One line each.
    pub checks: Vec<Check>,
    /// The tiers, best first.
    pub tiers: Vec<Tier>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub todo: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Something is lost, but not the tier.
    Warn,
    /// Keeps this host from being ready.
    Fail,
}

/// One source of kernel stamps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// Its number.
    pub tier: u8,
    /// What it is.
    pub name: &'static str,
    /// Does it work here?
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What it gives and costs.
    pub cost: &'static str,
}
