//! Bytes to messages and back. No IO, no state, no clock.

use std::net::{IpAddr, SocketAddr};

mod error;
mod leb128;
mod msgpack;
pub mod v0;
pub mod v1;

pub use error::WireError;

/// Longest node id in bytes.
pub const ID_MAX: usize = 255;
/// Longest key in bytes.
pub const KEY_MAX: usize = 255;
/// Prefix of the protocol's own keys, which applications cannot write.
pub const INTERNAL_PREFIX: &str = "_internal:";
/// Key by which a node says the newest protocol version it speaks.
pub const PROTO_KEY: &str = "_internal:proto";
/// Key that every node rewrites now and then, so that an idle cluster gives propagation samples too.
pub const BEACON_KEY: &str = "_internal:beacon";
/// Key by which a node says from which ports it sends besides the one it advertises.
pub const PORTS_KEY: &str = "_internal:ports";
/// Key by which a node says that it leaves (Piko's).
pub const LEFT_KEY: &str = "_internal:left";
/// Key by which a node says that all its entries up to the version in its value are void (Piko's).
pub const COMPACT_KEY: &str = "_internal:compact";
/// Longest datagram: what IPv4 and UDP headers leave of 65,535 bytes (RFC 768, RFC 791).
pub const PACKET_MAX: usize = 65_507;

/// Could a node be there? It takes a port and an address that stands for one host. (This also keeps a forged
/// member from turning gossip into broadcasts.)
pub fn is_reachable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_writing_of_an_address_makes_a_group_a_host() {
        let all = ["10.0.0.1:1", "[fd00::1]:1", "[::ffff:10.0.0.1]:1", "127.0.0.1:1"];
        assert!(all.iter().all(|a| is_reachable(a.parse().unwrap())));
        for none in ["10.0.0.1:0", "0.0.0.0:1", "255.255.255.255:1", "224.0.0.1:1", "[::]:1", "[ff02::1]:1"] {
            assert!(!is_reachable(none.parse().unwrap()), "{none}");
        }
        for mapped in ["0.0.0.0", "255.255.255.255", "224.0.0.1"] {
            assert!(!is_reachable(format!("[::ffff:{mapped}]:1").parse().unwrap()), "{mapped}");
        }
    }
}
