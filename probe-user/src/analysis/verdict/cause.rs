//! What a verdict can say.

use serde::{Deserialize, Serialize};

use crate::analysis::journey::Leg;

/// Who or what a path's trouble comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing is longer than it normally is, by more than the floors.
    Ok,
    /// Not enough is known; the sentence says which number is missing.
    Unknown,
    /// The way between the hosts: wire, switches, a link's rate.
    Network,
    /// The same time is longer, and one of the two hosts is short of CPU: T3 to T4 has its driver and interrupts inside.
    NetworkOrHostSoftirq,
    /// The sender's own link: packets wait in its qdisc.
    LocalQueue,
    /// The receiving process does not read, or takes long to handle what it read.
    ReceiverProcess,
    /// The sending process takes long from deciding to send until the system call.
    SenderProcess,
    /// The receiver's kernel, before the socket.
    ReceiverKernel,
    /// The sender's kernel, before the qdisc.
    SenderKernel,
    /// The receiver's kernel drops this path's packets.
    LossHere,
    /// Packets are lost before they come to the receiver.
    LossNetwork,
    /// One-way times moved or cannot be trusted as a clock does not tell the truth, or is not known well enough.
    ClockUncertain,
}

impl Cause {
    /// Every cause; positions are those of [`Self::index`].
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Unknown,
        Self::Network,
        Self::NetworkOrHostSoftirq,
        Self::LocalQueue,
        Self::ReceiverProcess,
        Self::SenderProcess,
        Self::ReceiverKernel,
        Self::SenderKernel,
        Self::LossHere,
        Self::LossNetwork,
        Self::ClockUncertain,
    ];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Network => "network",
            Self::NetworkOrHostSoftirq => "network_or_host_softirq",
            Self::LocalQueue => "local_queue",
            Self::ReceiverProcess => "receiver_process",
            Self::SenderProcess => "sender_process",
            Self::ReceiverKernel => "receiver_kernel",
            Self::SenderKernel => "sender_kernel",
            Self::LossHere => "loss_here",
            Self::LossNetwork => "loss_network",
            Self::ClockUncertain => "clock_uncertain",
        }
    }

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Is something wrong, for certain? Neither `ok`, nor `unknown`, nor `clock_uncertain`.
    pub const fn is_trouble(self) -> bool {
        !matches!(self, Self::Ok | Self::Unknown | Self::ClockUncertain)
    }

    /// Who is to blame for the length of a leg.
    pub const fn of_leg(leg: Leg) -> Self {
        match leg {
            Leg::SendQueue => Self::SenderProcess,
            Leg::EgressStack => Self::SenderKernel,
            Leg::Qdisc => Self::LocalQueue,
            Leg::Network => Self::Network,
            Leg::IngressStack => Self::ReceiverKernel,
            Leg::SocketQueue | Leg::Handling => Self::ReceiverProcess,
        }
    }
}

/// How far a verdict can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The evidence points there, but another cause fits it too (a leg that is not split, a clock, few samples).
    Low,
    /// The effect exceeds its bound and its floor; it rests on less than 20 samples, or is less than twice its floor.
    Medium,
    /// At least 20 samples (10 lost packets), an effect of at least twice its floor and its bound, nothing against it.
    High,
}

impl Confidence {
    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_list_and_names_are_the_serialised_ones() {
        for (i, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(cause.index(), i);
            assert_eq!(serde_json::to_string(cause).unwrap(), format!("\"{}\"", cause.name()));
        }
        for c in [Confidence::Low, Confidence::Medium, Confidence::High] {
            assert_eq!(serde_json::to_string(&c).unwrap(), format!("\"{}\"", c.name()));
        }
    }
}
