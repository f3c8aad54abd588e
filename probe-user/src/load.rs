//! Loads the eBPF object and attaches the socket filter, with a guard that takes it off again.
//!
//! Nothing is pinned and nothing is attached to anything but the one socket: when the process ends, in
//! whatever way, the kernel drops program, maps and filter with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{ProgramError, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use probe_ebpf::names;

use crate::btf::{self, Btf, BtfError};
use crate::drain::Ring;

/// Smallest ring: the kernel wants whole pages, in powers of two.
pub const MIN_RING_BYTES: u32 = 4096;

/// The eBPF object as embedded at build time; empty when it was not built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pikoscope-bpf"));

/// Why there is no probe. The socket is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without the eBPF toolchain.
    #[error("this binary was built without the eBPF object (build it with `cargo xtask build`)")]
    NoObject,
    /// The kernel does not let this process load eBPF.
    #[error(
        "the kernel does not permit loading eBPF ({call}: {source}); run as root or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// What was refused.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The verifier or loader refused.
    #[error("the kernel refused the eBPF program {program}: {why}")]
    Refused {
        /// Program or map.
        program: &'static str,
        /// The kernel's reason, verifier log included.
        why: String,
    },
    /// A size the kernel would not take.
    #[error("ring size {0} bytes: must be a power of two and at least {MIN_RING_BYTES}")]
    RingSize(u32),
    /// The object lacks what this code expects of it.
    #[error("the embedded eBPF object has no {0}: it does not belong to this build")]
    Missing(&'static str),
    /// Time namespaces shift userspace's clocks, not `bpf_ktime_get_ns`.
    #[error(
        "this process runs in a time namespace with a shifted clock ({0}); eBPF stamps would be off by that much"
    )]
    TimeNamespace(String),
}

/// How the probe is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the event ring, a power of two of at least [`MIN_RING_BYTES`].
    pub ring_bytes: u32,
    /// Have the kernel measure the filter's run time (about 20 ns a run, for every program on the host).
    pub stats: bool,
    /// Where to read the kernel's BTF (tests point it elsewhere).
    pub btf: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 256 * 1024, stats: false, btf: PathBuf::from(btf::VMLINUX) }
    }
}

/// The loaded probe: tier 1.
pub struct Probe {
    // Field order is drop order: the filter goes before the program that it runs.
    attached: Option<Attached>,
    /// The ring from which events are drained.
    pub ring: Ring,
    ring_failed: PerCpuArray<MapData, u64>,
    logger: Option<Logger>,
    ebpf: Ebpf,
    program: &'static str,
    no_tstamp: Option<BtfError>,
    _stats: Option<OwnedFd>,
}

/// What the kernel side counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounters {
    /// Datagrams the filter ran for.
    pub seen: u64,
    /// Of these, how many found the ring full.
    pub ring_failed: u64,
}

/// Detaches the filter from its socket.
#[derive(Debug)]
struct Attached {
    socket: OwnedFd,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Fails only when the filter is gone already.
        let _ = SocketFilter::detach(&self.socket);
    }
}

type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("program", &self.program)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Probe {
    /// Loads the socket filter.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        Self::load_program(names::SOCKET_FILTER, options)
    }

    /// Loads the filter that does nothing: the yardstick for the probe's cost.
    pub fn load_empty(options: &Options) -> Result<Self, LoadError> {
        Self::load_program(names::EMPTY_FILTER, options)
    }

    /// Loads the filter that reads what the probe reads, and no more: the least that stamps can cost.
    pub fn load_reads(options: &Options) -> Result<Self, LoadError> {
        Self::load_program(names::READS_FILTER, options)
    }

    fn load_program(program: &'static str, options: &Options) -> Result<Self, LoadError> {
        let object = object()?;
        if !options.ring_bytes.is_power_of_two() || options.ring_bytes < MIN_RING_BYTES {
            return Err(LoadError::RingSize(options.ring_bytes));
        }
        // Without the offset the filter still gives T5; T4 then comes with the datagram (SCM_TIMESTAMPING).
        let (offset, no_tstamp) = match tstamp_offset(&options.btf) {
            Ok(offset) => (offset, None),
            Err(why) => (0, Some(why)),
        };
        let mut ebpf = EbpfLoader::new()
            // aya would parse all of the kernel's BTF, and nothing here is relocated by it.
            .btf(None)
            .override_global(names::TSTAMP_OFFSET, &offset, true)
            .map_max_entries(names::EVENTS, options.ring_bytes)
            .load(object)
            .map_err(|e| refused("object", &e))?;
        let filter: &mut SocketFilter = ebpf
            .program_mut(program)
            .ok_or(LoadError::Missing("socket filter"))?
            .try_into()
            .map_err(|e: ProgramError| refused_program(program, &e))?;
        filter.load().map_err(|e| refused_program(program, &e))?;
        let logger = aya_log::EbpfLogger::init(&mut ebpf).ok();
        let ring = ebpf.take_map(names::EVENTS).ok_or(LoadError::Missing("event ring"))?;
        let failed = ebpf.take_map(names::RING_FAILED).ok_or(LoadError::Missing("count of lost events"))?;
        let stats = if options.stats {
            Some(
                aya::sys::enable_stats(aya::sys::Stats::RunTime)
                    .map_err(|e| LoadError::NotPermitted { call: "BPF_ENABLE_STATS", source: e.io_error })?,
            )
        } else {
            None
        };
        Ok(Self {
            attached: None,
            ring: Ring::new(ring).map_err(|e| refused(names::EVENTS, &e))?,
            ring_failed: failed
                .try_into()
                .map_err(|e: aya::maps::MapError| refused(names::RING_FAILED, &e))?,
            logger,
            ebpf,
            program,
            no_tstamp,
            _stats: stats,
        })
    }

    /// Attaches to a socket, best before it is bound: then no datagram comes without its event.
    pub fn attach(&mut self, socket: impl AsFd) -> Result<(), LoadError> {
        let io = |source| LoadError::NotPermitted { call: "dup", source };
        let socket = socket.as_fd().try_clone_to_owned().map_err(io)?;
        self.filter()?.attach(&socket).map_err(|e| refused_program(self.program, &e))?;
        self.attached = Some(Attached { socket });
        Ok(())
    }

    /// Takes the filter off the socket: from here on nothing more is seen.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// Why T4 is not read by the filter, if it is not.
    pub fn no_tstamp(&self) -> Option<&BtfError> {
        self.no_tstamp.as_ref()
    }

    /// What the kernel side counted. One syscall: not for the packet path.
    pub fn counters(&self) -> ProbeCounters {
        // Reading element 0 of a one-element map of ours does not fail; zero would show in the accounting.
        let per_cpu = self.ring_failed.get(&0, 0).ok();
        let ring_failed = per_cpu.iter().flat_map(|cpus| cpus.iter()).sum();
        ProbeCounters { seen: self.ring.produced() + ring_failed, ring_failed }
    }

    /// Runs of the filter and the time they took, as far as statistics were on. Syscalls: not for the packet
    /// path.
    pub fn cost(&self) -> (u64, Duration) {
        let info = self.filter().ok().and_then(|f| f.info().ok());
        info.map_or((0, Duration::ZERO), |i| (i.run_count(), i.run_time()))
    }

    /// Hands log records of the kernel side (rare events only) to the `log` crate.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    fn filter(&self) -> Result<&SocketFilter, LoadError> {
        let program = self.ebpf.program(self.program).ok_or(LoadError::Missing("socket filter"))?;
        program.try_into().map_err(|e: ProgramError| refused_program(self.program, &e))
    }
}

/// The eBPF object, if there is one and its stamps would be right in this process.
pub(crate) fn object() -> Result<&'static [u8], LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    match time_namespace_shift(Path::new("/proc/self/timens_offsets")) {
        Some(shift) => Err(LoadError::TimeNamespace(shift)),
        None => Ok(OBJECT),
    }
}

/// Offset of `skb->tstamp`, from BTF.
fn tstamp_offset(btf: &Path) -> Result<u32, BtfError> {
    Btf::from_file(btf)?.offset_of("sk_buff", "tstamp", size_of::<u64>() as u32)
}

/// The monotonic line of `timens_offsets` when it is not zero (time_namespaces(7)).
fn time_namespace_shift(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with("monotonic"))?;
    let shifted = line.split_whitespace().skip(1).any(|n| n != "0");
    shifted.then(|| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

pub(crate) fn refused(program: &'static str, error: &(dyn std::error::Error + 'static)) -> LoadError {
    // aya nests the syscall's error; what matters to a user is whether it was a permission.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut why = Vec::new();
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>()
            && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
            && !matches!(error.downcast_ref(), Some(ProgramError::LoadError { .. }))
        {
            return LoadError::NotPermitted { call: "bpf", source: copy(io) };
        }
        why.push(e.to_string());
        cause = e.source();
    }
    why.dedup();
    LoadError::Refused { program, why: why.join(": ") }
}

pub(crate) fn refused_program(program: &'static str, error: &ProgramError) -> LoadError {
    match error {
        // EPERM is a missing privilege; EACCES and EINVAL come from the verifier, with its log.
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            LoadError::NotPermitted { call: "BPF_PROG_LOAD", source: copy(io_error) }
        }
        other => refused(program, other),
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_time_namespace_is_noticed() {
        let dir = std::env::temp_dir().join(format!("pikoscope-timens-{}", std::process::id()));
        fs::write(&dir, "monotonic           0         0\nboottime            0         0\n")
            .expect("temp file");
        assert_eq!(time_namespace_shift(&dir), None);
        fs::write(&dir, "monotonic        5000         0\nboottime            0         0\n")
            .expect("temp file");
        assert_eq!(time_namespace_shift(&dir).as_deref(), Some("monotonic 5000 0"));
        fs::remove_file(&dir).expect("own file");
    }

    #[test]
    fn a_ring_of_a_wrong_size_is_refused_with_the_size() {
        for bytes in [0, 1000, 2048, 5000] {
            let options = Options { ring_bytes: bytes, ..Options::default() };
            let error = Probe::load(&options).expect_err("must be refused");
            assert!(
                matches!(error, LoadError::RingSize(b) if b == bytes) || matches!(error, LoadError::NoObject)
            );
        }
    }
}
