//! `pikoscope self-check`: the same packets stamped by the kernel twice, by eBPF and by `SO_TIMESTAMPING`.
//!
//! Packets of this process to itself over loopback. The receiving socket has the filter of tier 1 and asks for tier 0's
//! stamps; the sending one has the hooks of tier 2 and tier 0's error queue. Packets carry their number, and are told
//! apart by it alone: joining them by the stamps that are compared would prove nothing.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use probe_ebpf::event::PacketEvent;
use probe_ebpf::time::{MonoNs, RealNs, Span};
use serde::Serialize;

use crate::btf;
use crate::clock::Mapping;
use crate::clock::mapping::{MappingReader, mono_now};
use crate::departures::{Departure, HookDepartures};
use crate::hooks::{HookError, Hooks};
use crate::load::{self, LoadError, Probe};
use crate::recv::RecvBatch;
use crate::timestamping;
use crate::transmit::{self, Stage, StampBatch};

mod differences;
mod judge;

pub use differences::Differences;

/// T3 may differ from tier 0's by so much for 99 of 100 packets.
pub const T3_LIMIT: Span = Span::from_micros(20);
/// Packets between two readings; their stamps fit the sockets' buffers.
const CHUNK: u32 = 16;
/// Bytes of a packet: a usual digest's.
const LEN: usize = 200;
/// How long loopback may take.
const PATIENCE: Span = Span::from_secs(10);

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many packets.
    pub packets: u32,
    /// Where to read the kernel's BTF.
    pub btf: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { packets: 5000, btf: PathBuf::from(btf::VMLINUX) }
    }
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum SelfCheckError {
    /// No filter.
    #[error("nothing to compare with: {0}")]
    Probe(#[from] LoadError),
    /// A socket.
    #[error("self-check: {what}: {source}")]
    Socket {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Packets did not arrive in ten seconds.
    #[error("self-check: of {sent} packets over loopback, {missing} did not arrive with all their stamps")]
    Missing {
        /// Sent.
        sent: u32,
        /// Not there.
        missing: u32,
    },
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Packets compared.
    pub packets: u32,
    /// Error of the readings by which REALTIME stamps become MONOTONIC ones; the largest.
    pub mapping_error_ns: i64,
    /// T4: the filter's less `SCM_TIMESTAMPING`'s. Both are REALTIME: no mapping is in it.
    pub t4: Differences,
    /// Packets whose T4 is not the same. What should be 0.
    pub t4_unequal: u32,
    /// Packets whose T4, T5 and T6 are not in this order, beyond the mapping's error. What should be 0.
    pub receive_order_broken: u32,
    /// Tier 2, or why there is none here.
    pub tier_2: Result<TransmitFindings, String>,
    /// What is wrong, a sentence each; empty when all is well.
    pub failures: Vec<String>,
}

/// Of the stamps on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TransmitFindings {
    /// T2: the cgroup hook's less `TX_SCHED`'s. Not the same place: the hook comes first.
    pub t2: Differences,
    /// T3: `net_dev_start_xmit`'s less `TX_SOFTWARE`'s. The hook comes first, by the driver's first steps.
    pub t3: Differences,
    /// Packets whose T2 and T3 by the hooks are not between the call of `sendmsg` and its end. What should be 0.
    pub order_broken: u32,
}

/// Sends packets and compares their stamps. Takes a second or two.
pub fn run(options: &Options) -> Result<Findings, SelfCheckError> {
    let mut bench = Bench::new(options)?;
    bench.warm_up()?;
    while bench.packets.len() < options.packets as usize {
        bench.chunk(CHUNK.min(options.packets - bench.packets.len() as u32))?;
    }
    let no_hooks = bench.hooks.err().map(|e| e.to_string());
    Ok(judge::judge(&bench.packets, bench.mapping_error, no_hooks))
}

/// One packet's stamps.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    /// Before and after `sendmsg`.
    sent: [MonoNs; 2],
    /// Tier 0: T4 as the datagram tells it.
    datagram: Option<RealNs>,
    /// Tier 1: T4 and T5.
    event: Option<PacketEvent>,
    /// T6.
    read: Option<MonoNs>,
    /// Tier 0: T2 and T3, moved to MONOTONIC.
    errqueue: [Option<MonoNs>; 2],
    /// Tier 2: T2 and T3.
    hooks: Option<Departure>,
    /// T4 on MONOTONIC, for the order.
    t4: Option<MonoNs>,
}

struct Bench {
    receiver: UdpSocket,
    sender: UdpSocket,
    probe: Probe,
    hooks: Result<Hooks, HookError>,
    joiner: HookDepartures,
    stamps: StampBatch,
    batch: RecvBatch,
    mapping: MappingReader,
    mapping_error: Span,
    /// The first of them is the kernel's number 0 of the sends.
    packets: Vec<Packet>,
}

impl Bench {
    fn new(options: &Options) -> Result<Self, SelfCheckError> {
        let socket = |what| move |source| SelfCheckError::Socket { what, source };
        let load = load::Options { btf: options.btf.clone(), ..load::Options::default() };
        let mut probe = Probe::load(&load)?;
        let open = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(socket("opening a socket"));
        let (receiver, sender) = (open()?, open()?);
        receiver.set_nonblocking(true).map_err(socket("receiver"))?;
        timestamping::enable_receive_stamps(&receiver).map_err(socket("receive stamps"))?;
        probe.attach(&receiver)?;
        sender
            .connect(receiver.local_addr().map_err(socket("receiver"))?)
            .map_err(socket("connecting over loopback"))?;
        let hooks = Hooks::attach(&sender, &options.btf);
        Ok(Self {
            receiver,
            sender,
            probe,
            hooks,
            joiner: HookDepartures::default(),
            stamps: StampBatch::new(),
            batch: RecvBatch::new(CHUNK as usize, 2 * LEN),
            mapping: MappingReader::new(Span::ZERO),
            mapping_error: Span::ZERO,
            packets: Vec::with_capacity(options.packets as usize),
        })
    }

    /// The kernel switches receive stamps on from a work queue: packets before that have none.
    fn warm_up(&mut self) -> Result<(), SelfCheckError> {
        let deadline = mono_now() + PATIENCE;
        loop {
            self.reset()?;
            self.chunk(1)?;
            if self.packets.iter().all(|packet| packet.event.is_some_and(|event| event.received().is_some()))
            {
                return self.reset();
            }
            if mono_now() > deadline {
                return Err(SelfCheckError::Missing { sent: 1, missing: 1 });
            }
        }
    }

    /// Begins the numbers anew.
    fn reset(&mut self) -> Result<(), SelfCheckError> {
        self.packets.clear();
        transmit::enable(&self.sender)
            .map_err(|source| SelfCheckError::Socket { what: "transmit stamps", source })
    }

    /// Sends so many and collects all that is said of them.
    fn chunk(&mut self, count: u32) -> Result<(), SelfCheckError> {
        let mapping = self.mapping.read();
        self.mapping_error = self.mapping_error.max(mapping.error);
        let first = self.packets.len();
        for number in first..first + count as usize {
            let mut bytes = [0; LEN];
            bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let before = mono_now();
            self.sender
                .send(&bytes)
                .map_err(|source| SelfCheckError::Socket { what: "sending over loopback", source })?;
            self.joiner.push(number as u64, before);
            self.packets.push(Packet { sent: [before, mono_now()], ..Packet::default() });
        }
        // Mostly all is there already; a busy kernel leaves the delivery to its own thread.
        let deadline = mono_now() + PATIENCE;
        loop {
            self.collect(&mapping)?;
            let missing = self.packets[first..].iter().filter(|packet| !self.is_complete(packet)).count();
            if missing == 0 {
                return Ok(());
            }
            if mono_now() > deadline {
                let (sent, missing) = (self.packets.len() as u32, missing as u32);
                return Err(SelfCheckError::Missing { sent, missing });
            }
            std::thread::yield_now();
        }
    }

    fn is_complete(&self, packet: &Packet) -> bool {
        let left = self.hooks.is_err() || packet.hooks.is_some();
        packet.event.is_some() && packet.read.is_some() && packet.errqueue.iter().all(Option::is_some) && left
    }

    fn collect(&mut self, mapping: &Mapping) -> Result<(), SelfCheckError> {
        let packets = &mut self.packets;
        let failed = |what| move |source| SelfCheckError::Socket { what, source };
        self.stamps
            .read(&self.sender, |stamp| {
                if let Some(packet) = packets.get_mut(stamp.id as usize) {
                    let place = &mut packet.errqueue[usize::from(stamp.stage == Stage::Software)];
                    *place = Some(mapping.mono_of_real(stamp.at));
                }
            })
            .map_err(failed("reading the error queue"))?;
        if let Ok(hooks) = &mut self.hooks {
            hooks.drain(|event| self.joiner.take(event));
            self.joiner.finish(|departure| {
                if let Some(packet) = packets.get_mut(departure.cookie as usize) {
                    packet.hooks = Some(departure);
                }
            });
        }
        loop {
            let received = match self.batch.receive(&self.receiver) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                received => received.map_err(failed("receiving"))?,
            };
            let read = mono_now();
            for datagram in 0..received {
                let Some(datagram) = self.batch.get(datagram) else { continue };
                if let Some(packet) = number(datagram.payload).and_then(|n| packets.get_mut(n)) {
                    (packet.datagram, packet.read) = (datagram.received, Some(read));
                }
            }
        }
        self.probe.ring.drain(|event| {
            if let Some(packet) = number(&event.head).and_then(|n| packets.get_mut(n)) {
                packet.t4 = event.received().map(|at| mapping.mono_of_real(at));
                packet.event = Some(event);
            }
        });
        Ok(())
    }
}

fn number(payload: &[u8]) -> Option<usize> {
    payload.first_chunk().and_then(|number| usize::try_from(u64::from_be_bytes(*number)).ok())
}
