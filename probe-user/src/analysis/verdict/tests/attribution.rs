//! Every kind of trouble that the lab makes, many times over, and what the judge says.

use std::collections::BTreeMap;

use super::rng::Rng;
use super::world::{Case, Outcome, Trouble, mostly, run};
use crate::analysis::verdict::{Cause, Confidence};

const SEEDS: u64 = 40;

/// One kind of trouble: its name, one of its cases, the verdicts that are right.
struct Kind {
    name: &'static str,
    draw: fn(&mut Rng) -> Vec<Trouble>,
    right: &'static [Cause],
    /// Nothing that may be left undecided.
    clear: bool,
}

fn sign(rng: &mut Rng) -> f64 {
    if rng.chance(0.5) { 1.0 } else { -1.0 }
}

fn single(rng: &mut Rng) -> Trouble {
    match rng.next() % 5 {
        0 => Trouble::Delay(rng.between(0.004, 0.05), 0.0),
        1 => Trouble::Stopped(rng.between(0.15, 0.3)),
        2 => Trouble::Handler(rng.between(0.004, 0.02)),
        3 => Trouble::OwnLink(rng.between(0.02, 0.1)),
        _ => Trouble::Lost(rng.between(0.03, 0.1)),
    }
}

const PROCESS: [Cause; 2] = [Cause::ReceiverProcess, Cause::SenderProcess];
const WAY: [Cause; 1] = [Cause::Network];
const CLOCK: &[Cause] = &[Cause::ClockUncertain];
const NOTHING: &[Cause] = &[Cause::ClockUncertain, Cause::Unknown, Cause::Ok];

fn kinds() -> Vec<Kind> {
    let kind = |name, right, clear, draw| Kind { name, draw, right, clear };
    vec![
        kind("idle", &[Cause::Ok], true, |_| vec![]),
        kind("network both ways", &WAY, true, |rng| {
            let delay = rng.between(0.002, 0.05);
            vec![Trouble::Delay(delay, delay)]
        }),
        kind("network one way", &WAY, true, |rng| vec![Trouble::Delay(rng.between(0.002, 0.05), 0.0)]),
        kind("rate-limited link", &WAY, true, |rng| vec![Trouble::RateLimited(rng.between(0.01, 0.1))]),
        kind("own link congested", &[Cause::LocalQueue], true, |rng| {
            vec![Trouble::OwnLink(rng.between(0.01, 0.1))]
        }),
        kind("receiver stopped in pulses", &[Cause::ReceiverProcess], true, |rng| {
            vec![Trouble::Stopped(rng.between(0.15, 0.4))]
        }),
        kind("receiver starved", &[Cause::ReceiverProcess], true, |rng| {
            vec![Trouble::Starved(rng.between(0.3, 0.8), rng.between(0.005, 0.03))]
        }),
        kind("virtual CPU starved", &[Cause::NetworkOrHostSoftirq], true, |rng| {
            vec![Trouble::Steal(rng.between(0.005, 0.03))]
        }),
        kind("slow handler", &[Cause::ReceiverProcess], true, |rng| {
            vec![Trouble::Handler(rng.between(0.003, 0.03))]
        }),
        kind("receive buffer too small", &[Cause::LossHere], true, |rng| {
            vec![Trouble::Dropped(rng.between(0.05, 0.3))]
        }),
        kind("loss on the way", &[Cause::LossNetwork], true, |rng| {
            vec![Trouble::Lost(rng.between(0.03, 0.1))]
        }),
        kind("little loss", &[Cause::LossNetwork, Cause::Ok], false, |rng| {
            vec![Trouble::Lost(rng.between(0.01, 0.03))]
        }),
        kind("clock lie", CLOCK, true, |rng| {
            let lie = sign(rng) * rng.between(0.005, 0.05);
            vec![Trouble::Lie(lie)]
        }),
        kind("clock slewed unseen", CLOCK, false, |rng| {
            let by = sign(rng) * rng.between(0.005, 0.05);
            vec![Trouble::Slew(by)]
        }),
        kind("clock step", NOTHING, false, |rng| {
            let by = sign(rng) * rng.between(0.01, 10.0);
            vec![Trouble::Step(by)]
        }),
        kind("clock drift", NOTHING, false, |rng| {
            let ppm = sign(rng) * rng.between(5.0, 200.0);
            vec![Trouble::Drift(ppm)]
        }),
        kind("near the threshold", &[Cause::Network, Cause::Ok], false, |rng| {
            vec![Trouble::Delay(rng.between(0.0007, 0.0015), 0.0)]
        }),
        kind("near the threshold, handler", &[Cause::ReceiverProcess, Cause::Ok], false, |rng| {
            vec![Trouble::Handler(rng.between(0.0007, 0.0015))]
        }),
    ]
}

/// Which verdicts are right for a pair of causes.
fn rights(troubles: &[Trouble]) -> Vec<Cause> {
    let right = |trouble: &Trouble| match trouble {
        Trouble::Delay(..) | Trouble::RateLimited(_) => Cause::Network,
        Trouble::Stopped(_) | Trouble::Handler(_) | Trouble::Starved(..) => Cause::ReceiverProcess,
        Trouble::OwnLink(_) => Cause::LocalQueue,
        Trouble::Dropped(_) => Cause::LossHere,
        Trouble::Lost(_) => Cause::LossNetwork,
        Trouble::Steal(_) => Cause::NetworkOrHostSoftirq,
        _ => Cause::ClockUncertain,
    };
    troubles.iter().map(right).collect()
}

#[derive(Default)]
struct Score {
    matrix: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    cases: usize,
    right: usize,
    both: (usize, usize),
    clear: usize,
    undecided: usize,
    wrong: Vec<String>,
    mixups: Vec<String>,
}

impl Score {
    /// Verdicts of any moment that take one side for the other.
    fn mixups(&mut self, name: &str, seed: u64, troubles: &[Trouble], outcome: &Outcome) {
        let rights = rights(troubles);
        let of = |causes: &[Cause]| rights.iter().any(|cause| causes.contains(cause));
        let crossing = [Cause::Network, Cause::NetworkOrHostSoftirq, Cause::LossNetwork];
        let said = outcome.there.iter().chain(&outcome.back).filter(|(since, _)| *since > 0.0);
        for (since, verdict) in said {
            let network =
                crossing.contains(&verdict.cause) && !of(&crossing) && !rights.contains(&Cause::LocalQueue);
            // What the steal does to a process is no mix-up.
            let process = PROCESS.contains(&verdict.cause)
                && !of(&PROCESS)
                && !troubles.iter().any(|trouble| matches!(trouble, Trouble::Steal(_)));
            if network || process {
                let text = format!("{name} {seed} {troubles:?} at {since:.1}: {verdict:?}");
                self.mixups.push(text);
            }
        }
    }

    fn take(&mut self, name: &'static str, right: &[Cause], clear: bool, case: &Case) {
        let outcome = run(case);
        let verdict = mostly(&outcome.there, case.lasts);
        let row = self.matrix.entry(name).or_default();
        *row.entry(verdict.cause.name()).or_default() += 1;
        self.cases += 1;
        let undecided = matches!(verdict.cause, Cause::Unknown | Cause::ClockUncertain);
        self.clear += usize::from(clear);
        self.undecided += usize::from(clear && undecided && !right.contains(&verdict.cause));
        if right.contains(&verdict.cause) {
            self.right += 1;
        } else {
            self.wrong.push(format!("{name} {} {:?}: {}", case.seed, case.troubles, verdict.evidence));
        }
        if let ([first, second], Some(also)) = (rights(&case.troubles).as_slice(), verdict.also) {
            let all = [verdict.cause, also];
            self.both.0 += usize::from(all.contains(first) && all.contains(second));
        }
        self.both.1 += usize::from(case.troubles.len() == 2);
        if !case.troubles.is_empty() {
            self.mixups(name, case.seed, &case.troubles, &outcome);
        }
    }

    fn print(&self) {
        for (name, row) in &self.matrix {
            println!("{name:28} {row:?}");
        }
        println!(
            "cases {} right {} undecided {} of {} clear, both causes {} of {}, mixups {}",
            self.cases,
            self.right,
            self.undecided,
            self.clear,
            self.both.0,
            self.both.1,
            self.mixups.len()
        );
        self.wrong.iter().for_each(|wrong| println!("WRONG {wrong}"));
        self.mixups.iter().take(20).for_each(|mixup| println!("MIXUP {mixup}"));
    }

    fn check(&self) {
        self.print();
        assert!(self.right * 100 >= self.cases * 95, "right in {} of {}", self.right, self.cases);
        assert!(self.undecided * 10 <= self.clear, "undecided {} of {}", self.undecided, self.clear);
        assert!(self.mixups.is_empty(), "{} mix-ups of network and process", self.mixups.len());
    }
}

#[test]
fn every_kind_of_trouble_is_named() {
    let mut score = Score::default();
    for (number, kind) in (1..).zip(kinds()) {
        for seed in 0..SEEDS {
            let seed = number * 1000 + seed;
            let mut rng = Rng(seed);
            let case = Case::new(seed, &(kind.draw)(&mut rng));
            score.take(kind.name, kind.right, kind.clear, &case);
        }
    }
    for seed in 100_000..100_000 + 2 * SEEDS {
        let mut rng = Rng(seed);
        let (first, mut second) = (single(&mut rng), single(&mut rng));
        while rights(&[first]) == rights(&[second]) {
            second = single(&mut rng);
        }
        let case = Case::new(seed, &[first, second]);
        score.take("two causes", &rights(&case.troubles), true, &case);
    }
    score.check();
}

/// Twenty times the scheduling noise of a quiet host, as on a machine that does much else.
#[test]
fn a_noisy_host_costs_sensitivity_and_not_truth() {
    let mut score = Score::default();
    for (number, kind) in (1..).zip(kinds()) {
        for seed in 0..SEEDS / 2 {
            let seed = 500_000 + number * 1000 + seed;
            let mut rng = Rng(seed);
            let case = Case { noise: 20.0, ..Case::new(seed, &(kind.draw)(&mut rng)) };
            score.take(kind.name, kind.right, kind.clear, &case);
        }
    }
    score.check();
}

#[test]
fn two_packets_a_second_are_enough() {
    let mut score = Score::default();
    let kinds = kinds();
    let few = ["idle", "network both ways", "own link congested", "slow handler", "receiver starved"];
    for (number, kind) in (1..).zip(kinds.iter().filter(|kind| few.contains(&kind.name))) {
        for seed in 0..SEEDS / 2 {
            let seed = 700_000 + number * 1000 + seed;
            let mut rng = Rng(seed);
            let case = Case { rate: 2.0, lasts: 40.0, ..Case::new(seed, &(kind.draw)(&mut rng)) };
            score.take(kind.name, kind.right, kind.clear, &case);
        }
    }
    score.check();
}

#[test]
fn without_tx_stamps_network_is_said_with_little_confidence() {
    for seed in 0..20 {
        let delay = Rng(seed).between(0.003, 0.05);
        let case = Case { no_tx_stamps: true, ..Case::new(seed, &[Trouble::Delay(delay, delay)]) };
        let verdict = mostly(&run(&case).there, case.lasts);
        assert_eq!((verdict.cause, verdict.confidence), (Cause::Network, Confidence::Low), "{verdict:?}");
        assert!(verdict.evidence.contains("kernel and link of a"), "{}", verdict.evidence);
    }
}

#[test]
fn a_longer_way_is_named_beside_a_process_that_takes_far_longer() {
    for seed in 0..10 {
        let case = Case::new(seed, &[Trouble::Delay(0.008, 0.0), Trouble::Stopped(0.5)]);
        let verdict = mostly(&run(&case).there, case.lasts);
        assert_eq!(
            (verdict.cause, verdict.also),
            (Cause::ReceiverProcess, Some(Cause::Network)),
            "{verdict:?}"
        );
        let text = &verdict.evidence;
        assert!(text.contains("the way is longer") && !text.contains("is normal"), "{text}");
    }
}

#[test]
fn a_full_event_ring_is_no_trouble_of_the_path_and_hides_none() {
    for seed in 0..6 {
        for ring_full in [3, 7, 10] {
            let case = Case { ring_full, ..Case::new(seed, &[]) };
            let outcome = run(&case);
            for (since, verdict) in
                outcome.there.iter().chain(&outcome.back).filter(|(since, _)| *since > 0.0)
            {
                assert_eq!(verdict.cause, Cause::Ok, "{seed}, {ring_full} of 10, {since} s: {verdict:?}");
            }
            for (trouble, right) in [
                (Trouble::Delay(0.01, 0.01), Cause::Network),
                (Trouble::Stopped(0.3), Cause::ReceiverProcess),
                (Trouble::Handler(0.01), Cause::ReceiverProcess),
                (Trouble::OwnLink(0.05), Cause::LocalQueue),
            ] {
                let case = Case { ring_full, ..Case::new(seed, &[trouble]) };
                let verdict = mostly(&run(&case).there, case.lasts);
                assert_eq!(verdict.cause, right, "{seed}, {ring_full} of 10, {trouble:?}: {verdict:?}");
            }
        }
    }
}

#[test]
fn without_the_opposite_direction_the_relative_bound_decides() {
    for (drift_ppb, right) in [(5_000, Cause::Network), (400_000, Cause::ClockUncertain)] {
        for seed in 0..20 {
            let delay = Rng(seed).between(0.002, 0.005);
            let troubles = [Trouble::Delay(delay, delay)];
            let case = Case { both: false, drift_ppb, quiet: 40.0, ..Case::new(seed, &troubles) };
            let verdict = mostly(&run(&case).there, case.lasts);
            assert_eq!(verdict.cause, right, "{seed}: {verdict:?}");
        }
    }
}

#[test]
fn a_verdict_goes_when_the_trouble_goes() {
    for (number, kind) in (1..).zip(kinds()).filter(|(_, kind)| kind.clear && kind.name != "clock lie") {
        for seed in 0..5 {
            let seed = 900_000 + number * 1000 + seed;
            let mut rng = Rng(seed);
            let case = Case { after: 40.0, ..Case::new(seed, &(kind.draw)(&mut rng)) };
            let said = run(&case).there;
            let (_, last) = said.last().unwrap();
            assert_eq!(last.cause, Cause::Ok, "{} {seed}: {last:?}", kind.name);
        }
    }
}

#[test]
fn the_sentence_says_where_the_time_is() {
    let case = Case::new(3, &[Trouble::Stopped(0.3)]);
    let verdict = mostly(&run(&case).there, case.lasts);
    let text = &verdict.evidence;
    assert!(text.starts_with("a to b: p99 ") && text.contains("in b's socket queue"), "{text}");
    assert!(
        text.contains("the process on b is not reading; network ") && text.ends_with("is normal"),
        "{text}"
    );
    let case = Case::new(3, &[Trouble::Dropped(0.2)]);
    let verdict = mostly(&run(&case).there, case.lasts);
    assert!(verdict.evidence.contains("'s kernel (SOCKET_RCVBUFF "), "{}", verdict.evidence);
}
