//! The sockets of a node's further source ports: packets leave from them, and nothing comes in.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};

use probe_ebpf::time::MonoNs;
use probe_user::analysis::journey::SourcePort;
use probe_user::clock::Mapping;
use probe_user::transmit;
use socket2::{SockFilter, SockRef};

use super::NetError;
use super::departing::{Departing, DepartureTotals};
use super::socket::{self, Marks};
use crate::proto::{NodeId, SourcePorts, source_port};
use crate::wire::v1::Sending;

/// They are stamped by the kernel for their error queues also where the gossip socket has hooks.
#[derive(Debug, Default)]
pub(super) struct Further {
    ports: Vec<Port>,
    /// Of the gossip socket and these; empty without these.
    all: SourcePorts,
}

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    number: u16,
    departing: Option<Departing>,
}

impl Further {
    /// Binds these ports of the gossip socket's address, which is `advertised` with its port; 0 takes a free one. `stamps`: have the kernel stamp what they
    /// send.
    pub(super) fn open(
        address: SocketAddr,
        advertised: u16,
        ports: &[u16],
        marks: &Marks,
        stamps: bool,
    ) -> Result<Self, NetError> {
        let open = |port: &u16| -> Result<Port, NetError> {
            let address = SocketAddr::new(address.ip(), *port);
            let bind = |source| NetError::Bind { address, source };
            let socket = socket::datagrams(address, marks)?;
            // Classic BPF, "return 0": nobody sends here who means well, and nobody reads.
            let refuse = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
            socket.attach_filter(&[refuse]).map_err(bind)?;
            let departing = if stamps {
                transmit::enable(&socket).map_err(NetError::Timestamping)?;
                Some(Departing::new())
            } else {
                None
            };
            socket.bind(&address.into()).map_err(bind)?;
            let socket = UdpSocket::from(socket);
            let number = socket.local_addr().map_err(bind)?.port();
            Ok(Port { socket, number, departing })
        };
        let ports = ports.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let all = if ports.is_empty() { None } else { Some(advertised) };
        let all = all.into_iter().chain(ports.iter().map(|port| port.number)).collect();
        Ok(Self { ports, all })
    }

    /// The port at this place, the advertised one being the first; `None` where that is the only one.
    pub(super) fn source(&self, place: usize) -> Option<SourcePort> {
        source_port(&self.all, place)
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<u16> {
        self.ports.iter().map(|port| port.number).collect()
    }

    /// The socket of one of them, and what notes its packets' stamps.
    pub(super) fn get(&mut self, place: usize) -> Option<(SockRef<'_>, Option<&mut Departing>)> {
        let port = self.ports.get_mut(place)?;
        Some((SockRef::from(&port.socket), port.departing.as_mut()))
    }

    /// All sockets.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.iter().map(|port| port.socket.as_fd())
    }

    /// Was anything sent since it was last read?
    pub(super) fn is_due(&self) -> bool {
        self.departing().any(Departing::is_due)
    }

    /// Reads when packets left: from those that sent something, or from all.
    pub(super) fn read(
        &mut self,
        all: bool,
        mapping: &Mapping,
        mut each: impl FnMut(&NodeId, MonoNs, Sending),
    ) {
        for port in &mut self.ports {
            if let Some(departing) = port.departing.as_mut().filter(|departing| all || departing.is_due()) {
                departing.read(&port.socket, mapping, all, &mut each);
            }
        }
    }

    /// Once a second, see [`Departing::housekeep`].
    pub(super) fn housekeep(&mut self, now: MonoNs) {
        for port in &mut self.ports {
            if let Some(departing) = &mut port.departing {
                departing.housekeep(&port.socket, now);
            }
        }
    }

    /// What was made of the stamps, of these ports and the gossip socket's together.
    pub(super) fn totals(&self, of_the_gossip_socket: Option<&Departing>) -> DepartureTotals {
        let mut totals = Departing::NOTHING;
        for departing in self.departing().chain(of_the_gossip_socket) {
            for ((_, total), (_, more)) in totals.iter_mut().zip(departing.labelled()) {
                *total += more;
            }
        }
        totals
    }

    fn departing(&self) -> impl Iterator<Item = &Departing> {
        self.ports.iter().filter_map(|port| port.departing.as_ref())
    }
}
