//! Datagrams that this kernel dropped at the node's own socket, and why.
//!
//! A program on the tracepoint `kfree_skb` sees every drop of the host and tells the socket's own by its cookie. With it
//! come the reason, whose numbers shift between kernels and whose name the kernel's BTF gives, and the marks by which the
//! socket filter's event of the same datagram is found. Before 6.11 that tracepoint does not say whose packet it was;
//! there `udp_fail_queue_rcv_skb` tells of those that found no room in the socket, which are nearly all, by number only.
//!
//! What is missing in a kernel makes this unavailable, with the reason; the socket's own count (`SO_RXQ_OVFL`) stays.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Ebpf, EbpfLoader};
use probe_ebpf::drop::{self, DropEvent, OTHER_REASONS, SkbOffsets};
use probe_ebpf::event::PacketEvent;
use probe_ebpf::names;

use crate::btf::{self, Argument, Btf, BtfError};
use crate::cookie::cookie;
use crate::load::{self, LoadError, MIN_RING_BYTES};

/// What the kernel calls its reasons, and what their names begin with.
const REASONS: (&str, &str) = ("skb_drop_reason", "SKB_DROP_REASON_");

/// Why drops are not told by reason. Nothing is attached.
#[derive(Debug, thiserror::Error)]
pub enum DropsError {
    /// As for the socket filter.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel does not describe its own types.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// ... not in a way that aya understands.
    #[error("the kernel's BTF: {0}")]
    Tracepoint(#[source] aya::BtfError),
    /// No tracepoint of a known shape.
    #[error("this kernel tells of drops in no way that is known here: {0}")]
    Unknown(String),
    /// The kernel does not tell the socket's cookie.
    #[error("the socket has no cookie: {0}")]
    Cookie(#[source] io::Error),
}

/// How the programs are loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring of drops; that of the events' ring has room for the drop of each event there.
    pub ring_bytes: u32,
    /// Where to read the kernel's BTF (tests point it elsewhere).
    pub btf: PathBuf,
    /// Use `udp_fail_queue_rcv_skb` also where there is better (for tests).
    pub queue_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 256 * 1024, btf: PathBuf::from(btf::VMLINUX), queue_only: false }
    }
}

/// Where drops are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `kfree_skb`: every drop, each with its datagram's marks.
    KfreeSkb,
    /// `udp_fail_queue_rcv_skb`: only those that found no room in the socket, by number.
    QueueFailed,
}

impl Hook {
    /// The tracepoint's name.
    pub const fn tracepoint(self) -> &'static str {
        match self {
            Self::KfreeSkb => "kfree_skb",
            Self::QueueFailed => "udp_fail_queue_rcv_skb",
        }
    }
    const fn program(self) -> &'static str {
        match self {
            Self::KfreeSkb => drop::KFREE_SKB,
            Self::QueueFailed => drop::QUEUE_FAILED,
        }
    }
}

/// One dropped datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why, as the kernel calls it.
    pub reason: Arc<str>,
    /// The socket filter's event of it, without the time at which the filter ran.
    pub packet: PacketEvent,
}

/// What is in the kernel's words: reasons by their number, and where to look.
#[derive(Debug)]
struct Plan {
    hook: Hook,
    offsets: SkbOffsets,
    names: HashMap<u32, Arc<str>>,
    /// Why it is less than could be.
    lacking: Option<String>,
}

/// The drop program of one socket.
pub struct Drops {
    ring: RingBuf<MapData>,
    counts: PerCpuHashMap<MapData, u32, u64>,
    /// Its program holds the link.
    _ebpf: Ebpf,
    plan: Plan,
    /// Drops told one by one so far, by reason.
    told: HashMap<u32, u64>,
    malformed: u64,
}

impl std::fmt::Debug for Drops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drops").field("hook", &self.plan.hook).finish_non_exhaustive()
    }
}

impl Drops {
    /// Loads and attaches the best program that this kernel has room for, for drops at `socket`.
    pub fn attach(socket: impl AsFd, options: &Options) -> Result<Self, DropsError> {
        let object = load::object()?;
        if !options.ring_bytes.is_power_of_two() || options.ring_bytes < MIN_RING_BYTES {
            return Err(LoadError::RingSize(options.ring_bytes).into());
        }
        let cookie = cookie(socket).map_err(DropsError::Cookie)?;
        let plan = Plan::of(&Btf::from_file(&options.btf)?, options.queue_only)?;
        let SkbOffsets { head, transport_header, len, data_len, tstamp } = plan.offsets;
        let offsets = [head, transport_header, len, data_len, tstamp];
        // The object has all programs' maps, and the kernel makes them all.
        let ring_bytes = match plan.hook {
            Hook::KfreeSkb => options.ring_bytes,
            Hook::QueueFailed => MIN_RING_BYTES,
        };
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global(drop::DROP_COOKIE, &cookie, true)
            .override_global(drop::SKB_OFFSETS, &offsets, true)
            .map_max_entries(drop::DROPS, ring_bytes)
            .map_max_entries(names::EVENTS, MIN_RING_BYTES)
            .load(object)
            .map_err(|e| load::refused("object", &e))?;
        let name = plan.hook.program();
        let program: &mut BtfTracePoint = ebpf
            .program_mut(name)
            .ok_or(LoadError::Missing("drop program"))?
            .try_into()
            .map_err(|e: ProgramError| load::refused_program(name, &e))?;
        let types =
            aya::Btf::parse_file(&options.btf, aya::Endianness::default()).map_err(DropsError::Tracepoint)?;
        program.load(plan.hook.tracepoint(), &types).map_err(|e| load::refused_program(name, &e))?;
        drop(types);
        let map = |e: MapError| load::refused(drop::DROPS, &e);
        let ring = ebpf.take_map(drop::DROPS).ok_or(LoadError::Missing("ring of drops"))?;
        let counts = ebpf.take_map(drop::DROP_COUNTS).ok_or(LoadError::Missing("count of drops"))?;
        let mut counts = PerCpuHashMap::try_from(counts).map_err(map)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| DropsError::Unknown(format!("processors: {e}")))?;
        let none = PerCpuValues::try_from(vec![0u64; cpus])
            .map_err(|e| DropsError::Unknown(format!("processors: {e}")))?;
        // For reasons that find no room of their own.
        counts.insert(OTHER_REASONS, none, 0).map_err(map)?;
        let ring = RingBuf::try_from(ring).map_err(map)?;
        // Last: what comes from here on is counted.
        let program: &mut BtfTracePoint = ebpf
            .program_mut(name)
            .ok_or(LoadError::Missing("drop program"))?
            .try_into()
            .map_err(|e: ProgramError| load::refused_program(name, &e))?;
        program.attach().map_err(|e| load::refused_program(name, &e))?;
        Ok(Self { ring, counts, _ebpf: ebpf, plan, told: HashMap::new(), malformed: 0 })
    }

    /// Where drops are seen.
    pub fn hook(&self) -> Hook {
        self.plan.hook
    }

    /// Why less is seen than could be, in one sentence.
    pub fn lacking(&self) -> Option<&str> {
        self.plan.lacking.as_deref()
    }

    /// Calls `each` with every drop that waits in the ring, oldest first. No system call.
    pub fn drain(&mut self, mut each: impl FnMut(Dropped)) {
        while let Some(item) = self.ring.next() {
            let Some(event) = DropEvent::from_bytes(&item) else {
                self.malformed += 1;
                continue;
            };
            *self.told.entry(event.reason).or_default() += 1;
            each(Dropped { reason: self.plan.name(event.reason), packet: event.packet() });
        }
    }

    /// All drops so far by reason, and how many of them are known by number only. Calls `each` as [`drain`](Self::drain)
    /// does. Some system calls: not for the packet path.
    pub fn counts(&mut self, each: impl FnMut(Dropped)) -> Result<BTreeMap<Arc<str>, DropCount>, LoadError> {
        let totals: Result<Vec<(u32, PerCpuValues<u64>)>, MapError> = self.counts.iter().collect();
        let totals = totals.map_err(|e| load::refused(drop::DROP_COUNTS, &e))?;
        // The kernel side counts what it has put into the ring: whatever is in the totals and was told is told now.
        self.drain(each);
        let mut all: BTreeMap<Arc<str>, DropCount> = BTreeMap::new();
        for (reason, cpus) in totals {
            let total: u64 = cpus.iter().sum();
            if total > 0 {
                let told = self.told.get(&reason).copied().unwrap_or(0);
                let count = all.entry(self.plan.name(reason)).or_default();
                count.total += total;
                count.by_number += total.saturating_sub(told);
            }
        }
        Ok(all)
    }

    /// Records of a size that no drop has: kernel and user side of different builds. Always zero.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

/// Is this reason one for which a datagram is dropped after the socket filter saw it?
pub fn is_after_filter(reason: &str) -> bool {
    // net/ipv4/udp.c, `__udp_enqueue_schedule_skb`: nothing else is asked between filter and queue.
    matches!(reason, "SOCKET_RCVBUFF" | "PROTO_MEM")
}

/// Drops for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// All of them.
    pub total: u64,
    /// Of these, how many were not told one by one and will not be.
    pub by_number: u64,
}

impl Plan {
    fn of(btf: &Btf, queue_only: bool) -> Result<Self, DropsError> {
        let (reasons, prefix) = REASONS;
        let enumerators = btf.enumerators(reasons);
        let arguments = btf.tracepoint(Hook::KfreeSkb.tracepoint());
        let lacking = match (&arguments, &enumerators) {
            _ if queue_only => "nothing else was asked for".to_owned(),
            (None, _) => "it has no tracepoint kfree_skb".to_owned(),
            (_, None) => format!("it has no enum {reasons}"),
            (Some(arguments), Some(enumerators)) => {
                let is = |i, what: Argument| arguments.get(i) == Some(&what);
                let pointer = |to: &str| Argument::Pointer(to.to_owned());
                if !is(0, pointer("sk_buff")) || !is(2, Argument::Enumeration(reasons.to_owned())) {
                    "its kfree_skb has other arguments".to_owned()
                } else if !is(3, pointer("sock")) {
                    "its kfree_skb does not say whose packet it was".to_owned()
                } else {
                    let name = |(value, name): &(u32, &str)| {
                        (*value, name.strip_prefix(prefix).unwrap_or(name).into())
                    };
                    let names = enumerators.iter().map(name).collect();
                    let (offsets, lacking) = match offsets(btf) {
                        Ok(offsets) => (offsets, None),
                        Err(why) => (
                            SkbOffsets::default(),
                            Some(format!(
                                "drops are known by number and reason, but not whose they were: {why}"
                            )),
                        ),
                    };
                    return Ok(Self { hook: Hook::KfreeSkb, offsets, names, lacking });
                }
            }
        };
        let hook = Hook::QueueFailed;
        match btf.tracepoint(hook.tracepoint()).as_deref() {
            Some([Argument::Other, Argument::Pointer(sock), ..]) if sock == "sock" => {}
            Some(_) => {
                return Err(DropsError::Unknown(format!(
                    "{lacking}, and its {} has other arguments",
                    hook.tracepoint()
                )));
            }
            None => {
                return Err(DropsError::Unknown(format!("{lacking}, and it has no {}", hook.tracepoint())));
            }
        }
        // The kernel takes these for the same (net/ipv4/udp.c, `__udp_queue_rcv_skb`).
        let names = [(libc::ENOMEM, "SOCKET_RCVBUFF"), (libc::ENOBUFS, "PROTO_MEM")];
        Ok(Self {
            hook,
            offsets: SkbOffsets::default(),
            names: names.map(|(errno, name)| (errno.wrapping_neg() as u32, name.into())).into(),
            lacking: Some(format!(
                "only drops that found no room in the socket are seen, by number ({}): {lacking}",
                hook.tracepoint()
            )),
        })
    }

    fn name(&self, reason: u32) -> Arc<str> {
        match self.names.get(&reason) {
            Some(name) => Arc::clone(name),
            None if reason == OTHER_REASONS => "other".into(),
            None => format!("REASON_{reason}").into(),
        }
    }
}

fn offsets(btf: &Btf) -> Result<SkbOffsets, BtfError> {
    let of = |member, size| btf.offset_of("sk_buff", member, size);
    Ok(SkbOffsets {
        head: of("head", size_of::<usize>() as u32)?,
        transport_header: of("transport_header", 2)?,
        len: of("len", 4)?,
        data_len: of("data_len", 4)?,
        tstamp: of("tstamp", 8)?,
    })
}
