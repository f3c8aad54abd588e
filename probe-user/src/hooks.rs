//! Tier 2: T2 and T3 by eBPF hooks on the way out, in place of the error queue's stamps.
//!
//! T2 is a `cgroup_skb` link on the egress side of the process's own cgroup, T3 the tracepoint `net_dev_start_xmit`.
//! Both read CLOCK_MONOTONIC themselves, so no mapping of clocks is in the values, and nothing is charged to the
//! socket's receive buffer. In exchange they run for packets of others: the one for all that the cgroup sends, the
//! other for all that the host sends, which costs those a fraction of a microsecond each. Hence only on request.
//!
//! Links are held by this process alone: the kernel takes the hooks off when it ends, in whatever way.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, ProgramError, ProgramInfo,
};
use aya::{Ebpf, EbpfLoader};
use probe_ebpf::departure::DepartureEvent;
use probe_ebpf::names;

use crate::btf::{Btf, BtfError};
use crate::cookie::cookie;
use crate::load::{self, LoadError};

/// Bytes of the hooks' ring: two thousand events, of which a node makes two or three per packet that it sends.
const RING_BYTES: u32 = 64 * 1024;

/// Why there is no tier 2. Nothing is attached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// As for the socket filter.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel's structures are not known, so nothing can be read from them.
    #[error("the hooks cannot find their way in this kernel's structures: {0}")]
    Btf(#[from] BtfError),
    /// The kernel's BTF is needed a second time, for the tracepoint's own type.
    #[error("the kernel's BTF cannot be read for the tracepoint {tracepoint}: {0}", tracepoint = names::XMIT_TRACEPOINT)]
    Tracepoint(#[source] aya::BtfError),
    /// No cgroup to attach to.
    #[error("the process's own cgroup (v2) cannot be opened: {0}")]
    Cgroup(String),
    /// The kernel does not tell a socket's cookie.
    #[error("the socket has no cookie: {0}")]
    Cookie(#[source] io::Error),
}

/// The hooks of one socket.
pub struct Hooks {
    ring: RingBuf<MapData>,
    failed: PerCpuArray<MapData, u64>,
    /// Its programs hold the links.
    ebpf: Ebpf,
    programs: [&'static str; 2],
    malformed: u64,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("programs", &self.programs).finish_non_exhaustive()
    }
}

/// One program's runs, for its own socket's packets and for those of others, and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCost {
    /// The program's name.
    pub program: &'static str,
    /// Runs that the kernel timed.
    pub runs: u64,
    /// Their time.
    pub time: Duration,
}

impl Hooks {
    /// Loads and attaches both hooks for the packets of `socket`. `btf`: where to read the kernel's BTF.
    pub fn attach(socket: impl AsFd, btf: &Path) -> Result<Self, HookError> {
        Self::attach_programs(socket, btf, [names::EGRESS, names::XMIT])
    }

    /// Attaches hooks that do nothing: the yardstick for their cost.
    pub fn attach_empty(socket: impl AsFd, btf: &Path) -> Result<Self, HookError> {
        Self::attach_programs(socket, btf, [names::EGRESS_EMPTY, names::XMIT_EMPTY])
    }

    fn attach_programs(
        socket: impl AsFd,
        btf: &Path,
        programs @ [egress, xmit]: [&'static str; 2],
    ) -> Result<Self, HookError> {
        let object = load::object()?;
        let cookie = cookie(socket).map_err(HookError::Cookie)?;
        let offsets = Offsets::of(&Btf::from_file(btf)?)?;
        let cgroup = own_cgroup()?;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global(names::OWN_COOKIE, &cookie, true)
            .override_global(names::SKB_SK_OFFSET, &offsets.sk, true)
            .override_global(names::SOCK_COOKIE_OFFSET, &offsets.cookie, true)
            .override_global(names::DEVICE_IFINDEX_OFFSET, &offsets.ifindex, true)
            .map_max_entries(names::DEPARTURES, RING_BYTES)
            // Maps of the other programs are made too; the filter's ring is not used here.
            .map_max_entries(names::EVENTS, load::MIN_RING_BYTES)
            .load(object)
            .map_err(|e| load::refused("object", &e))?;
        let ring = ebpf.take_map(names::DEPARTURES).ok_or(LoadError::Missing("ring of departures"))?;
        let failed =
            ebpf.take_map(names::DEPARTURES_FAILED).ok_or(LoadError::Missing("count of lost departures"))?;
        let refused_map = |map| move |e: MapError| load::refused(map, &e);

        let kernel = aya::Btf::parse_file(btf, aya::Endianness::default()).map_err(HookError::Tracepoint)?;
        let hook: &mut BtfTracePoint = program(&mut ebpf, xmit)?;
        hook.load(names::XMIT_TRACEPOINT, &kernel).map_err(|e| load::refused_program(xmit, &e))?;
        drop(kernel);
        hook.attach().map_err(|e| load::refused_program(xmit, &e))?;
        let hook: &mut CgroupSkb = program(&mut ebpf, egress)?;
        hook.load().map_err(|e| load::refused_program(egress, &e))?;
        // A link is always one of several, and the kernel refuses to be told so.
        hook.attach(cgroup, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)
            .map_err(|e| load::refused_program(egress, &e))?;
        Ok(Self {
            ring: ring.try_into().map_err(refused_map(names::DEPARTURES))?,
            failed: failed.try_into().map_err(refused_map(names::DEPARTURES_FAILED))?,
            ebpf,
            programs,
            malformed: 0,
        })
    }

    /// Calls `each` with every event in the ring, oldest first. No system call.
    pub fn drain(&mut self, mut each: impl FnMut(DepartureEvent)) {
        while let Some(item) = self.ring.next() {
            match DepartureEvent::from_bytes(&item) {
                Some(event) => each(event),
                None => self.malformed += 1,
            }
        }
    }

    /// Events that found the ring full: of T2 and of T3. A system call each: not for the packet path.
    pub fn lost(&self) -> [u64; 2] {
        [0, 1].map(|hook| {
            // Reading an element of a map of ours does not fail.
            let per_cpu = self.failed.get(&hook, 0).ok();
            per_cpu.iter().flat_map(|cpus| cpus.iter()).sum()
        })
    }

    /// Records of a size that no event has: kernel and user side of different builds. Always zero.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// What each hook cost the host, as far as statistics were on: T2's and T3's. System calls.
    pub fn costs(&self) -> [HookCost; 2] {
        self.programs.map(|program| {
            let info = self.ebpf.program(program).and_then(info);
            let (runs, time) = info.map_or((0, Duration::ZERO), |i| (i.run_count(), i.run_time()));
            HookCost { program, runs, time }
        })
    }
}

fn info(program: &Program) -> Option<ProgramInfo> {
    program.info().ok()
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing("hook"))?;
    program.try_into().map_err(|e| load::refused_program(name, &e))
}

/// Where the hooks find what they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offsets {
    sk: u32,
    cookie: u32,
    ifindex: u32,
}

impl Offsets {
    fn of(btf: &Btf) -> Result<Self, BtfError> {
        let word = size_of::<u64>() as u32;
        Ok(Self {
            sk: btf.offset_of("sk_buff", "sk", word)?,
            cookie: btf.offset_of_part("sock", "__sk_common", "sock_common")?
                + btf.offset_of("sock_common", "skc_cookie", word)?,
            ifindex: btf.offset_of("net_device", "ifindex", size_of::<u32>() as u32)?,
        })
    }
}

/// Opens this process's cgroup, of which its sockets are.
fn own_cgroup() -> Result<File, HookError> {
    let read = |path| fs::read_to_string(path).map_err(|e| HookError::Cgroup(format!("{path}: {e}")));
    let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    let path = cgroup_path(&own, &mounts).map_err(|why| HookError::Cgroup(why.to_owned()))?;
    File::open(&path).map_err(|e| HookError::Cgroup(format!("{}: {e}", path.display())))
}

/// Directory of a process's cgroup, by `/proc/PID/cgroup` (cgroups(7)) and `/proc/PID/mountinfo` (proc(5)).
fn cgroup_path(own: &str, mounts: &str) -> Result<PathBuf, &'static str> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("this kernel has no cgroup v2")?;
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELDS...] - TYPE SOURCE OPTIONS
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let below = path.strip_prefix(root.trim_end_matches('/'))?;
        (kind.starts_with("cgroup2 ") && (below.is_empty() || below.starts_with('/')))
            .then(|| PathBuf::from(point).join(below.trim_start_matches('/')))
    };
    mounts.lines().find_map(mount).ok_or("no mount of cgroup2 shows it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_every_layout() {
        let unified = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let container = "40 1 0:22 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let found = |own, mounts| cgroup_path(own, mounts).map(|path| path.display().to_string());
        let slice = "0::/system.slice/pikoscope.service\n";
        assert_eq!(found(slice, unified).unwrap(), "/sys/fs/cgroup/system.slice/pikoscope.service");
        assert_eq!(found("1:cpu:/x\n0::/\n", hybrid).unwrap(), "/sys/fs/cgroup/unified/");
        assert_eq!(found("0::/docker/abc/child\n", container).unwrap(), "/sys/fs/cgroup/child");
        assert_eq!(found("0::/docker/abcd\n", container), Err("no mount of cgroup2 shows it"));
        assert_eq!(found("1:cpu:/x\n", unified), Err("this kernel has no cgroup v2"));
    }

    #[test]
    fn this_kernel_has_what_the_hooks_read() {
        let offsets = Offsets::of(&Btf::from_kernel().expect("BTF")).expect("all of it");
        assert!(offsets.sk > 0 && offsets.ifindex > 0 && offsets.cookie > 0, "{offsets:?}");
    }
}
