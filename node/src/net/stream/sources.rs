//! How many connections each source has: no single one may take them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections by source. An IPv6 source is a /64: that much one host may have to itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    /// A place for a connection from `address`, unless it has `most` already.
    pub(super) fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let source = network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { sources: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_places_and_gets_them_back() {
        let sources = Sources::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = sources.take(ip("10.0.0.1"), 2).unwrap();
        let _second = sources.take(ip("::ffff:10.0.0.1"), 2).unwrap();
        assert!(sources.take(ip("10.0.0.1"), 2).is_none());
        assert!(sources.take(ip("10.0.0.2"), 2).is_some(), "another one is not concerned");
        drop(first);
        assert!(sources.take(ip("10.0.0.1"), 2).is_some());
        let _net = sources.take(ip("fd00::1"), 1).unwrap();
        assert!(sources.take(ip("fd00::2"), 1).is_none());
        assert_eq!(sources.0.lock().unwrap().len(), 2, "nothing is kept of those that are gone");
    }
}
