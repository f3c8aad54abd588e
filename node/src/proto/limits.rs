//! How much a peer can make this node hold.

/// Bounds on the state. What goes beyond them is refused and counted, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes, this one included. Default 4096.
    pub nodes: usize,
    /// Entries of one node, tombstones included. Default 1024.
    pub entries_per_node: usize,
    /// Bytes of keys and values of one node, plus [`Limits::ENTRY_OVERHEAD`] for each entry. Default 256 KiB.
    pub bytes_per_node: usize,
    /// The same sum over all nodes. Default 64 MiB.
    pub bytes: usize,
    /// How far a node's version may rise in one step. A forged version near the top of the range would hide
    /// every later change of its node. Default 2^32.
    pub version_jump: u64,
}

impl Limits {
    /// What an entry costs beside its key and its value, roughly: stamps, indexes, allocations.
    pub const ENTRY_OVERHEAD: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 4096,
            entries_per_node: 1024,
            bytes_per_node: 256 << 10,
            bytes: 64 << 20,
            version_jump: 1 << 32,
        }
    }
}
