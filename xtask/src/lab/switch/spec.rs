//! What a link is asked to do to its packets; the TOML form of it is what scenarios are written in.

use std::ops::RangeInclusive;

use probe_ebpf::time::Span;
use serde::{Deserialize, Serialize};

/// One direction of the path between two hosts. The default is a perfect wire.
///
/// In TOML lengths of time are milliseconds, as numbers:
/// ```toml
/// delay_ms = 20
/// jitter = { shape = "pareto", scale_ms = 0.5, alpha = 1.5, cap_ms = 50 }
/// loss = { kind = "bursty", enter = 0.01, leave = 0.25 }
/// reorder = { share = 0.02, late_ms = 5 }
/// duplicate = 0.01
/// rate = { bits_per_second = 1_000_000, queue_bytes = 30_000 }
/// partition = false
/// source_port = 40_002
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSpec {
    /// Every packet takes at least this long.
    #[serde(rename = "delay_ms", with = "millis")]
    pub delay: Span,
    /// What a packet takes beyond the delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
    /// Which packets vanish on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Which packets are overtaken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Reorder>,
    /// Share of packets of which a second copy arrives, 0 to 1.
    pub duplicate: f64,
    /// How fast the wire is; without it packets take no time of their own and never queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The wire is cut: nothing gets in, and what is under way is lost.
    pub partition: bool,
    /// This is one of several parallel wires, the one that UDP packets from this port take. All others take a perfect
    /// one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
}

/// How the time beyond the delay is distributed. It never makes packets overtake each other: one that draws a
/// short time waits for those in front of it, as in a queue. Overtaking is what [`Reorder`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Jitter {
    /// Anything from nothing to `max`, all equally likely.
    Uniform {
        /// The most.
        #[serde(rename = "max_ms", with = "millis")]
        max: Span,
    },
    /// A bell around `mean`, of which the part below zero is left out.
    Normal {
        /// Centre of the whole bell.
        #[serde(rename = "mean_ms", with = "millis")]
        mean: Span,
        /// Standard deviation of the whole bell.
        #[serde(rename = "sigma_ms", with = "millis")]
        sigma: Span,
    },
    /// Mostly little and sometimes a lot: the Lomax form of Pareto's law, which starts at zero; what it has
    /// beyond `cap` is left out.
    Pareto {
        /// Its scale: half of the packets draw less than `scale * (2^(1/alpha) - 1)`.
        #[serde(rename = "scale_ms", with = "millis")]
        scale: Span,
        /// Its shape: the smaller, the heavier the tail.
        alpha: f64,
        /// The most.
        #[serde(rename = "cap_ms", with = "millis")]
        cap: Span,
    },
}

/// Which packets vanish on the wire, after they have taken their room in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Each on its own.
    Random {
        /// Probability, 0 to 1.
        share: f64,
    },
    /// Gilbert and Elliott's model: the wire is good or bad, and may change before each packet.
    Bursty {
        /// Probability that a good wire turns bad.
        enter: f64,
        /// Probability that a bad wire turns good; a bad spell lasts `1 / leave` packets on average.
        leave: f64,
        /// Probability of loss while good.
        #[serde(default)]
        good: f64,
        /// Probability of loss while bad.
        #[serde(default = "certain")]
        bad: f64,
    },
}

/// Some packets are held back, so that those behind them overtake.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reorder {
    /// Probability, 0 to 1.
    pub share: f64,
    /// For how long.
    #[serde(rename = "late_ms", with = "millis")]
    pub late: Span,
}

/// A wire that takes `length / rate` for each frame, with a queue in front of it that drops at its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Counted over whole Ethernet frames without preamble and checksum.
    pub bits_per_second: u64,
    /// Room for frames that wait or are being sent. A frame that finds the wire idle is always taken.
    pub queue_bytes: u64,
}

/// A link that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// A probability is none.
    #[error("{name} is {value}; a share lies between 0 and 1")]
    Share {
        /// Which.
        name: &'static str,
        /// What it is.
        value: f64,
    },
    /// A length of time is negative or beyond an hour.
    #[error("{name} is {value}; it lies between nothing and an hour")]
    Time {
        /// Which.
        name: &'static str,
        /// What it is.
        value: Span,
    },
    /// Pareto's shape is not a positive number.
    #[error("alpha is {0}; it is a positive number")]
    Alpha(f64),
    /// A rate of nothing would be a partition.
    #[error("a rate of zero; to cut a link use partition")]
    NoRate,
}

const TIMES: RangeInclusive<Span> = Span::ZERO..=Span::from_secs(3600);

impl LinkSpec {
    /// A perfect wire of this length.
    pub fn delay(delay: Span) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The wire that is cut.
    pub fn cut() -> Self {
        Self { partition: true, ..Self::default() }
    }

    /// The spec itself if every value in it makes sense.
    pub fn checked(self) -> Result<Self, SpecError> {
        time("delay", self.delay)?;
        share("duplicate", self.duplicate)?;
        match self.jitter {
            None => {}
            Some(Jitter::Uniform { max }) => time("max", max)?,
            Some(Jitter::Normal { mean, sigma }) => {
                time("mean", mean)?;
                time("sigma", sigma)?;
            }
            Some(Jitter::Pareto { scale, alpha, cap }) => {
                time("scale", scale)?;
                time("cap", cap)?;
                if !(alpha.is_finite() && alpha > 0.0) {
                    return Err(SpecError::Alpha(alpha));
                }
            }
        }
        match self.loss {
            None => {}
            Some(Loss::Random { share: value }) => share("loss", value)?,
            Some(Loss::Bursty { enter, leave, good, bad }) => {
                for (name, value) in [("enter", enter), ("leave", leave), ("good", good), ("bad", bad)] {
                    share(name, value)?;
                }
            }
        }
        if let Some(reorder) = self.reorder {
            share("reorder", reorder.share)?;
            time("late", reorder.late)?;
        }
        if self.rate.is_some_and(|rate| rate.bits_per_second == 0) {
            return Err(SpecError::NoRate);
        }
        Ok(self)
    }
}

fn share(name: &'static str, value: f64) -> Result<(), SpecError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(SpecError::Share { name, value }) }
}

fn time(name: &'static str, value: Span) -> Result<(), SpecError> {
    if TIMES.contains(&value) { Ok(()) } else { Err(SpecError::Time { name, value }) }
}

fn certain() -> f64 {
    1.0
}

/// Lengths of time as numbers of milliseconds.
mod millis {
    use probe_ebpf::time::Span;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Span, to: S) -> Result<S::Ok, S::Error> {
        (span.as_nanos() as f64 / 1e6).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        f64::deserialize(from).map(|ms| Span::from_secs_f64(ms / 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_documented_and_written_back() {
        let text = r#"
            delay_ms = 20
            jitter = { shape = "pareto", scale_ms = 0.5, alpha = 1.5, cap_ms = 50 }
            loss = { kind = "bursty", enter = 0.01, leave = 0.25 }
            reorder = { share = 0.02, late_ms = 5 }
            duplicate = 0.01
            rate = { bits_per_second = 1_000_000, queue_bytes = 30_000 }
            partition = false
            source_port = 40_002
        "#;
        let spec: LinkSpec = toml::from_str(text).unwrap();
        let scale = Span::from_micros(500);
        let expected = LinkSpec {
            delay: Span::from_millis(20),
            jitter: Some(Jitter::Pareto { scale, alpha: 1.5, cap: Span::from_millis(50) }),
            loss: Some(Loss::Bursty { enter: 0.01, leave: 0.25, good: 0.0, bad: 1.0 }),
            reorder: Some(Reorder { share: 0.02, late: Span::from_millis(5) }),
            duplicate: 0.01,
            rate: Some(Rate { bits_per_second: 1_000_000, queue_bytes: 30_000 }),
            partition: false,
            source_port: Some(40_002),
        };
        assert_eq!(spec.checked(), Ok(expected));
        assert_eq!(toml::from_str::<LinkSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        assert_eq!(toml::from_str::<LinkSpec>("").unwrap(), LinkSpec::default());
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        for text in [
            "dealy_ms = 20",
            "reorder = { share = 0.1, late_ms = 1, lat = 2 }",
            "jitter = { shape = 'cauchy' }",
        ] {
            assert!(toml::from_str::<LinkSpec>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_name() {
        let whole = LinkSpec::default();
        let bad = [
            LinkSpec { duplicate: 1.1, ..whole },
            LinkSpec { duplicate: f64::NAN, ..whole },
            LinkSpec::delay(Span::from_nanos(-1)),
            LinkSpec { loss: Some(Loss::Random { share: -0.1 }), ..whole },
            LinkSpec { rate: Some(Rate { bits_per_second: 0, queue_bytes: 1 }), ..whole },
            LinkSpec { reorder: Some(Reorder { share: 0.5, late: Span::MAX }), ..whole },
            LinkSpec {
                jitter: Some(Jitter::Pareto { scale: Span::ZERO, alpha: 0.0, cap: Span::ZERO }),
                ..whole
            },
        ];
        for spec in bad {
            assert!(spec.checked().is_err(), "{spec:?}");
        }
        let error = bad[0].checked().unwrap_err().to_string();
        assert!(error.contains("duplicate") && error.contains("1.1"), "{error}");
    }
}
