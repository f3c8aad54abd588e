//! The gossip protocol as a pure core: bytes and `now` in, packets and findings out. No sockets, no clock, no
//! randomness but the seed it is given: the same inputs give the same bytes.
//!
//! The driver's part:
//!
//! ```text
//! loop {
//!     wait for a datagram, or until core.next_wakeup()
//!     outbox.clear()
//!     core.handle_datagram(Received { .. }, &mut outbox)   // counts Err(r) under r.reason()
//!     core.tick(now, &clock, &mut outbox)                  // once now >= next_wakeup()
//!     for (transmit, packet) in outbox.packets_mut() {
//!         // T1: read the clock, then
//!         wire::v1::stamp(packet, wall(t1), t1 - transmit.handed_over, &PeerClock, source)
//!         send it to transmit.to
//!     }
//!     // T7: read the clock; outbox.packet and outbox.entries become segments and propagation samples
//! }
//! ```
//!
//! # Protocol
//! Scuttlebutt reconciliation (van Renesse, Dumitriu, Gough, Thomas: "Efficient Reconciliation and Flow Control for
//! Anti-Entropy Protocols", 2008): every node writes its own entries under rising versions, and knows every other
//! node up to some version without holes.
//!
//! - *Joining* goes over TCP, in Piko's format: a seed is told all of this node's state and answers with what it
//!   knows. Seeds that are not in touch are joined again now and then.
//! - *Rounds*: every interval a random peer is sent a request. To a v1 peer it is a sum over all that is known and
//!   the nodes that changed lately; the peer finds what differs, exactly as a rule, and answers with entries and
//!   questions in one packet; a third packet answers those. When both know the same, two small packets go, whatever
//!   the number of nodes. To a v0 peer it is a digest of as many nodes as fit, the lately changed first.
//! - *Eager rounds*: a fresh change is pushed to a few peers at once by everyone who learns it, and offered to a few
//!   others a moment later, under a budget of bytes and packets. Beacons travel with the rounds only.
//! - *Failure detection*: a request that is not answered is repeated, then the peer is suspected, which is told to
//!   all and to itself; it clears itself by a new version ([`detector`]). Who is gone is remembered ([`graveyard`]).
//! - *Versions*: a v1 node says so in its own state and in each v0 header. v1 is sent only to who said so, and v0 again
//!   only to who sends v0 without saying so: another program is there now. Silence means nothing.
//!
//! Deltas carry the version they build on (v1) or are taken only where they were asked for (v0), so a late or
//! reordered one can never leave a hole. Answers go to the packet's source, never to an address inside it, and to
//! a source that never answered anything no more goes than came from there.
//!
//! # What an attacker can and cannot do
//! Nothing is signed or sealed yet, and a cluster is open, as Piko's is: whoever answers may join, and a member is
//! believed about everybody but the receiver. The gossip port belongs where only trusted hosts reach it. Where others
//! reach it too, this holds.
//!
//! **Who can send packets from an address of its own**
//! - changes nothing by what is malformed, unasked or out of bounds, nor by suspicions, goodbyes or versions in
//!   whatever name: that is counted by reason and never logged packet by packet;
//! - is sent no more bytes than it sent, until it names a packet that went to its very address. The ids that
//!   strangers are shown are a keyed hash of their address, so one learnt here is of no use for an address there;
//! - can join by answering, and then lie about others: write and delete their keys, say that they left, give them
//!   other addresses, invent members. The victim sees that its state is known at a version that it never told, and
//!   writes itself anew above that, once a second at most. The lies are not bounded; what they cost is: nodes, entries
//!   and bytes ([`Limits`]), how far a version may rise in one step, pushes (the eager budget), and requests to
//!   invented members (rounds and a few probes per interval, small ones, until they are held for dead);
//! - can do the same over TCP, where a handshake shows its IP address; it can say goodbye for nobody but those at
//!   that address, and from any other a join in a member's name is no sign of life.
//!
//! **In v0 all this takes less.** A digest from a stranger is answered by one, and then what it says is believed for
//! ten seconds: a well-formed v0 delta from somebody who asked first is as good as a member's. The format leaves
//! nothing to tell them apart. What can be refused is: a delta from an address that was not asked, and an unknown node
//! that was not asked for from its beginning. A delta from an asked address is also all that can show that an address
//! is its sender's, so what goes to v0 peers beyond what came from them has a limit for all of them together.
//!
//! **Who can also send under others' addresses** passes for a member, whose name and address are no secrets, and may
//! do what members may; he need not join. Suspicions that he forges are answered (four times a second at most), and a
//! node that answers is not held for dead. He can have answers go to members, up to four packets for each request,
//! but not to others: to name a packet that went there he would have to see it. (In v0 he need not see it.)
//! Copies of real packets do nothing in v1: they are dropped by their id, or, if too old for that, taken as no sign of
//! life, and what they say is known. v0 has no ids: a copy passes for a sign of life, as a forged packet does, but does
//! not make its sender's state be forgotten, since whoever seems to have begun anew is challenged.
//!
//! **Who can read the traffic** has the state, and can answer in anybody's name. Only sealed packets would help.

mod config;
mod core;
mod counters;
mod delta;
mod detector;
mod eager;
mod entry;
mod error;
mod exchange;
mod graveyard;
mod legacy;
mod limits;
mod links;
mod membership;
mod node;
mod node_id;
mod outbox;
mod own;
mod peer;
mod ports;
mod questions;
mod ring;
mod sequence;
mod state;
mod stream;
mod view;

pub use self::config::{Config, ConfigError};
pub use self::core::{Core, Received};
pub use self::counters::Counters;
pub use self::detector::Reachability;
pub use self::entry::{EntryArrival, EntryKind, NotSample, Propagation};
pub use self::error::{Rejected, WriteError};
pub use self::limits::Limits;
pub use self::node_id::NodeId;
pub use self::outbox::{Event, Outbox, PacketArrival, StreamKind, Transmit};
pub use self::peer::Protocol;
pub use self::ports::{SOURCE_PORTS_MAX, SourcePorts, place, source_port};
pub use self::sequence::Sequence;
pub use self::view::{EntryCounts, EntryView, Member, MemberStatus};

#[cfg(test)]
mod tests;
