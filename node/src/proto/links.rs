//! Addresses of members, and the packets sent to each.

use std::collections::HashMap;
use std::net::SocketAddr;

use probe_ebpf::parse::PacketId;

/// Send side of every path. Only members' addresses are counted, so strangers cannot make the table grow.
#[derive(Debug)]
pub(super) struct Links {
    incarnation: u32,
    /// Only for look-ups: its order is random.
    by_addr: HashMap<SocketAddr, Link>,
}

#[derive(Debug)]
struct Link {
    /// The member who advertises the address (the latest, if several do).
    node: usize,
    sent: u32,
}

impl Links {
    pub(super) fn new(incarnation: u32) -> Self {
        Self { incarnation, by_addr: HashMap::new() }
    }
    /// A member now advertises `addr`, and no longer `before`.
    pub(super) fn advertise(&mut self, node: usize, addr: SocketAddr, before: Option<SocketAddr>) {
        if let Some(before) = before
            && self.by_addr.get(&before).is_some_and(|link| link.node == node)
        {
            self.by_addr.remove(&before);
        }
        // The counter goes on: it belongs to the address, as the receiver sees it.
        self.by_addr.entry(addr).or_insert(Link { node, sent: 0 }).node = node;
    }
    /// The id for the next packet to `addr`, and who is there. Counter 0 means "not counted".
    pub(super) fn next(&mut self, addr: SocketAddr) -> (PacketId, Option<usize>) {
        let incarnation = self.incarnation;
        match self.by_addr.get_mut(&addr) {
            Some(link) => {
                link.sent = link.sent.checked_add(1).unwrap_or(1);
                (PacketId { incarnation, counter: link.sent }, Some(link.node))
            }
            None => (PacketId { incarnation, counter: 0 }, None),
        }
    }
    /// A member is gone.
    pub(super) fn forget(&mut self, node: usize, addr: SocketAddr) {
        if self.member(addr) == Some(node) {
            self.by_addr.remove(&addr);
        }
    }
    /// The member who advertises `addr`.
    pub(super) fn member(&self, addr: SocketAddr) -> Option<usize> {
        self.by_addr.get(&addr).map(|link| link.node)
    }
}
