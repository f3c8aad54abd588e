//! The scenarios that come with the lab.

use std::fs;
use std::path::Path;

use super::scenario::{Scenario, ScenarioError};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("scenarios/", $name, ".toml")))),*]
    };
}

/// Names and texts, in the order in which they are shown.
const FILES: &[(&str, &str)] = files![
    "idle",
    "delay-20ms",
    "one-way-5ms",
    "one-way-5ms-no-ntp",
    "jitter",
    "loss-5",
    "one-path-lossy",
    "one-path-slow",
    "loss-bursty",
    "reorder-duplicate",
    "partition-heal",
    "link-congestion",
    "local-congestion",
    "stopped-receiver",
    "starved-receiver",
    "slow-handler",
    "tiny-rcvbuf",
    "churn",
    "ipv6",
    "skew-honest",
    "drift-honest",
    "clock-truth",
    "clock-truth-loaded",
    "clock-step",
    "clock-step-back",
    "ntp-far-1ms",
    "ntp-far-20ms",
    "ntp-loss",
    "ntp-late",
    "ntp-lies",
    "ntp-lies-4",
    "ntp-lies-above",
    "ntp-lies-below",
    "hosts-20",
];

/// All of them.
///
/// # Errors
/// The first that cannot be read.
pub fn all() -> Result<Vec<Scenario>, ScenarioError> {
    FILES.iter().map(|(name, text)| Scenario::parse(name, text)).collect()
}

/// The one of this name, or the one in this file if it ends in `.toml`.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn find(name: &str) -> Result<Scenario, ScenarioError> {
    if name.ends_with(".toml") {
        let file = Path::new(name);
        let text = fs::read_to_string(file)
            .map_err(|error| ScenarioError::Unreadable { file: file.to_owned(), error })?;
        return Scenario::parse(&file.file_stem().unwrap_or_default().to_string_lossy(), &text);
    }
    let (name, text) = FILES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| ScenarioError::Unknown(name.to_owned()))?;
    Scenario::parse(name, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_listed_and_makes_sense() {
        let listed: BTreeSet<String> = all().unwrap().into_iter().map(|scenario| scenario.name).collect();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lab/scenarios");
        let files: BTreeSet<String> = fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, files);
    }

    #[test]
    fn every_scenario_expects_something() {
        assert!(all().unwrap().iter().all(|scenario| !scenario.expectations.is_empty()));
    }
}
