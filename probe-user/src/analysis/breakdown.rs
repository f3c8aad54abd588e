//! A journey's stamps as named segments (DESIGN section 1).
//!
//! A segment is `end - start` with its bound. The receive-side segments are differences on one host's
//! MONOTONIC clock; only `network` crosses hosts. The segments of a packet sum to the time from the sender's
//! stamp to the message being applied: nothing is left out between them.

use probe_ebpf::time::{Bounded, MonoNs, Span};
use serde::{Deserialize, Serialize};

/// A named part of a packet's journey, as it is exported: the seven [`Leg`](super::journey::Leg)s, and what stands for
/// two or three of them where a stamp between is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// T0 to T1: the sending process.
    SendQueue,
    /// T1 to T2: the sender's kernel.
    EgressStack,
    /// T2 to T3: the queue of the sender's own link.
    Qdisc,
    /// T3 to T4: wire, NICs, their rings and interrupts at both ends; at the receiver's NIC it ends where that stamps T4.
    Network,
    /// T1 to T4, where the sender has not told T2 and T3: its kernel, its queue and the network, not told apart.
    EgressAndNetwork,
    /// T4 to T5: the receiver's kernel; from its NIC on, ring and interrupts included, where that stamps T4.
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
    pub const ALL: [Self; 9] = [
        Self::SendQueue,
        Self::EgressStack,
        Self::Qdisc,
        Self::Network,
        Self::EgressAndNetwork,
        Self::IngressStack,
        Self::SocketQueue,
        Self::IngressStackAndSocketQueue,
        Self::Handling,
    ];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendQueue => "send_queue",
            Self::EgressStack => "egress_stack",
            Self::Qdisc => "qdisc",
            Self::Network => "network",
            Self::EgressAndNetwork => "egress_and_network",
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
    /// T4: the kernel received the packet, or the NIC did where its stamps are used.
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

    fn mono(ns: i64) -> MonoNs {
        MonoNs::from_nanos(ns)
    }

    #[test]
    fn a_receivers_kernel_time_is_exact_with_a_filter_and_bounded_without() {
        let received = Some(Stamp { at: mono(100), error: Span::from_nanos(20) });
        let receipt = Receipt { received, filtered: Some(Stamp::exact(mono(98))), read: mono(400) };
        assert_eq!(receipt.ingress_stack(), Some(Bounded::new(Span::from_nanos(-2), Span::from_nanos(20))));
        let receipt = Receipt { received: Some(Stamp::exact(mono(100))), filtered: None, read: mono(400) };
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
