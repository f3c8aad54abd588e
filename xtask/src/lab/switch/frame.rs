//! What the switch and the packet sockets read of a frame: who to, who from, and by which key to find it again.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use probe_ebpf::parse::{PacketId, Prelude, UDP_HEADER_LEN};
use serde::{Serialize, Serializer};

/// Longest frame that is carried: an MTU of 1500 and an Ethernet header.
pub const MAX_FRAME: usize = 1514;

const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Where a host is plugged in: the last byte of its addresses, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u8);

impl Port {
    /// The switch's own namespace, where time servers run: 10.77.0.254, fd77::fe.
    pub const HUB: Self = Self(254);

    /// The port of the host with this index, from 0, as in [`Hosts`](crate::rig::Hosts).
    ///
    /// # Panics
    /// Beyond [`MAX_HOSTS`](crate::rig::netns::MAX_HOSTS).
    pub fn host(index: usize) -> Self {
        assert!(index < crate::rig::netns::MAX_HOSTS, "host {index} does not fit on a switch");
        Self(index as u8 + 1)
    }

    /// The host's index, from 0; the hub has none.
    pub fn index(self) -> Option<usize> {
        (self != Self::HUB).then(|| usize::from(self.0) - 1)
    }

    /// The last byte of its addresses.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its MAC address, locally administered: 02:77:00:00:00:NN.
    pub const fn mac(self) -> [u8; 6] {
        [0x02, 0x77, 0, 0, 0, self.0]
    }

    /// Its IPv4 address.
    pub const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.0)
    }

    /// Its IPv6 address.
    pub const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.0 as u16)
    }

    /// Whose MAC address this is, if it looks like one of [`mac`](Self::mac)'s.
    pub fn of_mac(mac: [u8; 6]) -> Option<Self> {
        (mac[..5] == [0x02, 0x77, 0, 0, 0] && mac[5] != 0).then_some(Self(mac[5]))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::HUB { f.write_str("hub") } else { write!(f, "h{}", self.0) }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// By what a packet is recognised in several places, along with where it comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The packet id of pikoscope's v1 protocol, as it travels ([`PacketId::to_u64`]). Counts per destination,
    /// so it is unique on one directed link.
    Id(u64),
    /// A hash of the frame from the type field on; comparable within this process only. Frames that repeat byte
    /// for byte share it and are told apart by their order.
    Hash(u64),
}

impl Key {
    /// The packet id, if it is one.
    pub fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::Id(id) => Some(PacketId::from_u64(id)),
            Self::Hash(_) => None,
        }
    }
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A whole UDP datagram over IPv4 or IPv6.
    Udp,
    /// ICMP over IPv4.
    Icmp,
    /// Anything else: TCP, ARP, ICMP over IPv6, fragments.
    Other,
}

/// Whom a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One port.
    One(Port),
    /// Broadcast or multicast: all but the sender.
    All,
    /// A unicast address that no port can have.
    Nobody,
}

/// The parts of a frame that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who it is for.
    pub destination: Destination,
    /// Who it says it is from.
    pub source: Option<Port>,
    /// What it carries.
    pub class: Class,
    /// The port that a UDP datagram is from.
    pub source_port: Option<u16>,
    /// How to recognise it.
    pub key: Key,
}

impl Summary {
    /// Reads a frame; `None` when it is too short to be one. Any bytes will do.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (header, body) = frame.split_first_chunk::<ETHERNET_LEN>()?;
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = header;
        let to = [d0, d1, d2, d3, d4, d5];
        let destination = match Port::of_mac(to) {
            Some(port) => Destination::One(port),
            None if d0 & 1 == 1 => Destination::All,
            None => Destination::Nobody,
        };
        let datagram = udp(u16::from_be_bytes([t0, t1]), body);
        let id = datagram.and_then(|datagram| v1_id(datagram.get(UDP_HEADER_LEN..)?));
        Some(Self {
            destination,
            source: Port::of_mac([s0, s1, s2, s3, s4, s5]),
            class: match datagram {
                Some(_) => Class::Udp,
                None if is_icmp(u16::from_be_bytes([t0, t1]), body) => Class::Icmp,
                None => Class::Other,
            },
            source_port: datagram.and_then(|d| d.first_chunk()).map(|port| u16::from_be_bytes(*port)),
            key: id.map_or_else(|| Key::Hash(hash(&frame[12..])), |id| Key::Id(id.to_u64())),
        })
    }
}

/// ICMP (RFC 792), whole or a fragment.
fn is_icmp(ethertype: u16, body: &[u8]) -> bool {
    ethertype == ETHERTYPE_IPV4 && body.first_chunk::<20>().is_some_and(|header| header[9] == ICMP)
}

/// The UDP header and payload if `body` is an unfragmented packet without extension headers (RFC 791, RFC 8200).
fn udp(ethertype: u16, body: &[u8]) -> Option<&[u8]> {
    let datagram = match ethertype {
        ETHERTYPE_IPV4 => {
            let header = body.first_chunk::<20>()?;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            if header[0] >> 4 != 4 || header[9] != UDP || fragment != 0 {
                return None;
            }
            body.get(usize::from(header[0] & 0xf) * 4..)?
        }
        ETHERTYPE_IPV6 => {
            let header = body.first_chunk::<40>()?;
            if header[0] >> 4 != 6 || header[6] != UDP {
                return None;
            }
            &body[40..]
        }
        _ => return None,
    };
    (datagram.len() >= UDP_HEADER_LEN).then_some(datagram)
}

/// The id of a payload that begins like one of pikoscope's v1 datagrams (a digest or a delta).
fn v1_id(payload: &[u8]) -> Option<PacketId> {
    let prelude = Prelude::parse(payload)?;
    (prelude.version == 1 && matches!(prelude.kind, 1 | 2)).then_some(prelude.id)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with a UDP datagram over IPv4 between two ports.
    pub(in super::super) fn udp_frame(from: Port, to: Port, payload: &[u8]) -> Vec<u8> {
        let mut frame = [to.mac(), from.mac()].concat();
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0]);
        frame.extend(from.v4().octets());
        frame.extend(to.v4().octets());
        frame.extend([0; UDP_HEADER_LEN]);
        frame.extend(payload);
        frame
    }

    const V1: [u8; 12] = [2, 1, 0, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7];

    #[test]
    fn a_v1_datagram_is_known_by_its_id_and_any_other_by_its_bytes() {
        let (a, b) = (Port::host(0), Port::host(1));
        let read = |payload: &[u8]| Summary::read(&udp_frame(a, b, payload)).unwrap();
        let v1 = read(&V1);
        assert_eq!(v1.destination, Destination::One(b));
        assert_eq!((v1.source, v1.class, v1.source_port), (Some(a), Class::Udp, Some(0)));
        assert_eq!(v1.key.packet_id(), Some(PacketId { incarnation: 0xdead_beef, counter: 7 }));
        let mut v0 = V1;
        v0[1] = 0;
        assert!(matches!(read(&v0).key, Key::Hash(_)));
        assert_ne!(read(&v0).key, read(b"something else").key);
        assert_eq!(read(&v0).key, read(&v0).key);
    }

    #[test]
    fn ipv6_is_read_and_fragments_and_other_protocols_are_not_taken_for_udp() {
        let mut v6 = [Port::HUB.mac(), Port::host(2).mac()].concat();
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, UDP, 64]);
        v6.extend([0; 32]);
        v6.extend([0; UDP_HEADER_LEN]);
        v6.extend(V1);
        let summary = Summary::read(&v6).unwrap();
        assert_eq!((summary.destination, summary.class), (Destination::One(Port::HUB), Class::Udp));
        assert!(matches!(summary.key, Key::Id(_)));
        v6[54..56].copy_from_slice(&7176_u16.to_be_bytes());
        assert_eq!(Summary::read(&v6).unwrap().source_port, Some(7176));
        v6[20] = 58; // ICMPv6
        let summary = Summary::read(&v6).unwrap();
        assert_eq!((summary.class, summary.source_port), (Class::Other, None));
        let mut fragment = udp_frame(Port::host(0), Port::host(1), &V1);
        fragment[20] = 0x20; // more fragments
        assert_eq!(Summary::read(&fragment).unwrap().class, Class::Other);
        let mut icmp = udp_frame(Port::host(0), Port::host(1), &V1);
        icmp[23] = 1;
        assert_eq!(Summary::read(&icmp).unwrap().class, Class::Icmp);
        icmp[23] = 6;
        assert_eq!(Summary::read(&icmp).unwrap().class, Class::Other, "TCP");
    }

    #[test]
    fn broadcast_is_for_all_and_a_stranger_for_nobody() {
        let mut frame = udp_frame(Port::host(0), Port::host(1), &V1);
        frame[..6].fill(0xff);
        assert_eq!(Summary::read(&frame).unwrap().destination, Destination::All);
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(Summary::read(&frame).unwrap().destination, Destination::All);
        frame[..6].copy_from_slice(&[0x02, 0x78, 0, 0, 0, 1]);
        assert_eq!(Summary::read(&frame).unwrap().destination, Destination::Nobody);
        assert_eq!(Summary::read(&frame[..13]), None);
    }

    #[test]
    fn ports_are_named_after_their_hosts() {
        assert_eq!((Port::host(0).to_string(), Port::HUB.to_string()), ("h1".to_owned(), "hub".to_owned()));
        assert_eq!((Port::host(4).index(), Port::HUB.index()), (Some(4), None));
        assert_eq!(Port::of_mac(Port::host(4).mac()), Some(Port::host(4)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(frame in prop::collection::vec(any::<u8>(), 0..200), v6: bool) {
            let mut typed = frame.clone();
            if let Some(ethertype) = typed.get_mut(12..14) {
                ethertype.copy_from_slice(&if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
            }
            prop_assert_eq!(Summary::read(&frame).is_some(), frame.len() >= ETHERNET_LEN);
            prop_assert_eq!(Summary::read(&typed).is_some(), frame.len() >= ETHERNET_LEN);
        }
    }
}
