//! What the targets share: the inputs they start from, and what must hold of anything that was decoded.
#![forbid(unsafe_code)]

pub mod seeds;

use pikoscope::wire::v0::{ADDR_MAX, Delta, Digest};
use pikoscope::wire::{ID_MAX, v0};

/// Goes through a digest as the core does.
pub fn walk_digest(digest: &Digest<'_>) {
    assert_eq!(digest.entries().count(), digest.len());
    assert_eq!(digest.is_empty(), digest.len() == 0);
    digest.entries().for_each(|e| check_node(e.id, e.addr));
}

/// Goes through a delta as the core does.
pub fn walk_delta(delta: &Delta<'_>, message: &[u8]) {
    assert_eq!(delta.nodes().count(), delta.len());
    for node in delta.nodes() {
        check_node(node.head.id, node.head.addr);
        assert_eq!(node.entries().count(), node.len());
        assert!(node.declared < 0 || node.len() as i64 <= node.declared);
        for entry in node.entries() {
            assert!(entry.key.len() + entry.value.len() < message.len());
            if let Ok(key) = entry.key_str() {
                assert!((1..=255).contains(&key.len()));
            }
        }
    }
}

fn check_node(id: &str, addr: &str) {
    assert!((1..=ID_MAX).contains(&id.len()) && addr.len() <= ADDR_MAX);
}

/// The nodes of a delta with their entries.
pub fn nodes<'a>(delta: &Delta<'a>) -> Vec<v0::stream::Node<'a>> {
    delta.nodes().map(|n| v0::stream::Node { head: n.head, entries: n.entries().collect() }).collect()
}

/// A sender that says what the header of a received message says.
pub fn sender<'a>(header: &v0::Header<'a>) -> v0::Sender<'a> {
    v0::Sender { node_id: header.node_id, addr: header.addr, max_version: header.max_version }
}
