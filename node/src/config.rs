//! Settings: a TOML file, overridden by flags, checked once and turned into one [`Config`].
//!
//! Every key of the file is the flag's name with underscores (`interval_ms` for `--interval-ms`, `seeds` for
//! `--seed`). A key that does not exist is an error. What is accepted is all checked here: whoever holds a
//! [`Config`] need not look again.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::clock::mapping::{Injected, InjectedStep};
use probe_user::clock::spec::SourceSpec;

use crate::proto::{self, SOURCE_PORTS_MAX};

mod host;
mod interface;
mod seed;
mod settings;

pub use host::{Host, default_control};
pub use seed::Seed;
pub use settings::{LogLevel, ProbeMode, Settings};

/// Gossip port unless told otherwise (UDP and TCP): unassigned by IANA, and none of Piko's.
pub const GOSSIP_PORT: u16 = 7176;
/// Port of `/metrics` and `/healthz` unless told otherwise.
pub const METRICS_PORT: u16 = 7177;
/// Longest node id in bytes: it travels in every packet.
pub const MAX_NODE_ID: usize = 128;
/// Largest UDP payload over IPv4.
const MAX_UDP_PAYLOAD: usize = 65_507;
/// Below this a digest of a few nodes no longer fits.
const MIN_PACKET: usize = proto::Config::MAX_PACKET_MIN;

/// Six bits of the traffic class.
const MAX_DSCP: u8 = 63;

/// No clock drifts by a tenth.
const MOST_DRIFT_PPB: i64 = 100_000_000;

/// What a node runs with; everything is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// 1..=[`MAX_NODE_ID`] bytes without white space or control characters.
    pub node_id: String,
    /// Where to gossip; the address may be unspecified, the port may be 0.
    pub bind: SocketAddr,
    /// Where others reach this node: a concrete address, see [`Config::advertise_when_bound`] for port 0.
    pub advertise: SocketAddr,
    /// Members to join by.
    pub seeds: Vec<Seed>,
    /// Time between look-ups of the names among them.
    pub seed_interval: Duration,
    /// Tell the others when this node is asked to end.
    pub leave_on_shutdown: bool,
    /// Time between gossip rounds.
    pub interval: Duration,
    /// Members contacted per round.
    pub fanout: usize,
    /// Largest UDP payload sent.
    pub max_packet_bytes: usize,
    /// What the gossip packets are marked with (RFC 2474), if not the system's default.
    pub dscp: Option<u8>,
    /// Ports from which packets go to v1 members besides `bind`'s; 0 takes a free one.
    pub source_ports: Vec<u16>,
    /// Packets between v1 members are filled up to this many bytes of payload.
    pub pad_packet_bytes: usize,
    /// Time between this node's beacon entries.
    pub beacon_interval: Duration,
    /// Where `/metrics` is served.
    pub metrics_bind: SocketAddr,
    /// The control socket.
    pub control: PathBuf,
    /// Source of kernel stamps.
    pub probe: ProbeMode,
    /// Size of the ring: a power of two, a multiple of the page size.
    pub ring_bytes: u32,
    /// Let the kernel count the probe's run time.
    pub probe_stats: bool,
    /// Have the kernel stamp what is sent.
    pub tx_stamps: bool,
    /// The interface whose NIC's receive stamps are T4, where it gives them.
    pub hardware_stamps: Option<String>,
    /// Who tells the local clock's offset, the best first.
    pub clock_sources: Vec<SourceSpec>,
    /// Window of the latency gauges.
    pub reporting_window: Duration,
    /// File for every packet's stamps.
    pub record: Option<PathBuf>,
    /// File for the report at exit.
    pub final_report: Option<PathBuf>,
    /// Where to read the kernel's BTF, if not where the kernel shows it (tests).
    pub btf: Option<PathBuf>,
    /// Time lost on every datagram before it counts as handled (tests).
    pub slow_handler: Duration,
    /// Size of the gossip socket's receive buffer, if not the system's default (tests).
    pub rcvbuf_bytes: Option<usize>,
    /// How much is logged.
    pub log: LogLevel,
    /// Error added to the wall clock (tests).
    pub inject_clock_error: Injected,
}

/// Why the settings can't be used. Nothing has been opened or started yet.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: {message}", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("{key} is {value}, but must be {expected}")]
    OutOfRange { key: &'static str, value: String, expected: String },
    #[error(
        "others cannot reach this node at {bind}: give the address under which they can, for example --advertise 192.0.2.10:{port}",
        port = if bind.port() == 0 { GOSSIP_PORT } else { bind.port() }
    )]
    NoAdvertise { bind: SocketAddr },
    #[error("no name for this node: cannot read the host's name ({0}); give --node-id ID")]
    NoHostname(std::io::Error),
    #[error(
        "no default place for the control socket, because XDG_RUNTIME_DIR is not set and this is not root; give --control PATH"
    )]
    NoControlPath,
}

impl Settings {
    /// Checks everything and fills in the defaults.
    ///
    /// # Errors
    /// The first thing that can't work, in one sentence.
    pub fn validate(self, host: &Host) -> Result<Config, ConfigError> {
        let node_id = match self.node_id {
            Some(id) => id,
            None => host.name.as_ref().map_err(|e| ConfigError::NoHostname(same(e)))?.clone(),
        };
        if node_id.is_empty()
            || node_id.len() > MAX_NODE_ID
            || node_id.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(ConfigError::OutOfRange {
                key: "node_id",
                value: format!("{node_id:?}"),
                expected: format!("1 to {MAX_NODE_ID} bytes without white space"),
            });
        }
        let bind = self.bind.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], GOSSIP_PORT)));
        let advertise = match self.advertise {
            Some(advertise) => concrete("advertise", advertise)?,
            None if bind.ip().is_unspecified() => return Err(ConfigError::NoAdvertise { bind }),
            None => bind,
        };
        if advertise.is_ipv4() != bind.is_ipv4() {
            return Err(ConfigError::OutOfRange {
                key: "advertise",
                value: advertise.to_string(),
                expected: format!("of the same IP version as bind ({bind})"),
            });
        }
        let seeds = Seed::read_all(&self.seeds.unwrap_or_default())?;
        let ring_bytes = self.ring_bytes.unwrap_or(256 * 1024);
        let page = host.page_bytes;
        if !ring_bytes.is_power_of_two() || !ring_bytes.is_multiple_of(page) {
            return Err(ConfigError::OutOfRange {
                key: "ring_bytes",
                value: ring_bytes.to_string(),
                expected: format!(
                    "a power of two and a multiple of the page size, {page} bytes: for example {}",
                    64 * page
                ),
            });
        }
        let max_packet_bytes =
            within("max_packet_bytes", self.max_packet_bytes, 1400, MIN_PACKET, MAX_UDP_PAYLOAD)?;
        let dscp = self.dscp.map(|dscp| within("dscp", Some(dscp), 0, 0, MAX_DSCP)).transpose()?;
        Ok(Config {
            node_id,
            bind,
            advertise,
            seeds,
            seed_interval: Duration::from_secs(within("seed_interval_s", self.seed_interval_s, 30, 1, 3600)?),
            leave_on_shutdown: self.leave_on_shutdown.unwrap_or(true),
            interval: Duration::from_millis(within("interval_ms", self.interval_ms, 100, 10, 60_000)?),
            fanout: within("fanout", self.fanout, 1, 1, 16)?,
            max_packet_bytes,
            dscp,
            source_ports: source_ports(self.source_ports.unwrap_or_default(), bind, advertise)?,
            pad_packet_bytes: within("pad_packet_bytes", self.pad_packet_bytes, 0, 0, max_packet_bytes)?,
            beacon_interval: Duration::from_secs(within(
                "beacon_interval_s",
                self.beacon_interval_s,
                5,
                1,
                3600,
            )?),
            metrics_bind: self
                .metrics_bind
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], METRICS_PORT))),
            control: self.control.or_else(|| host.control.clone()).ok_or(ConfigError::NoControlPath)?,
            probe: self.probe.unwrap_or_default(),
            ring_bytes,
            probe_stats: self.probe_stats.unwrap_or(false),
            tx_stamps: self.tx_stamps.unwrap_or(true),
            hardware_stamps: (self.hardware_stamps)
                .map(|name| interface::interface("hardware_stamps", name))
                .transpose()?,
            clock_sources: SourceSpec::with_chrony(self.clock_sources, self.chrony),
            reporting_window: Duration::from_secs(within(
                "reporting_window_s",
                self.reporting_window_s,
                15,
                1,
                3600,
            )?),
            record: self.record,
            final_report: self.final_report,
            btf: self.btf,
            slow_handler: Duration::from_micros(within(
                "slow_handler_us",
                self.slow_handler_us,
                0,
                0,
                10_000_000,
            )?),
            rcvbuf_bytes: self.rcvbuf_bytes,
            log: self.log.unwrap_or_default(),
            inject_clock_error: Injected {
                at_boot: Span::from_nanos(self.inject_clock_error_ns.unwrap_or(0)),
                drift_ppb: within(
                    "inject_clock_drift_ppb",
                    self.inject_clock_drift_ppb,
                    0,
                    -MOST_DRIFT_PPB,
                    MOST_DRIFT_PPB,
                )?,
                step: self.inject_clock_step_ns.map(|by| InjectedStep {
                    by: Span::from_nanos(by),
                    at: MonoNs::from_nanos(self.inject_clock_step_at_ns.unwrap_or(0)),
                    seen: false,
                }),
            },
        })
    }
}

impl Config {
    /// The address to advertise once the gossip socket is bound to `bound`: port 0 becomes the real one.
    pub fn advertise_when_bound(&self, bound: SocketAddr) -> SocketAddr {
        let mut advertise = self.advertise;
        if advertise.port() == 0 {
            advertise.set_port(bound.port());
        }
        advertise
    }
}

fn concrete(key: &'static str, address: SocketAddr) -> Result<SocketAddr, ConfigError> {
    let ip = address.ip();
    let broadcast = matches!(address, SocketAddr::V4(v4) if v4.ip().is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(ConfigError::OutOfRange {
            key,
            value: address.to_string(),
            expected: "the address of one host".into(),
        });
    }
    Ok(address)
}

/// Ports that a node may send from besides the one of `bind`.
fn source_ports(ports: Vec<u16>, bind: SocketAddr, advertise: SocketAddr) -> Result<Vec<u16>, ConfigError> {
    let own = [bind.port(), advertise.port()];
    let repeated = |i: usize| ports[i] != 0 && (own.contains(&ports[i]) || ports[..i].contains(&ports[i]));
    // Whoever has his port translated has the others translated too, to what nobody knows.
    let translated = own[0] != own[1] && own[1] != 0;
    if ports.len() > SOURCE_PORTS_MAX || (0..ports.len()).any(repeated) || (translated && !ports.is_empty()) {
        return Err(ConfigError::OutOfRange {
            key: "source_ports",
            value: format!("{ports:?}"),
            expected: format!(
                "at most {SOURCE_PORTS_MAX} ports, each once and none that of bind, while advertise has the port of bind"
            ),
        });
    }
    Ok(ports)
}

fn within<T: PartialOrd + fmt::Display>(
    key: &'static str,
    given: Option<T>,
    default: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    match given {
        None => Ok(default),
        Some(value) if value >= least && value <= most => Ok(value),
        Some(value) => Err(ConfigError::OutOfRange {
            key,
            value: value.to_string(),
            expected: format!("from {least} to {most}"),
        }),
    }
}

fn same(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests;
