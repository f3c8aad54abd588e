//! Timing reports: what each end of a path tells the other of the packets between them (DESIGN section 1).
//!
//! They stand at the end of a packet, in whatever room it has left, and are written when it is sent: so the report of
//! a packet travels with its own answer. Times are spans on the reporting host's MONOTONIC, in nanoseconds.
//!
//! ```text
//! reports  (report...)      as many as fit 255 bytes; numbers are LEB128, signed ones zigzag
//! report   flags (1 byte), [counter], times...
//!          flags, bits 0..1: kind
//!            0 receipt:  T1' - T4, [T5 - T4], T6 - (T5 or T4), T7 - T6, [T4's error]
//!                        of a packet that the sender received
//!            1 sending:  [T2 - T1], [T3 - (T2 or T1)]                       of a packet that the sender sent
//!            2 host:     age in ms, a byte that says which there are, and these of the sender's host's loads
//!            3 loss:     of the packets that were to come from the reader, since the last such report: dropped by
//!                        the sender's kernel, lost before it, received
//!          bit 2: with a counter; without one it is of the packet that this one answers
//!          bits 3, 4: the first, the second time in brackets is there
//!          bit 5: the sender's hooks took the times of its sending, not SO_TIMESTAMPING (tier 2)
//!          bits 6, 7: 0
//! T1'      when the packet was sent that carries the report
//! ```
//!
//! A reader stops where bit 6 or 7 is set, which nobody knows yet: what follows is a later version's.

use probe_ebpf::parse::PRELUDE_LEN;
use probe_ebpf::time::Span;
use probe_user::analysis::verdict::{HostEvidence, Loss};

use crate::wire::{WireError, leb128};

/// Bytes of all reports in a packet, at most.
pub const REPORTS_MAX: usize = 255;
/// Bytes that a packet without any has for them.
pub(super) const EMPTY: usize = 2;

/// What one end tells of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Of a packet that it received.
    Receipt(Receipt),
    /// Of a packet that it sent.
    Sending(Sending),
    /// Of the host that it runs on.
    Host(HostEvidence),
    /// Of the packets that it missed.
    Loss(LossReport),
}

/// What became of the reader's packets to the reporter, since the last such report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossReport {
    /// Dropped by the reporting host's kernel.
    pub here: u64,
    /// Missing, and not dropped by that.
    pub outside: u64,
    /// Received.
    pub received: u64,
}

impl LossReport {
    /// Adds what was counted in another time.
    pub fn add(&mut self, loss: &Loss) {
        let more = [(&mut self.here, loss.here()), (&mut self.outside, loss.lost_outside)];
        for (mine, more) in more.into_iter().chain([(&mut self.received, loss.received)]) {
            *mine = mine.saturating_add(more);
        }
    }
}

/// T4 to T7 of a packet that the reporter received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which of the reader's packets; `None` for the one that is answered by the packet with this report.
    pub counter: Option<u32>,
    /// T4, as the time from then until the reporting packet was sent (its T1).
    pub received_before: Span,
    /// T5 - T4; `None` where no filter ran (tier 0).
    pub ingress: Option<Span>,
    /// T6 - T5, or T6 - T4 where there is no T5.
    pub queued: Span,
    /// T7 - T6.
    pub handling: Span,
    /// How far off T4 can be. Zero for the kernel's stamp, which is on the clock of the others; not so the NIC's.
    pub error: Span,
}

/// T1 to T3 of a packet that the reporter sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Which of the reporter's packets to the reader.
    pub counter: u32,
    /// T2 - T1.
    pub egress: Option<Span>,
    /// T3 - T2, or T3 - T1 where there is no T2.
    pub qdisc: Option<Span>,
    /// Are T2 and T3 from the hooks of tier 2?
    pub hooked: bool,
}

const KIND: u8 = 0b11;
const RECEIPT: u8 = 0;
const SENDING: u8 = 1;
const HOST: u8 = 2;
const LOSS: u8 = 3;
const COUNTED: u8 = 1 << 2;
const FIRST: u8 = 1 << 3;
const SECOND: u8 = 1 << 4;
const HOOKED: u8 = 1 << 5;
const LATER: u8 = 0b11 << 6;

impl Report {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>) {
        let time = |out: &mut Vec<u8>, span: Span| leb128::put_signed(out, span.as_nanos());
        match *self {
            Self::Receipt(Receipt { counter, received_before, ingress, queued, handling, error }) => {
                let counted = if counter.is_some() { COUNTED } else { 0 };
                let inexact = if error == Span::ZERO { 0 } else { SECOND };
                out.push(RECEIPT | counted | inexact | if ingress.is_some() { FIRST } else { 0 });
                if let Some(counter) = counter {
                    leb128::put(out, counter.into());
                }
                time(out, received_before);
                if let Some(ingress) = ingress {
                    time(out, ingress);
                }
                time(out, queued);
                time(out, handling);
                if inexact != 0 {
                    time(out, error);
                }
            }
            Self::Sending(Sending { counter, egress, qdisc, hooked }) => {
                let flag = |is: bool, flag: u8| if is { flag } else { 0 };
                let times = flag(egress.is_some(), FIRST) | flag(qdisc.is_some(), SECOND);
                out.push(SENDING | COUNTED | times | flag(hooked, HOOKED));
                leb128::put(out, counter.into());
                egress.into_iter().chain(qdisc).for_each(|span| time(out, span));
            }
            Self::Host(evidence) => {
                out.push(HOST);
                leb128::put(out, u64::try_from(evidence.age.as_nanos() / 1_000_000).unwrap_or(0));
                let loads = loads(&evidence);
                let there = loads.iter().enumerate().filter(|(_, load)| load.is_some());
                out.push(there.map(|(place, _)| 1 << place).sum());
                loads.into_iter().flatten().for_each(|load| leb128::put(out, load.into()));
            }
            Self::Loss(LossReport { here, outside, received }) => {
                out.push(LOSS);
                [here, outside, received].into_iter().for_each(|count| leb128::put(out, count));
            }
        }
    }

    /// Takes one off the front; `None` at the end, or at a kind of a later version.
    fn take(bytes: &mut &[u8]) -> Result<Option<Self>, WireError> {
        let Some((&flags, mut rest)) = bytes.split_first() else { return Ok(None) };
        if flags & LATER != 0 {
            return Ok(None);
        }
        let counter = match flags & COUNTED {
            0 => None,
            _ => Some(
                u32::try_from(leb128::take(&mut rest)?)
                    .map_err(|_| WireError::TooLarge("a packet's counter"))?,
            ),
        };
        let mut time =
            |there: bool| there.then(|| leb128::take_signed(&mut rest).map(Span::from_nanos)).transpose();
        let report = match flags & KIND {
            RECEIPT => Self::Receipt(Receipt {
                counter,
                received_before: time(true)?.unwrap_or_default(),
                ingress: time(flags & FIRST != 0)?,
                queued: time(true)?.unwrap_or_default(),
                handling: time(true)?.unwrap_or_default(),
                error: time(flags & SECOND != 0)?.unwrap_or_default(),
            }),
            SENDING => Self::Sending(Sending {
                counter: counter.ok_or(WireError::Malformed("a report of no packet"))?,
                egress: time(flags & FIRST != 0)?,
                qdisc: time(flags & SECOND != 0)?,
                hooked: flags & HOOKED != 0,
            }),
            HOST => {
                let ms = leb128::take(&mut rest)?;
                let (&there, tail) = rest.split_first().ok_or(WireError::Truncated)?;
                rest = tail;
                let mut load = |place: u32| match there & 1 << place {
                    0 => Ok(None),
                    _ => leb128::take(&mut rest).map(Some),
                };
                let mut all = [None; 8];
                for (place, slot) in (0..).zip(&mut all) {
                    *slot = load(place)?;
                }
                // More than fits is as bad as what just fits.
                let count = |load: Option<u64>| load.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                let share = |load: Option<u64>| load.map(|n| u16::try_from(n).unwrap_or(u16::MAX));
                let age = Span::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
                let [softnet_dropped, time_squeeze, rest @ ..] = all;
                let [cpu_some, cpu_full, steal, softirq, receive_buffer, late] = rest.map(share);
                Self::Host(HostEvidence {
                    age,
                    softnet_dropped: count(softnet_dropped),
                    time_squeeze: count(time_squeeze),
                    cpu_some,
                    cpu_full,
                    steal,
                    softirq,
                    receive_buffer,
                    late,
                })
            }
            _ => {
                let mut count = || leb128::take(&mut rest);
                Self::Loss(LossReport { here: count()?, outside: count()?, received: count()? })
            }
        };
        *bytes = rest;
        Ok(Some(report))
    }
}

/// What there is of a host's loads, in the order in which they travel.
fn loads(of: &HostEvidence) -> [Option<u32>; 8] {
    let shares = [of.cpu_some, of.cpu_full, of.steal, of.softirq, of.receive_buffer, of.late];
    let [cpu_some, cpu_full, steal, softirq, receive_buffer, late] = shares.map(|share| share.map(u32::from));
    [of.softnet_dropped, of.time_squeeze, cpu_some, cpu_full, steal, softirq, receive_buffer, late]
}

/// The reports in a received packet, in the order sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reports<'a>(&'a [u8]);

impl<'a> Reports<'a> {
    /// Checks all of them.
    ///
    /// # Errors
    /// One ends too soon, or a number is too large.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = bytes;
        while Report::take(&mut rest)?.is_some() {}
        Ok(Self(&bytes[..bytes.len() - rest.len()]))
    }
}

impl Iterator for Reports<'_> {
    type Item = Report;

    fn next(&mut self) -> Option<Report> {
        // All were read once already, so none is an error.
        Report::take(&mut self.0).ok().flatten()
    }
}

/// The end of a packet: its reports, which take the place of the empty ones that the core wrote.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    room: usize,
}

impl Tail {
    /// Begins the end of a `packet` that may grow to `max_packet` bytes. The memory is kept from packet to packet.
    pub fn begin(&mut self, packet: &[u8], max_packet: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0xc4, 0]);
        self.room = max_packet.saturating_sub(packet.len()).min(REPORTS_MAX);
    }

    /// Adds a report; `false`, and nothing added, when it does not fit any more.
    pub fn push(&mut self, report: &Report) -> bool {
        let before = self.bytes.len();
        report.put(&mut self.bytes);
        let fits = self.bytes.len() - EMPTY <= self.room;
        if fits {
            self.bytes[1] = (self.bytes.len() - EMPTY) as u8;
        } else {
            self.bytes.truncate(before);
        }
        fits
    }

    /// Fills the `packet` that it was begun for up to `size` bytes, with an element behind the reports that no reader
    /// looks at. Call once, after the last report.
    pub fn pad(&mut self, packet: &mut [u8], size: usize) {
        let lacking = size.saturating_sub(packet.len() + self.bytes.len() - EMPTY);
        let Some(head @ 0x90..0x9f) = packet.get_mut(PRELUDE_LEN).filter(|_| lacking > 0) else { return };
        // One element more in the packet's array.
        *head += 1;
        let before = self.bytes.len();
        match (lacking, u16::try_from(lacking - 3.min(lacking))) {
            (1, _) => self.bytes.push(0xc0),
            (2..=257, _) => self.bytes.extend_from_slice(&[0xc4, (lacking - 2) as u8]),
            (_, Ok(rest)) => {
                self.bytes.push(0xc5);
                self.bytes.extend_from_slice(&rest.to_be_bytes());
            }
            // Longer than any datagram.
            (_, Err(_)) => *head -= 1,
        }
        if self.bytes.len() > before {
            self.bytes.resize(before + lacking, 0);
        }
    }

    /// The reports in it.
    #[cfg(test)]
    pub(crate) fn reports(&self) -> Vec<Report> {
        Reports(&self.bytes[EMPTY..]).collect()
    }

    /// The packet in two parts: what the core wrote without its empty end, and this end.
    pub fn split<'p>(&'p self, packet: &'p [u8]) -> [&'p [u8]; 2] {
        match packet.strip_suffix(&[0xc4, 0]) {
            Some(head) => [head, &self.bytes],
            None => [packet, &[]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        (any::<i64>(), 0_u32..64).prop_map(|(ns, shift)| Span::from_nanos(ns >> shift))
    }

    fn report() -> impl Strategy<Value = Report> {
        let maybe = || prop::option::of(span());
        let receipt = (prop::option::of(any::<u32>()), span(), maybe(), span(), span(), span()).prop_map(
            |(counter, received_before, ingress, queued, handling, error)| {
                Report::Receipt(Receipt { counter, received_before, ingress, queued, handling, error })
            },
        );
        let sending =
            (any::<u32>(), maybe(), maybe(), any::<bool>()).prop_map(|(counter, egress, qdisc, hooked)| {
                Report::Sending(Sending { counter, egress, qdisc, hooked })
            });
        let (count, share) = (prop::option::of(any::<u32>()), || prop::option::of(any::<u16>()));
        let shares = (share(), share(), share(), share(), share(), share());
        let host = (0..100_000_i64, count.clone(), count, shares).prop_map(
            |(
                ms,
                softnet_dropped,
                time_squeeze,
                (cpu_some, cpu_full, steal, softirq, receive_buffer, late),
            )| {
                let age = Span::from_millis(ms);
                Report::Host(HostEvidence {
                    age,
                    softnet_dropped,
                    time_squeeze,
                    cpu_some,
                    cpu_full,
                    steal,
                    softirq,
                    receive_buffer,
                    late,
                })
            },
        );
        let loss = any::<[u64; 3]>()
            .prop_map(|[here, outside, received]| Report::Loss(LossReport { here, outside, received }));
        prop_oneof![receipt, sending, host, loss]
    }

    proptest! {
        #[test]
        fn as_many_as_fit_are_read_as_they_were_written(
            reports in prop::collection::vec(report(), 0..40), room in 0_usize..400,
        ) {
            let packet = [7, 0xc4, 0];
            let mut tail = Tail::default();
            tail.begin(&packet, packet.len() + room);
            let fit = reports.iter().take_while(|report| tail.push(report)).count();
            let [head, end] = tail.split(&packet);
            prop_assert_eq!(head, &[7]);
            prop_assert!(head.len() + end.len() <= packet.len() + room);
            prop_assert_eq!(usize::from(end[1]), end.len() - EMPTY);
            let read: Vec<Report> = Reports::read(&end[EMPTY..]).unwrap().collect();
            prop_assert_eq!(&read, &reports[..fit]);
            prop_assert!(fit == reports.len() || room < REPORTS_MAX || end.len() > REPORTS_MAX - 60);
        }

        #[test]
        fn whatever_comes_is_an_error_or_is_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(reports) = Reports::read(&bytes) {
                prop_assert!(reports.count() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_later_versions_kind_ends_them() {
        let mut tail = Tail::default();
        tail.begin(&[], 300);
        let qdisc = Some(Span::from_nanos(-1));
        let sending = Report::Sending(Sending { counter: 9, egress: None, qdisc, hooked: true });
        assert!(tail.push(&sending));
        let mut bytes = tail.split(&[0xc4, 0])[1][EMPTY..].to_vec();
        bytes.extend_from_slice(&[1 << 6, 1, 2, 3]);
        assert_eq!(Reports::read(&bytes).unwrap().collect::<Vec<_>>(), [sending]);
        assert!(Reports::read(&bytes[..2]).is_err(), "cut short");
    }
}
