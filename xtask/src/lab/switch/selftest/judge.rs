//! Errors held against their targets.

use std::fmt;

use anyhow::{Result, ensure};
use probe_ebpf::time::Span;
use serde::Serialize;

use super::MOST_LEFT_OUT;

/// How far off, without sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// How many.
    pub count: usize,
    /// Half of them.
    pub p50_ns: i64,
    /// 99 of 100.
    pub p99_ns: i64,
    /// The worst.
    pub max_ns: i64,
}

impl Errors {
    /// Of all of these.
    pub fn of(spans: impl IntoIterator<Item = Span>) -> Result<Self> {
        let mut ns: Vec<i64> = spans.into_iter().map(|span| span.abs().as_nanos()).collect();
        ns.sort_unstable();
        let at = |share: f64| ns[((ns.len() - 1) as f64 * share).ceil() as usize];
        ensure!(!ns.is_empty(), "nothing was measured");
        Ok(Self { count: ns.len(), p50_ns: at(0.5), p99_ns: at(0.99), max_ns: at(1.0) })
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_ns, self.p99_ns, self.max_ns].map(Span::from_nanos);
        write!(f, "p50 {:>9}  p99 {:>9}  max {:>9}", p50.to_string(), p99.to_string(), max.to_string())
    }
}

/// Errors with and without those for which the machine was stalled.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Judged {
    /// Every packet.
    pub all: Errors,
    /// Those for which the CPU was to be had; none if it never was.
    pub own: Option<Errors>,
    /// The others.
    pub stalled: usize,
    /// The same link without bare threads beside the switch, if that was measured.
    pub alone: Option<Errors>,
}

impl Judged {
    /// Of errors, each with whether the machine was stalled.
    pub fn of(errors: impl IntoIterator<Item = (Span, bool)>) -> Result<Self> {
        let errors: Vec<(Span, bool)> = errors.into_iter().collect();
        let own: Vec<Span> = errors.iter().filter(|(_, stalled)| !stalled).map(|(span, _)| *span).collect();
        let stalled = errors.len() - own.len();
        Ok(Self {
            all: Errors::of(errors.into_iter().map(|(span, _)| span))?,
            own: Errors::of(own).ok(),
            stalled,
            alone: None,
        })
    }

    /// With what was measured without bare threads.
    pub fn beside(self, alone: Errors) -> Self {
        Self { alone: Some(alone), ..self }
    }

    /// Share of those that are left out.
    pub fn stalled_percent(&self) -> f64 {
        100.0 * self.stalled as f64 / self.all.count as f64
    }

    /// What is missed, in words: the p50 alone, the p99 of what is its own, and enough left to judge.
    pub fn judge(&self, what: &str, [p50, p99]: [Span; 2]) -> Vec<String> {
        let own = self.own.map_or(i64::MAX, |own| own.p99_ns);
        let mut missed = Vec::new();
        for (name, value, target) in [("p50", self.alone.unwrap_or(self.all).p50_ns, p50), ("p99", own, p99)]
        {
            let value = Span::from_nanos(value);
            if value > target {
                missed
                    .push(format!("{what}: {name} of the error is {value}, at most {target} was the target"));
            }
        }
        let left_out = self.stalled_percent();
        if left_out > MOST_LEFT_OUT {
            missed.push(format!(
                "{what}: the machine was stalled for {left_out:.1} % of the packets, too many to judge"
            ));
        }
        missed
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.map_or("none".to_owned(), |own| Span::from_nanos(own.p99_ns).to_string());
        let percent = self.stalled_percent();
        write!(f, "{}; own p99 {own:>9} ({percent:.1} % left out)", self.all)?;
        match self.alone {
            Some(Errors { p50_ns, p99_ns, .. }) => {
                let [p50, p99] = [p50_ns, p99_ns].map(Span::from_nanos);
                write!(f, "; alone p50 {p50} p99 {p99}")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: [Span; 2] = [Span::from_micros(50), Span::from_micros(300)];

    #[test]
    fn quantiles_are_of_sizes() {
        let errors =
            Errors::of((1..=100).map(|us| Span::from_micros(if us % 2 == 0 { us } else { -us }))).unwrap();
        let expected = Errors { count: 100, p50_ns: 51_000, p99_ns: 100_000, max_ns: 100_000 };
        assert_eq!(errors, expected);
        assert!(Errors::of([]).is_err(), "nothing measured is no success");
    }

    /// A hundred good packets, and some that are far too late.
    fn judged(late: usize, stalled: usize) -> Vec<String> {
        let good = (0..100).map(|_| (Span::from_micros(20), false));
        let bad = |count, stalled| (0..count).map(move |_| (Span::from_millis(2), stalled));
        Judged::of(good.chain(bad(late, false)).chain(bad(stalled, true))).unwrap().judge("x", TARGETS)
    }

    #[test]
    fn what_is_late_by_itself_is_missed_and_what_the_machine_held_up_is_not_unless_it_is_much() {
        assert!(judged(0, 0).is_empty() && judged(0, 25).is_empty());
        let missed = judged(3, 0);
        assert!(
            missed.len() == 1 && missed[0].contains("x: p99") && missed[0].contains("2.00 ms"),
            "{missed:?}"
        );
        assert_eq!(judged(3, 5).len(), 1, "one excuse does not cover another");
        let missed = judged(0, 26);
        assert!(missed.len() == 1 && missed[0].contains("20.6 %"), "{missed:?}");
    }

    /// The median is that of all packets: a machine that stalls half of them excuses nothing.
    #[test]
    fn nothing_is_left_out_of_the_median() {
        let missed = judged(0, 200);
        assert!(missed.iter().any(|what| what.contains("p50")), "{missed:?}");
        let slow = Errors { count: 1, p50_ns: 51_000, p99_ns: 51_000, max_ns: 51_000 };
        let alone = Judged::of([(Span::ZERO, false)]).unwrap().beside(slow);
        assert_eq!(alone.judge("x", TARGETS).len(), 1, "nor is what was measured alone");
        let none_left = Judged::of([(Span::ZERO, true)]).unwrap();
        assert_eq!((none_left.own, none_left.judge("x", TARGETS).len()), (None, 2));
    }
}
