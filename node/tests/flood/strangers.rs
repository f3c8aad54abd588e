//! Who is no member: strangers of many addresses that fire datagrams, and those who hold connections open.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use pikoscope::wire::v0::{self, stream};
use xtask::rig::Namespace;

use super::support::arsenal::{From, Shot};
use super::support::capture::Spoofer;
use super::support::name;
use super::support::trio::Trio;
use super::{PATIENCE, TARGET};

/// Sockets of strangers: so many that speak v0 (of which half send under one of 60,000 addresses each time), and as
/// many others.
const STRANGERS: usize = 64;
/// TCP connections of each bad kind.
const CONNECTIONS: usize = 100;

/// All strangers, and what each sent and was sent.
pub(super) struct Strangers {
    sockets: Vec<(UdpSocket, u64, u64)>,
    spoofer: Spoofer,
    /// Has a stranger behind every port, more than a node remembers of; what goes there is not counted.
    crowd: Ipv4Addr,
    crowded: u16,
    to: SocketAddr,
    next: usize,
}

impl Strangers {
    pub(super) fn new(trio: &Trio) -> Result<Self> {
        let (switch, ip) = (trio.hosts.switch(), trio.hosts.switch_v4());
        let sockets = switch.within(|| -> Result<_> {
            (0..2 * STRANGERS)
                .map(|_| {
                    let socket = UdpSocket::bind((ip, 0))?;
                    socket.set_nonblocking(true)?;
                    Ok((socket, 0, 0))
                })
                .collect()
        })??;
        let crowd = Ipv4Addr::from_bits(ip.to_bits() - 1);
        switch.batch(&format!("addr add {crowd}/24 dev br0\n"))?;
        let (spoofer, to) = (Spoofer::open(switch)?, trio.address(TARGET));
        Ok(Self { sockets, spoofer, crowd, crowded: 0, to, next: 0 })
    }

    pub(super) fn fire(&mut self, shot: &Shot) -> Result<()> {
        self.next = (self.next + 1) % STRANGERS;
        let at = match shot.from {
            From::Member(address) => return self.spoofer.send(address, self.to, &shot.bytes),
            From::Asker if self.next.is_multiple_of(2) => {
                self.crowded = self.crowded % 60_000 + 1;
                let from = (self.crowd, self.crowded).into();
                return self.spoofer.send(from, self.to, &shot.bytes);
            }
            From::Asker => self.next,
            From::Stranger => STRANGERS + self.next,
        };
        let (socket, sent, _) = &mut self.sockets[at];
        socket.send_to(&shot.bytes, self.to)?;
        *sent += shot.bytes.len() as u64;
        Ok(())
    }

    /// Takes what was answered.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; 2048];
        for (socket, _, received) in &mut self.sockets {
            while let Ok(n) = socket.recv(&mut buffer) {
                *received += n as u64;
            }
        }
    }

    /// Bytes sent and received, and the largest share received of what one sent.
    pub(super) fn totals(&self) -> (u64, u64, f64) {
        let sum = |f: fn(&(UdpSocket, u64, u64)) -> u64| self.sockets.iter().map(f).sum();
        let worst = self.sockets.iter().map(|(_, sent, got)| *got as f64 / (*sent).max(1) as f64);
        (sum(|s| s.1), sum(|s| s.2), worst.fold(0.0, f64::max))
    }
}

/// Keeps hostile connections open until told to stop: silent ones, slow ones, and ones with garbage, which are begun
/// anew when they are closed. Returns how many there were.
pub(super) fn hostile_connections(switch: &Namespace, to: SocketAddr, stop: &AtomicBool) -> Result<usize> {
    switch.within(|| -> Result<usize> {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let mut begun = 3 * CONNECTIONS;
        let mut open = (0..3 * CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let garbage: Vec<u8> = (0..1000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for step in 0usize.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for (i, stream) in open.iter_mut().enumerate() {
                let closed = match i % 3 {
                    // Half-open: it never says anything.
                    0 => false,
                    // One byte of a huge join request at a time.
                    1 => stream.write(&[[3, 0, 0xdf][step.min(2)]]).is_err(),
                    _ => stream.write(&garbage).is_err() || matches!(stream.read(&mut [0; 64]), Ok(0)),
                };
                if closed && begun < 10 * CONNECTIONS {
                    *stream = connect()?;
                    begun += 1;
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(begun)
    })?
}

/// A goodbye of somebody who is not known is answered, and changes nothing.
pub(super) fn goodbye_is_answered(trio: &Trio) -> Result<()> {
    let to = trio.address(TARGET);
    let answer = trio.hosts[2].namespace().within(|| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = Vec::new();
        let sender = v0::Sender { node_id: "nobody", addr: "10.77.0.9:7", max_version: None };
        stream::put_leave_request(&mut request, &sender, &[]);
        stream.write_all(&request)?;
        let mut answer = vec![0; 1024];
        let n = stream.read(&mut answer)?;
        answer.truncate(n);
        Ok(answer)
    })??;
    let limits = stream::Limits { bytes: 1024, nodes: 1, entries: 1 };
    assert_eq!(stream::decode_leave_response(&answer, &limits)?.node_id, name(TARGET));
    Ok(())
}
