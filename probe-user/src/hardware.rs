//! T4 from the NIC: when the packet was on the wire, and not when the kernel came to it.
//!
//! The NIC stamps by a clock of its own ([`PhcNs`](probe_ebpf::time::PhcNs)), which is read beside REALTIME once a second
//! ([`mapping`]). A stamp is used when the mapping knows what it means and the kernel's own stamp bears it out; else the
//! kernel's is used, as without all this. Every datagram is counted by what became of its stamp.
//!
//! What is between reading and reading is foretold: when either clock is set meanwhile, stamps are wrong by as much until
//! the next reading, a second at most. Those that come out later than the kernel's, or more than a second before it, are
//! seen at once.

use probe_ebpf::time::{RealNs, Span};

use crate::clock::mapping::STEP_SLACK;
use crate::timestamping::HardwareStamp;

pub mod mapping;
mod nic;
mod phc;

use mapping::{PhcMapping, PhcReading, Taken};
use nic::{Nic, StampingAll};
use phc::Phc;

/// How much later than the NIC the kernel may stamp: a packet that waited longer is hardly to be told from a clock that
/// was set.
pub const MOST_WAIT: Span = Span::from_secs(1);

/// Why the NIC's stamps are not used, and what holds instead.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum HardwareError {
    #[error("there is no network interface {interface:?} here: T4 is the kernel's own stamp")]
    NoInterface { interface: String },
    #[error("{interface} has no clock of its own (PHC): T4 is the kernel's own stamp")]
    NoClock { interface: String },
    #[error(
        "{interface} has a clock (ptp{phc}) but cannot stamp every packet that it receives (HWTSTAMP_FILTER_ALL): T4 is the kernel's own stamp"
    )]
    NotAll { interface: String, phc: u32 },
    #[error("having {interface} stamp what it receives needs CAP_NET_ADMIN: T4 is the kernel's own stamp")]
    NotPermitted { interface: String },
    #[error("this process may not open the NIC's clock {path}: T4 is the kernel's own stamp")]
    ClockNotPermitted { path: String },
    #[error("{what} failed on {on}: {source}; T4 is the kernel's own stamp")]
    Failed { what: &'static str, on: String, source: std::io::Error },
}

/// A NIC's clock that can be read beside REALTIME.
pub trait NicClock: std::fmt::Debug + Send {
    /// Reads both.
    ///
    /// # Errors
    /// The device is gone, or its driver refuses.
    fn read(&mut self) -> Result<PhcReading, HardwareError>;
}

/// What became of a datagram's hardware stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is T4.
    Used,
    /// The datagram has none.
    Missing,
    /// It is another NIC's, by another clock, or the kernel does not know whose (it needs CONFIG_NET_RX_BUSY_POLL to).
    OtherNic,
    /// It is not known well enough what the NIC's clock means.
    NoMapping,
    /// There is no stamp of the kernel's to hold it against.
    Unchecked,
    /// The kernel's stamp contradicts it.
    Implausible,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Used, Self::Missing, Self::OtherNic, Self::NoMapping, Self::Unchecked, Self::Implausible];

    /// The name under which it is exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Missing => "missing",
            Self::OtherNic => "other_nic",
            Self::NoMapping => "no_mapping",
            Self::Unchecked => "unchecked",
            Self::Implausible => "implausible",
        }
    }
}

/// Datagrams by what became of their stamps, in the order of [`Outcome::ALL`].
pub type Outcomes = [u64; Outcome::ALL.len()];

/// The stamps of one NIC.
#[derive(Debug)]
pub struct HardwareStamps {
    interface: u32,
    phc: u32,
    clock: Box<dyn NicClock>,
    mapping: PhcMapping,
    outcomes: Outcomes,
    breaks: u64,
    error: Option<Span>,
    /// Until this is dropped the NIC stamps.
    _stamping: Option<StampingAll<Nic>>,
}

/// Can this interface stamp what it receives, and can its clock be read? Its clock's number. Changes nothing.
///
/// # Errors
/// Why not.
pub fn examine(interface: &str) -> Result<u32, HardwareError> {
    look(interface).map(|(_, phc, _)| phc)
}

fn look(interface: &str) -> Result<(Nic, u32, Phc), HardwareError> {
    let nic = Nic::new(interface)?;
    let abilities = nic.abilities().map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => HardwareError::NoInterface { interface: interface.to_owned() },
        // An old driver, that has never heard of it.
        Some(libc::EOPNOTSUPP) => HardwareError::NoClock { interface: interface.to_owned() },
        _ => HardwareError::Failed {
            what: "asking for its clock (ETHTOOL_GET_TS_INFO)",
            on: interface.to_owned(),
            source,
        },
    })?;
    let phc = abilities.clock(interface)?;
    Ok((nic, phc, Phc::open(phc)?))
}

impl HardwareStamps {
    /// Has the interface stamp all that it receives, for as long as this lives. The socket must ask for the stamps
    /// ([`add_hardware_stamps`](crate::timestamping::add_hardware_stamps)).
    ///
    /// # Errors
    /// It is not possible, and nothing is changed.
    pub fn begin(interface: &str) -> Result<Self, HardwareError> {
        let (nic, phc, clock) = look(interface)?;
        let index =
            nic.index().map_err(|_| HardwareError::NoInterface { interface: interface.to_owned() })?;
        let stamping = StampingAll::begin(nic, interface, phc)?;
        Ok(Self { _stamping: Some(stamping), ..Self::with_clock(index, phc, Box::new(clock)) })
    }

    /// Of a NIC that stamps already, or is none (tests): the interface's index, and its clock with its number.
    pub fn with_clock(interface: u32, phc: u32, clock: Box<dyn NicClock>) -> Self {
        Self {
            interface,
            phc,
            clock,
            mapping: PhcMapping::default(),
            outcomes: Outcomes::default(),
            breaks: 0,
            error: None,
            _stamping: None,
        }
    }

    /// Once a second: reads the clock. One system call.
    ///
    /// # Errors
    /// The clock cannot be read; what is known of it holds a while.
    pub fn read_clock(&mut self) -> Result<Taken, HardwareError> {
        let taken = self.mapping.accept(self.clock.read()?);
        self.breaks += u64::from(matches!(taken, Taken::Breaks(_)));
        Ok(taken)
    }

    /// REALTIME was stepped: what its readings told holds no longer.
    pub fn void(&mut self) {
        self.mapping = PhcMapping::default();
    }

    /// T4 of a datagram on REALTIME and how far off that can be, from its hardware stamp and the kernel's.
    pub fn received(
        &mut self,
        hardware: Option<HardwareStamp>,
        software: Option<RealNs>,
    ) -> Option<(RealNs, Span)> {
        let (outcome, hardware) = self.judge(hardware, software);
        self.outcomes[outcome as usize] += 1;
        match (outcome, hardware) {
            (Outcome::Used, Some((at, error))) => {
                self.error = Some(error);
                Some((at, error))
            }
            _ => software.map(|at| (at, Span::ZERO)),
        }
    }

    fn judge(
        &self,
        hardware: Option<HardwareStamp>,
        software: Option<RealNs>,
    ) -> (Outcome, Option<(RealNs, Span)>) {
        let Some(hardware) = hardware else { return (Outcome::Missing, None) };
        if hardware.interface != self.interface {
            return (Outcome::OtherNic, None);
        }
        let Some((at, error)) = self.mapping.real_of(hardware.at) else { return (Outcome::NoMapping, None) };
        let outcome = match software {
            None => Outcome::Unchecked,
            Some(software) if is_plausible(software - at, error) => Outcome::Used,
            Some(_) => Outcome::Implausible,
        };
        (outcome, Some((at, error)))
    }

    /// The number of the NIC's clock.
    pub fn phc(&self) -> u32 {
        self.phc
    }

    /// Datagrams so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// How often the NIC's clock was not what it had to be.
    pub fn breaks(&self) -> u64 {
        self.breaks
    }

    /// How far off the last stamp that was used can be.
    pub fn error(&self) -> Option<Span> {
        self.error
    }
}

/// May a packet wait so long for the kernel's stamp, when the NIC's is known to `error`?
fn is_plausible(waited: Span, error: Span) -> bool {
    waited >= -(error + STEP_SLACK) && waited <= MOST_WAIT + error
}

#[cfg(test)]
mod tests;
