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
pub use self::sequence::Sequence;
pub use self::view::{EntryCounts, EntryView, Member, MemberStatus};

#[cfg(test)]
mod tests;
