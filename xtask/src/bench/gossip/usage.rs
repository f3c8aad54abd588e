//! What processes use, by /proc (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// Clock ticks a second in /proc (USER_HZ): the same on all of Linux's architectures but Alpha.
const TICKS: f64 = 100.0;

/// Processor time that one process has used so far.
#[derive(Debug)]
pub(super) struct Processor {
    /// utime + stime of /proc/PID/stat, in ticks of 10 ms.
    ticks: u64,
    /// By thread name, of /proc/PID/task/TID/schedstat, in nanoseconds.
    threads: BTreeMap<String, u64>,
}

impl Processor {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        // The name in brackets may hold anything; fields are counted behind it, from the third.
        let fields = stat.rsplit_once(") ").context("no name in /proc/PID/stat")?.1;
        let field = |number: usize| -> Result<u64> {
            let text = fields.split_whitespace().nth(number - 3).context("/proc/PID/stat is short")?;
            Ok(text.parse()?)
        };
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let name = task_file(&task, "comm")?;
            // A thread that ended since the directory was read has nothing more to say.
            let (Some(name), Some(time)) = (name, task_file(&task, "schedstat")?) else { continue };
            let name = name.trim().to_owned();
            let time: u64 = time.split_whitespace().next().context("empty schedstat")?.parse()?;
            *threads.entry(name).or_default() += time;
        }
        Ok(Self { ticks: field(14)? + field(15)?, threads })
    }

    /// Share of one processor since `before`, in per cent.
    pub(super) fn percent_since(&self, before: &Self, seconds: f64) -> f64 {
        (self.ticks - before.ticks) as f64 / TICKS / seconds * 100.0
    }

    /// Mean share of one processor in per cent, by thread name.
    pub(super) fn threads_since(before: &[Self], after: &[Self], seconds: f64) -> Vec<(String, f64)> {
        let mut shares = BTreeMap::<&str, f64>::new();
        for (before, after) in before.iter().zip(after) {
            for (name, time) in &after.threads {
                let used = time.saturating_sub(before.threads.get(name).copied().unwrap_or(0));
                *shares.entry(name).or_default() += used as f64 / 1e9 / seconds * 100.0;
            }
        }
        let mean = |(name, sum): (&str, f64)| (name.to_owned(), sum / after.len() as f64);
        shares.into_iter().map(mean).collect()
    }
}

/// Resident memory of one process in kB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// All of it: Rss.
    pub(super) resident: u64,
    /// Of this: heaps, stacks and written data. The rest are pages of files, shared with all that use them.
    pub(super) anonymous: u64,
    /// Its share when what is shared is divided among those who share it: Pss.
    pub(super) proportional: u64,
    /// The most that was resident at a time, at the start: VmHWM.
    pub(super) peak: u64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Self> {
        // All three of one reading: between two, a process may grow or shrink.
        let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
        let status = read(&format!("/proc/{pid}/status"))?;
        Ok(Self {
            resident: field(&rollup, "Rss:")?,
            anonymous: field(&rollup, "Anonymous:")?,
            proportional: field(&rollup, "Pss:")?,
            peak: field(&status, "VmHWM:")?,
        })
    }
}

/// How busy the machine was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Ticks of all processors in /proc/stat: busy, and all.
    busy: u64,
    all: u64,
    /// Share of the machine's processor time that others than the nodes took, 0 to 1; known at the end.
    pub(super) others: f64,
}

impl Load {
    pub(super) fn read() -> Result<Self> {
        let stat = read("/proc/stat")?;
        let line = stat.lines().next().context("empty /proc/stat")?;
        let fields: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        // Guests' time is part of user's already.
        let all: u64 = fields.iter().take(8).sum();
        let idle = fields.get(3).context("/proc/stat is short")? + fields.get(4).copied().unwrap_or(0);
        Ok(Self { busy: all - idle, all, others: 0.0 })
    }

    /// The load since this was read, without what the nodes took.
    pub(super) fn until_now(self, before: &[Processor], after: &[Processor]) -> Result<Self> {
        let now = Self::read()?;
        let nodes: u64 = before.iter().zip(after).map(|(b, a)| a.ticks - b.ticks).sum();
        let (busy, all) = (now.busy - self.busy, now.all - self.all);
        Ok(Self { others: busy.saturating_sub(nodes) as f64 / all.max(1) as f64, ..now })
    }
}

/// A file of one thread, or nothing if the thread is gone: ENOENT at opening, ESRCH at reading.
fn task_file(task: &Path, file: &str) -> Result<Option<String>> {
    let path = task.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

/// A field of `status` or `smaps_rollup`, in kB.
fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    line.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("{name}{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_come_and_go_do_no_harm() {
        let pid = std::process::id();
        let comings = std::thread::spawn(|| {
            for _ in 0..2000 {
                std::thread::spawn(|| ()).join().unwrap();
            }
        });
        while !comings.is_finished() {
            Processor::of(pid).unwrap();
        }
        comings.join().unwrap();
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let pid = std::process::id();
        let before = Processor::of(pid).unwrap();
        let mut sum = 0u64;
        let after = loop {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let now = Processor::of(pid).unwrap();
            if now.ticks >= before.ticks + 2 {
                break now;
            }
        };
        assert!(after.percent_since(&before, 1.0) >= 2.0);
        assert!(Processor::threads_since(&[before], &[after], 1.0).iter().any(|(_, share)| *share > 0.5));
        let memory = Memory::of(pid).unwrap();
        assert!(memory.resident >= memory.anonymous && memory.peak > 0, "{memory:?}");
        assert!((1..=memory.resident).contains(&memory.proportional), "{memory:?}");
    }
}
