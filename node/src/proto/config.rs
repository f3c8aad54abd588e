//! What the core is told at start.

use std::net::SocketAddr;

use probe_ebpf::time::Span;

use super::{Limits, NodeId, ports};
use crate::wire::{self, v1};

/// Settings of the core. They do not change during its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, unique in the cluster.
    pub id: NodeId,
    /// Where other nodes reach this one.
    pub advertise: SocketAddr,
    /// The newest protocol version to speak: 1, or 0 to be a plain v0 node. Default 1.
    pub max_version: u8,
    /// Ports from which packets go to v1 members besides the advertised address's, see
    /// [`SOURCE_PORTS_MAX`](super::SOURCE_PORTS_MAX). Default none.
    pub source_ports: Vec<u16>,
    /// Where to look for other nodes. Its own address may be among them: it is skipped.
    pub seeds: Vec<SocketAddr>,
    /// Time between rounds. Default 100 ms.
    pub interval: Span,
    /// Peers asked in a round. Default 1.
    pub fanout: usize,
    /// Neighbours in the ring of ids with whom packets are exchanged at least once a second. 0: none. Default 4.
    pub ring_neighbours: usize,
    /// The largest packet in bytes, inclusive; the same on every node of a cluster. Default 1400.
    pub max_packet: usize,
    /// Time between beacons. Default 5 s; stretched when the cluster grows, see [`Config::beacon_rate`].
    pub beacon_interval: Span,
    /// Beacons per second of the whole cluster, at most (0 means no limit). Default 20.
    pub beacon_rate: u32,
    /// Peers that a fresh change is pushed to by everyone who learns it. 0: none. Default 4.
    pub eager_fanout: usize,
    /// Peers that are told a moment later that the change is here. Default 3.
    pub offer_fanout: usize,
    /// Bytes per second for that, beyond which the periodic rounds must do. Default 32 KiB.
    pub eager_bytes_per_second: u32,
    /// Packets per second likewise. Default 400.
    pub eager_packets_per_second: u32,
    /// Longest message over TCP in bytes. Default 16 MiB.
    pub stream_bytes: usize,
    /// Bounds on the state.
    pub limits: Limits,
    /// Seed of every random choice: the same seed and the same input give the same packets.
    pub seed: u64,
    /// Random, drawn once at start: tells this run's packet ids from those of an earlier one.
    pub incarnation: u32,
}

impl Config {
    /// The smallest useful [`Config::max_packet`].
    pub const MAX_PACKET_MIN: usize = 1000;

    /// The defaults, for a node of this name and address.
    pub fn new(id: NodeId, advertise: SocketAddr) -> Self {
        Self {
            id,
            advertise,
            max_version: v1::VERSION,
            source_ports: Vec::new(),
            seeds: Vec::new(),
            interval: Span::from_millis(100),
            fanout: 1,
            ring_neighbours: 4,
            max_packet: 1400,
            beacon_interval: Span::from_secs(5),
            beacon_rate: 20,
            eager_fanout: 4,
            offer_fanout: 3,
            eager_bytes_per_second: 32 << 10,
            eager_packets_per_second: 400,
            stream_bytes: 16 << 20,
            limits: Limits::default(),
            seed: 0,
            incarnation: 0,
        }
    }

    /// What v0 headers say of newer versions.
    pub(super) fn told_version(&self) -> Option<u8> {
        (self.max_version > 0).then_some(self.max_version)
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let sizes = Self::MAX_PACKET_MIN..=wire::PACKET_MAX;
        if !sizes.contains(&self.max_packet) {
            return Err(ConfigError::MaxPacket { got: self.max_packet });
        }
        if !wire::is_reachable(self.advertise) {
            return Err(ConfigError::Advertise { got: self.advertise });
        }
        for (name, span) in [("interval", self.interval), ("beacon_interval", self.beacon_interval)] {
            if span < Span::from_millis(1) {
                return Err(ConfigError::TooShort { name, got: span });
            }
        }
        if self.fanout == 0 {
            return Err(ConfigError::Fanout);
        }
        let further = &self.source_ports;
        let readable = further.is_empty() || ports::read(ports::write(further).as_bytes()).is_some();
        if !readable || further.contains(&self.advertise.port()) {
            return Err(ConfigError::SourcePorts { got: further.clone() });
        }
        Ok(())
    }
}

/// A setting that cannot work. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too small to be useful or too large for UDP.
    #[error("max_packet is {got} bytes; it must be {} to {}", Config::MAX_PACKET_MIN, wire::PACKET_MAX)]
    MaxPacket {
        /// The setting.
        got: usize,
    },
    /// Nobody could send to it.
    #[error("the advertised address {got} cannot be reached: it needs a unicast IP and a port")]
    Advertise {
        /// The setting.
        got: SocketAddr,
    },
    /// Would spin.
    #[error("{name} is {got}; it must be at least 1 ms")]
    TooShort {
        /// Which setting.
        name: &'static str,
        /// The setting.
        got: Span,
    },
    /// Not what [`Config::source_ports`] is for.
    #[error(
        "source ports {got:?}: there may be {} of them, each once, and not the advertised one",
        ports::SOURCE_PORTS_MAX
    )]
    SourcePorts {
        /// The setting.
        got: Vec<u16>,
    },
    /// Nobody would ever be asked.
    #[error("fanout must be at least 1")]
    Fanout,
}
