//! What a scenario expects of the nodes, as it is written in its file.

use probe_user::analysis::verdict::Cause;
use serde::{Deserialize, Serialize};

use super::amount::Amount;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "segments as in the nodes' reports")]
pub enum Subject {
    SendQueue,
    EgressStack,
    Qdisc,
    Network,
    IngressStack,
    SocketQueue,
    Handling,
    /// Of entries, from the final reports.
    EntryTotal,
    EntryNetwork,
    EntryApplication,
    /// How far off corrected network times are against the clock that all hosts share, without sign.
    ClockError,
    /// How far off corrected network times from the sender's driver to the receive stamp are against packet sockets at
    /// the hosts' edges, without sign.
    WireError,
    /// How far off they may be by the nodes' own word.
    Bound,
    /// The same, less half of the least time that a packet there and one back took together.
    BoundBeyondHalfRoundTrip,
    /// Share of packets whose network time is within its stated bound of the truth by the clock that all hosts share,
    /// in percent.
    CoveredPercent,
    /// Share of packets whose network time was corrected as `correction` says, in percent.
    CorrectedPercent,
    /// Packets of which the network time and the truth about it are known, all paths together.
    Packets,
    /// How long it took a node from the first change of what an NTP says, or else from the start, until it named `liars`
    /// for good, and nobody else.
    LieNamed,
    /// Hosts that a node named at any time although they are not among `liars`; truth: none.
    WronglyNamed,
    /// How long it took a node from the step of its clock until it sent packets of a new epoch.
    StepSeen,
    /// Packets lost on the way as the receivers' gaps in ids tell; truth: what the switch dropped of them.
    Lost,
    /// Datagrams dropped at the socket; truth: the kernel's RcvbufErrors.
    RcvbufDropped,
    /// What a node says its clock is wrong by; truth: what was injected.
    ClockOffset,
    /// UDP packets that kernels sent and the switch knows nothing of; truth: none.
    Unaccounted,
    /// Datagrams at the probe that are in no place of the accounting; truth: none.
    AccountingGap,
    /// Datagrams at the probe that were unmatched or late, in percent.
    UnmatchedPercent,
    /// Live nodes that at the end do not know all live ones; truth: none.
    NotConverged,
    /// Time from nothing to nodes that know each other, and back.
    Up,
    Down,
    /// The busiest node, in percent of one CPU.
    CpuPercent,
    /// The largest node.
    RssBytes,
    /// Open files of the node with most of them.
    Fds,
    /// From the sender's driver to the receive stamp, of whole journeys: what the wire takes.
    Wire,
    /// Share of what the nodes at both ends say of a path, once a second, that blames one of `causes`, in percent.
    Verdict,
}

/// Which value of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Stat {
    #[default]
    P50,
    P95,
    P99,
    Max,
}

impl Stat {
    /// Share of the values below.
    pub fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
            Self::Max => 1.0,
        }
    }
}

/// What is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// What is known from outside the nodes.
    Truth,
    /// The same in the `quiet` window.
    Quiet,
}

/// Something that is to hold. Over several paths or nodes it is to hold for each of them, and the worst is shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// In words.
    pub name: String,
    /// What is looked at.
    pub of: Subject,
    /// Which value of many.
    #[serde(default)]
    pub stat: Stat,
    /// On which paths: `a>b`, `*>c`, `a>*`; on all if absent.
    pub path: Option<String>,
    /// At which node; at all if absent.
    pub node: Option<String>,
    /// Packets whose network time was corrected like this; all if absent.
    pub correction: Option<Correction>,
    /// Whose clocks lie.
    #[serde(default)]
    pub liars: Vec<String>,
    /// Packets sent in this window, in seconds; all if absent.
    pub during: Option<[f64; 2]>,
    /// What it is compared with.
    pub near: Option<Reference>,
    /// The window of [`Reference::Quiet`].
    pub quiet: Option<[f64; 2]>,
    /// Largest difference from the reference.
    pub within: Option<Amount>,
    /// Least value, itself fine.
    pub at_least: Option<Amount>,
    /// Greatest value, itself fine.
    pub at_most: Option<Amount>,
    /// What is to be blamed.
    #[serde(default)]
    pub causes: Vec<Cause>,
    /// What the evidence is to say, too.
    pub says: Option<String>,
}

/// What a network time's correction rests on, by the receiving node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as in the nodes' records")]
pub enum Correction {
    Ntp,
    Fused,
    PeerOnly,
    None,
}

impl Correction {
    /// As nodes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ntp => "ntp",
            Self::Fused => "fused",
            Self::PeerOnly => "peer_only",
            Self::None => "none",
        }
    }
}
