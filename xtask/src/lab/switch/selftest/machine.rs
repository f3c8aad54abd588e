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
    /// How late a thread was when packets came in, woken by their sending.
    pub arrival: Errors,
    /// How late a thread was when packets were due, woken by a timer; none where they were due at once.
    pub departure: Option<Errors>,
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
        late(&self.arrival) || self.departure.as_ref().is_some_and(late)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bare, in:   {}", self.arrival)?;
        if let Some(departure) = &self.departure {
            writeln!(f, "bare, out:  {departure}")?;
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

/// From a datagram's sending until the switch has read it, about: the bare threads are due when the switch is.
const WAY: Span = Span::from_micros(50);

/// The bare threads: one for what comes in, one for what goes out.
pub(super) struct Beside {
    arrival: Yardstick,
    departure: Yardstick,
    switch: Granted,
    before: Told,
}

impl Beside {
    /// Starts them where the switch runs.
    ///
    /// # Errors
    /// They were not granted what the switch was, and so would say nothing about it.
    pub(super) fn start(switch: Granted, capacity: usize) -> Result<Self> {
        let [arrival, departure] = [Yardstick::start(capacity)?, Yardstick::start(capacity)?];
        for Granted { realtime, cpu, .. } in [arrival.granted(), departure.granted()] {
            ensure!(
                (realtime, cpu) == (switch.realtime, switch.cpu),
                "the bare threads (real-time: {realtime}, CPU {cpu:?}) do not compare with the switch ({switch:?})"
            );
        }
        Ok(Self { arrival, departure, switch, before: Told::by_kernel(switch) })
    }

    /// A datagram was sent: they are to wake when the switch is.
    pub(super) fn sent(&self, delay: Span) {
        let arrival = mono_now() + WAY;
        self.arrival.wake(arrival);
        if delay > Span::ZERO {
            self.departure.wake(arrival + delay);
        }
    }

    /// What they have seen.
    pub(super) fn end(self) -> Result<(Machine, Stalls)> {
        let after = Told::by_kernel(self.switch);
        let [arrival, departure] = [self.arrival.stop()?, self.departure.stop()?];
        let stalls = Stalls::of(arrival.iter().chain(&departure), STALL);
        let late = |ticks: &[Tick]| Errors::of(ticks.iter().map(Tick::late));
        let machine = Machine {
            arrival: late(&arrival)?,
            departure: late(&departure).ok(),
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
        let machine = |arrival, departure: Option<i64>| Machine {
            arrival: errors(arrival),
            departure: departure.map(errors),
            stalled_ns: 0,
            stolen_ns: None,
            preempted: None,
        };
        let noisy = |arrival, departure| machine(arrival, departure).is_noisy(Span::from_micros(300));
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
