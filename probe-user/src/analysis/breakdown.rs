//! A journey's stamps as named segments (DESIGN section 1).
//!
//! A segment is `end - start` with its bound. The receive-side segments are differences on one host's
//! MONOTONIC clock; only `network` crosses hosts. The segments of a packet sum to the time from the sender's
//! stamp to the message being applied: nothing is left out between them.

use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::{Deserialize, Serialize};

use super::align::OneWay;

/// A named part of a packet's journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// The sender's stamp to T4: wire, NICs, their rings and interrupts at both ends.
    Network,
    /// T4 to T5: the receiver's kernel.
    IngressStack,
    /// T5 to T6: the receiving process is not reading.
    SocketQueue,
    /// T4 to T6, where T5 is not known (tier 0): the receiver's kernel and its process, not told apart.
    IngressStackAndSocketQueue,
    /// T6 to T7: the receiving process is at work.
    Handling,
}

impl Segment {
    /// Every segment, in the order of the journey.
    pub const ALL: [Self; 5] = [
        Self::Network,
        Self::IngressStack,
        Self::SocketQueue,
        Self::IngressStackAndSocketQueue,
        Self::Handling,
    ];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::IngressStack => "ingress_stack",
            Self::SocketQueue => "socket_queue",
            Self::IngressStackAndSocketQueue => "ingress_stack_and_socket_queue",
            Self::Handling => "handling",
        }
    }
    /// Position in [`Self::ALL`], for tables of per-segment state.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A monotonic stamp and how exactly it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When.
    pub at: MonoNs,
    /// Zero for stamps read from MONOTONIC itself; the mapping's error for those converted from REALTIME.
    pub error: Span,
}

impl Stamp {
    /// A stamp read from MONOTONIC itself.
    pub const fn exact(at: MonoNs) -> Self {
        Self { at, error: Span::ZERO }
    }
    /// Time since an earlier stamp.
    pub fn since(self, earlier: Self) -> Bounded {
        Bounded::new(self.at - earlier.at, self.error + earlier.error)
    }
}

/// The receive side of one packet's journey, as far as this host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// T4: the kernel received the packet.
    pub received: Option<Stamp>,
    /// T5: the socket filter ran (tier 1).
    pub filtered: Option<Stamp>,
    /// T6: `recvmsg` returned.
    pub read: MonoNs,
}

impl Receipt {
    /// T4 to T5, where both are known: the receiver's kernel time.
    pub fn ingress_stack(&self) -> Option<Bounded> {
        Some(self.filtered?.since(self.received?))
    }

    /// This host's kernel's share of the journey. Where T5 is not known (tier 0) it is somewhere between nothing
    /// and all of T4 to T6: taken as nothing, with a bound that covers the rest.
    pub fn kernel(&self) -> Option<Bounded> {
        self.ingress_stack().or_else(|| {
            let waited = Stamp::exact(self.read).since(self.received?);
            Some(Bounded::new(Span::ZERO, waited.value.abs() + waited.bound))
        })
    }

    /// Calls `each` with every segment that these stamps give. `applied` is T7.
    pub fn segments(
        &self,
        one_way: Option<&OneWay>,
        applied: MonoNs,
        mut each: impl FnMut(Segment, Bounded),
    ) {
        if let Some(one_way) = one_way {
            each(Segment::Network, one_way.time);
        }
        let read = Stamp::exact(self.read);
        match (self.received, self.filtered) {
            (received, Some(filtered)) => {
                if let Some(received) = received {
                    each(Segment::IngressStack, filtered.since(received));
                }
                each(Segment::SocketQueue, read.since(filtered));
            }
            (Some(received), None) => each(Segment::IngressStackAndSocketQueue, read.since(received)),
            (None, None) => {}
        }
        each(Segment::Handling, Stamp::exact(applied).since(read));
    }
}

/// An entry's way from its creation to this host, as named parts (DESIGN section 1, "Entries").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// Creation at the origin to application here.
    pub total: Bounded,
    /// Accumulated over all hops.
    pub network: Bounded,
    /// Accumulated over all hops.
    pub kernel: Bounded,
    /// The rest: processes, waiting for gossip rounds included.
    pub application: Bounded,
}

impl Propagation {
    /// Splits a total. The application's share is what the measured parts leave over, so its bound is theirs
    /// and the total's together.
    pub fn split(total: Bounded, network: Bounded, kernel: Bounded) -> Self {
        Self { total, network, kernel, application: total - network - kernel }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::align::Correction;

    fn mono(ns: i64) -> MonoNs {
        MonoNs::from_nanos(ns)
    }
    fn all(receipt: &Receipt) -> Vec<(Segment, i64)> {
        let one_way = OneWay {
            time: Bounded::exact(Span::from_nanos(-7)),
            correction: Correction::Ntp,
            uncorrected: Span::ZERO,
        };
        let mut out = Vec::new();
        receipt.segments(Some(&one_way), mono(1000), |s, b| out.push((s, b.value.as_nanos())));
        out
    }

    #[test]
    fn tier_1_gives_four_segments_and_keeps_negatives() {
        let receipt = Receipt {
            received: Some(Stamp { at: mono(100), error: Span::from_nanos(20) }),
            filtered: Some(Stamp::exact(mono(98))),
            read: mono(400),
        };
        assert_eq!(
            all(&receipt),
            [
                (Segment::Network, -7),
                (Segment::IngressStack, -2),
                (Segment::SocketQueue, 302),
                (Segment::Handling, 600)
            ]
        );
        assert_eq!(receipt.ingress_stack(), Some(Bounded::new(Span::from_nanos(-2), Span::from_nanos(20))));
    }

    #[test]
    fn tier_0_names_what_it_cannot_split() {
        let receipt = Receipt { received: Some(Stamp::exact(mono(100))), filtered: None, read: mono(400) };
        assert_eq!(
            all(&receipt),
            [(Segment::Network, -7), (Segment::IngressStackAndSocketQueue, 300), (Segment::Handling, 600)]
        );
        assert_eq!(receipt.ingress_stack(), None);
        assert_eq!(receipt.kernel(), Some(Bounded::new(Span::ZERO, Span::from_nanos(300))));
    }

    #[test]
    fn propagation_parts_add_up_and_the_rest_carries_all_bounds() {
        let b = |v, e| Bounded::new(Span::from_nanos(v), Span::from_nanos(e));
        let p = Propagation::split(b(100, 5), b(30, 2), b(10, 1));
        assert_eq!(p.application, b(60, 8));
    }

    #[test]
    fn indices_follow_the_list() {
        for (i, s) in Segment::ALL.iter().enumerate() {
            assert_eq!(s.index(), i);
        }
    }
}
