//! Truth at the hosts' edges: the kernel's own stamps of what each host sends and receives.
//!
//! A packet socket in each namespace sees frames where the kernel hands them to the device (after the qdisc,
//! where the node's T3 is taken) and where it takes them from the device (where T4 is taken). Stamps are of
//! CLOCK_REALTIME; they are put onto CLOCK_MONOTONIC by bracketed readings of both.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use probe_ebpf::time::{MonoNs, RealNs, Span};
use serde::Serialize;

use super::clock::{Mapping, real_now};
use super::frame::{Class, Destination, Key, MAX_FRAME, Port, Summary};
use crate::rig::{Hosts, Namespace, wait_for};

/// Which way a host saw a packet go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Handed to the device.
    Sent,
    /// Taken from the device.
    Received,
}

/// One UDP datagram at the edge of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which edge: the sender's or the receiver's.
    pub direction: Direction,
    /// The sender.
    pub from: Port,
    /// The receiver.
    pub to: Port,
    /// How it is recognised.
    pub key: Key,
    /// The kernel's stamp.
    pub at: MonoNs,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// For each edge in the order of time.
    pub stamps: Vec<Stamp>,
    /// Stamps that found no room.
    pub omitted: u64,
    /// Frames that a socket had no room for, as far as the kernel has told.
    pub missed: u64,
    /// Packets that came without a stamp.
    pub unstamped: u64,
    /// How far stamps may be off: the widest bracket, and what CLOCK_REALTIME was moved between two of them.
    pub error: Span,
}

/// Where one host is watched.
#[derive(Debug)]
struct View {
    port: Port,
    socket: OwnedFd,
    /// The device that leads into a virtual machine, which is the host then; only that one is looked at.
    device: Option<usize>,
}

/// Sockets that watch all hosts. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Result<Captured>>>,
}

/// Stamps are the kernel's, so the sockets may be read late: seldom, to disturb the hosts little.
const INTERVAL: Span = Span::from_millis(20);
/// What may come in until they are read.
const BUFFER: usize = 16 << 20;
/// How long the kernel may take until it stamps packets.
const PATIENCE: Duration = Duration::from_secs(5);
const PACKET_HOST: u8 = 0;
const PACKET_OUTGOING: u8 = 4;

impl Capture {
    /// Watches all UDP between `hosts` and the hub, up to `capacity` stamps. All packets from now on are stamped.
    pub fn start(hosts: &Hosts, capacity: usize) -> Result<Self> {
        Self::open(hosts, None, capacity)
    }

    /// As [`start`](Self::start) where each host is a namespace in front of a virtual machine, which is at `device`:
    /// what enters the namespace there is what the machine sends, and the reverse.
    pub fn outside(hosts: &Hosts, device: &str, capacity: usize) -> Result<Self> {
        Self::open(hosts, Some(device), capacity)
    }

    fn open(hosts: &Hosts, device: Option<&str>, capacity: usize) -> Result<Self> {
        let mut sockets = vec![View { port: Port::HUB, socket: open(hosts.switch())?, device: None }];
        for (i, host) in hosts.iter().enumerate() {
            let device = device.map(|device| index(host.namespace(), device)).transpose()?;
            sockets.push(View { port: Port::host(i), socket: open(host.namespace())?, device });
        }
        wait_for("the kernel to stamp packets", PATIENCE, || Ok(is_stamping(hosts.switch())?.then_some(())))?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let thread = thread::Builder::new().name("capture".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || run(&sockets, &stop, capacity)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Reads what is left and ends.
    pub fn stop(mut self) -> Result<Captured> {
        self.end()
    }

    fn end(&mut self) -> Result<Captured> {
        self.stop.write(1)?;
        let thread = self.thread.take().context("the capture has ended")?;
        thread.join().map_err(|_| anyhow!("the capture's thread panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

/// A packet socket on every device of a namespace. Frames of the loopback device have no port's addresses and
/// are skipped later.
fn open(namespace: &Namespace) -> Result<OwnedFd> {
    let socket = namespace
        .within(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        })?
        .context("opening a packet socket")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    Ok(socket)
}

/// The number of a device of a namespace.
fn index(namespace: &Namespace, device: &str) -> Result<usize> {
    let index = namespace.within(|| if_nametoindex(device))?;
    let index = index.with_context(|| format!("looking for {device} in namespace {}", namespace.name()))?;
    Ok(usize::try_from(index)?)
}

/// Whether the kernel stamps packets as they come.
///
/// It begins to only some time after a socket has asked for it. Until then a packet gets its stamp when it is
/// read, which is milliseconds wrong and looks like any other (`__sock_recv_timestamp` in net/socket.c).
fn is_stamping(namespace: &Namespace) -> Result<bool> {
    let socket = namespace.within(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    socket.send_to(b"?", socket.local_addr()?)?;
    // To look at the packet, even by a peek, would stamp it.
    let second = TimeSpec::new(1, 0);
    if ppoll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], Some(second), None)? == 0 {
        return Ok(false);
    }
    let read_from = real_now();
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let stamp = message.cmsgs()?.find_map(|part| stamp(&part)).context("a packet without a stamp")?;
    Ok(stamp < read_from)
}

fn stamp(part: &ControlMessageOwned) -> Option<RealNs> {
    match part {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(RealNs::from_nanos(at.tv_sec() * 1_000_000_000 + at.tv_nsec()))
        }
        _ => None,
    }
}

fn run(sockets: &[View], stop: &EventFd, capacity: usize) -> Result<Captured> {
    let mut captured = Captured { stamps: Vec::with_capacity(capacity), ..Captured::default() };
    let mut missed = vec![0; sockets.len()];
    let mut mapping = Mapping::read();
    let interval = TimeSpec::new(0, INTERVAL.as_nanos());
    loop {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let ended = match ppoll(&mut fds, Some(interval), None) {
            Ok(ready) => ready > 0,
            Err(Errno::EINTR) => false,
            Err(errno) => return Err(errno).context("waiting for packets"),
        };
        let next = Mapping::read();
        captured.error = captured.error.max(next.error() + next.moved(&mapping));
        mapping = next;
        for (view, missed) in sockets.iter().zip(&mut missed) {
            drain(view, &mapping, &mut captured, missed)?;
        }
        if ended {
            captured.missed = missed.iter().map(|missed| u64::from(*missed)).sum();
            return Ok(captured);
        }
    }
}

/// Reads everything that a socket has.
fn drain(
    View { port, socket, device }: &View,
    mapping: &Mapping,
    captured: &mut Captured,
    missed: &mut u32,
) -> Result<()> {
    let mut frame = [0; MAX_FRAME];
    let mut control = nix::cmsg_space!(TimeSpec, u32);
    loop {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR) => continue,
            // The device went away; frames from before are still there.
            Err(Errno::ENETDOWN) => continue,
            Err(errno) => return Err(errno).with_context(|| format!("reading the packets of {port}")),
        };
        let mut stamped = None;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::RxqOvfl(total) = part {
                *missed = total;
            }
            stamped = stamped.or_else(|| stamp(&part));
        }
        let Some(address) = message.address else { continue };
        let direction = match (device, address.pkttype()) {
            (None, PACKET_OUTGOING) => Direction::Sent,
            (None, PACKET_HOST) => Direction::Received,
            (Some(device), _) if address.ifindex() != *device => continue,
            // Seen from outside: on its way into the machine.
            (Some(_), PACKET_OUTGOING) => Direction::Received,
            (Some(_), _) => Direction::Sent,
            (None, _) => continue,
        };
        let length = message.bytes.min(MAX_FRAME);
        let Some((from, to, key)) = datagram(&frame[..length]) else { continue };
        match stamped {
            None => captured.unstamped += 1,
            Some(_) if captured.stamps.len() == captured.stamps.capacity() => captured.omitted += 1,
            Some(at) => {
                captured.stamps.push(Stamp { direction, from, to, key, at: mapping.mono_of(at) });
            }
        }
    }
}

/// The ends and the key of a UDP datagram between two ports.
fn datagram(frame: &[u8]) -> Option<(Port, Port, Key)> {
    let summary = Summary::read(frame)?;
    match summary {
        Summary { destination: Destination::One(to), source: Some(from), class: Class::Udp, key, .. } => {
            Some((from, to, key))
        }
        _ => None,
    }
}
