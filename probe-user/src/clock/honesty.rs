//! Whose clock lies.
//!
//! NTP says `theta^ = theta + b`; an honest bound `eps` means `|b| <= eps`. Of each peer j the packets tell the local
//! host i for certain that `Delta = theta_j - theta_i` is in some interval `[low, high]` (see [`super::peer`]), and NTP
//! says `kappa = theta^_j - theta^_i = Delta + b_j - b_i`. So the residual
//!
//! ```text
//! r = Delta - kappa = b_i - b_j   is in   [low - kappa, high - kappa]
//! ```
//!
//! and if j is honest, `b_i` is in that interval widened by `eps_j`: its *vote*. If the local host is honest, `b_i` is in
//! `[-eps_i, eps_i]`. A vote that has nothing in common with that is a contradiction, and one of the two lies for
//! certain: it happens exactly when NTP's interval of `Delta` and the packets' have nothing in common, which a lie is
//! sure to cause when `|lie| > eps_i + eps_j + d`, with `d` the least one-way time on that side. A smaller one may be
//! nothing but an asymmetric path, and is not claimed.
//!
//! Who it is takes a majority of honest hosts. More than half of all hosts contradicting this one on the same side: their
//! median residual is beyond its bounds, and it is this host that lies. Less than half contradicting it: they lie, as far
//! as they still do once the median is taken out. An honest host among an honest majority so never names an honest one.

use std::collections::BTreeMap;

use probe_ebpf::time::{Bounded, MonoNs, Span};

use super::interval::Interval;

/// The fewest comparable peers with which a liar is named.
pub const LEAST_PEERS: usize = 3;
/// How long a host must be found lying, in every evaluation, before it is said.
pub const PERSISTS: Span = Span::from_secs(3);
/// ... and in so many evaluations.
pub const EVALUATIONS: u32 = 3;
/// How long it must be found honest again before that is said.
pub const CLEARS: Span = Span::from_secs(10);

/// What a peer says of its clock, and what the packets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The peer's `theta^` and `eps`, aged to now.
    pub claimed: Bounded,
    /// [`super::peer::PeerDelta::interval`].
    pub delta: Interval,
}

/// Who it may be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who<K> {
    /// This host.
    Own,
    /// A peer.
    Peer(K),
}

/// The finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict<K> {
    /// There is nothing to compare with: no peer, or no synchronised reading here or there.
    #[default]
    Unchecked,
    /// No clock contradicts another.
    Honest,
    /// These do not tell the truth; sorted, never empty.
    Lies(Vec<Who<K>>),
    /// Some clock lies, and who it is cannot be told: too few peers, or no majority.
    Unsure,
}

impl<K> Verdict<K> {
    /// Must verdicts about one-way times respect that a clock here lies?
    pub fn clock_uncertain(&self) -> bool {
        matches!(self, Self::Lies(_) | Self::Unsure)
    }
}

/// A change of the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition<K> {
    /// When.
    pub at: MonoNs,
    /// The verdict before.
    pub from: Verdict<K>,
    /// The verdict now.
    pub to: Verdict<K>,
}

/// The outcome of one evaluation, without any memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<K> {
    /// The verdict of this moment alone.
    pub verdict: Verdict<K>,
    /// `b_i`, the error of this host's own NTP reading: the median over the peers, true if most of them are honest.
    /// `None` with fewer than [`LEAST_PEERS`].
    pub own_bias: Option<Bounded>,
    /// The largest distance between NTP's and the packets' interval of any pair: how large the lie is at least.
    pub disagreement: Option<Span>,
}

/// Judges a node's own clock and its peers' again and again.
#[derive(Clone, Debug)]
pub struct Honesty<K> {
    suspicions: BTreeMap<Suspect<K>, Suspicion>,
    verdict: Verdict<K>,
}

/// Whom a suspicion is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Suspect<K> {
    Somebody,
    Named(Who<K>),
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: MonoNs,
    seen: u32,
    /// The last evaluation that found it.
    last: MonoNs,
    confirmed: bool,
}

impl<K> Default for Honesty<K> {
    fn default() -> Self {
        Self { suspicions: BTreeMap::new(), verdict: Verdict::Unchecked }
    }
}

/// Judges this moment: the local `theta^` with `eps`, and the peers in any order (each key once).
pub fn judge<K: Ord + Clone>(own: Option<Bounded>, peers: &BTreeMap<K, Evidence>) -> Finding<K> {
    let unchecked = Finding { verdict: Verdict::Unchecked, own_bias: None, disagreement: None };
    let Some(own) = own.filter(|own| own.bound < Span::MAX) else { return unchecked };
    let bounds = Interval::from(Bounded::new(Span::ZERO, own.bound));
    let votes: Vec<(&K, Interval)> = peers
        .iter()
        .filter(|(_, evidence)| evidence.claimed.bound < Span::MAX)
        .map(|(key, Evidence { claimed, delta })| {
            (key, delta.shifted(own.value - claimed.value).widened(claimed.bound))
        })
        .collect();
    if votes.is_empty() {
        return unchecked;
    }
    let disagreement = votes.iter().filter_map(|(_, vote)| vote.gap(&bounds)).max();
    if votes.len() < LEAST_PEERS {
        let verdict = if disagreement.is_some() { Verdict::Unsure } else { Verdict::Honest };
        return Finding { verdict, own_bias: None, disagreement };
    }
    let own_bias = median(&votes.iter().map(|(_, vote)| *vote).collect::<Vec<_>>());
    let majority = |hosts: usize| 2 * hosts > votes.len() + 1;
    let above = votes.iter().filter(|(_, vote)| vote.low() > bounds.high()).count();
    let below = votes.iter().filter(|(_, vote)| vote.high() < bounds.low()).count();
    let own_lies = majority(above) || majority(below);
    let named = votes.iter().filter(|(_, vote)| {
        // Without the own clock's error, as the median has it, does it still contradict?
        let alone = vote.shifted(-own_bias.value).gap(&bounds).is_some();
        alone && (own_lies || vote.gap(&bounds).is_some() && majority(votes.len() + 1 - above - below))
    });
    let peers = named.map(|(key, _)| Who::Peer((*key).clone()));
    let who: Vec<_> = own_lies.then_some(Who::Own).into_iter().chain(peers).collect();
    let verdict = match disagreement {
        None => Verdict::Honest,
        Some(_) if who.is_empty() => Verdict::Unsure,
        Some(_) => Verdict::Lies(who),
    };
    Finding { verdict, own_bias: Some(own_bias), disagreement }
}

/// The median of the votes' middles, with a bound that holds if most of them do: `b_i` is then neither below the median
/// of their lower ends nor above that of their upper ends.
fn median(votes: &[Interval]) -> Bounded {
    let sorted = |end: fn(&Interval) -> Span| {
        let mut ends: Vec<Span> = votes.iter().map(end).collect();
        ends.sort_unstable();
        ends
    };
    let (first, second) = ((votes.len() - 1) / 2, votes.len() / 2);
    let (low, middle, high) =
        (sorted(Interval::low)[first], sorted(Interval::middle), sorted(Interval::high)[second]);
    // Both in order, so both intervals exist.
    let middle = Interval::new(middle[first], middle[second]).map_or(Span::ZERO, |middle| middle.middle());
    Interval::new(low, high).map_or(Bounded::new(middle, Span::MAX), |all| all.around(middle))
}

impl<K: Ord + Clone> Honesty<K> {
    /// Evaluates; about once a second is right. The second value is set when the verdict changed.
    pub fn evaluate(
        &mut self,
        own: Option<Bounded>,
        peers: &BTreeMap<K, Evidence>,
        now: MonoNs,
    ) -> (Finding<K>, Option<Transition<K>>) {
        let finding = judge(own, peers);
        let mut found = Vec::new();
        if finding.verdict.clock_uncertain() {
            found.push(Suspect::Somebody);
        }
        if let Verdict::Lies(who) = &finding.verdict {
            found.extend(who.iter().cloned().map(Suspect::Named));
        }
        self.suspicions.retain(|suspect, suspicion| {
            found.contains(suspect) || suspicion.confirmed && now - suspicion.last < CLEARS
        });
        for suspect in found {
            let new = Suspicion { since: now, seen: 0, last: now, confirmed: false };
            let suspicion = self.suspicions.entry(suspect).or_insert(new);
            suspicion.last = now;
            suspicion.seen = suspicion.seen.saturating_add(1);
            suspicion.confirmed |= now - suspicion.since >= PERSISTS && suspicion.seen >= EVALUATIONS;
        }
        let to = self.conclude(&finding.verdict);
        let changed = (to != self.verdict).then(|| Transition {
            at: now,
            from: std::mem::replace(&mut self.verdict, to.clone()),
            to,
        });
        (finding, changed)
    }

    /// The verdict that has persisted.
    pub fn verdict(&self) -> &Verdict<K> {
        &self.verdict
    }

    fn conclude(&self, momentary: &Verdict<K>) -> Verdict<K> {
        let confirmed = self.suspicions.iter().filter(|(_, suspicion)| suspicion.confirmed);
        let mut somebody = false;
        let mut who = Vec::new();
        for (suspect, _) in confirmed {
            match suspect {
                Suspect::Somebody => somebody = true,
                Suspect::Named(name) => who.push(name.clone()),
            }
        }
        match momentary {
            _ if !who.is_empty() => Verdict::Lies(who),
            _ if somebody => Verdict::Unsure,
            Verdict::Unchecked => Verdict::Unchecked,
            _ => Verdict::Honest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn us(us: i64) -> Span {
        Span::from_micros(us)
    }
    fn at(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(seconds)
    }

    /// The local host with NTP error `own`, and peers with theirs; all thetas zero, bounds 10 us, one-way times 20 us.
    fn situation(own: i64, peers: &[i64]) -> (Option<Bounded>, BTreeMap<usize, Evidence>) {
        let delta = Interval::from(Bounded::new(Span::ZERO, us(20)));
        let claim = |bias: i64| Bounded::new(us(bias), us(10));
        (
            Some(claim(own)),
            peers.iter().map(|bias| Evidence { claimed: claim(*bias), delta }).enumerate().collect(),
        )
    }
    fn momentary(own: i64, peers: &[i64]) -> Finding<usize> {
        let (own, peers) = situation(own, peers);
        judge(own, &peers)
    }

    #[test]
    fn signs_and_thresholds() {
        // eps + eps + one-way time: 40 us.
        assert_eq!(momentary(0, &[0, 40, -40]).verdict, Verdict::Honest);
        for lie in [-41, 41] {
            assert_eq!(momentary(0, &[0, 0, lie]).verdict, Verdict::Lies(vec![Who::Peer(2)]));
            assert_eq!(momentary(lie, &[0, 0, 0]).verdict, Verdict::Lies(vec![Who::Own]));
        }
        let own = momentary(100, &[0, 3, 0]);
        assert_eq!(own.disagreement, Some(us(60)), "a lie of 100 less 40");
        let bias = own.own_bias.expect("a majority");
        assert!(bias.covers(us(100)) && bias.bound <= us(30), "{bias}");
    }

    #[test]
    fn nothing_to_compare_is_not_honest() {
        let (own, mut peers) = situation(0, &[0, 99]);
        assert_eq!(judge(None, &peers).verdict, Verdict::Unchecked);
        assert_eq!(judge(Some(Bounded::new(Span::ZERO, Span::MAX)), &peers).verdict, Verdict::Unchecked);
        peers.values_mut().for_each(|peer| peer.claimed.bound = Span::MAX);
        assert_eq!(judge(own, &peers).verdict, Verdict::Unchecked);
        assert_eq!(momentary(0, &[]).verdict, Verdict::Unchecked);
        assert_eq!(momentary(0, &[0, 99]).verdict, Verdict::Unsure, "two peers name nobody");
        assert_eq!(momentary(0, &[0, 99, -99]).verdict, Verdict::Unsure, "two of four is no majority");
        assert_eq!(momentary(0, &[0, 99, 99]).verdict, Verdict::Unsure, "two against two");
    }

    #[test]
    fn it_is_said_when_it_persists_and_taken_back_when_it_is_over() {
        let (mut honesty, lie) = (Honesty::default(), situation(0, &[0, 0, 99]));
        let honest = situation(0, &[0, 0, 0]);
        let mut step = |second, (own, peers): &(Option<Bounded>, BTreeMap<usize, Evidence>)| {
            honesty.evaluate(*own, peers, at(second)).1.map(|change| change.to)
        };
        assert_eq!(step(0, &honest), Some(Verdict::Honest));
        // Twice two seconds are not four.
        for second in [1, 2, 4, 5] {
            assert_eq!(step(second, &lie), None);
            assert_eq!(step(second + 1, if second % 3 == 2 { &honest } else { &lie }), None);
        }
        assert_eq!(step(10, &lie), None);
        assert_eq!(step(20, &lie), None, "long, but seen twice only");
        assert_eq!(step(21, &lie), Some(Verdict::Lies(vec![Who::Peer(2)])));
        assert_eq!(step(30, &honest), None);
        assert_eq!(step(31, &honest), Some(Verdict::Honest));
    }

    proptest! {
        /// With an honest majority an honest host names no honest one, whatever the others say and however asymmetric
        /// the paths.
        #[test]
        fn no_honest_host_is_named(
            honest in prop::collection::vec((-10_i64..=10, 0_i64..500, 0_i64..500), 3..6),
            liars in prop::collection::vec((-2_000_i64..2_000, 0_i64..500, 0_i64..500), 0..4),
            own in -10_i64..=10,
        ) {
            prop_assume!(honest.len() + 1 > liars.len());
            let all = honest.iter().chain(&liars);
            let peers = all.map(|(bias, out, back)| Evidence {
                claimed: Bounded::new(us(*bias), us(10)),
                delta: Interval::new(us(-back), us(*out)).expect("in order"),
            });
            let finding = judge(Some(Bounded::new(us(own), us(10))), &peers.enumerate().collect());
            if let Verdict::Lies(who) = finding.verdict {
                prop_assert!(who.iter().all(|who| matches!(who, Who::Peer(at) if *at >= honest.len())), "{who:?}");
            }
            if honest.len() > liars.len() {
                let bias = finding.own_bias.expect("three peers");
                prop_assert!(bias.covers(us(own)), "{bias}");
            }
        }
    }
}
