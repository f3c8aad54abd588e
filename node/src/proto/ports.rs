//! Source ports: a node may send from more ports than the one that it advertises.
//!
//! Networks with several paths of equal cost choose one by a hash over addresses and ports (RFC 2992), so packets
//! between one pair of ports see one path only, and the user's traffic may be on another. A node that has further
//! ports sends its v1 packets from all of them, chosen by their counters: then the receiver knows of each that did
//! not come from which port it was.
//!
//! The ports are in an entry of the node's own state. Whoever has that entry takes a packet from one of them, at the
//! node's own IP address, for one from the advertised address, where everything is answered; nothing is sent to them.
//! So the sender uses them only towards members that surely have the entry, and never in v0.

use std::net::SocketAddr;

use probe_user::analysis::journey::SourcePort;
use smallvec::SmallVec;

use super::core::Core;
use super::exchange::Asker;
use super::node::Node;
use super::state::SELF;
use crate::wire::PORTS_KEY;

/// Further source ports of a node, at most.
pub const SOURCE_PORTS_MAX: usize = 7;

/// Ports that a node sends from: the advertised one, then the further ones. Empty when there are none of those.
pub type SourcePorts = SmallVec<[u16; 1 + SOURCE_PORTS_MAX]>;

/// Which of so many ports the packet with this counter is sent from: as good as at random. In plain turns the packets
/// of an exchange would always have the same ports, and its last might be on a dead path every time.
pub const fn place(counter: u32, ports: usize) -> usize {
    // MurmurHash3's last steps (fmix32).
    let mut hash = counter;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^= hash >> 16;
    // The high bits of a product: an even share for any number.
    ((hash as u64 * ports as u64) >> 32) as usize
}

/// The one at this place of a sender's ports; `None` when it has only one.
pub fn source_port(ports: &[u16], place: usize) -> Option<SourcePort> {
    Some(SourcePort { port: *ports.get(place)?, of: ports.len().try_into().ok()? })
}

/// An entry's value.
pub(super) fn write(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
}

/// Reads it; `None` when it is none.
pub(super) fn read(value: &[u8]) -> Option<SmallVec<[u16; SOURCE_PORTS_MAX]>> {
    let mut ports = SmallVec::new();
    for port in std::str::from_utf8(value).ok()?.split(' ') {
        let port = port.parse().ok().filter(|port| *port != 0 && !ports.contains(port))?;
        if ports.len() == SOURCE_PORTS_MAX {
            return None;
        }
        ports.push(port);
    }
    Some(ports)
}

impl Node {
    /// Looked up each time, so that there is nothing to keep in step with its entries.
    pub(super) fn source_ports(&self) -> SourcePorts {
        let Some(entry) = self.get(PORTS_KEY).filter(|entry| !entry.deleted) else {
            return SourcePorts::new();
        };
        let Some(further) = read(&entry.value) else { return SourcePorts::new() };
        std::iter::once(self.addr.port()).chain(further).collect()
    }
}

impl Core {
    /// Whom a packet from there is from, that says it is from this node: the node's advertised address, when it came
    /// from one of its source ports.
    pub(super) fn advertised_of(&self, known: Option<usize>, from: SocketAddr) -> SocketAddr {
        match known.map(|index| &self.state[index]) {
            Some(node)
                if node.addr != from
                    && node.addr.ip() == from.ip()
                    && node.source_ports().contains(&from.port()) =>
            {
                node.addr
            }
            _ => from,
        }
    }

    /// A member's digest was compared, which shows whether it has this node's ports.
    pub(super) fn note_ports_known(
        &mut self,
        asker: &Asker,
        listed: bool,
        rest_equal: bool,
        gives: &[(usize, u64)],
    ) {
        let Some(member) = asker.member.filter(|_| !self.config.source_ports.is_empty()) else { return };
        let behind = gives.iter().find(|(index, _)| *index == SELF);
        if let Some((_, known)) = behind {
            self.state[member].peer.knows_ports = *known >= self.ports_since;
        } else if listed || rest_equal {
            self.state[member].peer.knows_ports = true;
        }
    }

    /// The entry stands under this version, or anything this run tells is above it.
    pub(super) fn note_ports_told(&mut self) {
        self.ports_since = self.state[SELF].versioned(PORTS_KEY).map_or(0, |(version, _)| version);
    }

    /// The ports of a member, if this packet is from the one among them that is its counter's. It is not before the
    /// member knows that its ports are known here, nor when something on the way changes ports.
    pub(super) fn ports_of(&self, index: usize, counter: u32, from: SocketAddr) -> SourcePorts {
        let ports = self.state[index].source_ports();
        let right = ports.get(place(counter, ports.len())) == Some(&from.port());
        if right { ports } else { SourcePorts::new() }
    }

    /// Which of this node's ports the packet with this counter goes from: 0 is the advertised one.
    pub(super) fn source_for(&self, member: Option<usize>, counter: u32) -> usize {
        let knows = member.is_some_and(|index| self.state[index].peer.knows_ports);
        if knows { place(counter, 1 + self.config.source_ports.len()) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_of_ports_is_none_at_all() {
        assert_eq!(read(write(&[1, 65535, 80]).as_bytes()).as_deref(), Some(&[1, 65535, 80][..]));
        for bad in ["", "0", "65536", "-1", "1  2", "1 1", "1,2", "a", " 1", "1 2 3 4 5 6 7 8", "1\u{e9}"] {
            assert_eq!(read(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(read(&[0xff]), None);
    }

    #[test]
    fn every_port_has_its_share_of_any_packets_of_a_regular_exchange() {
        assert_eq!((place(9, 0), place(9, 1)), (0, 0));
        for ports in 2..=8 {
            for (step, phase) in [(1, 0), (2, 1), (4, 3), (8, 0)] {
                let mut counts = vec![0; ports];
                (0..8000).for_each(|n| counts[place(n * step + phase, ports)] += 1);
                let fair = 8000 / ports;
                assert!(counts.iter().all(|n| (fair * 8 / 10..fair * 12 / 10).contains(n)), "{counts:?}");
            }
        }
    }
}
