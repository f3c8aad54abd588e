//! Is a loss one of a few source ports? Then it is on one of several parallel paths.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ports told apart; a path has eight at a time (`node::proto`), and may get others.
const PORTS: usize = 16;
/// How unlikely it must be that the losses fell on these ports by chance.
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

    /// Adds what was counted in another time; more ports than the first few are left out.
    pub fn add(&mut self, other: &Self) {
        for (port, count) in &other.lost {
            if self.lost.contains_key(port) || self.lost.len() < PORTS {
                let sum = self.lost.entry(*port).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        self.of = self.of.max(other.of);
    }

    /// The ports on which the losses gather, if chance alone would hardly do it, and how many they are of all that are
    /// told apart by port. Every packet has each port with the same chance.
    pub(super) fn gathered(&self) -> Option<(Vec<u16>, u64, u64)> {
        let ports = usize::from(self.of);
        let mut counts: Vec<(u64, u16)> = self.lost.iter().map(|(port, lost)| (*lost, *port)).collect();
        if ports < 2 || counts.len() > ports {
            return None;
        }
        counts.sort_unstable_by_key(|(lost, port)| (std::cmp::Reverse(*lost), *port));
        let total = counts.iter().fold(0_u64, |sum, (lost, _)| sum.saturating_add(*lost));
        let mut best: Option<(f64, usize, u64)> = None;
        let (mut top, mut ways) = (0_u64, 1.0);
        for (taken, (lost, _)) in (1..ports).zip(&counts) {
            top = top.saturating_add(*lost);
            // As many choices of so many ports there are.
            ways *= (ports + 1 - taken) as f64 / taken as f64;
            let chance = ways * tail(total, top, taken as f64 / ports as f64);
            if chance < CHANCE && best.is_none_or(|(least, ..)| chance < least) {
                best = Some((chance, taken, top));
            }
        }
        let (_, taken, top) = best?;
        let mut ports: Vec<u16> = counts[..taken].iter().map(|(_, port)| *port).collect();
        ports.sort_unstable();
        Some((ports, top, total))
    }
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
        let gathered = |of, lost: &[(u16, u64)]| by_port(of, lost).gathered();
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
    }
}
