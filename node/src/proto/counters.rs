//! What the core did, in numbers that only rise.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Totals since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            /// Every total with its name as a label.
            pub fn labelled(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Digest packets handed over for sending.
    digests_sent,
    /// Delta packets handed over for sending.
    deltas_sent,
    /// Nodes listed in those digests.
    digest_entries_sent,
    /// Entries in those deltas.
    delta_entries_sent,
    /// Digest packets understood.
    digests_received,
    /// Nodes listed in those digests.
    digest_entries_received,
    /// Delta packets understood.
    deltas_received,
    /// Entries in received deltas, known ones included.
    delta_entries_received,
    /// Entries applied.
    entries_applied,
    /// Packets that came a second time; they are not handled again.
    duplicates,
    /// Packets too old to be told from copies; they are no sign of life.
    stale,
    /// Entries that an answer had no room for.
    left_out,
    /// Nodes whose next entry does not fit any packet of this size.
    oversized,
    /// Nodes in deltas that began above what is known here: applying them would leave a hole.
    gap,
    /// Nodes in deltas that are this node: it alone writes its state.
    about_self,
    /// Nodes not taken in, for there are too many.
    node_limit,
    /// Entries not applied, for their node has too many.
    entry_limit,
    /// Entries not applied for lack of room.
    byte_limit,
    /// Versions too far above the known one to be believed.
    version_jump,
    /// Nodes not taken in, for they are known to be dead.
    buried,
    /// Nodes not taken in, for another has the same short name.
    name_taken,
    /// News of a node's earlier run.
    past,
    /// Entries under versions that do not rise.
    disordered,
    /// Compactions up to a version that does not exist yet, or none at all.
    bad_compact,
    /// Entries that say from which ports a node sends, and are no list of ports.
    bad_ports,
    /// v0 nodes whose address is not an IP and a port.
    bad_address,
    /// v0 entries whose key is not 1 to 255 bytes of UTF-8.
    bad_keys,
    /// Answers not given, for they would have been longer than what came from an unverified address.
    unverified_unanswered,
    /// Goodbyes in another's name.
    foreign_leave,
    /// Joins over TCP answered.
    joins_received,
    /// Goodbyes over TCP.
    leaves_received,
    /// Fresh changes pushed to a peer.
    pushes_sent,
    /// Fresh changes offered to a peer.
    offers_sent,
    /// Fresh changes left to the rounds, for the budget was used up.
    eager_skipped,
    /// Times this node was suspected and showed that it lives.
    refutations,
    /// Suspicions of this node at versions that it does not have yet.
    suspected_ahead,
    /// v0 nodes that began anew under their old id.
    rebirths,
    /// Times this node wrote its state anew to be rid of tombstones.
    compactions,
    /// Times this node found versions of an earlier run of its own and jumped past them.
    restarts_found,
}
