//! Cases: what happens to a pair of hosts for 20 s, and what may be said of it.

use probe_user::analysis::verdict::Cause;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::trouble::Trouble;

/// Kinds of trouble: the rows of the matrix.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the troubles behind them are documented")]
pub enum Kind {
    Idle,
    NetworkBothWays,
    NetworkOneWay,
    SlowLink,
    LocalCongestion,
    StoppedReceiver,
    StarvedReceiver,
    SlowHandler,
    SmallBuffer,
    Loss,
    ClockLie,
    NearThreshold,
    TwoCauses,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 13] = [
        Self::Idle,
        Self::NetworkBothWays,
        Self::NetworkOneWay,
        Self::SlowLink,
        Self::LocalCongestion,
        Self::StoppedReceiver,
        Self::StarvedReceiver,
        Self::SlowHandler,
        Self::SmallBuffer,
        Self::Loss,
        Self::ClockLie,
        Self::NearThreshold,
        Self::TwoCauses,
    ];

    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::NetworkBothWays => "network_both_ways",
            Self::NetworkOneWay => "network_one_way",
            Self::SlowLink => "slow_link",
            Self::LocalCongestion => "local_congestion",
            Self::StoppedReceiver => "stopped_receiver",
            Self::StarvedReceiver => "starved_receiver",
            Self::SlowHandler => "slow_handler",
            Self::SmallBuffer => "small_buffer",
            Self::Loss => "loss",
            Self::ClockLie => "clock_lie",
            Self::NearThreshold => "near_threshold",
            Self::TwoCauses => "two_causes",
        }
    }

    /// Is it one of a cluster, or of the machine, that cannot be had twice at a time?
    pub fn is_single(self) -> bool {
        matches!(self, Self::ClockLie | Self::StarvedReceiver)
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Which kind.
    pub kind: Kind,
    /// The two hosts.
    pub hosts: [usize; 2],
    /// What is done.
    pub troubles: Vec<Trouble>,
}

/// What a verdict comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// It names what was done.
    Right,
    /// It does not commit itself.
    Undecided,
    /// It names something else, or says that all is well.
    Wrong,
}

impl Case {
    /// The directed paths between the two hosts that the verdict is asked of.
    pub fn paths(&self) -> Vec<(usize, usize)> {
        let [a, b] = self.hosts;
        let all = [(a, b), (b, a)];
        if self.troubles.is_empty() {
            return all.to_vec();
        }
        let of = |(from, to): (usize, usize)| self.troubles.iter().any(|t| !t.blames(from, to).is_empty());
        all.into_iter().filter(|path| of(*path)).collect()
    }

    /// What is right to say of a path.
    pub fn right(&self, (from, to): (usize, usize)) -> Vec<Cause> {
        self.troubles.iter().flat_map(|trouble| trouble.blames(from, to)).copied().collect()
    }

    /// What a verdict on one of its paths comes to.
    pub fn grade(&self, path: (usize, usize), cause: Cause) -> Grade {
        let right = self.right(path);
        let normal = self.kind == Kind::Idle || self.kind == Kind::NearThreshold;
        let crossing = self.troubles.iter().any(Trouble::is_crossing);
        match cause {
            cause if right.contains(&cause) => Grade::Right,
            Cause::Ok if normal => Grade::Right,
            // At a threshold either side is right, and so is to leave it open.
            Cause::Unknown | Cause::ClockUncertain if self.kind == Kind::NearThreshold => Grade::Right,
            Cause::Unknown | Cause::ClockUncertain => Grade::Undecided,
            Cause::NetworkOrHostSoftirq if crossing => Grade::Undecided,
            _ => Grade::Wrong,
        }
    }

    /// Does this cause take the network for a process, or the other way round? A host's own queue is neither.
    pub fn is_mixed_up(&self, path: (usize, usize), cause: Cause) -> bool {
        if self.grade(path, cause) == Grade::Right || self.troubles.is_empty() {
            return false;
        }
        let network = |cause: &Cause| matches!(cause, Cause::Network | Cause::LossNetwork);
        let process = |cause: &Cause| matches!(cause, Cause::ReceiverProcess | Cause::SenderProcess);
        let right = self.right(path);
        network(&cause) && !right.iter().any(network) || process(&cause) && !right.iter().any(process)
    }

    /// May this be said of a path while the case lasts, anywhere in the cluster?
    pub fn allows(&self, (from, to): (usize, usize), cause: Cause) -> bool {
        self.troubles.iter().any(|trouble| {
            trouble.blames(from, to).contains(&cause)
                || trouble.excuses(from, to).contains(&cause)
                || cause == Cause::NetworkOrHostSoftirq
                    && trouble.is_crossing()
                    && !trouble.blames(from, to).is_empty()
        })
    }

    /// In words.
    pub fn words(&self) -> String {
        let all: Vec<String> = self.troubles.iter().map(Trouble::words).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(" and ") }
    }
}

/// A value whose logarithm is uniform.
fn log_uniform(random: &mut impl Rng, from: f64, to: f64) -> f64 {
    (random.random_range(from.ln()..to.ln())).exp()
}

/// A random case of a kind between two hosts.
pub fn draw(kind: Kind, hosts: [usize; 2], random: &mut impl Rng) -> Case {
    let mut hosts = hosts;
    hosts.shuffle(random);
    let [from, to] = hosts;
    let delay = |random: &mut _, both| Trouble::Delay {
        from,
        to,
        both,
        us: (log_uniform(random, 2.0, 50.0) * 1e3) as u32,
    };
    let stop = |random: &mut _| {
        let every_ms = Rng::random_range(random, 800..1_500);
        Trouble::Stop { host: to, pulse_ms: Rng::random_range(random, 150..400), every_ms }
    };
    let slow =
        |random: &mut _| Trouble::SlowHandler { host: to, us: (log_uniform(random, 2.5, 8.0) * 1e3) as u32 };
    let congest = |random: &mut _| {
        let kbit_per_s = Rng::random_range(random, 800..3_000);
        // 40 to 150 ms of queue.
        let ms = Rng::random_range(random, 40..150);
        Trouble::Congest { host: from, kbit_per_s, queue_bytes: kbit_per_s * ms / 8 }
    };
    let loss =
        |random: &mut _, least| Trouble::Loss { from, to, permille: Rng::random_range(random, least..100) };
    let troubles = match kind {
        Kind::Idle => Vec::new(),
        Kind::NetworkBothWays => vec![delay(random, true)],
        Kind::NetworkOneWay => vec![delay(random, false)],
        Kind::SlowLink => {
            vec![Trouble::SlowLink { from, to, kbit_per_s: log_uniform(random, 40.0, 200.0) as u32 }]
        }
        Kind::LocalCongestion => vec![congest(random)],
        Kind::StoppedReceiver => vec![stop(random)],
        Kind::StarvedReceiver => {
            vec![Trouble::Starve { host: to, percent: random.random_range(20..60) }]
        }
        Kind::SlowHandler => vec![slow(random)],
        Kind::SmallBuffer => {
            let burst = random.random_range(150..400);
            vec![Trouble::SmallBuffer { host: to, burst, every_ms: random.random_range(5..15) }]
        }
        Kind::Loss => vec![loss(random, 10)],
        Kind::ClockLie => {
            let ms = random.random_range(5..100) * if random.random_bool(0.5) { 1 } else { -1 };
            vec![Trouble::ClockLie { host: to, ms }]
        }
        Kind::NearThreshold => vec![match random.random_range(0..3) {
            0 => Trouble::Delay {
                from,
                to,
                both: random.random_bool(0.5),
                us: random.random_range(400..1_600),
            },
            1 => Trouble::SlowHandler { host: to, us: random.random_range(400..1_600) },
            _ => Trouble::Loss { from, to, permille: random.random_range(2..9) },
        }],
        Kind::TwoCauses => {
            let pairs = [
                vec![delay(random, false), stop(random)],
                vec![delay(random, false), slow(random)],
                vec![congest(random), stop(random)],
                vec![congest(random), slow(random)],
                vec![loss(random, 30), slow(random)],
                vec![loss(random, 30), stop(random)],
            ];
            pairs.choose(random).cloned().unwrap_or_default()
        }
    };
    Case { kind, hosts, troubles }
}

/// Rounds of cases, one for each pair of hosts, all kinds `repeat` times in random order.
pub fn plan(kinds: &[Kind], repeat: u32, pairs: usize, random: &mut impl Rng) -> Vec<Vec<Case>> {
    let mut all: Vec<Kind> = (0..repeat).flat_map(|_| kinds.iter().copied()).collect();
    all.shuffle(random);
    let mut rounds: Vec<Vec<Kind>> = Vec::new();
    for kind in all {
        let fits =
            |round: &&mut Vec<Kind>| round.len() < pairs && !(kind.is_single() && round.contains(&kind));
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(kind),
            None => rounds.push(vec![kind]),
        }
    }
    rounds.shuffle(random);
    rounds
        .into_iter()
        .map(|mut kinds| {
            let mut places: Vec<usize> = (0..pairs).collect();
            places.shuffle(random);
            kinds.shuffle(random);
            kinds
                .iter()
                .zip(places)
                .map(|(kind, pair)| draw(*kind, [2 * pair, 2 * pair + 1], random))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rounds(seed: u64) -> Vec<Vec<Case>> {
        plan(&Kind::ALL, 5, 3, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn a_seed_gives_every_kind_as_often_as_asked_and_the_same_again() {
        assert_eq!(rounds(1), rounds(1));
        assert_ne!(rounds(1), rounds(2));
        for seed in 0..50 {
            let rounds = rounds(seed);
            for kind in Kind::ALL {
                let of = |round: &Vec<Case>| round.iter().filter(|case| case.kind == kind).count();
                assert_eq!(rounds.iter().map(of).sum::<usize>(), 5);
                assert!(!kind.is_single() || rounds.iter().all(|round| of(round) <= 1));
            }
            for round in &rounds {
                let mut hosts: Vec<usize> = round.iter().flat_map(|case| case.hosts).collect();
                hosts.sort_unstable();
                hosts.dedup();
                assert_eq!(hosts.len(), 2 * round.len(), "each pair of hosts has one case at a time");
            }
        }
    }

    #[test]
    fn every_case_has_a_path_and_something_right_to_say_of_it() {
        for case in rounds(3).into_iter().flatten() {
            assert!(!case.paths().is_empty(), "{case:?}");
            for path in case.paths() {
                let right = Cause::ALL.iter().filter(|cause| case.grade(path, **cause) == Grade::Right);
                assert!(right.count() > 0, "{case:?}");
                assert_eq!(case.grade(path, Cause::SenderKernel), Grade::Wrong);
            }
        }
    }

    #[test]
    fn network_and_process_are_told_apart_and_a_hosts_own_queue_is_neither() {
        let case = |trouble| Case { kind: Kind::TwoCauses, hosts: [0, 1], troubles: vec![trouble] };
        let delay = case(Trouble::Delay { from: 0, to: 1, both: false, us: 5_000 });
        assert!(delay.is_mixed_up((0, 1), Cause::ReceiverProcess));
        assert!(!delay.is_mixed_up((0, 1), Cause::Network) && !delay.is_mixed_up((0, 1), Cause::Unknown));
        assert_eq!(delay.paths(), [(0, 1)]);
        let stop = case(Trouble::Stop { host: 1, pulse_ms: 200, every_ms: 1_000 });
        assert!(stop.is_mixed_up((0, 1), Cause::Network) && stop.is_mixed_up((0, 1), Cause::LossNetwork));
        let congest = case(Trouble::Congest { host: 0, kbit_per_s: 1_000, queue_bytes: 10_000 });
        for cause in [Cause::Network, Cause::ReceiverProcess] {
            assert!(congest.is_mixed_up((0, 1), cause));
        }
        assert!(congest.allows((0, 4), Cause::LocalQueue) && !congest.allows((4, 0), Cause::LocalQueue));
    }
}
