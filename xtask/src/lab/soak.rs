//! `lab soak`: a long run of random trouble, all of it decided by a seed.
//!
//! The timeline is written as a scenario's TOML and read back like any other, so it obeys the same checks, and a
//! run that failed can be kept as a file and run again.

use std::fmt::Write;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::scenario::{Scenario, ScenarioError, host_name};

/// Hosts of a soak.
const HOSTS: usize = 5;
/// Seconds between the starts of two troubles; each ends before the next.
const EVERY_S: u32 = 12;
/// Seconds without trouble at the end, for everybody to find each other again.
const CALM_S: u32 = 20;

/// The scenario of so many minutes from this seed, and its text.
///
/// # Errors
/// Only if what is written here is no scenario, which its test rules out.
pub fn scenario(minutes: u32, seed: u64) -> Result<(Scenario, String), ScenarioError> {
    let text = text(minutes, seed);
    Scenario::parse(&format!("soak-{seed}"), &text).map(|scenario| (scenario, text))
}

fn text(minutes: u32, seed: u64) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let seconds = minutes.max(1) * 60;
    let mut text = format!(
        "about = \"{minutes} min of random trouble from seed {seed}\"\nhosts = {HOSTS}\nseconds = {seconds}\n\
         load = {{ changes_per_s = 5 }}\n"
    );
    let mut at = 5;
    while at + EVERY_S + CALM_S <= seconds {
        let length = random.random_range(3..EVERY_S - 2);
        // Writing to a string does not fail.
        let _ = write!(text, "\n[[event]]\nat_s = {at}\nfor_s = {length}\ndo.{}\n", trouble(&mut random));
        at += EVERY_S;
    }
    text + EXPECTED
}

/// One random trouble, as the value of `do`.
fn trouble(random: &mut impl Rng) -> String {
    let host = random.random_range(0..HOSTS);
    let other = (host + random.random_range(1..HOSTS)) % HOSTS;
    let (a, b) = (host_name(host), host_name(other));
    let link = |is: String| format!("link = {{ from = \"{a}\", to = \"{b}\", is = {{ {is} }} }}");
    match random.random_range(0..9) {
        0 => link(format!("delay_ms = {}", random.random_range(1..50))),
        1 => link(format!(
            "delay_ms = 5, jitter = {{ shape = \"pareto\", scale_ms = {}, alpha = 1.5, cap_ms = 80 }}",
            random.random_range(1..4)
        )),
        2 => link(format!("loss = {{ kind = \"random\", share = 0.{:02} }}", random.random_range(1..30))),
        3 => link("loss = { kind = \"bursty\", enter = 0.02, leave = 0.25 }".to_owned()),
        4 => link(format!(
            "delay_ms = 2, reorder = {{ share = 0.1, late_ms = {} }}, duplicate = 0.05",
            random.random_range(5..40)
        )),
        5 => {
            let others: Vec<String> =
                (0..HOSTS).filter(|i| *i != host).map(|i| format!("\"{}\"", host_name(i))).collect();
            format!("partition = {{ one = [\"{a}\"], other = [{}] }}", others.join(", "))
        }
        6 => format!(
            "stop = {{ node = \"{a}\", pulse_ms = {}, every_ms = 1000 }}",
            random.random_range(50..400)
        ),
        7 => format!("starve = {{ node = \"{a}\", hogs = {}, nice = 0 }}", random.random_range(1..6)),
        _ => format!(
            "churn = {{ node = \"{a}\", every_ms = 2500, down_ms = 500, new_id = {} }}",
            random.random_bool(0.5)
        ),
    }
}

/// What must hold after any trouble.
const EXPECTED: &str = r#"
[[expect]]
name = "all live nodes know each other at the end"
of = "not_converged"
near = "truth"
within = 0

[[expect]]
name = "every datagram at the probe is accounted for"
of = "accounting_gap"
near = "truth"
within = 0

[[expect]]
name = "every UDP packet that a kernel sent is in the switch's log"
of = "unaccounted"
near = "truth"
within = 0
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_scenario_and_the_same_one_again() {
        for seed in 0..200 {
            let (one, text) = scenario(3, seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(one, scenario(3, seed).unwrap().0, "{text}");
            assert!(one.events.len() >= 10, "{text}");
        }
        assert_ne!(scenario(3, 1).unwrap().0, scenario(3, 2).unwrap().0);
    }
}
