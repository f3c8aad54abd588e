//! How loaded this host is: what the kernel counts of it, once a second, as evidence beside the verdicts.
//!
//! A stamp says when the kernel came to a packet, not when the packet came to the host. What can lie between the two,
//! a saturated softirq or a CPU that was not there, has to be told by other means: `/proc/net/softnet_stat`,
//! `/proc/stat`, pressure stall information (Documentation/accounting/psi.rst), and by how much this thread's own
//! timers came late.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::verdict::HostEvidence;

/// A file of this length or less is read whole; there is room for the lines of some thousand CPUs.
const MOST_BYTES: u64 = 1 << 20;

/// What the kernel has counted since the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Totals {
    /// All CPUs' second and third column of `softnet_stat`.
    softnet: Option<(u32, u32)>,
    /// Microseconds.
    cpu_some: Option<u64>,
    /// Microseconds.
    cpu_full: Option<u64>,
    /// The whole line of all CPUs: (time in all states, stolen), in ticks.
    steal: Option<(u64, u64)>,
    /// By CPU: (time in all states, in softirq), in ticks.
    softirq: Vec<(u64, u64)>,
}

/// Reads the loads.
#[derive(Debug)]
pub(super) struct Loads {
    softnet: Source,
    stat: Source,
    pressure: Source,
    /// The node's own cgroup's; the root's says nothing.
    own_pressure: Source,
    before: Option<(MonoNs, Totals)>,
    late: Span,
    text: String,
}

impl Loads {
    pub(super) fn new() -> Self {
        Self {
            softnet: Source::open("/proc/net/softnet_stat"),
            stat: Source::open("/proc/stat"),
            pressure: Source::open("/proc/pressure/cpu"),
            own_pressure: own_cgroup().map_or(Source(None), |dir| Source::open(dir.join("cpu.pressure"))),
            before: None,
            late: Span::ZERO,
            text: String::new(),
        }
    }

    /// A timer of this thread fired so much after its time.
    pub(super) fn was_late(&mut self, by: Span) {
        self.late += by;
    }

    /// The loads since the last call; `None` at the first. `receive_buffer` says how full the socket's is, per mille.
    pub(super) fn read(&mut self, now: MonoNs, receive_buffer: Option<u16>) -> Option<HostEvidence> {
        let text = &mut self.text;
        let totals = Totals {
            softnet: self.softnet.read(text).and_then(softnet),
            cpu_some: self.pressure.read(text).and_then(|text| stalled(text, "some")),
            cpu_full: self.own_pressure.read(text).and_then(|text| stalled(text, "full")),
            steal: self
                .stat
                .read(text)
                .and_then(|text| cpus(text).next())
                .map(|(all, _, steal)| (all, steal)),
            softirq: self
                .stat
                .read(text)
                .map(|text| cpus(text).skip(1).map(|(all, softirq, _)| (all, softirq)).collect())
                .unwrap_or_default(),
        };
        let late = std::mem::take(&mut self.late);
        let (from, before) = self.before.replace((now, totals.clone()))?;
        Some(between(&before, &totals, now - from, late, receive_buffer))
    }
}

/// What was counted in between.
fn between(
    before: &Totals,
    after: &Totals,
    time: Span,
    late: Span,
    receive_buffer: Option<u16>,
) -> HostEvidence {
    let micros = u64::try_from(time.as_nanos() / 1_000).unwrap_or(0);
    let pressure = |before: Option<u64>, after: Option<u64>| permille(after?.checked_sub(before?)?, micros);
    let ticks = |(all, part): (u64, u64), (all_after, part_after): (u64, u64)| {
        permille(part_after.checked_sub(part)?, all_after.checked_sub(all)?)
    };
    let softnet = before.softnet.zip(after.softnet);
    HostEvidence {
        age: Span::ZERO,
        softnet_dropped: softnet.map(|(before, after)| after.0.wrapping_sub(before.0)),
        time_squeeze: softnet.map(|(before, after)| after.1.wrapping_sub(before.1)),
        cpu_some: pressure(before.cpu_some, after.cpu_some),
        cpu_full: pressure(before.cpu_full, after.cpu_full),
        steal: before.steal.zip(after.steal).and_then(|(before, after)| ticks(before, after)),
        // A CPU that came or went shifts the lines: then nothing is told.
        softirq: (before.softirq.len() == after.softirq.len())
            .then(|| before.softirq.iter().zip(&after.softirq).filter_map(|(b, a)| ticks(*b, *a)).max())
            .flatten(),
        receive_buffer,
        late: permille(u64::try_from(late.as_nanos() / 1_000).unwrap_or(0), micros),
    }
}

/// `part` of `all` in thousandths; more than all of it is possible where several wait at a time.
fn permille(part: u64, all: u64) -> Option<u16> {
    let share = u128::from(part) * 1_000 / u128::from((all > 0).then_some(all)?);
    Some(u16::try_from(share).unwrap_or(u16::MAX))
}

/// Packets dropped, and times that NAPI's budget ran out, of all CPUs together (net/core/net-procfs.c).
fn softnet(text: &str) -> Option<(u32, u32)> {
    let column = |line: &str, at: usize| u32::from_str_radix(line.split_ascii_whitespace().nth(at)?, 16).ok();
    text.lines().try_fold((0_u32, 0_u32), |(dropped, squeezed), line| {
        Some((dropped.wrapping_add(column(line, 1)?), squeezed.wrapping_add(column(line, 2)?)))
    })
}

/// The `total=` of a pressure file's line, in microseconds.
fn stalled(text: &str, which: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(which))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

/// The lines of `/proc/stat` that are of CPUs, that of all of them first: ticks in all states, in softirq, stolen.
fn cpus(text: &str) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
    text.lines().take_while(|line| line.starts_with("cpu")).filter_map(|line| {
        let mut ticks = [0_u64; 8];
        let mut words = line.split_ascii_whitespace().skip(1);
        // user nice system idle iowait irq softirq steal; guest time is in user's already.
        for slot in &mut ticks {
            *slot = words.next()?.parse().ok()?;
        }
        Some((ticks.iter().sum(), ticks[6], ticks[7]))
    })
}

/// The directory of this process's cgroup in the second version's tree, unless it is the root.
fn own_cgroup() -> Option<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| place.to_owned())
    })?;
    (!path.is_empty()).then(|| Path::new(&mount).join(path))
}

/// A file of the kernel's, read again and again; `None` where there is none.
#[derive(Debug)]
struct Source(Option<File>);

impl Source {
    fn open(path: impl AsRef<Path>) -> Self {
        match File::open(path.as_ref()) {
            Ok(file) => Self(Some(file)),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::debug!("{}: {error}", path.as_ref().display());
                }
                Self(None)
            }
        }
    }

    fn read<'a>(&mut self, into: &'a mut String) -> Option<&'a str> {
        let file = self.0.as_mut()?;
        into.clear();
        file.rewind().ok()?;
        file.take(MOST_BYTES).read_to_string(into).ok()?;
        Some(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFTNET: &str = "00030508 00000002 00000010 00000000\n00020e6e 00000001 0000000a 00000000\n";
    const STAT: &str = "cpu  100 0 50 800 20 0 20 10 0 0\ncpu0 60 0 20 400 10 0 5 5 0 0\n\
                        cpu1 40 0 30 400 10 0 15 5 0 0\nintr 12345\n";
    const PRESSURE: &str = "some avg10=94.48 avg60=82.28 avg300=45.87 total=288391554\n\
                            full avg10=0.00 avg60=0.00 avg300=0.00 total=17\n";

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(softnet(SOFTNET), Some((3, 26)));
        assert_eq!(softnet("00030508 zz 00000000"), None);
        assert_eq!(stalled(PRESSURE, "some"), Some(288_391_554));
        assert_eq!(stalled(PRESSURE, "full"), Some(17));
        assert_eq!(stalled(PRESSURE, "fu"), None);
        let lines: Vec<_> = cpus(STAT).collect();
        assert_eq!(lines, [(1_000, 20, 10), (500, 5, 5), (500, 15, 5)]);
    }

    #[test]
    fn the_difference_of_two_looks_is_told_in_thousandths() {
        let before = Totals {
            softnet: Some((u32::MAX, 5)),
            cpu_some: Some(1_000_000),
            cpu_full: None,
            steal: Some((1_000, 10)),
            softirq: vec![(500, 5), (500, 15)],
        };
        let after = Totals {
            softnet: Some((1, 9)),
            cpu_some: Some(1_250_000),
            cpu_full: Some(7),
            steal: Some((1_200, 30)),
            softirq: vec![(600, 5), (600, 85)],
        };
        let told = between(&before, &after, Span::from_secs(1), Span::from_millis(30), Some(4));
        assert_eq!(
            told,
            HostEvidence {
                age: Span::ZERO,
                softnet_dropped: Some(2),
                time_squeeze: Some(4),
                cpu_some: Some(250),
                cpu_full: None,
                steal: Some(100),
                softirq: Some(700),
                receive_buffer: Some(4),
                late: Some(30),
            }
        );
        let fewer = Totals { softirq: vec![(600, 5)], ..after };
        assert_eq!(between(&before, &fewer, Span::from_secs(1), Span::ZERO, None).softirq, None);
        assert_eq!(between(&before, &fewer, Span::ZERO, Span::ZERO, None).late, None);
    }

    #[test]
    fn this_kernel_tells_of_its_cpus() {
        let mut loads = Loads::new();
        assert_eq!(loads.read(MonoNs::from_nanos(0), None), None);
        loads.was_late(Span::from_millis(2));
        let told = loads.read(MonoNs::from_nanos(1_000_000_000), None).unwrap();
        assert!(told.softnet_dropped.is_some() && told.time_squeeze.is_some(), "{told:?}");
        assert_eq!(told.late, Some(2));
    }
}
