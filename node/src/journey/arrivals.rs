//! Packets from one peer whose journeys wait for the sender's part.

use std::collections::VecDeque;

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::journey::{Journey, Leg};

use super::{ReportRefused, SLACK};
use crate::wire::v1;

/// Journeys that wait, at most; the oldest are finished without the sender's part then.
const WAITING: usize = 64;
/// How long one waits, and so how long the sender's report of it is worth sending: it tells in its next packet to here,
/// which between ring neighbours comes within a second, so two of them may get lost.
pub(super) const PATIENCE: Span = Span::from_secs(3);
/// How many of the sender's last packets its usual time from T1 to T3 is taken from.
const USUAL: usize = 16;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    waiting: VecDeque<Journey>,
    /// T3 - T1 of the last packets.
    egress: VecDeque<Span>,
}

impl Arrivals {
    /// A packet came; the journey that has to make room for it is finished as it is.
    pub(super) fn push(&mut self, journey: Journey) -> Option<Journey> {
        let out = if self.waiting.len() == WAITING { self.waiting.pop_front() } else { None };
        self.waiting.push_back(journey);
        out
    }

    /// The sender tells its part.
    pub(super) fn complete(&mut self, report: &v1::Sending) -> Result<Journey, ReportRefused> {
        let (Some(egress), Some(qdisc)) = (report.egress, report.qdisc) else {
            return Err(ReportRefused::Incomplete);
        };
        let place = self.waiting.iter().position(|journey| journey.counter == report.counter);
        let place = place.ok_or(ReportRefused::Unknown)?;
        let mut journey = self.waiting[place];
        if egress < -SLACK || qdisc < -SLACK {
            return Err(ReportRefused::Implausible);
        }
        if let Some(network) = journey.leg(Leg::Network) {
            let rest = network - Bounded::exact(egress + qdisc);
            // Longer in its own host than the whole way took.
            if rest.value < -(rest.bound + SLACK) {
                return Err(ReportRefused::Implausible);
            }
            journey.legs[Leg::Network.index()] = Some(rest);
        }
        journey.legs[Leg::EgressStack.index()] = Some(Bounded::exact(egress));
        journey.legs[Leg::Qdisc.index()] = Some(Bounded::exact(qdisc));
        journey.network_has_egress = false;
        journey.departed_by_hooks = report.hooked;
        self.waiting.remove(place);
        if self.egress.len() == USUAL {
            self.egress.pop_front();
        }
        self.egress.push_back(egress + qdisc);
        Ok(journey)
    }

    /// Those that have waited for too long, one by one.
    pub(super) fn expire(&mut self, now: MonoNs) -> Option<Journey> {
        let oldest = self.waiting.front()?;
        if now - oldest.at > PATIENCE { self.waiting.pop_front() } else { None }
    }

    /// All that wait.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Journey> {
        self.egress.clear();
        self.waiting.drain(..)
    }

    /// What the sender's kernel and queue take as a rule (T1 to T3): the median of the last packets, its bound covers
    /// all of them.
    pub(super) fn usual_egress(&self) -> Option<Bounded> {
        let (mut sorted, n) = ([Span::ZERO; USUAL], self.egress.len());
        for (place, span) in self.egress.iter().enumerate() {
            sorted[place] = *span;
        }
        let sorted = &mut sorted[..n];
        sorted.sort_unstable();
        let middle = *sorted.get(n / 2)?;
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        Some(Bounded::new(middle, (most - middle).max(middle - least)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_user::analysis::align::Correction;

    fn journey(counter: u32, at_ms: i64, network_us: i64) -> Journey {
        let mut legs = [None; 7];
        legs[Leg::Network.index()] = Some(Bounded::new(Span::from_micros(network_us), Span::from_micros(5)));
        let at = MonoNs::from_nanos(at_ms * 1_000_000);
        Journey {
            legs,
            network_has_egress: true,
            correction: Correction::Fused,
            ..Journey::unknown(counter, at)
        }
    }
    fn sending(counter: u32, egress_us: i64, qdisc_us: i64) -> v1::Sending {
        let us = |us| Some(Span::from_micros(us));
        v1::Sending { counter, egress: us(egress_us), qdisc: us(qdisc_us), hooked: false }
    }

    #[test]
    fn the_senders_part_is_taken_out_of_the_network() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.push(journey(1, 0, 500)), None);
        let whole = arrivals.complete(&sending(1, 30, 70)).unwrap();
        assert_eq!(whole.leg(Leg::Network), Some(Bounded::new(Span::from_micros(400), Span::from_micros(5))));
        assert_eq!(whole.leg(Leg::Qdisc), Some(Bounded::exact(Span::from_micros(70))));
        assert!(!whole.network_has_egress);
        assert_eq!(arrivals.complete(&sending(1, 30, 70)), Err(ReportRefused::Unknown), "told twice");
        assert_eq!(arrivals.usual_egress(), Some(Bounded::exact(Span::from_micros(100))));
    }

    #[test]
    fn a_part_longer_than_the_whole_is_refused_and_the_journey_stays() {
        let mut arrivals = Arrivals::default();
        arrivals.push(journey(1, 0, 500));
        assert_eq!(arrivals.complete(&sending(1, 400, 200)), Err(ReportRefused::Implausible));
        assert_eq!(arrivals.complete(&sending(1, -400, 200)), Err(ReportRefused::Implausible));
        assert!(arrivals.complete(&sending(1, 400, 100)).is_ok());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut arrivals = Arrivals::default();
        for counter in 0..WAITING as u32 {
            assert_eq!(arrivals.push(journey(counter, counter.into(), 500)), None);
        }
        assert_eq!(arrivals.push(journey(99, 99, 500)).map(|j| j.counter), Some(0));
        assert_eq!(arrivals.expire(MonoNs::from_nanos(0) + PATIENCE), None);
        assert_eq!(arrivals.expire(MonoNs::from_nanos(2_000_000) + PATIENCE).map(|j| j.counter), Some(1));
    }
}
