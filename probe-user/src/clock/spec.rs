//! Sources as users name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::adjtimex::Adjtimex;
use super::chrony::Chronyd;
use super::chrony::query::ChronyAddr;
use super::clockbound::ClockBound;
use super::ntpd::Ntpd;
use super::ntpd_rs::NtpdRs;
use super::reader::CHRONYD;
use super::sntp::client::Sntp;
use super::source::OffsetSource;

/// Where ntpd-rs answers in the configuration that its packages ship.
pub const NTPD_RS: &str = "/var/run/ntpd-rs/observe";
/// Where ClockBound's daemon keeps its segment.
pub const CLOCKBOUND: &str = "/var/run/clockbound/shm0";
/// Port of NTP.
const NTP_PORT: u16 = 123;
/// Longest host name (RFC 1035, section 2.3.4).
const MOST_NAME: usize = 253;

/// A source of clock offsets, as configuration names it.
///
/// | text | source |
/// |---|---|
/// | `chrony`, `chrony:IP:PORT`, `chrony:/PATH` | chronyd, by default at 127.0.0.1:323; by its unix socket |
/// | `clockbound`, `clockbound:/PATH` | ClockBound 2, by its shared memory |
/// | `ntpd-rs`, `ntpd-rs:/PATH` | ntpd-rs, by its observation socket |
/// | `ntpd`, `ntpd:IP:PORT` | ntpd or ntpsec, by default at 127.0.0.1:123 |
/// | `sntp:HOST`, `sntp:HOST:PORT` | any NTP server; an IPv6 address in brackets |
/// | `adjtimex` | the kernel: a sanity bound |
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceSpec {
    /// chronyd.
    Chrony(ChronyAddr),
    /// ClockBound.
    ClockBound(PathBuf),
    /// ntpd-rs.
    NtpdRs(PathBuf),
    /// ntpd or ntpsec.
    Ntpd(SocketAddr),
    /// An NTP server.
    Sntp {
        /// Name or address; an IPv6 address without its brackets.
        host: String,
        /// UDP port.
        port: u16,
    },
    /// The kernel.
    Adjtimex,
}

/// Text that names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no clock source: {wanted}")]
pub struct SpecError {
    text: String,
    wanted: &'static str,
}

impl SourceSpec {
    /// `sources`, or by default chronyd, ClockBound and ntpd-rs if their files exist, and the kernel; with chronyd at `chrony`, if
    /// that is given: instead of the first chronyd of the list, or before all others.
    pub fn with_chrony(sources: Option<Vec<Self>>, chrony: Option<SocketAddr>) -> Vec<Self> {
        let mut sources = sources.unwrap_or_else(|| {
            let clockbound = Path::new(CLOCKBOUND).exists().then(|| Self::ClockBound(CLOCKBOUND.into()));
            let ntpd_rs = Path::new(NTPD_RS).exists().then(|| Self::NtpdRs(NTPD_RS.into()));
            let chrony = Self::Chrony(CHRONYD.into());
            std::iter::once(chrony).chain(clockbound).chain(ntpd_rs).chain([Self::Adjtimex]).collect()
        });
        if let Some(addr) = chrony {
            let chrony = Self::Chrony(addr.into());
            match sources.iter_mut().find(|source| matches!(source, Self::Chrony(_))) {
                Some(first) => *first = chrony,
                None => sources.insert(0, chrony),
            }
        }
        sources
    }

    /// The source itself. Nothing is opened or asked yet.
    pub fn open(&self) -> Box<dyn OffsetSource> {
        match self {
            Self::Chrony(addr) => Box::new(Chronyd::new(addr.clone())),
            Self::ClockBound(path) => Box::new(ClockBound::new(path.clone())),
            Self::NtpdRs(path) => Box::new(NtpdRs::new(path.clone())),
            Self::Ntpd(addr) => Box::new(Ntpd::new(*addr)),
            Self::Sntp { host, port } => Box::new(Sntp::new(host.clone(), *port)),
            Self::Adjtimex => Box::new(Adjtimex),
        }
    }
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fail = |wanted| SpecError { text: text.to_owned(), wanted };
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        match (kind, rest) {
            ("chrony", None) => Ok(Self::Chrony(CHRONYD.into())),
            ("chrony", Some(path)) if path.starts_with('/') => {
                Ok(Self::Chrony(ChronyAddr::Unix(path.into())))
            }
            ("chrony", Some(addr)) => {
                let addr =
                    addr.parse().map_err(|_| fail("after `chrony:` comes IP:PORT or an absolute path"))?;
                Ok(Self::Chrony(ChronyAddr::Udp(addr)))
            }
            ("clockbound", None) => Ok(Self::ClockBound(CLOCKBOUND.into())),
            ("clockbound", Some(path)) if path.starts_with('/') => Ok(Self::ClockBound(path.into())),
            ("clockbound", Some(_)) => Err(fail("after `clockbound:` comes an absolute path")),
            ("ntpd-rs", None) => Ok(Self::NtpdRs(NTPD_RS.into())),
            ("ntpd-rs", Some(path)) if path.starts_with('/') => Ok(Self::NtpdRs(path.into())),
            ("ntpd-rs", Some(_)) => Err(fail("after `ntpd-rs:` comes an absolute path")),
            ("ntpd", None) => Ok(Self::Ntpd((Ipv4Addr::LOCALHOST, NTP_PORT).into())),
            ("ntpd", Some(addr)) => match (addr.parse(), addr.parse::<IpAddr>()) {
                (Ok(addr), _) => Ok(Self::Ntpd(addr)),
                (_, Ok(ip)) => Ok(Self::Ntpd((ip, NTP_PORT).into())),
                _ => Err(fail("after `ntpd:` comes IP or IP:PORT")),
            },
            ("sntp", Some(server)) => {
                server_of(server).ok_or_else(|| fail("after `sntp:` comes HOST or HOST:PORT"))
            }
            ("sntp", None) => Err(fail("say which server: sntp:HOST or sntp:HOST:PORT")),
            ("adjtimex", None) => Ok(Self::Adjtimex),
            _ => Err(fail(
                "expected chrony, chrony:IP:PORT, chrony:/PATH, clockbound, clockbound:/PATH, ntpd-rs, \
                 ntpd-rs:/PATH, ntpd, ntpd:IP:PORT, sntp:HOST:PORT or adjtimex",
            )),
        }
    }
}

fn server_of(text: &str) -> Option<SourceSpec> {
    let (host, port) = if let Ok(ip) = text.parse::<IpAddr>() {
        (ip.to_string(), NTP_PORT)
    } else if let Ok(addr) = text.parse::<SocketAddr>() {
        (addr.ip().to_string(), addr.port())
    } else if let Some(v6) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        (v6.parse::<std::net::Ipv6Addr>().ok()?.to_string(), NTP_PORT)
    } else {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port.parse().ok()?),
            None => (text, NTP_PORT),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > MOST_NAME || !name.chars().all(known) {
            return None;
        }
        (name.to_owned(), port)
    };
    (port != 0).then_some(SourceSpec::Sntp { host, port })
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chrony(addr) => write!(f, "chrony:{addr}"),
            Self::ClockBound(path) => write!(f, "clockbound:{}", path.display()),
            Self::NtpdRs(path) => write!(f, "ntpd-rs:{}", path.display()),
            Self::Ntpd(addr) => write!(f, "ntpd:{addr}"),
            Self::Sntp { host, port } if host.contains(':') => write!(f, "sntp:[{host}]:{port}"),
            Self::Sntp { host, port } => write!(f, "sntp:{host}:{port}"),
            Self::Adjtimex => f.write_str("adjtimex"),
        }
    }
}

impl TryFrom<String> for SourceSpec {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<SourceSpec> for String {
    fn from(spec: SourceSpec) -> Self {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_and_what_they_mean() {
        for (text, full) in [
            ("chrony", "chrony:127.0.0.1:323"),
            ("chrony:[::1]:324", "chrony:[::1]:324"),
            ("chrony:/run/chrony/chronyd.sock", "chrony:/run/chrony/chronyd.sock"),
            ("clockbound", "clockbound:/var/run/clockbound/shm0"),
            ("clockbound:/x", "clockbound:/x"),
            ("ntpd-rs", "ntpd-rs:/var/run/ntpd-rs/observe"),
            ("ntpd-rs:/x y", "ntpd-rs:/x y"),
            ("ntpd", "ntpd:127.0.0.1:123"),
            ("ntpd:10.0.0.1", "ntpd:10.0.0.1:123"),
            ("ntpd:[::1]:5", "ntpd:[::1]:5"),
            ("sntp:time.example.org", "sntp:time.example.org:123"),
            ("sntp:time.example.org:5", "sntp:time.example.org:5"),
            ("sntp:::1", "sntp:[::1]:123"),
            ("sntp:[::1]", "sntp:[::1]:123"),
            ("sntp:[::1]:5", "sntp:[::1]:5"),
            ("adjtimex", "adjtimex"),
        ] {
            let spec: SourceSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), full);
            assert_eq!(full.parse(), Ok(spec), "{text}");
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_what_is_wanted() {
        for text in [
            "",
            ":",
            "chronyd",
            "chrony:",
            "chrony:x",
            "chrony:127.0.0.1",
            "clockbound:x",
            "ntpd-rs:x",
            "ntpd:x",
            "sntp",
            "sntp:",
            "sntp::5",
            "sntp:a b",
            "sntp:h:0",
            "sntp:h:99999",
            "sntp:[::1",
            "adjtimex:1",
            "Chrony",
        ] {
            let error = text.parse::<SourceSpec>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("`{text}` is no clock source: ")), "{error}");
        }
        assert_eq!(
            "sntp".parse::<SourceSpec>().expect_err("no server").to_string(),
            "`sntp` is no clock source: say which server: sntp:HOST or sntp:HOST:PORT"
        );
    }

    #[test]
    fn the_shorthand_replaces_the_first_chronyd_or_comes_first() {
        let addr: SocketAddr = ([127, 0, 0, 1], 5).into();
        let texts = |sources: Option<&[&str]>, chrony| {
            let sources = sources.map(|s| s.iter().map(|t| t.parse().expect("a source")).collect());
            let list = SourceSpec::with_chrony(sources, chrony);
            list.iter()
                .map(ToString::to_string)
                .filter(|t| !t.starts_with("ntpd-rs") && !t.starts_with("clockbound"))
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(None, None), ["chrony:127.0.0.1:323", "adjtimex"]);
        assert_eq!(texts(None, Some(addr)), ["chrony:127.0.0.1:5", "adjtimex"]);
        assert_eq!(texts(Some(&["sntp:a"]), Some(addr)), ["chrony:127.0.0.1:5", "sntp:a:123"]);
        assert_eq!(texts(Some(&["sntp:a", "chrony"]), Some(addr)), ["sntp:a:123", "chrony:127.0.0.1:5"]);
        assert_eq!(texts(Some(&[]), None), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(chrony|ntpd|ntpd-rs|sntp|adjtimex)?:?.{0,40}") {
            if let Ok(spec) = text.parse::<SourceSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }
}
