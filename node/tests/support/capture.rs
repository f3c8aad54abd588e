//! Seeing all packets of a switch, and sending under any address.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use xtask::rig::Namespace;

/// `AF_PACKET`.
const PACKET: i32 = 17;
/// `SOCK_RAW`.
const RAW: i32 = 3;
/// `ETH_P_ALL`, big-endian: one that asks for IP alone does not see what is only forwarded.
const ALL: i32 = 0x0003u16.to_be() as i32;
/// `IPPROTO_RAW`: the IP header comes from us.
const OWN_HEADER: i32 = 255;
const UDP: u8 = 17;

/// A UDP datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// Sees what passes a switch.
pub struct Sniffer {
    socket: Socket,
}

impl Sniffer {
    pub fn open(switch: &Namespace) -> Result<Self> {
        let open = || Socket::new(Domain::from(PACKET), Type::from(RAW), Some(Protocol::from(ALL)));
        let socket = switch.within(open)?.context("a packet socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { socket })
    }

    /// The next frame, if one comes soon.
    pub fn frame(&mut self) -> Result<Option<Vec<u8>>> {
        let mut frame = [0; 2048];
        match self.socket.read(&mut frame) {
            Ok(n) => Ok(frame.get(..n).map(<[u8]>::to_vec)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All different datagrams between ports `port`, until `enough` says so.
    pub fn collect(
        &mut self,
        port: u16,
        mut enough: impl FnMut(&HashSet<Seen>) -> bool,
    ) -> Result<HashSet<Seen>> {
        let mut seen = HashSet::new();
        let mut frame = [0; 2048];
        for _ in 0..100_000 {
            if enough(&seen) {
                return Ok(seen);
            }
            match self.socket.read(&mut frame) {
                Ok(n) => seen.extend(
                    udp(&frame[..n]).into_iter().filter(|s| s.from.port() == port && s.to.port() == port),
                ),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("not enough in 100,000 frames: {} datagrams", seen.len())
    }
}

/// The datagram in an Ethernet frame.
fn udp(frame: &[u8]) -> Option<Seen> {
    let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    if ip.get(9) != Some(&UDP) {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
    let udp = ip.get(header..)?;
    let number = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
    let bytes = udp.get(8..usize::from(number(4)?))?.to_vec();
    let end = |ip: Ipv4Addr, port: u16| SocketAddr::from((ip, port));
    Some(Seen { from: end(address(12)?, number(0)?), to: end(address(16)?, number(2)?), bytes })
}

/// Sends under any source address.
pub struct Spoofer {
    socket: Socket,
}

impl Spoofer {
    pub fn open(switch: &Namespace) -> Result<Self> {
        let open = || Socket::new(Domain::IPV4, Type::from(RAW), Some(Protocol::from(OWN_HEADER)));
        Ok(Self { socket: switch.within(open)?.context("a raw socket")? })
    }

    pub fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { bail!("only IPv4") };
        self.socket.send_to(&packet(from, to, payload), &SocketAddr::V4(to).into())?;
        Ok(())
    }
}

/// An IPv4 packet; the kernel adds its checksum (ip(7), raw(7)), and UDP's may be left out (RFC 768).
fn packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
