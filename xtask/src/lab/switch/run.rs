//! The switch's thread: reads devices, waits for departures, writes devices.
//!
//! It waits in `ppoll` until shortly before a departure is due and then polls without waiting, since being woken
//! takes tens of microseconds, and on a busy hypervisor more: how early it wakes follows how late it was woken
//! so far. Polling is limited to a share of the time: there are hosts to run.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, gettid};
use probe_ebpf::time::{MonoNs, Span};
use serde::Serialize;
use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

use super::clock::mono_now;
use super::fabric::Fabric;
use super::frame::MAX_FRAME;
use super::tap::Tap;

/// What is asked of the running switch: something to do with the fabric at a moment between two packets.
pub(super) type Request = Box<dyn FnOnce(&mut Fabric, MonoNs) + Send>;

/// So long before a departure it stops sleeping, at least and at most.
const LEAD: [Span; 2] = [Span::from_micros(80), Span::from_micros(300)];
/// Of so many wakings one may be later than the lead.
const LATE_ONE_IN: i64 = 100;
/// What the lead loses with each waking that is in time.
const LEAD_STEP: Span = Span::from_nanos(100);
/// The switch's priority.
pub(super) const PRIORITY: u8 = 10;
/// One part in so many of the time may be polled away...
const POLL_SHARE: i64 = 4;
/// ...and so much at once after some quiet.
const POLL_CREDIT: Span = Span::from_millis(2);
/// Frames read from one device before the others have their turn.
const BATCH: usize = 32;

/// What the system let the switch's thread have; without it departures are less exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Granted {
    /// SCHED_FIFO.
    pub realtime: bool,
    /// The CPU that it is bound to, if there is more than one.
    pub cpu: Option<usize>,
    /// Its id, by which /proc tells more of it.
    #[serde(skip)]
    pub thread: i32,
}

/// Asks for a real-time priority, 1 to 99, and for the last CPU, for the calling thread.
///
/// Memory is not locked: without a swap device there is nothing to keep from it, and what the thread writes to was
/// written to before.
pub(super) fn prepare(priority: u8) -> Granted {
    // For the case without real-time priority; with it there is no slack.
    let _ = nix::sys::prctl::set_timerslack(1);
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let this = thread_priority::thread_native_id();
    let realtime = priority.try_into().is_ok_and(|priority| {
        let priority = ThreadPriority::Crossplatform(priority);
        thread_priority::set_thread_priority_and_policy(this, priority, policy).is_ok()
    });
    Granted { realtime, cpu: bind_to_last_cpu(), thread: gettid().as_raw() }
}

fn bind_to_last_cpu() -> Option<usize> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).ok()?;
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = cpus.next()?;
    let last = cpus.next_back().filter(|last| *last != first)?;
    let mut only = CpuSet::new();
    only.set(last).ok()?;
    sched_setaffinity(this_thread, &only).ok().map(|()| last)
}

/// Runs until the sender of `requests` is gone; `wake` is written to after each request.
///
/// An error is one of the devices or of waiting; everything counted so far comes with it.
pub(super) fn run(
    mut fabric: Fabric,
    taps: &[Tap],
    requests: &Receiver<Request>,
    wake: &Arc<EventFd>,
) -> (Fabric, Result<(), Errno>) {
    let mut patience = Patience::new(mono_now());
    let mut fds: Vec<PollFd> = taps.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
    fds.push(PollFd::new(wake.as_fd(), PollFlags::POLLIN));
    let mut buffer = [0; MAX_FRAME];
    loop {
        depart(&mut fabric, taps);
        match requests.try_recv() {
            Ok(request) => request(&mut fabric, mono_now()),
            Err(TryRecvError::Disconnected) => return (fabric, Ok(())),
            Err(TryRecvError::Empty) => {}
        }
        let timeout = patience.timeout(fabric.next(), mono_now());
        let ready = match ppoll(&mut fds, timeout.map(timespec), None) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(errno) => return (fabric, Err(errno)),
        };
        if ready == 0 {
            patience.woke(mono_now());
            continue;
        }
        if fds.last().is_some_and(|fd| fd.any() == Some(true)) {
            let _ = wake.read();
        }
        for (tap, fd) in taps.iter().zip(&fds) {
            if fd.any() == Some(true)
                && let Err(errno) = read(&mut fabric, tap, taps, &mut buffer)
            {
                return (fabric, Err(errno));
            }
        }
    }
}

/// Reads what a device has, at most a batch; frames that are due in between leave in time.
fn read(fabric: &mut Fabric, tap: &Tap, taps: &[Tap], buffer: &mut [u8; MAX_FRAME]) -> Result<(), Errno> {
    for _ in 0..BATCH {
        let Some(frame) = tap.read(buffer)? else { break };
        fabric.arrive(mono_now(), tap.port(), frame);
        depart(fabric, taps);
    }
    Ok(())
}

/// Writes everything that is due.
fn depart(fabric: &mut Fabric, taps: &[Tap]) {
    if fabric.next().is_none() {
        return;
    }
    while let Some(departure) = fabric.depart(mono_now()) {
        let tap = taps.iter().find(|tap| tap.port() == departure.to);
        let at = mono_now();
        let refused = tap.is_none_or(|tap| tap.write(&departure.frame).is_err());
        fabric.settle(departure, at, refused);
    }
}

/// How long to sleep, and how much of the time may be spent awake instead.
struct Patience {
    credit: Span,
    last: MonoNs,
    awake: bool,
    lead: Lead,
    /// When the sleep that it has just advised is to end.
    until: Option<MonoNs>,
}

impl Patience {
    fn new(now: MonoNs) -> Self {
        Self { credit: POLL_CREDIT, last: now, awake: false, lead: Lead(LEAD[0]), until: None }
    }

    /// Zero: look again at once. `None`: until something comes in.
    fn timeout(&mut self, next: Option<MonoNs>, now: MonoNs) -> Option<Span> {
        let passed = now - self.last;
        self.last = now;
        self.credit = (self.credit + Span::from_nanos(passed.as_nanos() / POLL_SHARE)).min(POLL_CREDIT);
        if std::mem::take(&mut self.awake) {
            self.credit = self.credit - passed;
        }
        self.until = None;
        let left = (next? - now).max(Span::ZERO);
        if left > self.lead.0 {
            self.until = Some(now + (left - self.lead.0));
            return Some(left - self.lead.0);
        }
        if self.credit > Span::ZERO {
            self.awake = true;
            return Some(Span::ZERO);
        }
        Some(left)
    }

    /// The sleep has ended by itself.
    fn woke(&mut self, now: MonoNs) {
        if let Some(until) = self.until.take() {
            self.lead.learn(now - until);
        }
    }
}

/// How early to wake: the 99 % quantile of how late wakings are, found by small steps.
#[derive(Debug, PartialEq)]
struct Lead(Span);

impl Lead {
    fn learn(&mut self, late: Span) {
        let up = Span::from_nanos(LEAD_STEP.as_nanos() * (LATE_ONE_IN - 1));
        let next = if late > self.0 { self.0 + up } else { self.0 - LEAD_STEP };
        self.0 = next.clamp(LEAD[0], LEAD[1]);
    }
}

fn timespec(span: Span) -> TimeSpec {
    TimeSpec::new(span.as_nanos() / 1_000_000_000, span.as_nanos() % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(us: i64) -> MonoNs {
        MonoNs::from_nanos(us * 1_000)
    }

    #[test]
    fn it_sleeps_until_shortly_before_and_then_looks_again_and_again() {
        let mut patience = Patience::new(at(0));
        assert_eq!(patience.timeout(None, at(0)), None);
        assert_eq!(patience.timeout(Some(at(1_000)), at(0)), Some(Span::from_micros(1_000) - LEAD[0]));
        assert_eq!(patience.timeout(Some(at(1_000)), at(950)), Some(Span::ZERO));
        assert_eq!(patience.timeout(Some(at(1_000)), at(2_000)), Some(Span::ZERO), "overdue");
    }

    #[test]
    fn looking_again_without_end_is_limited_to_its_share() {
        let mut patience = Patience::new(at(0));
        let mut awake = 0;
        for us in 0..1_000_000 {
            // There is always something due in 50 us.
            awake += i32::from(patience.timeout(Some(at(us + 50)), at(us)) == Some(Span::ZERO));
        }
        assert!((200_000..300_000).contains(&awake), "{awake} of 1000000");
    }

    #[test]
    fn the_lead_follows_how_late_wakings_are_within_its_limits() {
        let mut lead = Lead(LEAD[0]);
        let mut learn = |wakings: i64, late: &dyn Fn(i64) -> i64| {
            (0..wakings).for_each(|i| lead.learn(Span::from_micros(late(i))));
            lead.0
        };
        assert_eq!(learn(10_000, &|_| 30), LEAD[0], "always in time");
        let one_in_40 = learn(10_000, &|i| if i % 40 == 0 { 200 } else { 30 });
        assert!((one_in_40 - Span::from_micros(200)).abs() < Span::from_micros(15), "{one_in_40}");
        assert_eq!(learn(1_000, &|_| 5_000), LEAD[1], "no lead makes up for that");
        assert_eq!(learn(10_000, &|_| 30), LEAD[0], "and back");
    }

    /// Only a sleep that ran out says something; one that a packet ended does not.
    #[test]
    fn a_waking_is_learnt_from_once() {
        let mut patience = Patience::new(at(0));
        patience.timeout(Some(at(1_000)), at(0));
        patience.woke(at(5_000));
        let learnt = LEAD[0] + Span::from_nanos(LEAD_STEP.as_nanos() * (LATE_ONE_IN - 1));
        assert_eq!(patience.lead, Lead(learnt));
        patience.woke(at(9_000));
        patience.timeout(Some(at(9_001)), at(9_000));
        patience.woke(at(9_500));
        assert_eq!(patience.lead, Lead(learnt), "it did not sleep");
    }
}
