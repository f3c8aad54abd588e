//! Datagrams that never came, by where they were lost and why.

use std::collections::BTreeMap;
use std::sync::Mutex;

use probe_user::analysis::verdict::Loss;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Reasons told apart in a family; a kernel has a hundred, a UDP socket a dozen.
const REASONS: usize = 16;

/// Losses and drops. Written once a second.
#[derive(Debug)]
pub struct LossMetrics {
    lost: IntCounterVec,
    outside: IntCounter,
    dropped: IntCounterVec,
    /// Reasons that have a series, by family; locked by who publishes only.
    known: Mutex<[BTreeMap<String, IntCounter>; 2]>,
}

impl LossMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let lost = super::register(
            r,
            IntCounterVec::new(
                Opts::new(
                    "pikoscope_loss_total",
                    "Gossip datagrams sent to this node that never came, by place: \"here\" with the reason for which this host's kernel dropped them, or \"outside\". Settled a second or two later than pikoscope_packets_lost_total.",
                ),
                &["place", "reason"],
            )?,
        )?;
        let dropped = super::register(
            r,
            IntCounterVec::new(
                Opts::new(
                    "pikoscope_socket_drops_total",
                    "Datagrams that the kernel dropped at the gossip socket, whoever sent them, by its own reason; without eBPF see pikoscope_socket_rcvbuf_dropped_total.",
                ),
                &["reason"],
            )?,
        )?;
        // There from the start: the one that everybody asks for.
        dropped.with_label_values(&["SOCKET_RCVBUFF"]);
        Ok(Self { outside: lost.with_label_values(&["outside", ""]), lost, dropped, known: Mutex::default() })
    }

    /// What was lost on all paths to here since the start.
    pub(super) fn set(&self, loss: &Loss) {
        self.outside.inc_by(loss.lost_outside.saturating_sub(self.outside.get()));
        let here = loss.lost_here.iter().map(|(reason, n)| (reason.as_str(), *n));
        self.set_each(0, here, |reason| self.lost.with_label_values(&["here", reason]));
    }

    /// What the kernel dropped at the socket since the start.
    pub fn set_drops<'a>(&self, drops: impl Iterator<Item = (&'a str, u64)>) {
        self.set_each(1, drops, |reason| self.dropped.with_label_values(&[reason]));
    }

    fn set_each<'a>(
        &self,
        family: usize,
        totals: impl Iterator<Item = (&'a str, u64)>,
        series: impl Fn(&str) -> IntCounter,
    ) {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = &mut known[family];
        let mut others = 0;
        for (reason, total) in totals {
            if !known.contains_key(reason) && known.len() < REASONS {
                known.insert(reason.to_owned(), series(reason));
            }
            match known.get(reason) {
                Some(counter) => counter.inc_by(total.saturating_sub(counter.get())),
                None => others += total,
            }
        }
        if others > 0 {
            let other = series("other");
            other.inc_by(others.saturating_sub(other.get()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_nothing_goes_uncounted() {
        let registry = Registry::new();
        let metrics = LossMetrics::new(&registry).expect("names");
        let reasons: Vec<String> = (0..40).map(|n| format!("REASON_{n}")).collect();
        for total in [1, 3] {
            metrics.set_drops(reasons.iter().map(|reason| (reason.as_str(), total)));
        }
        let lost_here = BTreeMap::from([("SOCKET_RCVBUFF".to_owned(), 5)]);
        metrics.set(&Loss { lost_here, lost_outside: 2, ..Loss::default() });
        let families = registry.gather();
        let sum = |name: &str| -> (usize, f64) {
            let family = families.iter().find(|f| f.name() == name).expect("a family");
            (family.get_metric().len(), family.get_metric().iter().map(|m| m.get_counter().get_value()).sum())
        };
        assert_eq!(
            sum("pikoscope_socket_drops_total"),
            (REASONS + 2, 120.0),
            "with SOCKET_RCVBUFF and other"
        );
        assert_eq!(sum("pikoscope_loss_total"), (2, 7.0));
    }
}
