//! ntpd and ntpsec, by their control protocol: mode 6 of NTP, here the command to read variables of the system (RFC
//! 9327, sections 2 and 3.2). ntpd answers it on the NTP port, by default to its own host only.
//!
//! ```text
//! 0 u8 version << 3 | 6          4 u16 status            8 u16 offset of this fragment in the whole
//! 1 u8 response 0x80 | error     6 u16 association: 0,   10 u16 bytes of data
//!      0x40 | more 0x20 | op 2         the system        12 data, padded to 4: "leap=0, stratum=2, ..."
//! 2 u16 sequence
//! ```
//!
//! Of the variables, `offset`, `rootdelay` and `rootdisp` are in milliseconds; `reftime` and `clock` are NTP
//! timestamps in hexadecimal, `tc` is the poll interval's logarithm. `offset` is the last update's, and what is to
//! be *added*: `-theta`. The daemon slews it away from then on and does not say how much of it is left, so the bound
//! holds all of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};

use super::ask::{AskError, Socket, random};
use super::sntp::between_timestamps;
use super::source::{OffsetSource, Opinion, SourceError};
use super::{ClockOffset, ClockSource, ClockState, DRIFT_PPB, Leap};

const HEADER: usize = 12;
const VERSION: u8 = 2;
const MODE: u8 = 6;
const READ_VARIABLES: u8 = 2;
const RESPONSE: u8 = 0x80;
const ERROR: u8 = 0x40;
const MORE: u8 = 0x20;
/// What is asked for. ntpsec answers with all that it knows of these, ntpd too.
const VARIABLES: &str = "leap,stratum,rootdelay,rootdisp,offset,reftime,clock,tc";
/// Eight such answers are about so long; more is somebody who fills the memory.
const MOST_BYTES: usize = 4096;
const TIMEOUT: Duration = Duration::from_millis(200);
/// Milliseconds beyond which no clock is off and no delay is long.
const SANE_MILLIS: f64 = 4e12;
/// Polls without an update after which the daemon counts as left alone: its filter takes one of eight.
const MISSED_POLLS: i64 = 16;
/// The longest poll interval, `MAXPOLL` of RFC 5905.
const MOST_TC: i64 = 17;

/// Why ntpd tells no offset.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NtpdError {
    /// No reply to this request came in time.
    #[error("does not answer mode 6 (timed out after {} ms, {ignored} packets that answer something else)", after.as_millis())]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// Packets with another sequence number that came meanwhile.
        ignored: u32,
    },
    /// Nothing listens there.
    #[error("does not run (the port is closed)")]
    Refused,
    /// The socket failed.
    #[error("cannot be asked ({doing}: {kind})")]
    Io {
        /// The call.
        doing: &'static str,
        /// What it said.
        kind: ErrorKind,
    },
    /// Header and length do not fit together.
    #[error("sent a malformed packet of {got} bytes")]
    Length {
        /// Bytes received.
        got: usize,
    },
    /// Not a response to this command in mode 6, or to another request.
    #[error("sent an answer to something else")]
    Other,
    /// It refused.
    #[error("refused the request with error {0}: {meaning}", meaning = error_meaning(*.0))]
    Error(u8),
    /// More data than such an answer can have, or fragments that overlap.
    #[error("sent fragments that do not make one answer")]
    Fragments,
    /// A variable is missing.
    #[error("does not tell `{0}`")]
    Missing(&'static str),
    /// A variable holds what no clock can report.
    #[error("reports the absurd value `{value}` as {field}")]
    Absurd {
        /// Which.
        field: &'static str,
        /// As received.
        value: String,
    },
}

/// RFC 9327, section 3.2.
fn error_meaning(code: u8) -> &'static str {
    match code {
        1 => "it wants authentication, or is restricted",
        2 => "invalid length or format",
        3 => "invalid opcode",
        4 => "unknown association",
        5 => "unknown variable",
        6 => "invalid value",
        7 => "administratively prohibited",
        _ => "unspecified",
    }
}

/// The request with this sequence number.
pub fn encode_request(sequence: u16) -> Vec<u8> {
    let mut packet = vec![VERSION << 3 | MODE, READ_VARIABLES];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0; 6]);
    packet.extend((VARIABLES.len() as u16).to_be_bytes());
    packet.extend(VARIABLES.as_bytes());
    packet.resize(packet.len().next_multiple_of(4), 0);
    packet
}

/// Puts the fragments of one answer together.
#[derive(Debug, Default)]
pub struct Answer {
    fragments: BTreeMap<usize, Vec<u8>>,
    length: Option<usize>,
}

impl Answer {
    /// Takes a packet; gives the whole text once it is there.
    ///
    /// # Errors
    /// [`NtpdError::Other`] when the packet is no part of the answer to `sequence`: to be ignored. All others end the
    /// question.
    pub fn take(&mut self, packet: &[u8], sequence: u16) -> Result<Option<Vec<u8>>, NtpdError> {
        let got = packet.len();
        let Some((header, rest)) = packet.split_first_chunk::<HEADER>() else {
            return Err(NtpdError::Other);
        };
        let u16_at = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let kind = header[1];
        if u16_at(2) != sequence
            || header[0] & 7 != MODE
            || kind & !(ERROR | MORE) != RESPONSE | READ_VARIABLES
        {
            return Err(NtpdError::Other);
        }
        if kind & ERROR != 0 {
            return Err(NtpdError::Error(header[4]));
        }
        let (offset, count) = (usize::from(u16_at(8)), usize::from(u16_at(10)));
        let data = rest.get(..count).ok_or(NtpdError::Length { got })?;
        let end = offset + count;
        if end > MOST_BYTES || (kind & MORE != 0 && count == 0) {
            return Err(NtpdError::Fragments);
        }
        if kind & MORE == 0 && self.length.replace(end).is_some_and(|before| before != end) {
            return Err(NtpdError::Fragments);
        }
        // A repeated packet is nothing new; another content at the same place is a contradiction.
        if self.fragments.insert(offset, data.to_vec()).is_some_and(|before| before != data) {
            return Err(NtpdError::Fragments);
        }
        let Some(length) = self.length else { return Ok(None) };
        let mut whole = Vec::with_capacity(length);
        for (offset, data) in &self.fragments {
            if *offset > whole.len() {
                return Ok(None);
            }
            if *offset < whole.len() || offset + data.len() > length {
                return Err(NtpdError::Fragments);
            }
            whole.extend(data);
        }
        Ok((whole.len() == length).then_some(whole))
    }
}

/// The system's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variables {
    /// The leap second it announces; `None`: not synchronised.
    pub leap: Option<Leap>,
    /// 1 to 15; 0 and 16 are "not synchronised".
    pub stratum: u8,
    /// Round trip to the primary clock.
    pub root_delay: Span,
    /// Accumulated dispersion at the last update.
    pub root_dispersion: Span,
    /// What the last update found is to be added to the clock.
    pub correction: Span,
    /// Since the last update; `None` when there was none.
    pub age: Option<Span>,
    /// The poll interval.
    pub poll: Span,
}

impl Variables {
    /// Reads `name=value, name=value`, whatever the order, and ignores other names.
    pub fn decode(text: &[u8]) -> Result<Self, NtpdError> {
        let text = String::from_utf8_lossy(text);
        let mut values = BTreeMap::new();
        for item in text.split(',') {
            if let Some((name, value)) = item.split_once('=') {
                values.insert(name.trim(), value.trim());
            }
        }
        let value = |name: &'static str| values.get(name).copied().ok_or(NtpdError::Missing(name));
        let absurd =
            |field, value: &str| NtpdError::Absurd { field, value: value.chars().take(40).collect() };
        let millis = |name| {
            let text = value(name)?;
            // `parse` takes "nan" and "inf" too.
            let number = text.parse::<f64>().ok().filter(|n| n.abs() <= SANE_MILLIS);
            number.map(|n| Span::from_secs_f64(n / 1e3)).ok_or_else(|| absurd(name, text))
        };
        let length = |name| match millis(name)? {
            span if span.is_negative() => Err(absurd(name, value(name)?)),
            span => Ok(span),
        };
        let whole = |name, most: i64| {
            let text = value(name)?;
            text.parse::<i64>().ok().filter(|n| (0..=most).contains(n)).ok_or_else(|| absurd(name, text))
        };
        let timestamp = |name| {
            let text = value(name)?;
            let parts = text.strip_prefix("0x").and_then(|hex| hex.split_once('.'));
            let read = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u64::from);
            parts
                .and_then(|(seconds, fraction)| Some(read(seconds)? << 32 | read(fraction)?))
                .ok_or_else(|| absurd(name, text))
        };
        let (updated, now) = (timestamp("reftime")?, timestamp("clock")?);
        let age = (updated != 0).then(|| between_timestamps(now, updated));
        if age.is_some_and(Span::is_negative) {
            return Err(absurd("reftime", value("reftime")?));
        }
        // Neither can be larger than the most that is allowed for it.
        let leap = Leap::from_code(whole("leap", 3)? as u16);
        Ok(Self {
            leap,
            stratum: whole("stratum", 16)? as u8,
            root_delay: length("rootdelay")?,
            root_dispersion: length("rootdisp")?,
            correction: millis("offset")?,
            age,
            poll: Span::from_secs(1 << whole("tc", MOST_TC)?),
        })
    }

    /// The offset that these stand for, read at `read_at`; and what keeps it from being synchronised.
    pub fn judge(&self, read_at: MonoNs) -> (ClockOffset, Option<&'static str>) {
        let offset = |state, bound_at_read| ClockOffset {
            theta: -self.correction,
            bound_at_read,
            read_at,
            source: ClockSource::Ntpd,
            state,
            rate: None,
        };
        let known = self.leap.is_some() && (1..16).contains(&self.stratum);
        let Some(age) = self.age.filter(|_| known) else {
            let doubt = "is not synchronised to any server";
            return (offset(ClockState::Unsynchronised, Span::MAX), Some(doubt));
        };
        let bound =
            self.root_delay.half_up() + self.root_dispersion + self.correction.abs() + age.drift(DRIFT_PPB);
        if age > Span::from_nanos(self.poll.as_nanos().saturating_mul(MISSED_POLLS)) {
            return (offset(ClockState::FreeRunning, bound), Some("has not updated its clock for 16 polls"));
        }
        (offset(ClockState::Synchronised, bound), None)
    }
}

/// An ntpd or ntpsec as a source.
#[derive(Clone, Copy, Debug)]
pub struct Ntpd {
    addr: SocketAddr,
    timeout: Duration,
}

impl Ntpd {
    /// The one that serves NTP at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, timeout: TIMEOUT }
    }

    fn ask(&self) -> Result<(Variables, MonoNs), NtpdError> {
        let mut ignored = 0u32;
        let told = |error, ignored| match error {
            AskError::Timeout => NtpdError::Timeout { after: self.timeout, ignored },
            AskError::Refused => NtpdError::Refused,
            AskError::Io { doing, source } => NtpdError::Io { doing, kind: source.kind() },
        };
        let sequence = u16::from_ne_bytes(random().map_err(|e| told(e, 0))?);
        let socket = Socket::udp(self.addr).map_err(|e| told(e, 0))?;
        let mut answer = Answer::default();
        let asked = socket.ask(&encode_request(sequence), self.timeout, |packet, received| {
            match answer.take(packet, sequence) {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(text)) => ControlFlow::Break(Ok((text, received.mono))),
                Err(NtpdError::Other) => {
                    ignored = ignored.saturating_add(1);
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(Err(error)),
            }
        });
        let (text, read_at) = asked.map_err(|e| told(e, ignored))?.0?;
        Ok((Variables::decode(&text)?, read_at))
    }
}

impl OffsetSource for Ntpd {
    fn name(&self) -> String {
        format!("ntpd at {}", self.addr)
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (variables, read_at) =
            self.ask().map_err(|source| SourceError::Ntpd { at: self.addr.to_string(), source })?;
        let (offset, doubt) = variables.judge(read_at);
        let doubt = doubt.map(|doubt| format!("{} {doubt}", self.name()));
        Ok(Opinion { offset, doubt, leap: variables.leap })
    }
}

#[cfg(test)]
mod tests;
