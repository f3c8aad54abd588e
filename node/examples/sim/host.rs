//! The machines of the simulated network.

use std::net::{Ipv4Addr, SocketAddr};

/// A machine, by number. Its node's id and address follow from that, so neither needs a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub(crate) u32);

const PORT: u16 = 7000;
/// 10.0.0.1 is host 0.
const FIRST: u32 = 0x0a00_0001;
const PREFIX: &str = "node-";

impl Host {
    pub(crate) const fn at(index: usize) -> Self {
        Self(index as u32)
    }
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
    /// The id of its node: nine bytes, about what a real cluster's ids have.
    pub(crate) fn id(self) -> String {
        format!("{PREFIX}{:04}", self.0)
    }
    pub(crate) fn addr(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::from(FIRST + self.0), PORT))
    }
    /// The host whose [`id`](Self::id) this is.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        id.strip_prefix(PREFIX)?.parse().ok().map(Self)
    }
    /// The host whose [`addr`](Self::addr) this is.
    pub(crate) fn of_addr(addr: SocketAddr) -> Option<Self> {
        match addr {
            SocketAddr::V4(v4) if v4.port() == PORT => u32::from(*v4.ip()).checked_sub(FIRST).map(Self),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_addresses_lead_back() {
        for host in [0, 7, 254, 255, 256, 1999, 12_345].map(Host) {
            assert_eq!(Host::of_id(&host.id()), Some(host));
            assert_eq!(Host::of_addr(host.addr()), Some(host));
        }
        assert_eq!(Host::of_id("node-x"), None);
        assert_eq!(Host::of_addr(SocketAddr::from(([9, 0, 0, 1], PORT))), None);
    }
}
