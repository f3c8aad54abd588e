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
//! Every interval a node sends a *digest* (node -> known version) to a random peer. The peer answers with a
//! *delta* (what it knows above those versions) and its own digest, which is answered by a delta, and, if it
//! shows something newer that the first digest had no room for, by a small digest naming just that. Deltas go
//! only to those who said what they have, and carry that version, so a late or reordered one can never leave a
//! hole. Answers go to the packet's source, never to an address inside it.

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
