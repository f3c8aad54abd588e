//! Where guests call the host: one connection each that stays open for as long as they are to run, and one by which
//! they deliver what they measured.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Deserializer, Value};

use crate::lab::switch::Port;
use crate::rig::Namespace;

/// The hub's port for the connections that stay.
pub(super) const CALLS: u16 = 7000;
/// The hub's port for results.
pub(super) const DELIVERIES: u16 = 7001;
/// How long a delivery may pause: an emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both ports, and who is there.
#[derive(Debug)]
pub(super) struct Desk {
    calls: TcpListener,
    deliveries: TcpListener,
    held: Vec<(IpAddr, TcpStream)>,
}

impl Desk {
    /// Listens on the hub's address.
    pub(super) fn open(hub: &Namespace) -> Result<Self> {
        let listen = |port: u16| -> Result<TcpListener> {
            let address = SocketAddr::new(Port::HUB.v4().into(), port);
            let listener = hub.within(|| TcpListener::bind(address))?;
            let listener = listener.with_context(|| format!("listening on {address}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self { calls: listen(CALLS)?, deliveries: listen(DELIVERIES)?, held: Vec::new() })
    }

    /// Whether all of `guests` have called so far.
    pub(super) fn called(&mut self, guests: &[Port]) -> Result<bool> {
        while let Some((from, stream)) = accept(&self.calls)? {
            self.held.push((from, stream));
        }
        let called = |guest: &Port| self.held.iter().any(|(from, _)| *from == IpAddr::from(guest.v4()));
        Ok(guests.iter().all(called))
    }

    /// Tells all guests that it is over.
    pub(super) fn hang_up(&mut self) {
        self.held.clear();
    }

    /// The next delivery, if there is one now, read to its end: who from, and what. It stays in `dir`.
    pub(super) fn delivery(&self, dir: &Path) -> Result<Option<(IpAddr, Vec<Value>)>> {
        let Some((from, mut stream)) = accept(&self.deliveries)? else { return Ok(None) };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).with_context(|| format!("reading what {from} delivers"))?;
        let kept = dir.join(format!("{from}.json"));
        fs::write(&kept, &bytes).with_context(|| format!("writing {}", kept.display()))?;
        let values: Result<Vec<Value>, _> = Deserializer::from_slice(&bytes).into_iter().collect();
        let values = values.with_context(|| format!("what {from} delivers is not JSON"))?;
        ensure!(!values.is_empty(), "{from} delivers nothing");
        Ok(Some((from, values)))
    }
}

fn accept(listener: &TcpListener) -> Result<Option<(IpAddr, TcpStream)>> {
    match listener.accept() {
        Ok((stream, from)) => Ok(Some((from.ip(), stream))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("a guest's connection"),
    }
}
