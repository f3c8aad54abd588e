//! A counter by reason.

use prometheus::{IntCounter, Registry};

/// Why datagrams are refused: by the wire format, by the core, by the gossip thread.
pub(super) const REJECTED: [&str; 14] = [
    "truncated",
    "wrong_version",
    "unknown_type",
    "sealed",
    "malformed",
    "too_large",
    "bad_id",
    "bad_address",
    "trailing",
    "own_id",
    "unasked",
    "no_sender_address",
    "oversize",
    "receive_error",
];

/// Why entries that were new are no propagation samples.
pub(super) const NOT_SAMPLES: [&str; 4] = ["join", "resync", "unstamped", "implausible"];

/// Counts by reason, for a fixed set of reasons. One that is not in the set is counted as `other`: the
/// number of series stays bounded and nothing goes uncounted.
#[derive(Debug)]
pub struct Reasons {
    known: Vec<(&'static str, IntCounter)>,
    other: IntCounter,
}

impl Reasons {
    pub(super) fn new(
        r: &Registry,
        name: &str,
        help: &str,
        reasons: &[&'static str],
    ) -> prometheus::Result<Self> {
        let family = super::counters(r, name, help, "reason")?;
        Ok(Self {
            known: reasons.iter().map(|reason| (*reason, family.with_label_values(&[*reason]))).collect(),
            other: family.with_label_values(&["other"]),
        })
    }

    /// How often each reason came up that did.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = self.known.iter().map(|(reason, counter)| (*reason, counter.get()));
        all.chain([("other", self.other.get())]).filter(|(_, n)| *n > 0)
    }

    /// Once more, for this reason. Takes no lock.
    pub fn inc(&self, reason: &str) {
        self.known.iter().find(|(known, _)| *known == reason).map_or(&self.other, |(_, c)| c).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{NotSample, Rejected};
    use crate::wire::WireError;

    #[test]
    fn every_reason_of_the_core_has_its_own_series() {
        use WireError::*;
        let wire = [
            Truncated,
            WrongVersion(9),
            UnknownType(9),
            Sealed,
            Malformed(""),
            TooLarge(""),
            BadId,
            BadAddress,
            Trailing,
        ];
        for error in wire {
            // A new variant must be added to the list above, and to `REJECTED`.
            match error {
                Truncated | WrongVersion(_) | UnknownType(_) | Sealed | Malformed(_) | TooLarge(_)
                | BadId | BadAddress | Trailing => {}
            }
            assert!(REJECTED.contains(&Rejected::Wire(error).reason()), "{error:?}");
        }
        for refused in [Rejected::OwnId, Rejected::Unasked] {
            match refused {
                Rejected::Wire(_) | Rejected::OwnId | Rejected::Unasked => {}
            }
            assert!(REJECTED.contains(&refused.reason()), "{refused:?}");
        }
        for not in [NotSample::Join, NotSample::Resync, NotSample::Unstamped, NotSample::Implausible] {
            match not {
                NotSample::Join | NotSample::Resync | NotSample::Unstamped | NotSample::Implausible => {}
            }
            assert!(NOT_SAMPLES.contains(&not.reason()), "{not:?}");
        }
    }

    #[test]
    fn an_unforeseen_reason_is_counted_as_other() {
        let reasons = Reasons::new(&Registry::new(), "x_total", "x", &["a"]).unwrap();
        reasons.inc("a");
        reasons.inc("b");
        reasons.inc("c");
        assert_eq!(reasons.counts().collect::<Vec<_>>(), [("a", 1), ("other", 2)]);
    }
}
