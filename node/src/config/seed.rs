//! Where to look for other members, as users write it.

use std::fmt;
use std::net::SocketAddr;

use super::{ConfigError, concrete};

/// Seeds, at most.
const MOST: usize = 64;
/// Longest name of a host (RFC 1035, section 2.3.4, as text).
const NAME_MAX: usize = 253;

/// A member to join by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// By number: a concrete address with a port.
    Address(SocketAddr),
    /// By name, with its port: `gossip.example:7176`. It stands for all addresses that the name has.
    Name(String),
}

impl Seed {
    /// Its address, unless it is a name.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }

    /// Reads a list of them.
    pub(super) fn read_all(texts: &[String]) -> Result<Vec<Self>, ConfigError> {
        if texts.len() > MOST {
            return Err(out_of_range(&texts.len().to_string(), &format!("at most {MOST} of them")));
        }
        texts.iter().map(|text| Self::read(text)).collect()
    }

    fn read(text: &str) -> Result<Self, ConfigError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(out_of_range(text, "an address with a port"))
            } else {
                concrete("seed", address).map(Self::Address)
            };
        }
        let well_formed = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0));
        if well_formed {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(out_of_range(
                text,
                "the name or address of a host with a port: gossip.example:7176, 192.0.2.10:7176 or [2001:db8::10]:7176",
            ))
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

fn out_of_range(value: &str, expected: &str) -> ConfigError {
    ConfigError::OutOfRange { key: "seed", value: value.to_owned(), expected: expected.to_owned() }
}

/// Labels of letters, digits, hyphens and underscores; not all digits and dots, which is an address gone wrong.
fn is_name(host: &str) -> bool {
    let relative = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    relative.len() <= NAME_MAX
        && relative.split('.').all(label)
        && !relative.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart_and_the_rest_is_refused() {
        let read = |text: &str| Seed::read(text).map_err(|e| e.to_string());
        for name in ["localhost:1", "gossip.example:7176", "a_b.c-d.e.:65535", "10.0.0.1.example:5"] {
            assert_eq!(read(name), Ok(Seed::Name(name.into())));
        }
        for address in ["10.0.0.1:1", "[::1]:7"] {
            assert_eq!(read(address), Ok(Seed::Address(address.parse().unwrap())));
        }
        for wrong in
            ["", "a", "a:", ":1", "a:0", "a:65536", "a b:1", "a..b:1", "10.0.0:1", "::1:7", "http://a:1"]
        {
            assert!(read(wrong).unwrap_err().contains("gossip.example:7176"), "{wrong}");
        }
        assert!(read("0.0.0.0:5").unwrap_err().contains("the address of one host"));
        assert!(read("10.0.0.1:0").unwrap_err().contains("with a port"));
        let many: Vec<String> = (0..65).map(|i| format!("h{i}:1")).collect();
        assert!(Seed::read_all(&many).is_err() && Seed::read_all(&many[1..]).is_ok());
    }
}
