//! Entries as this node holds them, and what their arrival tells.

use std::sync::Arc;

use probe_ebpf::time::{Bounded, Span, UtcNs};

use super::NodeId;
use crate::wire::BEACON_KEY;
use crate::wire::v0;
use crate::wire::v1::{self, Egress, EntryStamp};

/// An entry in the state, under its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) key: Arc<str>,
    pub(super) value: Box<[u8]>,
    pub(super) internal: bool,
    pub(super) deleted: bool,
    pub(super) reversioned: bool,
    /// As it is to be passed on: what the last packet met is added already.
    pub(super) stamp: Option<EntryStamp>,
}

impl Stored {
    pub(super) fn on_wire(&self, version: u64) -> v1::Entry<'_> {
        v1::Entry {
            key: &self.key,
            value: &self.value,
            version,
            internal: self.internal,
            deleted: self.deleted,
            reversioned: self.reversioned,
            stamp: self.stamp,
        }
    }
}

impl Stored {
    /// As Piko knows it, without its history.
    pub(super) fn on_wire_v0(&self, version: u64) -> v0::Entry<'_> {
        v0::Entry {
            key: self.key.as_bytes(),
            value: &self.value,
            version,
            internal: self.internal,
            deleted: self.deleted,
        }
    }
}

/// An entry with another packet's journey added to its history. Unknown plus known is unknown.
pub(super) fn carried(
    stamp: EntryStamp,
    network: Option<Bounded>,
    kernel: Option<Bounded>,
    egress: Egress,
) -> EntryStamp {
    let add = |sum: Option<Bounded>, more: Option<Bounded>| Some(sum? + more?);
    EntryStamp {
        hops: stamp.hops.saturating_add(1),
        network: add(stamp.network, network),
        kernel: add(stamp.kernel, kernel),
        egress: stamp.egress.and(egress),
        ..stamp
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// An application's.
    Entry,
    /// A node's beacon.
    Beacon,
    /// Another of the protocol's own.
    Internal,
}

impl EntryKind {
    pub(super) fn of(key: &str, internal: bool) -> Self {
        match (internal, key) {
            (true, BEACON_KEY) => Self::Beacon,
            (true, _) => Self::Internal,
            (false, _) => Self::Entry,
        }
    }
    /// A label for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Beacon => "beacon",
            Self::Internal => "internal",
        }
    }
}

/// An entry that was new to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryArrival {
    /// Whose entry it is.
    pub origin: NodeId,
    /// Its key.
    pub key: Arc<str>,
    /// What it is for.
    pub kind: EntryKind,
    /// The origin's version of it.
    pub version: u64,
    /// How it came here, or why that says nothing about propagation.
    pub propagation: Result<Propagation, NotSample>,
}

/// An entry's way from its origin to this node. The driver completes it: total = utc(T7) - created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// When the origin created it, on the true timeline.
    pub created: UtcNs,
    /// The bound of that.
    pub created_bound: Span,
    /// Time on the network, summed over all hops; `None` if some hop could not measure it.
    pub network: Option<Bounded>,
    /// Time in the kernels, summed likewise: `ingress_stack`, and the senders' T1 to T3 as far as they are known.
    pub kernel: Option<Bounded>,
    /// Where the senders' parts are.
    pub egress: Egress,
    /// Packets that carried it: 1 straight from the origin.
    pub hops: u8,
    /// The application's trace, if it gave one.
    pub trace_id: Option<[u8; 16]>,
}

/// Why an entry that was new here is no propagation sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotSample {
    /// It existed before this node knew its origin.
    Join,
    /// An old change under a new version.
    Resync,
    /// It came without its history.
    Unstamped,
    /// Its times contradict each other beyond their bounds: some clock, or some peer, is wrong.
    Implausible,
}

impl NotSample {
    /// A label for metrics; never changes.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Resync => "resync",
            Self::Unstamped => "unstamped",
            Self::Implausible => "implausible",
        }
    }
}
