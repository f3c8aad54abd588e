//! One packet from the sender's core to the receiver's state: seven segments (DESIGN section 1).

use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::{Deserialize, Serialize};

use super::align::Correction;
use super::breakdown::Segment;

/// A part of the journey, and with it who is to blame for its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// T0 to T1: the sender's process.
    SendQueue,
    /// T1 to T2: the sender's kernel.
    EgressStack,
    /// T2 to T3: the sender's own link (bufferbloat).
    Qdisc,
    /// T3 to T4: wire, NICs, their rings and interrupts at both ends (not the receiver's where its NIC stamps T4). The
    /// only leg that crosses clocks.
    Network,
    /// T4 to T5: the receiver's kernel, with ring and interrupts where its NIC stamps T4.
    IngressStack,
    /// T5 to T6: the receiver's process is not reading.
    SocketQueue,
    /// T6 to T7: the receiver's process.
    Handling,
}

impl Leg {
    /// Every leg, in the order of the way.
    pub const ALL: [Self; 7] = [
        Self::SendQueue,
        Self::EgressStack,
        Self::Qdisc,
        Self::Network,
        Self::IngressStack,
        Self::SocketQueue,
        Self::Handling,
    ];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendQueue => "send_queue",
            Self::EgressStack => "egress_stack",
            Self::Qdisc => "qdisc",
            Self::Network => "network",
            Self::IngressStack => "ingress_stack",
            Self::SocketQueue => "socket_queue",
            Self::Handling => "handling",
        }
    }
    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The port that a packet was sent from, of a sender that sends from several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourcePort {
    /// Its number.
    pub port: u16,
    /// How many the sender has.
    pub of: u8,
}

/// One packet's journey as far as one end knows it: a leg is `None` where a stamp is missing (half journeys are kept
/// and marked so). The legs between known stamps always add up to the time from the first to the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// The sender's count of packets on this path.
    pub counter: u32,
    /// T4 (T6 without one) on the MONOTONIC of the host that keeps the journey; the time of sending there for a
    /// packet that this host sent.
    pub at: MonoNs,
    /// By [`Leg::index`]. Bounds of all but `Network` are those of the stamps; that of `Network` is the absolute one.
    pub legs: [Option<Bounded>; 7],
    /// `Network` starts at T1, since T2 and T3 are not known: the sender's kernel and queue are inside of it.
    pub network_has_egress: bool,
    /// Are the sender's T2 and T3 from the hooks of tier 2? Known of journeys to this host only.
    pub departed_by_hooks: bool,
    /// The receiver's T5 is not known: `SocketQueue` starts at T4, the receiver's kernel is inside of it.
    pub queue_has_ingress: bool,
    /// How `Network` was moved onto one timeline.
    pub correction: Correction,
    /// Error of the stamps alone, for comparison with other values of the same clock epoch (the relative bound less
    /// what the clocks drift meanwhile).
    pub stamps: Span,
    /// Numbers of both clocks' epochs, one word: values of unlike ones do not compare.
    pub epochs: u64,
    /// Where it was sent from; `None` when the sender has one port, or it is not sure which.
    pub source: Option<SourcePort>,
}

impl Journey {
    /// A journey of which no leg is known.
    pub const fn unknown(counter: u32, at: MonoNs) -> Self {
        Self {
            counter,
            at,
            legs: [None; 7],
            network_has_egress: false,
            departed_by_hooks: false,
            queue_has_ingress: false,
            correction: Correction::None,
            stamps: Span::ZERO,
            epochs: 0,
            source: None,
        }
    }
    /// One leg.
    pub fn leg(&self, leg: Leg) -> Option<Bounded> {
        self.legs[leg.index()]
    }
    /// Are all seven known, each by itself?
    pub fn is_whole(&self) -> bool {
        self.legs.iter().all(Option::is_some) && !self.network_has_egress && !self.queue_has_ingress
    }
    /// What is known, under the names that say what stands for what.
    pub fn segments(&self) -> impl Iterator<Item = (Segment, Bounded)> + use<> {
        let segment = match self.network_has_egress {
            true => Segment::EgressAndNetwork,
            false => Segment::Network,
        };
        let queue = match self.queue_has_ingress {
            true => Segment::IngressStackAndSocketQueue,
            false => Segment::SocketQueue,
        };
        let names = [
            Segment::SendQueue,
            Segment::EgressStack,
            Segment::Qdisc,
            segment,
            Segment::IngressStack,
            queue,
            Segment::Handling,
        ];
        names.into_iter().zip(self.legs).filter_map(|(name, leg)| Some((name, leg?)))
    }
    /// From the first to the last stamp that is known, if nothing is missing in between.
    pub fn total(&self) -> Option<Bounded> {
        let known = self.legs.iter().flatten();
        (self.leg(Leg::Network).is_some()).then(|| known.fold(Bounded::default(), |sum, leg| sum + *leg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journey(known: &[(Leg, i64)]) -> Journey {
        let mut legs = [None; 7];
        for (leg, ns) in known {
            legs[leg.index()] = Some(Bounded::exact(Span::from_nanos(*ns)));
        }
        Journey { legs, ..Journey::unknown(1, MonoNs::from_nanos(0)) }
    }

    #[test]
    fn a_whole_journey_has_seven_segments_under_their_own_names() {
        let all: Vec<_> = Leg::ALL.iter().enumerate().map(|(place, leg)| (*leg, place as i64 - 3)).collect();
        let whole = journey(&all);
        assert!(whole.is_whole());
        let names: Vec<_> = whole.segments().map(|(segment, _)| segment.name()).collect();
        assert_eq!(names, Leg::ALL.map(Leg::name));
        assert_eq!(whole.total(), Some(Bounded::exact(Span::ZERO)), "negative ones count");
        for (place, leg) in Leg::ALL.iter().enumerate() {
            assert_eq!(leg.index(), place);
        }
        for (place, segment) in Segment::ALL.iter().enumerate() {
            assert_eq!(segment.index(), place);
        }
    }

    #[test]
    fn a_half_journey_says_what_is_inside_of_what() {
        let half = Journey {
            network_has_egress: true,
            departed_by_hooks: false,
            queue_has_ingress: true,
            ..journey(&[(Leg::Network, -7), (Leg::SocketQueue, 300), (Leg::Handling, 600)])
        };
        assert!(!half.is_whole());
        let named: Vec<_> = half.segments().map(|(name, time)| (name, time.value.as_nanos())).collect();
        let expected = [
            (Segment::EgressAndNetwork, -7),
            (Segment::IngressStackAndSocketQueue, 300),
            (Segment::Handling, 600),
        ];
        assert_eq!(named, expected);
    }
}
