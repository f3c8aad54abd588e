//! Short names of nodes, and sums over what is known of them.

use std::fmt;

/// A node, named by 48 bits of its id's hash: digests are mostly names, and ids are long.
///
/// Two of 4096 nodes share one with a chance of 3 in 100 million; then they hide each other's changes in digests
/// (never mix them up: deltas carry the id itself).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef(u64);

impl NodeRef {
    /// Bytes on the wire.
    pub const LEN: usize = 6;
    const MASK: u64 = (1 << 48) - 1;

    /// The short name of the node `id`: FNV-1a (64 bits), its bits mixed, the lower 48 of them.
    pub fn of(id: &str) -> Self {
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(hash) & Self::MASK)
    }
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }
    pub(super) fn from_bytes([a, b, c, d, e, f]: [u8; Self::LEN]) -> Self {
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
    /// What knowing this node up to `version` adds to a [`StateSum`].
    fn share(self, version: u64) -> u64 {
        mix(self.0 ^ mix(version))
    }
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// A sum over (node, version) pairs that can be added to and taken from in any order. Equal sums mean equal
/// knowledge, but for a chance of one in 2^64 (and but for forgers: it is no cryptographic hash).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSum(u64);

impl StateSum {
    /// Adds a node known up to `version`.
    pub fn add(&mut self, node: NodeRef, version: u64) {
        self.0 = self.0.wrapping_add(node.share(version));
    }
    /// Takes it out again.
    pub fn remove(&mut self, node: NodeRef, version: u64) {
        self.0 = self.0.wrapping_sub(node.share(version));
    }
    /// As it travels.
    pub const fn to_u64(self) -> u64 {
        self.0
    }
    /// From the travelling form.
    pub const fn from_u64(sum: u64) -> Self {
        Self(sum)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit changes half of the output's.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_differ_and_travel() {
        let refs: BTreeSet<_> = (0..20_000).map(|n| NodeRef::of(&format!("node-{n}"))).collect();
        assert_eq!(refs.len(), 20_000);
        assert!(refs.iter().all(|r| NodeRef::from_bytes(r.to_bytes()) == *r));
        // Fixed for good: both ends must agree.
        assert_eq!(NodeRef::of("node-1").to_string(), "d40986da123d");
    }

    #[test]
    fn sums_do_not_depend_on_the_order_and_tell_versions_apart() {
        let nodes = ["a", "b", "c"].map(NodeRef::of);
        let sum = |order: &[(usize, u64)]| {
            let mut sum = StateSum::default();
            order.iter().for_each(|(node, version)| sum.add(nodes[*node], *version));
            sum
        };
        assert_eq!(sum(&[(0, 1), (1, 2), (2, 3)]), sum(&[(2, 3), (0, 1), (1, 2)]));
        assert_ne!(sum(&[(0, 1), (1, 2)]), sum(&[(0, 2), (1, 1)]));
        let mut all = sum(&[(0, 1), (1, 2)]);
        all.remove(nodes[1], 2);
        assert_eq!(all, sum(&[(0, 1)]));
    }
}
