//! Addresses of members, and the packets sent to each.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;

use probe_ebpf::parse::PacketId;

/// Send side of every path. Only members' addresses are counted, so strangers cannot make the table grow.
#[derive(Debug)]
pub(super) struct Links {
    incarnation: u32,
    /// Nobody else knows it.
    secret: u64,
    /// Only for look-ups: its order is random.
    by_addr: HashMap<SocketAddr, Link>,
}

#[derive(Debug)]
struct Link {
    /// The member who advertises the address (the latest, if several do).
    node: usize,
    sent: u32,
}

/// An answer to none of the last so many packets is no answer any more.
const ANSWERABLE: u32 = 1024;
/// Likewise when it comes from elsewhere: copies of older ones may be in anybody's hands.
const ANSWERABLE_ELSEWHERE: u32 = 16;

impl Links {
    pub(super) fn new(incarnation: u32, secret: u64) -> Self {
        Self { incarnation, secret, by_addr: HashMap::new() }
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
            None => (self.token(addr), None),
        }
    }

    /// The id of every packet to `addr` as long as nobody is known there. It differs from address to address, so that
    /// whoever names it got such a packet there: nothing need be remembered of strangers to know that.
    pub(super) fn token(&self, addr: SocketAddr) -> PacketId {
        // SipHash: without the secret its value cannot be foretold. 32 bits are enough to guess no address's in time.
        let mut hasher = DefaultHasher::new();
        (self.secret, self.incarnation, addr.ip(), addr.port()).hash(&mut hasher);
        PacketId { incarnation: hasher.finish() as u32, counter: 0 }
    }

    /// Did a packet with this id go to `addr`, lately? Then whoever names it is there, and not only says so.
    pub(super) fn went_to(&self, addr: SocketAddr, id: PacketId) -> bool {
        if id.counter == 0 {
            return id == self.token(addr);
        }
        self.is_of_last(addr, id, ANSWERABLE)
    }

    /// Did it go to the member at `addr` so lately that whoever names it from elsewhere may be that one?
    pub(super) fn went_to_member(&self, addr: SocketAddr, id: PacketId) -> bool {
        id.counter > 0 && self.is_of_last(addr, id, ANSWERABLE_ELSEWHERE)
    }

    fn is_of_last(&self, addr: SocketAddr, id: PacketId, last: u32) -> bool {
        self.by_addr.get(&addr).is_some_and(|link| {
            id.incarnation == self.incarnation && link.sent.wrapping_sub(id.counter) < last.min(link.sent)
        })
    }
    /// A member is gone. `heir`: another one who advertises the same address.
    pub(super) fn forget(&mut self, node: usize, addr: SocketAddr, heir: impl FnOnce() -> Option<usize>) {
        let Some(link) = self.by_addr.get_mut(&addr).filter(|link| link.node == node) else { return };
        match heir() {
            Some(heir) => link.node = heir,
            None => drop(self.by_addr.remove(&addr)),
        }
    }
    /// The member who advertises `addr`.
    pub(super) fn member(&self, addr: SocketAddr) -> Option<usize> {
        self.by_addr.get(&addr).map(|link| link.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_shares_an_address_inherits_it_with_its_count() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 7000));
        let mut links = Links::new(1, 2);
        links.advertise(5, addr, None);
        assert_eq!(links.next(addr).0.counter, 1);
        // A forged member that claims another's address takes nothing with it when it is gone.
        links.advertise(9, addr, None);
        links.forget(9, addr, || Some(5));
        assert_eq!(links.next(addr), (PacketId { incarnation: 1, counter: 2 }, Some(5)));
        links.forget(5, addr, || None);
        assert_eq!(links.next(addr), (links.token(addr), None));
    }

    #[test]
    fn only_packets_that_went_to_an_address_are_answered_from_there() {
        let [a, b] = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 7000)));
        let mut links = Links::new(7, 8);
        assert!(links.went_to(a, links.token(a)) && !links.went_to(b, links.token(a)));
        assert_ne!(Links::new(7, 9).token(a), links.token(a), "the secret matters");
        links.advertise(5, a, None);
        let at = |counter| PacketId { incarnation: 7, counter };
        assert!(!links.went_to(a, at(1)), "nothing went there yet");
        let sent: Vec<PacketId> = (0..2 * ANSWERABLE).map(|_| links.next(a).0).collect();
        let (first, last) = (sent[0], sent[sent.len() - 1]);
        assert!(links.went_to(a, last) && !links.went_to(a, first) && !links.went_to(b, last));
        assert!(!links.went_to(a, at(last.counter + 1)) && !links.went_to(a, at(0)));
        assert!(!links.went_to(a, PacketId { incarnation: 6, ..last }));
    }
}
