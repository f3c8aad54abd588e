//! The local clock in one sentence, as `status` and `doctor` tell it.

use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::clock::{ClockOffset, ClockSource, ClockState};

use super::{ClockReport, HardwareReport};

/// What `offset` says at `now`: state, size and bound of the error, whose word that is and how old.
pub fn of_offset(offset: &ClockOffset, now: MonoNs) -> String {
    told(offset.state, offset.source, known(offset.at(now)), now - offset.read_at)
}

fn known(theta: Bounded) -> Option<Bounded> {
    (theta.bound < Span::MAX).then_some(theta)
}

fn told(state: ClockState, source: ClockSource, theta: Option<Bounded>, age: Span) -> String {
    let source = match source {
        ClockSource::Chrony => "chronyd",
        ClockSource::ClockBound => "ClockBound",
        ClockSource::NtpdRs => "ntpd-rs",
        ClockSource::Ntpd => "ntpd",
        ClockSource::Sntp => "an NTP server",
        ClockSource::Adjtimex => "the kernel (adjtimex)",
    };
    let state = match state {
        ClockState::Synchronised => "synchronised",
        ClockState::FreeRunning => "free-running",
        ClockState::Unsynchronised => "NOT SYNCHRONISED",
    };
    match theta {
        Some(theta) => {
            let direction = if theta.value.is_negative() { "slow" } else { "fast" };
            format!(
                "{state}, {} {direction} +- {}, according to {source} {age} ago",
                theta.value.abs(),
                theta.bound
            )
        }
        None => format!("{state}, offset unknown, according to {source}"),
    }
}

impl ClockReport {
    /// What is known of this clock, why no more, and what the peers' packets say of it.
    pub fn sentence(&self) -> String {
        let bound = self.bound_ns.map(Span::from_nanos);
        let theta = bound.map(|bound| Bounded::new(Span::from_nanos(self.offset_ns), bound));
        let mut text = told(self.state, self.source, theta, Span::from_nanos(self.age_ns));
        if let (Some(ppb), Some(bound)) = (self.drift_ppb, self.drift_bound_ppb) {
            text += &format!("; gains {:.1} +- {:.1} ppm", f64::from(ppb) / 1e3, f64::from(bound) / 1e3);
        }
        match self.epoch {
            0 => {}
            1 => text += "; stepped once",
            steps => text += &format!("; stepped {steps} times"),
        }
        for more in self.note.iter().chain(Some(&self.honesty.sentence)).filter(|more| !more.is_empty()) {
            text += &format!("; {more}");
        }
        text
    }
}

impl HardwareReport {
    /// Where T4 is from.
    pub fn sentence(&self) -> String {
        let total: u64 = self.outcomes.values().sum();
        let used = self.outcomes.get("used").copied().unwrap_or(0);
        let Some(phc) = self.phc else {
            // It says itself what holds instead.
            return self.reason.clone().unwrap_or_else(|| "the kernel's own stamp".into());
        };
        let mut text = format!("the NIC's for {used} of {total} datagrams ({}, ptp{phc})", self.interface);
        if let Some(error) = self.error_ns {
            text += &format!(" +- {}", Span::from_nanos(error));
        }
        let others = self.outcomes.iter().filter(|(outcome, n)| *outcome != "used" && **n > 0);
        let others: Vec<_> = others.map(|(outcome, n)| format!("{n} {outcome}")).collect();
        if !others.is_empty() {
            text += &format!(", the kernel's for the others ({})", others.join(", "));
        }
        if self.breaks > 0 {
            text += &format!("; its clock was set or ran unevenly {} times", self.breaks);
        }
        if let Some(reason) = &self.reason {
            text += &format!("; {reason}");
        }
        text
    }
}
