//! Settings as users give them, in a file or by flags.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use probe_user::clock::spec::SourceSpec;
use serde::Deserialize;

use super::ConfigError;

/// Which source of kernel stamps to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProbeMode {
    /// The best one that is permitted; `doctor` tells which and why.
    #[default]
    Auto,
    /// Tier 1, the eBPF socket filter; not permitted is an error.
    Ebpf,
    /// Tier 2: as auto, with eBPF hooks for the packets' way out, which run for packets of the whole host. Where they
    /// are not possible, status says why.
    Hooks,
    /// Tier 0, `SO_TIMESTAMPING`; needs no privilege.
    Timestamping,
    /// No kernel stamps: only what the application itself sees.
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// Settings as given, by file or by flags; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of this node, unique in the cluster; at most 128 bytes, no spaces [default: the host's name]
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// Address on which to gossip (UDP, and TCP to join and leave); port 0 takes a free one [default: 0.0.0.0:7176]
    #[arg(long, value_name = "IP:PORT")]
    pub bind: Option<SocketAddr>,
    /// Address under which others reach this node; needed when --bind is 0.0.0.0 or [::] [default: --bind]
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Gossip address of any member to join by, by name or number; may be repeated, two or three are recommended. A
    /// name stands for all its addresses
    #[arg(long = "seed", value_name = "HOST:PORT")]
    pub seeds: Option<Vec<String>>,
    /// Seconds between look-ups of the seeds' names, 1..=3600. Recommended: 30.
    #[arg(skip)]
    pub seed_interval_s: Option<u64>,
    /// Time between gossip rounds, 10..=60000 ms; lower is faster and costs more [default: 100]
    #[arg(long, value_name = "N")]
    pub interval_ms: Option<u64>,
    /// Members contacted per round, 1..=16; more is faster and costs more. Recommended: 1.
    #[arg(skip)]
    pub fanout: Option<usize>,
    /// Largest UDP payload sent, 1000..=65507 bytes. Recommended: 1400, which is also what Piko reads.
    #[arg(skip)]
    pub max_packet_bytes: Option<usize>,
    /// Differentiated services code point of the gossip packets, 0..=63 (46 is EF, 10 is AF11): the one that the user's
    /// traffic has, so that gossip takes the same queues. Sets the send priority of the host's own queues, too [default:
    /// the system's, which is 0]
    #[arg(long, value_name = "N")]
    pub dscp: Option<u8>,
    /// A further UDP port to send from, 0 takes a free one; may be repeated, seven at most. Packets between members that
    /// speak v1 then go from all of them and from --bind's: equal paths (ECMP, bonded links) take packets by their ports,
    /// and gossip sees more of them. Nothing is received there, but firewalls must let it out. No address translation
    /// may be on the way [default: none]
    #[arg(long = "source-port", value_name = "PORT")]
    pub source_ports: Option<Vec<u16>>,
    /// Fill every gossip packet between members that speak v1 up to so many bytes of UDP payload, at most
    /// max_packet_bytes: the size that the user's packets have. What answers a stranger and what goes to v0 nodes stays
    /// as it is. Costs the bandwidth [default: 0, no filling]
    #[arg(long, value_name = "BYTES")]
    pub pad_packet_bytes: Option<usize>,
    /// Seconds between this node's beacon entries, 1..=3600. Recommended: 5.
    #[arg(skip)]
    pub beacon_interval_s: Option<u64>,
    /// Tell the others at SIGTERM and SIGINT that this node leaves; without it they find it unreachable [default: true]
    #[arg(long, value_name = "BOOL")]
    pub leave_on_shutdown: Option<bool>,
    /// Address of /metrics and /healthz, read-only [default: 127.0.0.1:7177]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_bind: Option<SocketAddr>,
    /// Unix socket for status, set, get, delete, watch [default: see `pikoscope status --help`]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Source of kernel stamps; auto takes the best that is permitted [default: auto]
    #[arg(long, value_name = "MODE")]
    pub probe: Option<ProbeMode>,
    /// Size of the probe's ring in bytes, a power of two and a multiple of the page size [default: 262144]
    #[arg(long, value_name = "N")]
    pub ring_bytes: Option<u32>,
    /// Who tells how wrong the clock is, the best first; the others are compared with the one in use: chrony,
    /// chrony:IP:PORT, chrony:/PATH, clockbound, clockbound:/PATH, ntpd-rs, ntpd-rs:/PATH, ntpd:IP:PORT, sntp:HOST:PORT,
    /// adjtimex. Smearing servers must not be mixed with others [default: chrony, clockbound and ntpd-rs if their files
    /// exist, adjtimex]
    #[arg(long = "clock-source", value_name = "SOURCE")]
    pub clock_sources: Option<Vec<SourceSpec>>,
    /// Where chronyd answers queries: short for --clock-source chrony:IP:PORT [default: 127.0.0.1:323]
    #[arg(long, value_name = "IP:PORT")]
    pub chrony: Option<SocketAddr>,
    /// Let the kernel count the probe's run time; costs about 20 ns per run of every eBPF program of the host
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub probe_stats: Option<bool>,
    /// Have the kernel stamp the node's own packets on their way out, so that its kernel and its own link's queue can be
    /// told from the network. Default true; costs a system call per batch of packets sent
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub tx_stamps: Option<bool>,
    /// Take the time at which a packet came (T4) from the NIC of this interface, if its clock allows: then what waits for
    /// the receiver's interrupts is no longer part of the network. Bonds and VLANs: name the NIC below. Costs five reads
    /// of the NIC's clock a second, some microseconds each, and has the NIC stamp all that it receives until the node
    /// ends; needs CAP_NET_ADMIN and /dev/ptpN [default: none, the kernel's stamps]
    #[arg(long, value_name = "IFACE")]
    pub hardware_stamps: Option<String>,
    /// Length of the window of the latency gauges in seconds, 1..=3600. Recommended: the scrape interval.
    #[arg(skip)]
    pub reporting_window_s: Option<u64>,
    /// Write every packet's stamps to this file, one JSON line each
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write the node's report to this file at exit, as JSON
    #[arg(long, value_name = "FILE")]
    pub final_report: Option<PathBuf>,
    /// Test aid: pretend that the wall clock was this wrong at the boot, in nanoseconds, positive = fast
    #[arg(long, value_name = "N", hide = true, allow_negative_numbers = true)]
    #[serde(skip)]
    pub inject_clock_error_ns: Option<i64>,
    /// Test aid: and that it has gained so many nanoseconds a second since (CLOCK_MONOTONIC)
    #[arg(long, value_name = "N", hide = true, allow_negative_numbers = true)]
    #[serde(skip)]
    pub inject_clock_drift_ppb: Option<i64>,
    /// Test aid: and that it is stepped by so many nanoseconds, positive = forward
    #[arg(long, value_name = "N", hide = true, allow_negative_numbers = true)]
    #[serde(skip)]
    pub inject_clock_step_ns: Option<i64>,
    /// Test aid: when CLOCK_MONOTONIC shows this, in nanoseconds
    #[arg(long, value_name = "N", hide = true)]
    #[serde(skip)]
    pub inject_clock_step_at_ns: Option<i64>,
    /// Test aid: read the kernel's BTF from here
    #[arg(long, value_name = "FILE", hide = true)]
    #[serde(skip)]
    pub btf: Option<PathBuf>,
    /// Test aid: sleep so many microseconds on every datagram before it counts as handled
    #[arg(long, value_name = "N", hide = true)]
    #[serde(skip)]
    pub slow_handler_us: Option<u64>,
    /// Test aid: size of the gossip socket's receive buffer as asked of the kernel, which doubles it
    #[arg(long, value_name = "N", hide = true)]
    #[serde(skip)]
    pub rcvbuf_bytes: Option<usize>,
    /// What to log: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL", hide_possible_values = true)]
    pub log: Option<LogLevel>,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// When it can't be read, is no TOML, has a key that does not exist or a value of the wrong type.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            message: one_line(&text, &error),
        })
    }

    /// These settings, and `other`'s where these say nothing.
    pub fn or(self, other: Self) -> Self {
        Self {
            node_id: self.node_id.or(other.node_id),
            bind: self.bind.or(other.bind),
            advertise: self.advertise.or(other.advertise),
            seeds: self.seeds.or(other.seeds),
            seed_interval_s: self.seed_interval_s.or(other.seed_interval_s),
            leave_on_shutdown: self.leave_on_shutdown.or(other.leave_on_shutdown),
            interval_ms: self.interval_ms.or(other.interval_ms),
            fanout: self.fanout.or(other.fanout),
            max_packet_bytes: self.max_packet_bytes.or(other.max_packet_bytes),
            dscp: self.dscp.or(other.dscp),
            source_ports: self.source_ports.or(other.source_ports),
            pad_packet_bytes: self.pad_packet_bytes.or(other.pad_packet_bytes),
            beacon_interval_s: self.beacon_interval_s.or(other.beacon_interval_s),
            metrics_bind: self.metrics_bind.or(other.metrics_bind),
            control: self.control.or(other.control),
            probe: self.probe.or(other.probe),
            ring_bytes: self.ring_bytes.or(other.ring_bytes),
            clock_sources: self.clock_sources.or(other.clock_sources),
            chrony: self.chrony.or(other.chrony),
            probe_stats: self.probe_stats.or(other.probe_stats),
            tx_stamps: self.tx_stamps.or(other.tx_stamps),
            hardware_stamps: self.hardware_stamps.or(other.hardware_stamps),
            reporting_window_s: self.reporting_window_s.or(other.reporting_window_s),
            record: self.record.or(other.record),
            final_report: self.final_report.or(other.final_report),
            inject_clock_error_ns: self.inject_clock_error_ns.or(other.inject_clock_error_ns),
            inject_clock_drift_ppb: self.inject_clock_drift_ppb.or(other.inject_clock_drift_ppb),
            inject_clock_step_ns: self.inject_clock_step_ns.or(other.inject_clock_step_ns),
            inject_clock_step_at_ns: self.inject_clock_step_at_ns.or(other.inject_clock_step_at_ns),
            btf: self.btf.or(other.btf),
            slow_handler_us: self.slow_handler_us.or(other.slow_handler_us),
            rcvbuf_bytes: self.rcvbuf_bytes.or(other.rcvbuf_bytes),
            log: self.log.or(other.log),
        }
    }
}

/// `toml`'s error spans several lines with a picture of the place; the line number says the same.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', "; ");
    match error.span() {
        Some(span) => {
            let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {message}")
        }
        None => message,
    }
}
