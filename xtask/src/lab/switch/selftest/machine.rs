//! Bare threads beside the switch: what its CPU lets anybody do.

use std::{fmt, fs};

use anyhow::{Result, ensure};
use probe_ebpf::time::Span;
use serde::Serialize;

use super::super::Granted;
use super::super::clock::mono_now;
use super::super::yardstick::{Stalls, Tick, Yardstick, stolen};
use super::{Errors, STALL};

/// What the switch's CPU let bare threads do meanwhile.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// How late a thread was that waited for the packets' sending.
    pub event: Errors,
    /// How late a thread was that slept until the packets were due; none where they were due at once.
    pub timer: Option<Errors>,
    /// How long the CPU was not to be had, as far as they have noticed.
    pub stalled_ns: i64,
    /// What the kernel says that the hypervisor took of the CPU, in steps of 10 ms.
    pub stolen_ns: Option<i64>,
    /// How often the switch's thread was preempted, by the bare threads for the most part.
    pub preempted: Option<u64>,
}

impl Machine {
    /// Whether bare threads themselves miss `target` with more than one waking in a hundred.
    pub fn is_noisy(&self, target: Span) -> bool {
        let late = |errors: &Errors| errors.p99_ns > target.as_nanos();
        late(&self.event) || self.timer.as_ref().is_some_and(late)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bare event: {}", self.event)?;
        if let Some(timer) = &self.timer {
            writeln!(f, "bare timer: {timer}")?;
        }
        write!(f, "CPU stalled {}", Span::from_nanos(self.stalled_ns))?;
        if let Some(ns) = self.stolen_ns {
            write!(f, ", stolen {}", Span::from_nanos(ns))?;
        }
        if let Some(times) = self.preempted {
            write!(f, ", switch preempted {times} times")?;
        }
        Ok(())
    }
}

/// The bare threads: one waits for something to happen, one for a time to come, as the switch does both.
pub(super) struct Beside {
    event: Yardstick,
    timer: Yardstick,
    switch: Granted,
    before: Told,
}

impl Beside {
    /// Starts them where the switch runs.
    ///
    /// # Errors
    /// They were not granted what the switch was, and so would say nothing about it.
    pub(super) fn start(switch: Granted, capacity: usize) -> Result<Self> {
        let [event, timer] = [Yardstick::start(capacity)?, Yardstick::start(capacity)?];
        for Granted { realtime, cpu, .. } in [event.granted(), timer.granted()] {
            ensure!(
                (realtime, cpu) == (switch.realtime, switch.cpu),
                "the bare threads (real-time: {realtime}, CPU {cpu:?}) do not compare with the switch ({switch:?})"
            );
        }
        Ok(Self { event, timer, switch, before: Told::by_kernel(switch) })
    }

    /// A datagram was sent: they are to wake when the switch is.
    pub(super) fn sent(&self, delay: Span) {
        let now = mono_now();
        self.event.wake(now);
        if delay > Span::ZERO {
            self.timer.wake(now + delay);
        }
    }

    /// What they have seen.
    pub(super) fn end(self) -> Result<(Machine, Stalls)> {
        let after = Told::by_kernel(self.switch);
        let [event, timer] = [self.event.stop()?, self.timer.stop()?];
        let stalls = Stalls::of(event.iter().chain(&timer), STALL);
        let late = |ticks: &[Tick]| Errors::of(ticks.iter().map(Tick::late));
        let machine = Machine {
            event: late(&event)?,
            timer: late(&timer).ok(),
            stalled_ns: stalls.sum().as_nanos(),
            stolen_ns: after
                .stolen
                .zip(self.before.stolen)
                .map(|(after, before)| (after - before).as_nanos()),
            preempted: after.preempted.zip(self.before.preempted).map(|(after, before)| after - before),
        };
        Ok((machine, stalls))
    }
}

/// What the kernel tells of the switch's CPU and thread; `None` where it does not.
#[derive(Clone, Copy)]
struct Told {
    stolen: Option<Span>,
    preempted: Option<u64>,
}

impl Told {
    fn by_kernel(switch: Granted) -> Self {
        let status = fs::read_to_string(format!("/proc/self/task/{}/status", switch.thread));
        Self {
            stolen: switch.cpu.and_then(|cpu| stolen(cpu).ok()),
            preempted: status.ok().and_then(|status| preempted(&status)),
        }
    }
}

/// From a thread's `status` (proc(5)).
fn preempted(status: &str) -> Option<u64> {
    let count = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_noisy_when_bare_threads_miss_the_target() {
        let errors = |us: i64| Errors { count: 9, p50_ns: 1, p99_ns: us * 1_000, max_ns: us * 1_000 };
        let machine = |event, timer: Option<i64>| Machine {
            event: errors(event),
            timer: timer.map(errors),
            stalled_ns: 0,
            stolen_ns: None,
            preempted: None,
        };
        let noisy = |event, timer| machine(event, timer).is_noisy(Span::from_micros(300));
        assert!(!noisy(300, None) && !noisy(300, Some(300)));
        assert!(noisy(301, None) && noisy(0, Some(301)));
        assert_eq!(machine(1, Some(2)).to_string().lines().count(), 3);
    }

    #[test]
    fn preemptions_are_read_from_a_threads_status() {
        let status = "Name:\tswitch\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t12\n";
        assert_eq!((preempted(status), preempted("Name:\tx\n")), (Some(12), None));
    }
}
