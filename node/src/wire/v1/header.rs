//! Who sent a packet, when, and by which clock.

use std::net::{IpAddr, SocketAddr};

use probe_ebpf::parse::{PRELUDE_LEN, PacketId};
use probe_ebpf::time::{Span, WallNs};
use probe_user::analysis::align::{PeerClock, SentStamp, TxStage};
use probe_user::clock::{ClockSource, ClockState};

use crate::wire::msgpack::{
    INT64, Reader, UINT32, put_array, put_bytes, put_int64, put_nil, put_str, put_u64, put_uint,
};
use crate::wire::{ID_MAX, WireError, is_reachable};

/// The header of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The sender's id.
    pub node_id: &'a str,
    /// T1 by the sender's wall clock, and its clock reading.
    pub sent: SentStamp,
    /// T0 to T1: the sender's `send_queue`.
    pub t1_minus_t0: Span,
    /// Who told the sender its offset; `None` for a source that this version does not know.
    pub source: Option<ClockSource>,
    /// The packet of the receiver's that this one answers: nobody can name it who did not get it.
    pub answers: Option<PacketId>,
}

/// What a node says about itself in every packet.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Its id, 1 to 255 bytes.
    pub node_id: &'a str,
    /// The received packet that this one answers.
    pub answers: Option<PacketId>,
}

/// Bytes of the two times before the clock.
const TIMES: usize = 9 + 9;
/// Bytes of the clock: array, offset, bound, state, source, epoch.
const CLOCK: usize = 1 + 9 + 5 + 1 + 1 + 1;
/// Bytes of the longest address: its length, IPv6, port.
pub(super) const ADDR_MAX: usize = 2 + 16 + 2;
/// The longest header.
pub(super) const HEADER_MAX: usize = 1 + (2 + ID_MAX) + TIMES + CLOCK + 9;

/// Stands for a bound of more than 4.29 s: nothing is known then that would be of use.
const UNKNOWN_BOUND: u32 = u32::MAX;
/// A clock's epochs are told apart modulo this: it takes one byte.
pub(super) const EPOCHS: u8 = 128;

const STATES: [(ClockState, u8); 3] =
    [(ClockState::Unsynchronised, 0), (ClockState::Synchronised, 1), (ClockState::FreeRunning, 2)];
const SOURCES: [(ClockSource, u8); 6] = [
    (ClockSource::Chrony, 1),
    (ClockSource::Adjtimex, 2),
    (ClockSource::NtpdRs, 3),
    (ClockSource::Ntpd, 4),
    (ClockSource::Sntp, 5),
    (ClockSource::ClockBound, 6),
];
/// Stands for a source without a number of its own.
const OTHER_SOURCE: u8 = 0;

fn code<T: PartialEq + Copy>(table: &[(T, u8)], value: T) -> Option<u8> {
    table.iter().find(|(v, _)| *v == value).map(|(_, code)| *code)
}
fn value<T: Copy>(table: &[(T, u8)], code: u64) -> Option<T> {
    table.iter().find(|(_, c)| u64::from(*c) == code).map(|(value, _)| *value)
}

impl<'a> Header<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let unknown = r.structure(5)?;
        let node_id = read_id(r)?;
        let wall = WallNs::from_nanos(r.int()?);
        let t1_minus_t0 = Span::from_nanos(r.int()?);
        let unknown_clock = r.structure(5)?;
        let theta = Span::from_nanos(r.int()?);
        let bound = clock_bound(r.uint()?);
        let state = value(&STATES, r.uint()?).ok_or(WireError::Malformed("unknown clock state"))?;
        let source = value(&SOURCES, r.uint()?);
        let epoch = (r.uint()? % u64::from(EPOCHS)) as u8;
        r.skip(unknown_clock)?;
        let answers = if r.nil() { None } else { Some(PacketId::from_u64(r.uint()?)) };
        r.skip(unknown)?;
        let sent = SentStamp { wall, clock: PeerClock { theta, bound, state, epoch }, stage: TxStage::AppTx };
        Ok(Self { node_id, sent, t1_minus_t0, source, answers })
    }
}

impl Sender<'_> {
    /// The header with its times still open: an unsynchronised clock at zero.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_array(out, 5);
        put_str(out, self.node_id);
        put_int64(out, 0);
        put_int64(out, 0);
        put_array(out, 5);
        put_int64(out, 0);
        out.push(UINT32);
        out.extend_from_slice(&UNKNOWN_BOUND.to_be_bytes());
        put_uint(out, 0);
        put_uint(out, u64::from(OTHER_SOURCE));
        put_uint(out, 0);
        match self.answers {
            Some(id) => put_u64(out, id.to_u64()),
            None => put_nil(out),
        }
    }
}

/// Writes the moment of sending (T1), the time since the core handed the packet over (T0) and the clock's
/// reading into a finished packet. Nothing else changes, neither length nor content.
///
/// # Errors
/// When `packet` was not written by this module; it is unchanged then.
pub fn stamp(
    packet: &mut [u8],
    sent: WallNs,
    t1_minus_t0: Span,
    clock: &PeerClock,
    source: ClockSource,
) -> Result<(), WireError> {
    let mut r = Reader::new(packet.get(PRELUDE_LEN..).ok_or(WireError::Truncated)?);
    r.array()?;
    r.array()?;
    r.bytes()?;
    let at = packet.len() - r.rest().len();
    let open: &mut [u8; TIMES + CLOCK] =
        packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut).ok_or(WireError::Truncated)?;
    let fixed = [open[0], open[9], open[19]] == [INT64; 3] && open[18] == 0x95 && open[28] == UINT32;
    if !fixed || open[33..].iter().any(|code| *code > 0x7f) {
        return Err(WireError::Malformed("not a packet to be stamped"));
    }
    let times = [(1, sent.as_nanos()), (10, t1_minus_t0.as_nanos()), (20, clock.theta.as_nanos())];
    for (at, ns) in times {
        open[at..at + 8].copy_from_slice(&ns.to_be_bytes());
    }
    // The states are all in the table.
    let bound = u32::try_from(clock.bound.abs().as_nanos()).unwrap_or(UNKNOWN_BOUND);
    open[29..33].copy_from_slice(&bound.to_be_bytes());
    open[33] = code(&STATES, clock.state).unwrap_or_default();
    open[34] = code(&SOURCES, source).unwrap_or(OTHER_SOURCE);
    open[35] = clock.epoch % EPOCHS;
    Ok(())
}

pub(super) fn read_id<'a>(r: &mut Reader<'a>) -> Result<&'a str, WireError> {
    let id = std::str::from_utf8(r.bytes()?).map_err(|_| WireError::BadId)?;
    if (1..=ID_MAX).contains(&id.len()) { Ok(id) } else { Err(WireError::BadId) }
}

/// The bytes of the IP, then the port, big-endian: 6 bytes or 18. A digest is mostly addresses, and this is half
/// of their text. (An IPv6 scope id means nothing on another host.)
pub(super) fn read_addr(r: &mut Reader<'_>) -> Result<SocketAddr, WireError> {
    let (ip, port) = r.bytes()?.split_last_chunk().ok_or(WireError::BadAddress)?;
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(ip) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(ip) {
        IpAddr::from(v6)
    } else {
        return Err(WireError::BadAddress);
    };
    let addr = SocketAddr::new(ip, u16::from_be_bytes(*port));
    if is_reachable(addr) { Ok(addr) } else { Err(WireError::BadAddress) }
}

pub(super) fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    let mut bytes = [0; 18];
    let len = match addr.ip() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            4
        }
        IpAddr::V6(ip) => {
            bytes[..16].copy_from_slice(&ip.octets());
            16
        }
    };
    bytes[len..len + 2].copy_from_slice(&addr.port().to_be_bytes());
    put_bytes(out, &bytes[..len + 2]);
}

fn clock_bound(ns: u64) -> Span {
    match u32::try_from(ns) {
        Ok(ns) if ns < UNKNOWN_BOUND => Span::from_nanos(ns.into()),
        _ => Span::MAX,
    }
}

/// An error bound: never negative.
pub(super) fn read_bound(r: &mut Reader<'_>) -> Result<Span, WireError> {
    match r.int()? {
        ns @ 0.. => Ok(Span::from_nanos(ns)),
        _ => Err(WireError::Malformed("a negative bound")),
    }
}
