//! T4 from the NIC, as far as that was asked for and is possible.

use std::os::fd::AsFd;

use probe_ebpf::time::{RealNs, Span};
use probe_user::hardware::mapping::Taken;
use probe_user::hardware::{HardwareStamps, Outcome, Outcomes};
use probe_user::recv::Datagram;
use probe_user::timestamping;

use crate::report::HardwareReport;

/// The NIC's receive stamps.
#[derive(Debug)]
pub(super) struct Hardware {
    interface: String,
    /// They come, or why they never will.
    stamps: Result<HardwareStamps, String>,
    /// Datagrams that had to do without, if they never will.
    missing: u64,
    /// Why the NIC's clock cannot be relied on at present, though it is there.
    trouble: Option<String>,
}

impl Hardware {
    /// Has `interface` stamp what it receives, and the socket tell of it.
    pub(super) fn begin(interface: &str, socket: impl AsFd) -> Self {
        let stamps = HardwareStamps::begin(interface).map_err(|e| e.to_string()).and_then(|stamps| {
            let added = timestamping::add_hardware_stamps(socket);
            added.map(|()| stamps).map_err(|e| {
                format!(
                    "this kernel does not tell which NIC a stamp is from: {e}; T4 is the kernel's own stamp"
                )
            })
        });
        Self::of(interface, stamps)
    }

    /// Where there are no kernel stamps to hold them against.
    pub(super) fn switched_off(interface: &str) -> Self {
        Self::of(
            interface,
            Err("kernel stamps are switched off (probe = \"off\"), and the NIC's with them".into()),
        )
    }

    pub(super) fn of(interface: &str, stamps: Result<HardwareStamps, String>) -> Self {
        Self { interface: interface.to_owned(), stamps, missing: 0, trouble: None }
    }

    /// Why there never are any, in one sentence.
    pub(super) fn reason(&self) -> Option<&str> {
        self.stamps.as_ref().err().map(String::as_str)
    }

    /// T4 of a datagram and how far off that is on REALTIME: the NIC's if it may be believed, else `software`.
    pub(super) fn received(
        &mut self,
        datagram: &Datagram<'_>,
        software: Option<RealNs>,
    ) -> Option<(RealNs, Span)> {
        match &mut self.stamps {
            Ok(stamps) => stamps.received(datagram.hardware, software),
            Err(_) => {
                self.missing += 1;
                software.map(|at| (at, Span::ZERO))
            }
        }
    }

    /// Once a second: reads the NIC's clock. What is wrong with it is logged when it begins and when it ends.
    pub(super) fn read_clock(&mut self) {
        let Ok(stamps) = &mut self.stamps else { return };
        let trouble = match stamps.read_clock() {
            Ok(Taken::Breaks(why)) => {
                format!("the clock of {}: {why}; T4 is the kernel's until it runs evenly", self.interface)
            }
            Ok(Taken::Agrees) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the clock of {} can be relied on again", self.interface);
                }
                return;
            }
            Ok(Taken::Begins | Taken::TooSoon) => return,
            Err(error) => error.to_string(),
        };
        if self.trouble.is_none() {
            tracing::warn!("{trouble}");
        }
        self.trouble = Some(trouble);
    }

    /// REALTIME was stepped.
    pub(super) fn stepped(&mut self) {
        if let Ok(stamps) = &mut self.stamps {
            stamps.void();
        }
    }

    /// Datagrams so far, in the order of [`Outcome::ALL`].
    pub(super) fn outcomes(&self) -> Outcomes {
        match &self.stamps {
            Ok(stamps) => stamps.outcomes(),
            Err(_) => Outcome::ALL.map(|outcome| if outcome == Outcome::Missing { self.missing } else { 0 }),
        }
    }

    pub(super) fn report(&self) -> HardwareReport {
        let stamps = self.stamps.as_ref().ok();
        let counted = Outcome::ALL.into_iter().zip(self.outcomes()).filter(|(_, n)| *n > 0);
        HardwareReport {
            interface: self.interface.clone(),
            phc: stamps.map(HardwareStamps::phc),
            reason: self.reason().or(self.trouble.as_deref()).map(str::to_owned),
            outcomes: counted.map(|(outcome, n)| (outcome.name().to_owned(), n)).collect(),
            error_ns: stamps.and_then(HardwareStamps::error).map(Span::as_nanos),
            breaks: stamps.map_or(0, HardwareStamps::breaks),
        }
    }
}

#[cfg(test)]
mod tests;
