//! Is a loss or a longer time one of a few source ports? Then it is on one of several parallel paths, or in one of the
//! receiver's several queues: both are chosen by a hash over addresses and ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::journey::SourcePort;

/// Ports told apart; a path has eight at a time (`node::proto`), and may get others.
const PORTS: usize = 16;
/// How unlikely it must be that this many packets were from these ports by chance.
const CHANCE: f64 = 1e-3;

/// Lost packets by the port that they were sent from, on a path whose packets are sent from several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LostByPort {
    /// Lost, by port; those without loss are not in it.
    #[serde(with = "pairs")]
    pub lost: BTreeMap<u16, u64>,
    /// How many ports there are; 0 or 1 when the sender has no further ones.
    pub of: u8,
}

impl LostByPort {
    /// Is there nothing to tell?
    pub fn is_empty(&self) -> bool {
        self.of == 0
    }

    /// Adds what was counted later; of more ports than fit, those that lost least before are forgotten: a sender that
    /// starts anew may have other ones.
    pub fn add(&mut self, later: &Self) {
        for (port, count) in &later.lost {
            let sum = self.lost.entry(*port).or_default();
            *sum = sum.saturating_add(*count);
        }
        while self.lost.len() > PORTS {
            let least = |(port, lost): &(&u16, &u64)| (later.lost.contains_key(port), **lost, **port);
            let Some(least) = self.lost.iter().min_by_key(least).map(|(port, _)| *port) else { break };
            self.lost.remove(&least);
        }
        self.of = self.of.max(later.of);
    }

    /// The ports on which the losses gather, if they do. Every packet has each port with the same chance.
    pub(super) fn gathered(&self) -> Option<Gathered> {
        let ports = usize::from(self.of);
        if ports < 2 || self.lost.len() > ports {
            return None;
        }
        let fair = 1.0 / ports as f64;
        let counts = self.lost.iter().map(|(port, lost)| Count { port: *port, hits: *lost, share: fair });
        gathered(counts.collect(), self.of)
    }
}

/// Packets of one port.
#[derive(Clone, Copy, Debug)]
struct Count {
    port: u16,
    /// Those that something happened to.
    hits: u64,
    /// Of all packets.
    share: f64,
}

/// What happens gathers on some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gathered {
    /// These, in order.
    ports: Vec<u16>,
    /// What happened there ...
    top: u64,
    /// ... of all that happened.
    total: u64,
    /// How many ports there are.
    of: u8,
}

impl std::fmt::Display for Gathered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ports, top, total, of } = self;
        let plural = if ports.len() == 1 { "" } else { "s" };
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
        write!(
            f,
            "{top} of {total} from source port{plural} {ports} (of {of}): one of several paths or receive queues"
        )
    }
}

/// The ports of the journeys that took long, if it is some of several: of all journeys where they came from, and whether
/// they took long.
pub(super) fn slow(journeys: impl Iterator<Item = (SourcePort, bool)>) -> Option<Gathered> {
    // By port: all, and those that took long.
    let (mut by_port, mut of) = (BTreeMap::<u16, (u64, u64)>::new(), 0);
    for (source, is_slow) in journeys {
        let (all, hits) = by_port.entry(source.port).or_default();
        *all += 1;
        *hits += u64::from(is_slow);
        of = of.max(source.of);
    }
    let all = by_port.values().map(|(all, _)| all).sum::<u64>() as f64;
    let count =
        |(port, (packets, hits)): (u16, (u64, u64))| Count { port, hits, share: packets as f64 / all };
    gathered(by_port.into_iter().map(count).collect(), of)
}

/// Some ports, fewer than all, whose part of the hits chance alone would hardly make.
fn gathered(mut counts: Vec<Count>, of: u8) -> Option<Gathered> {
    let density = |count: &Count| count.hits as f64 / count.share;
    counts.sort_by(|a, b| density(b).total_cmp(&density(a)).then(a.port.cmp(&b.port)));
    let total = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(count.hits));
    let all = usize::from(of).max(counts.len());
    let mut best: Option<(f64, usize, u64)> = None;
    let (mut top, mut share, mut ways) = (0_u64, 0.0, 1.0);
    for (taken, count) in (1..all).zip(&counts) {
        top = top.saturating_add(count.hits);
        share += count.share;
        // As many choices of so many ports there are.
        ways *= (all + 1 - taken) as f64 / taken as f64;
        let chance = ways * tail(total, top, share);
        if chance < CHANCE && best.is_none_or(|(least, ..)| chance < least) {
            best = Some((chance, taken, top));
        }
    }
    let (_, taken, top) = best?;
    let mut ports: Vec<u16> = counts[..taken].iter().map(|count| count.port).collect();
    ports.sort_unstable();
    Some(Gathered { ports, top, total, of })
}

/// As a list: JSON's keys are strings, which are not read back as numbers within a tagged line.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(lost: &BTreeMap<u16, u64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(lost)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, u64>, D::Error> {
        Ok(Vec::<(u16, u64)>::deserialize(from)?.into_iter().collect())
    }
}

/// An upper bound of the chance that at least `hits` of `tries` hit, each with chance `p` (Chernoff's, by relative
/// entropy: Hoeffding 1963, theorem 1).
fn tail(tries: u64, hits: u64, p: f64) -> f64 {
    if tries == 0 {
        return 1.0;
    }
    let n = tries as f64;
    let share = hits as f64 / n;
    if share <= p {
        return 1.0;
    }
    let part = |x: f64, y: f64| if x > 0.0 { x * (x / y).ln() } else { 0.0 };
    (-n * (part(share, p) + part(1.0 - share, 1.0 - p))).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_port(of: u8, lost: &[(u16, u64)]) -> LostByPort {
        LostByPort { lost: lost.iter().copied().collect(), of }
    }

    #[test]
    fn losses_of_some_ports_are_told_and_those_of_chance_are_not() {
        let gathered = |of, lost: &[(u16, u64)]| {
            by_port(of, lost).gathered().map(|Gathered { ports, top, total, .. }| (ports, top, total))
        };
        assert_eq!(gathered(4, &[(3, 20)]), Some((vec![3], 20, 20)));
        assert_eq!(gathered(4, &[(1, 12), (3, 14)]), Some((vec![1, 3], 26, 26)));
        assert_eq!(gathered(4, &[(1, 2), (2, 1), (3, 30), (4, 1)]), Some((vec![3], 30, 34)));
        assert_eq!(gathered(2, &[(1, 40)]), Some((vec![1], 40, 40)));
        for (of, lost) in [
            (4, &[(3, 3)][..]),
            (4, &[(1, 5), (2, 7), (3, 4), (4, 6)]),
            (4, &[(1, 50), (2, 45), (3, 60), (4, 52)]),
            (0, &[]),
            (1, &[(1, 100)]),
            (4, &[]),
            (2, &[(1, 9), (2, 9), (3, 9)]),
        ] {
            assert_eq!(gathered(of, lost), None, "{of} {lost:?}");
        }
        assert!(gathered(255, &[(1, u64::MAX), (2, u64::MAX)]).is_some(), "wild numbers do no harm");
    }

    #[test]
    fn long_journeys_of_some_ports_are_told_and_those_of_chance_are_not() {
        let slow = |by_port: &[(u16, u64, u64)]| {
            let each = |(port, all, hits): &(u16, u64, u64)| {
                let source = SourcePort { port: *port, of: 4 };
                (0..*all).map(|n| (source, n < *hits)).collect::<Vec<_>>()
            };
            slow(by_port.iter().flat_map(each)).map(|gathered| gathered.to_string())
        };
        let told = |told: &str| Some(format!("{told} (of 4): one of several paths or receive queues"));
        let one = told("12 of 12 from source port 3");
        assert_eq!(slow(&[(1, 12, 0), (2, 12, 0), (3, 12, 12), (4, 12, 0)]), one);
        let two = told("24 of 25 from source ports 2 and 3");
        assert_eq!(slow(&[(1, 12, 0), (2, 13, 12), (3, 12, 12), (4, 12, 1)]), two);
        // Whoever sends most from one port, as before the receiver knows the others, has most of the long ones there.
        assert_eq!(slow(&[(1, 90, 30), (2, 3, 0), (3, 4, 1), (4, 3, 0)]), None);
        assert_eq!(slow(&[(1, 50, 30)]), None);
        assert_eq!(slow(&[(1, 12, 5), (2, 12, 3), (3, 12, 6), (4, 12, 4)]), None);
        assert_eq!(slow(&[(1, 12, 0), (2, 12, 0), (3, 12, 3), (4, 12, 0)]), None, "too few to tell");
        assert_eq!(slow(&[]), None);
    }

    #[test]
    fn the_bound_is_above_the_exact_chance() {
        for (n, k, p) in [(10_u64, 8_u64, 0.25), (20, 10, 0.25), (40, 30, 0.5), (5, 5, 0.25)] {
            let choose = |n: u64, k: u64| (1..=k).fold(1.0, |c, i| c * (n + 1 - i) as f64 / i as f64);
            let exact: f64 = (k..=n)
                .map(|i| choose(n, i) * f64::powi(p, i as i32) * f64::powi(1.0 - p, (n - i) as i32))
                .sum();
            let bound = tail(n, k, p);
            assert!(bound >= exact && bound < 20.0 * exact, "{bound} {exact}");
        }
        assert_eq!((tail(0, 0, 0.5), tail(8, 2, 0.25)), (1.0, 1.0));
    }

    #[test]
    fn they_are_read_back_from_a_record() {
        use crate::analysis::verdict::Loss;
        use crate::analysis::verdict::record::{PathName, ReplayLine, read_line, write_line};
        let loss =
            Loss { lost_outside: 3, by_port: by_port(4, &[(40_002, 2), (7176, 1)]), ..Loss::default() };
        let path = PathName { from: "a".into(), to: "b".into() };
        let at = probe_ebpf::time::MonoNs::from_nanos(5);
        let line = ReplayLine::Loss { path, at, loss };
        assert_eq!(read_line(&write_line(&line).unwrap(), 1).unwrap(), line);
    }

    #[test]
    fn sums_are_bounded() {
        let mut sum = LostByPort::default();
        for port in 0..100 {
            sum.add(&by_port(4, &[(port, u64::MAX), (1, 1)]));
        }
        assert_eq!((sum.lost.len(), sum.of), (PORTS, 4));
        assert!(sum.lost.contains_key(&99), "a new port is not left out: {sum:?}");
    }
}
