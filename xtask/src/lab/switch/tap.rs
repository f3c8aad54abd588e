//! A host's network device, whose other end is held by the switch.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::frame::{MAX_FRAME, Port};
use crate::rig::Namespace;

/// Frames that the device keeps for the switch to read; beyond it the kernel drops, and counts it as `dropped`
/// in the device's statistics.
const RING_FRAMES: u32 = 4_096;

/// The device `eth0` of one host. It goes away when this is dropped.
pub(super) struct Tap {
    port: Port,
    device: SyncDevice,
}

impl Tap {
    /// Makes `eth0` in `namespace` with the port's addresses and with neighbour entries for all `peers`.
    ///
    /// The neighbours are permanent: a lost or late ARP answer would hold packets back inside the sender's kernel,
    /// as a trouble that no link was asked for.
    pub(super) fn open(namespace: &Namespace, port: Port, peers: &[Port]) -> Result<Self> {
        let device = namespace
            .within(|| -> io::Result<SyncDevice> {
                let device = DeviceBuilder::new().name("eth0").layer(Layer::L2).enable(false).build_sync()?;
                device.set_nonblocking(true)?;
                Ok(device)
            })?
            .with_context(|| format!("creating the TAP device of {port}"))?;
        namespace.batch(&setup(port, peers)).with_context(|| format!("setting up eth0 of {port}"))?;
        Ok(Self { port, device })
    }

    pub(super) fn port(&self) -> Port {
        self.port
    }

    /// The next frame that the host has sent; `None` when there is none for now.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8; MAX_FRAME]) -> nix::Result<Option<&'a [u8]>> {
        match unistd::read(self, buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Hands a frame to the host; its kernel's receive path runs before this returns.
    pub(super) fn write(&self, frame: &[u8]) -> nix::Result<()> {
        unistd::write(self, frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn setup(port: Port, peers: &[Port]) -> String {
    let [a, b, c, d, e, f] = port.mac();
    let mut lines = format!(
        "link set eth0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu 1500 txqueuelen {RING_FRAMES} addrgenmode none\n\
         addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         link set eth0 up\n",
        port.v4(),
        port.v6(),
    );
    for peer in peers.iter().filter(|peer| **peer != port) {
        let [a, b, c, d, e, f] = peer.mac();
        for ip in [std::net::IpAddr::from(peer.v4()), peer.v6().into()] {
            writeln!(lines, "neigh replace {ip} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev eth0 nud permanent")
                .expect("a String takes all");
        }
    }
    lines
}
