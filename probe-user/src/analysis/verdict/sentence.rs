//! The evidence in one sentence.

use probe_ebpf::time::Span;

use crate::analysis::journey::Leg;

use super::loss::{Finding, Loss};
use super::{Cause, LegNumbers};

/// The two ends' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) from: String,
    pub(super) to: String,
}

impl Names {
    /// Where a leg is, and what it means when it is long.
    fn place(&self, leg: Leg) -> (String, String) {
        let Self { from, to } = self;
        match leg {
            Leg::SendQueue => (format!("{from}'s send queue"), format!("the process on {from} sends late")),
            Leg::EgressStack => (format!("{from}'s kernel"), format!("{from} is slow to send")),
            Leg::Qdisc => (format!("{from}'s qdisc"), format!("{from}'s own link is congested")),
            Leg::Network => ("the network".to_owned(), "the way is longer".to_owned()),
            Leg::IngressStack => (format!("{to}'s kernel"), format!("{to} is slow to receive")),
            Leg::SocketQueue => {
                (format!("{to}'s socket queue"), format!("the process on {to} is not reading"))
            }
            Leg::Handling => {
                (format!("{to}'s handling"), format!("the process on {to} works long on a packet"))
            }
        }
    }

    /// A leg that is too long: `p99` is the total of the journey that is the 99th percentile, `share` the leg's part of it.
    pub(super) fn long(&self, leg: Leg, numbers: &LegNumbers, hits: usize, p99: Span, share: Span) -> String {
        let (place, meaning) = self.place(leg);
        let change = numbers.change.map_or(String::new(), |change| format!(" (median {change} from normal)"));
        let of = numbers.samples;
        format!("p99 {p99}, of which {share} in {place}{change}, long in {hits} of {of} journeys: {meaning}")
    }

    /// Losses.
    pub(super) fn lost(&self, finding: &Finding, sum: &Loss) -> String {
        let Finding { lost, packets, .. } = finding;
        if finding.cause == Cause::LossNetwork {
            return format!("{lost} of {packets} packets of 30 s lost on the way{}", gathered(sum));
        }
        let mut reasons: Vec<(&String, &u64)> = sum.lost_here.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
        let reasons: Vec<String> =
            reasons.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
        format!(
            "{lost} of {packets} packets of 30 s dropped by {}'s kernel ({})",
            self.to,
            reasons.join(", ")
        )
    }

    /// Puts the parts together.
    pub(super) fn whole(&self, parts: &[String]) -> String {
        format!("{} to {}: {}", self.from, self.to, parts.join("; "))
    }
}

/// That the losses gather on some of several source ports, if they do: parallel paths take packets by their ports.
fn gathered(sum: &Loss) -> String {
    // What was dropped here has nothing to do with ports, and is among them.
    let few_here = sum.here().saturating_mul(10) <= sum.lost_outside;
    sum.by_port.gathered().filter(|_| few_here).map_or(String::new(), |gathered| format!(", {gathered}"))
}

/// How the network does, when something else is the cause.
pub(super) fn network_normal(numbers: &LegNumbers) -> String {
    format!("network {} is normal", numbers.now)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Confidence, LostByPort};
    use super::*;

    #[test]
    fn a_loss_that_gathers_on_some_source_ports_says_which() {
        let names = Names { from: "a".into(), to: "b".into() };
        let finding =
            Finding { cause: Cause::LossNetwork, lost: 31, packets: 400, confidence: Confidence::High };
        let lost = |by_port: &[(u16, u64)], here: u64| {
            let by_port = LostByPort { lost: by_port.iter().copied().collect(), of: 4 };
            let lost_here = BTreeMap::from([("X".to_owned(), here)]);
            names.lost(&finding, &Loss { lost_here, lost_outside: 31, by_port, ..Loss::default() })
        };
        let plain = "31 of 400 packets of 30 s lost on the way";
        assert_eq!(
            lost(&[(40_002, 30), (7176, 1)], 0),
            format!(
                "{plain}, 30 of 31 from source port 40002 (of 4): one of several paths or receive queues"
            )
        );
        assert_eq!(
            lost(&[(40_003, 15), (40_002, 16)], 0),
            format!(
                "{plain}, 31 of 31 from source ports 40002 and 40003 (of 4): one of several paths or receive queues"
            )
        );
        assert_eq!(lost(&[(1, 8), (2, 8), (3, 7), (4, 8)], 0), plain);
        assert_eq!(lost(&[(40_002, 35)], 4), plain, "some of them were dropped here");
    }
}
