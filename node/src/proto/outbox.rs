//! What the core wants done and what it found out: filled by the core, drained by the driver.

use std::net::SocketAddr;
use std::ops::Range;

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::align::{OneWay, SentStamp};
use probe_user::clock::ClockSource;

use super::peer::Protocol;
use super::ports::SourcePorts;
use super::sequence::Sequence;
use super::{EntryArrival, NodeId};
use crate::wire::v1::{Kind, Report};

/// Reused from call to call: [`clear`](Outbox::clear) keeps the memory.
#[derive(Debug, Default)]
pub struct Outbox {
    /// All packets, one after the other.
    pub(super) buffer: Vec<u8>,
    pub(super) transmits: Vec<Transmit>,
    /// The packet just handled, when it came from a member and was understood.
    pub packet: Option<PacketArrival>,
    /// What its sender tells of earlier packets between the two.
    pub reports: Vec<Report>,
    /// Entries that were new to this node.
    pub entries: Vec<EntryArrival>,
    /// Changes of the state, in order.
    pub events: Vec<Event>,
    /// Nodes to be spoken to over TCP.
    pub streams: Vec<(SocketAddr, StreamKind)>,
}

/// What to say over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// [`join_request`](super::Core::join_request); the answer goes to
    /// [`handle_join_response`](super::Core::handle_join_response).
    Join,
    /// [`leave_request`](super::Core::leave_request); the answer means nothing.
    Leave,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The member who advertises that address, if one does.
    pub destination: Option<NodeId>,
    /// What it is.
    pub kind: Kind,
    /// Its id; counter 0 when the destination is no member, and in v0.
    pub id: PacketId,
    /// The packet that it answers.
    pub answers: Option<PacketId>,
    /// Nothing may be added to it: it goes to an address of which it is not sure that it got what was sent there, and
    /// has as many bytes as came from there.
    pub limited: bool,
    /// Its format: only v1 packets are stamped.
    pub protocol: Protocol,
    /// Which of this node's ports it goes from: 0 the advertised one, then [`Config`](super::Config)'s source ports.
    pub source: usize,
    /// T0: when the core handed it over.
    pub handed_over: MonoNs,
    pub(super) range: Range<usize>,
}

/// A packet that was understood, from a member.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketArrival {
    /// The sender.
    pub from: NodeId,
    /// What it is.
    pub kind: Kind,
    /// The sender's id for it.
    pub id: PacketId,
    /// T1, by the sender's clock.
    pub sent: SentStamp,
    /// Who told the sender its clock's offset; `None` for a source this version does not know.
    pub sender_source: Option<ClockSource>,
    /// T0 to T1: the sender's own `send_queue`.
    pub send_queue: Span,
    /// Counter of the packet of this node's that it answers.
    pub answers: Option<u32>,
    /// Network time; `None` when T4 is unknown.
    pub one_way: Option<OneWay>,
    /// What its id says about loss, reordering and duplication; `None` for uncounted packets.
    pub sequence: Option<Sequence>,
    /// Ports that its sender sends from, see [`place`](super::place).
    pub ports: SourcePorts,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node became known.
    Joined {
        /// Who.
        node: NodeId,
    },
    /// A node said that it leaves.
    Left {
        /// Who.
        node: NodeId,
    },
    /// A node is held for dead.
    Unreachable {
        /// Who.
        node: NodeId,
    },
    /// A node that was held for dead is back.
    Reachable {
        /// Who.
        node: NodeId,
    },
    /// A node that left or was unreachable for long is forgotten.
    Expired {
        /// Who.
        node: NodeId,
    },
    /// A key of another node has a new value.
    Upserted {
        /// Whose key.
        node: NodeId,
        /// Which.
        key: std::sync::Arc<str>,
        /// Its node's version of it.
        version: u64,
    },
    /// A key of another node was deleted.
    Deleted {
        /// Whose key.
        node: NodeId,
        /// Which.
        key: std::sync::Arc<str>,
    },
}

impl Outbox {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.transmits.clear();
        self.packet = None;
        self.reports.clear();
        self.entries.clear();
        self.events.clear();
        self.streams.clear();
    }
    /// A packet that begins at the end of the buffer: to nobody that is known, without a number.
    pub(super) fn open(&self, to: SocketAddr, kind: Kind, protocol: Protocol, now: MonoNs) -> Transmit {
        let start = self.buffer.len();
        Transmit {
            to,
            destination: None,
            kind,
            id: PacketId::default(),
            answers: None,
            limited: false,
            protocol,
            source: 0,
            handed_over: now,
            range: start..start,
        }
    }
    /// A packet that begins where `transmit` says has been written to the end of the buffer.
    pub(super) fn close(&mut self, mut transmit: Transmit) {
        transmit.range.end = self.buffer.len();
        self.transmits.push(transmit);
    }
    /// Packets to send.
    pub fn transmits(&self) -> &[Transmit] {
        &self.transmits
    }
    /// The bytes of one of [`transmits`](Self::transmits).
    pub fn bytes(&self, transmit: &Transmit) -> &[u8] {
        &self.buffer[transmit.range.clone()]
    }
    /// Every packet with its bytes, to be stamped (see [`stamp`](crate::wire::v1::stamp)) and sent.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = (&mut Transmit, &mut [u8])> {
        let mut rest = self.buffer.as_mut_slice();
        self.transmits.iter_mut().map(move |transmit| {
            // Ranges follow each other without holes, so each packet is the head of what is left.
            let (packet, tail) = std::mem::take(&mut rest).split_at_mut(transmit.range.len());
            rest = tail;
            (transmit, packet)
        })
    }
}
