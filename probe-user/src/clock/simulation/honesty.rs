use std::collections::BTreeMap;

use super::*;
use crate::clock::honesty::{Evidence, Honesty, Verdict, Who};

use Who::{Own, Peer};

/// Nodes that all exchange packets with each other, each judging by itself once a second.
struct Cluster {
    clocks: Vec<SimClock>,
    ntp: Vec<SimNtp>,
    path: SimPath,
    /// From whom to whom, from when to when (s), by how much more (ns).
    congestion: Vec<(usize, usize, i64, i64, i64)>,
}

/// A node's verdict changed to this, in this second.
type Change = (usize, i64, Verdict<usize>);

impl Cluster {
    fn new(nodes: usize, bound: Span, seconds: i64, dice: &mut Dice) -> Self {
        let clocks = (0..nodes).map(|_| SimClock::wandering(dice, seconds, 50.0, 8.0)).collect();
        let ntp = (0..nodes).map(|_| SimNtp::new(bound, dice)).collect();
        Self { clocks, ntp, path: SimPath::LAN, congestion: Vec::new() }
    }

    fn link(&self, local: usize, peer: usize) -> Link {
        let [local, peer] = [local, peer].map(|node| self.clocks[node].clone());
        Link { local, peer, out: self.path, back: self.path }
    }

    fn more(&self, from: usize, to: usize, second: i64) -> i64 {
        let now =
            |c: &&(usize, usize, i64, i64, i64)| (c.0, c.1) == (from, to) && (c.2..c.3).contains(&second);
        self.congestion.iter().filter(now).map(|c| c.4).sum()
    }

    /// All changes of verdicts, in order of time.
    fn run(&self, seconds: i64, hz: i64, dice: &mut Dice) -> Vec<Change> {
        let nodes = self.clocks.len();
        let mut judges = vec![Honesty::default(); nodes];
        let pairs = (0..nodes).flat_map(|i| (0..nodes).filter(move |j| *j != i).map(move |j| (i, j)));
        let mut pairs: Vec<_> =
            pairs.map(|(i, j)| (i, j, self.link(i, j), PeerEstimate::default())).collect();
        let mut changes = Vec::new();
        for second in 0..seconds {
            for (i, j, link, estimate) in &mut pairs {
                for n in 0..hz {
                    let more = [self.more(*i, *j, second), self.more(*j, *i, second)];
                    let at = second * SECOND + n * SECOND / hz + dice.between(0.0, 1e8) as i64;
                    let (exchange, end) = link.exchange(at, more, dice);
                    estimate.exchange(&exchange, link.local.mono(end)).expect("an honest sample");
                }
            }
            let t = (second + 1) * SECOND;
            let claim = |node: usize| self.ntp[node].read(&self.clocks[node], t);
            for (node, judge) in judges.iter_mut().enumerate() {
                let now = self.clocks[node].mono(t);
                let evidence =
                    pairs.iter().filter(|pair| pair.0 == node).filter_map(|(_, j, _, estimate)| {
                        Some((*j, Evidence { claimed: claim(*j), delta: estimate.at(now)?.interval }))
                    });
                let peers: BTreeMap<_, _> = evidence.collect();
                if let (_, Some(change)) = judge.evaluate(Some(claim(node)), &peers, now) {
                    changes.push((node, second, change.to));
                }
            }
        }
        changes
    }

    fn lies(mut self, node: usize, from: i64, to: i64, lie: Span) -> Self {
        self.ntp[node].lie = Some((from * SECOND, to * SECOND, lie));
        self
    }

    /// NTP readings without error of their own, so that a lie is what it is said to be.
    fn exact(mut self) -> Self {
        self.ntp.iter_mut().for_each(|ntp| ntp.wanders = 0.0);
        self
    }
}

/// What each of four nodes should say when node 2 lies.
fn named(node: usize) -> Verdict<usize> {
    Verdict::Lies(vec![if node == 2 { Own } else { Peer(2) }])
}

/// Issue D, must show 4: 50 ms either way, from the start and later; and it is over when it is over.
#[test]
fn a_liar_is_named_by_all_within_ten_seconds_and_by_itself() {
    for (seed, lie) in [-50, 50].map(Span::from_millis).into_iter().enumerate() {
        for from in [0, 30] {
            let dice = &mut Dice(seed as u64);
            let cluster = Cluster::new(4, Span::from_millis(1), 80, dice).lies(2, from, 60, lie);
            let changes = cluster.run(80, 2, dice);
            let mut slowest = 0;
            for node in 0..4 {
                let mut of_node = changes.iter().filter(|change| change.0 == node && change.1 >= from);
                let mut next =
                    || of_node.next().map(|(_, at, verdict)| (*at, verdict.clone())).expect("a change");
                let (mut at, mut verdict) = next();
                if (verdict, from) == (Verdict::Honest, 0) {
                    (at, verdict) = next();
                } else if from == 0 {
                    panic!("the first verdict comes before it has persisted");
                } else {
                    verdict = named(node);
                    assert!(changes.contains(&(node, at, verdict.clone())), "{changes:?}");
                }
                assert_eq!(verdict, named(node), "node {node}: {changes:?}");
                slowest = slowest.max(at - from);
                let (at, verdict) = next();
                assert_eq!(verdict, Verdict::Honest);
                assert!((60..75).contains(&at), "{at}");
                assert_eq!(of_node.next(), None);
            }
            println!("lie of {lie} from second {from}: named by all four after at most {slowest} s");
            assert!(slowest <= 10, "{slowest}");
        }
    }
}

/// Issue D, must show 4: the threshold is `eps_i + eps_j + least one-way time`.
#[test]
fn a_lie_of_1_2_thresholds_is_named_and_one_of_0_8_is_not_claimed() {
    let eps = Span::from_micros(200);
    let threshold = 2.0 * eps.as_nanos() as f64 + SimPath::LAN.base;
    for sign in [-1.0, 1.0] {
        for factor in [0.8, 1.2] {
            let lie = Span::from_nanos((sign * factor * threshold) as i64);
            let dice = &mut Dice(7);
            let changes = Cluster::new(4, eps, 90, dice).exact().lies(2, 30, 90, lie).run(90, 5, dice);
            let accused: Vec<_> = changes.iter().filter(|change| change.2.clock_uncertain()).collect();
            println!(
                "lie of {factor} thresholds, {lie}: {} accusations {:?}",
                accused.len(),
                accused.first()
            );
            if factor < 1.0 {
                assert!(accused.is_empty(), "{accused:?}");
            } else {
                let right =
                    (0..4).all(|node| accused.iter().any(|a| a.0 == node && a.2 == named(node) && a.1 <= 40));
                assert!(right && accused.len() == 4, "{accused:?}");
            }
        }
    }
}

/// Issue D, must show 4: jitter, congestion of +50 ms one way for minutes, drifting clocks that change their rates, NTP
/// errors that take most of their bound, and lost upstreams.
#[test]
fn an_honest_hour_has_no_accusation() {
    const HOUR: i64 = 3_600;
    for seed in 0..3 {
        let dice = &mut Dice(100 + seed);
        let bound = Span::from_micros([60, 500, 5_000][seed as usize]);
        let mut cluster = Cluster::new(4, bound, HOUR, dice);
        for _ in 0..40 {
            let from = dice.between(0.0, 4.0) as usize;
            let to = (from + 1 + dice.between(0.0, 3.0) as usize) % 4;
            let start = dice.between(0.0, HOUR as f64) as i64;
            let end = start + dice.between(1.0, 300.0) as i64;
            cluster.congestion.push((from, to, start, end, 50_000_000));
        }
        for node in [0, 2] {
            let start = dice.between(0.0, 3_000.0) as i64 * SECOND;
            let drift = dice.between(-45_000.0, 45_000.0);
            cluster.ntp[node].lost = Some((start, start + 600 * SECOND, drift));
        }
        let changes = cluster.run(HOUR, 1, dice);
        println!("honest hour, NTP bound {bound}: {} changes of verdict", changes.len());
        // From "nothing to compare" to "honest", once each.
        assert!(changes.iter().all(|change| change.2 == Verdict::Honest && change.1 == 0), "{changes:?}");
        assert_eq!(changes.len(), 4);
    }
}

/// With two peers it may be any of the three, and with two liars of four nobody is sure, but a liar whom all contradict.
#[test]
fn without_a_majority_no_honest_node_names_anybody_and_nobody_an_honest_one() {
    let dice = &mut Dice(9);
    let lie = Span::from_millis(50);
    let three = Cluster::new(3, Span::from_millis(1), 40, dice).lies(2, 5, 40, lie);
    let mut four = Cluster::new(4, Span::from_millis(1), 40, dice).lies(2, 5, 40, lie);
    four.ntp[3].lie = Some((5 * SECOND, 40 * SECOND, -lie));
    for (cluster, unsure) in [(three, 0..3), (four, 0..2)] {
        let changes = cluster.run(40, 2, dice);
        for node in unsure {
            let last = changes.iter().rfind(|change| change.0 == node).map(|change| &change.2);
            assert_eq!(last, Some(&Verdict::Unsure), "{changes:?}");
        }
        for (node, _, verdict) in changes {
            let Verdict::Lies(who) = verdict else { continue };
            assert!(node >= 2 && !who.contains(&Peer(0)) && !who.contains(&Peer(1)), "{node} {who:?}");
        }
    }
}

/// Seven nodes, two liars: both named.
#[test]
fn several_liars_are_named_as_long_as_most_are_honest() {
    let dice = &mut Dice(10);
    let mut cluster = Cluster::new(7, Span::from_millis(1), 20, dice).lies(2, 5, 40, Span::from_millis(50));
    cluster.ntp[6].lie = Some((5 * SECOND, 40 * SECOND, Span::from_millis(80)));
    let changes = cluster.run(20, 2, dice);
    for node in 0..7 {
        let last = changes.iter().rfind(|change| change.0 == node).map(|change| change.2.clone());
        let wanted = match node {
            2 => vec![Own, Peer(6)],
            6 => vec![Own, Peer(2)],
            _ => vec![Peer(2), Peer(6)],
        };
        assert_eq!(last, Some(Verdict::Lies(wanted)), "node {node}");
    }
}
