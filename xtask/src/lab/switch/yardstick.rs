//! What this machine lets a bare real-time thread do: the measure that the switch is held against.
//!
//! On a virtual machine the hypervisor takes the CPU away for milliseconds at a time, and nothing that runs on it
//! can then be in time. A [`Yardstick`] is a thread that does nothing but wait, on the switch's CPU and with a
//! higher priority. It is told the instants at which the switch has something to do, so both are tried by the same
//! moments. Where it is late itself, it was not the switch.
//!
//! It is no more than a lower limit of the noise: a CPU that is taken between two wakings is not seen and counts
//! against the switch. It does wake the CPU, but not before the switch has to be awake. Where real-time threads leave
//! others too little of the CPU, the kernel holds all of them up for some 50 ms a second (its fair server): that looks
//! like a machine that stalls. A switch with little to do stays far from it, by its limit on polling; in a flood on a
//! loaded machine it happens.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::{fs, io};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use probe_ebpf::time::{MonoNs, Span};

use super::clock::mono_now;
use super::run::{self, Granted};

/// Above the switch's, or it would measure the switch.
const PRIORITY: u8 = 20;

/// One waking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// When it was to be awake.
    pub due: MonoNs,
    /// When it was.
    pub woke: MonoNs,
}

impl Tick {
    /// How late it was.
    pub fn late(&self) -> Span {
        (self.woke - self.due).max(Span::ZERO)
    }
}

/// A running thread that waits.
#[derive(Debug)]
pub struct Yardstick {
    /// `None` once it is to end.
    dues: Option<Sender<MonoNs>>,
    thread: Option<JoinHandle<Vec<Tick>>>,
    granted: Granted,
}

impl Yardstick {
    /// Starts it on the CPU that a switch would take, with room for so many wakings.
    pub fn start(capacity: usize) -> Result<Self> {
        let (dues, received) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name("yardstick".to_owned()).spawn(move || {
            // The receiver waits for this.
            let _ = tell.send(run::prepare(PRIORITY));
            wait(&received, Vec::with_capacity(capacity))
        })?;
        let granted = told.recv().context("the yardstick's thread did not start")?;
        Ok(Self { dues: Some(dues), thread: Some(thread), granted })
    }

    /// What it was granted; it says something about the switch only if that is the same.
    pub fn granted(&self) -> Granted {
        self.granted
    }

    /// Be awake then; not before anything that was asked for earlier. An instant that has passed is a waking at
    /// once.
    pub fn wake(&self, due: MonoNs) {
        if let Some(dues) = &self.dues {
            // It listens until this is dropped.
            let _ = dues.send(due);
        }
    }

    /// All wakings, once the last one is over.
    pub fn stop(mut self) -> Result<Vec<Tick>> {
        self.dues = None;
        let thread = self.thread.take().context("the yardstick has ended")?;
        thread.join().map_err(|_| anyhow!("the yardstick's thread panicked"))
    }
}

fn wait(dues: &Receiver<MonoNs>, mut ticks: Vec<Tick>) -> Vec<Tick> {
    while let Ok(due) = dues.recv() {
        let at = TimeSpec::new(due.as_nanos() / 1_000_000_000, due.as_nanos() % 1_000_000_000);
        let sleep = || clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at);
        while sleep() == Err(Errno::EINTR) {}
        ticks.push(Tick { due, woke: mono_now() });
    }
    ticks
}

/// When the CPU was not to be had, as far as wakings show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// From when to when, in the order of time, not overlapping.
    windows: Vec<(MonoNs, MonoNs)>,
}

impl Stalls {
    /// The wakings that were later than `limit`, each from when it was due until it was awake.
    pub fn of<'a>(ticks: impl IntoIterator<Item = &'a Tick>, limit: Span) -> Self {
        let late = ticks.into_iter().filter(|tick| tick.late() > limit);
        let mut found: Vec<(MonoNs, MonoNs)> = late.map(|tick| (tick.due, tick.woke)).collect();
        found.sort_unstable();
        let mut windows: Vec<(MonoNs, MonoNs)> = Vec::new();
        for (from, to) in found {
            match windows.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => windows.push((from, to)),
            }
        }
        Self { windows }
    }

    /// Whether there was one at some instant of these, both included.
    pub fn meets(&self, from: MonoNs, to: MonoNs) -> bool {
        let first = self.windows.partition_point(|(_, end)| *end <= from);
        self.windows.get(first).is_some_and(|(begin, _)| *begin <= to)
    }

    /// How much time it was in all.
    pub fn sum(&self) -> Span {
        self.windows.iter().fold(Span::ZERO, |sum, (from, to)| sum + (*to - *from))
    }
}

/// What the hypervisor has taken of a CPU since the start, by the kernel's word: in steps of 10 ms (proc(5)).
///
/// # Errors
/// No such CPU in /proc/stat.
pub fn stolen(cpu: usize) -> io::Result<Span> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no steal time of CPU {cpu}"));
    let text = fs::read_to_string("/proc/stat")?;
    steal_of(&text, cpu).ok_or_else(missing)
}

fn steal_of(stat: &str, cpu: usize) -> Option<Span> {
    let name = format!("cpu{cpu}");
    let mut line = stat.lines().map(str::split_whitespace).find_map(|mut words| {
        let is_it = words.next() == Some(name.as_str());
        is_it.then_some(words)
    })?;
    // USER_HZ is 100 on every architecture that matters here.
    line.nth(7)?.parse().ok().map(|ticks: i64| Span::from_millis(ticks.saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(us: i64) -> MonoNs {
        MonoNs::from_nanos(us * 1_000)
    }

    fn tick(due: i64, woke: i64) -> Tick {
        Tick { due: at(due), woke: at(woke) }
    }

    #[test]
    fn only_late_wakings_are_stalls_and_overlapping_ones_are_one() {
        let ticks = [tick(2_000, 2_900), tick(0, 150), tick(1_000, 1_151), tick(2_500, 3_000)];
        let stalls = Stalls::of(&ticks, Span::from_micros(150));
        assert_eq!(stalls.windows, [(at(1_000), at(1_151)), (at(2_000), at(3_000))]);
        assert_eq!(stalls.sum(), Span::from_micros(1_151));
        let held =
            [100, 999, 1_000, 1_150, 1_151, 1_999, 2_950, 3_000].map(|us| stalls.meets(at(us), at(us)));
        assert_eq!(held, [false, false, true, true, false, false, true, false]);
        assert!(stalls.meets(at(500), at(1_000)) && stalls.meets(at(1_150), at(1_500)));
        assert!(!stalls.meets(at(500), at(999)) && !stalls.meets(at(1_151), at(1_999)));
        assert!(!Stalls::default().meets(at(0), at(9)));
    }

    #[test]
    fn it_is_awake_when_told_and_not_before() {
        let yardstick = Yardstick::start(4).unwrap();
        let (passed, soon) = (mono_now(), mono_now() + Span::from_millis(20));
        for due in [passed, soon] {
            yardstick.wake(due);
        }
        let ticks = yardstick.stop().unwrap();
        assert_eq!(ticks.iter().map(|tick| tick.due).collect::<Vec<_>>(), [passed, soon]);
        assert!(ticks.iter().all(|tick| tick.woke >= tick.due), "{ticks:?}");
        assert!(ticks[0].woke < soon, "{ticks:?}");
    }

    #[test]
    fn steal_time_is_that_of_the_one_cpu() {
        let stat = "cpu  9 9 9 9 9 9 9 99 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 21 0 0\nintr 5\n";
        assert_eq!(steal_of(stat, 1), Some(Span::from_millis(210)));
        assert_eq!((steal_of(stat, 2), steal_of("cpu0 1 2", 0)), (None, None));
    }
}
