//! Asks an NTP server, politely.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::ControlFlow;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};

use super::filter::{Filter, Sample};
use super::{Kiss, Reply, SntpError, encode_request};
use crate::clock::ask::{AskError, Socket, random};
use crate::clock::mapping::mono_now;
use crate::clock::source::{OffsetSource, Opinion, SourceError};

/// Failures in a row after which a name is looked up again.
const LOOK_UP_AFTER: u32 = 4;
/// Polls without an answer after which a server counts as silent.
const MISSED_POLLS: i64 = 8;

/// How often a server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two requests.
    pub poll: Span,
    /// The first requests go out as fast as the source is read: this many.
    pub burst: u32,
    /// The longest poll interval, when requests fail or the server says `RATE`.
    pub slowest: Span,
    /// Given to each reply. A longer round trip would bound nothing worth knowing.
    pub timeout: Duration,
}

impl Pace {
    /// A server of one's own network may be asked every 16 s, after a burst of four; anybody else's every 64 s.
    pub fn towards(server: IpAddr) -> Self {
        let near = match server {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        let (seconds, burst) = if near { (16, 4) } else { (64, 1) };
        Self {
            poll: Span::from_secs(seconds),
            burst,
            slowest: Span::from_secs(1024),
            timeout: Duration::from_millis(500),
        }
    }
}

/// An NTP server as a source.
#[derive(Debug)]
pub struct Sntp {
    host: String,
    port: u16,
    server: Option<SocketAddr>,
    /// Given, or by the server's address.
    pace: Option<Pace>,
    filter: Filter,
    next_at: Option<MonoNs>,
    /// The poll interval now: longer than the pace's after `RATE`.
    poll: Span,
    asked: u32,
    failures: u32,
    /// Why the last request gave nothing.
    trouble: Option<SntpError>,
    denied: bool,
}

impl Sntp {
    /// The server of this name or address.
    pub fn new(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            server: None,
            pace: None,
            filter: Filter::default(),
            next_at: None,
            poll: Span::ZERO,
            asked: 0,
            failures: 0,
            trouble: None,
            denied: false,
        }
    }

    /// At a pace of one's own.
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// The server's address. A name's look-up blocks, so it is kept until the server has failed for a while.
    fn server(&mut self) -> Result<SocketAddr, SntpError> {
        let failing = self.failures > 0 && self.failures.is_multiple_of(LOOK_UP_AFTER);
        if let Some(server) = self.server.filter(|_| !failing) {
            return Ok(server);
        }
        let mut found = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| SntpError::Unresolved(error.to_string()))?;
        let server = found.next().ok_or_else(|| SntpError::Unresolved("no such name".to_owned()))?;
        self.server = Some(server);
        Ok(server)
    }

    /// One request, if it is time for one.
    fn poll(&mut self) {
        let now = mono_now();
        if self.denied || self.next_at.is_some_and(|at| now < at) {
            return;
        }
        let outcome = self.server().and_then(|server| {
            let pace = *self.pace.get_or_insert_with(|| Pace::towards(server.ip()));
            self.poll = self.poll.max(pace.poll);
            self.asked = self.asked.saturating_add(1);
            measure(server, pace.timeout)
        });
        // Before the server has an address, there is no pace either: as towards a stranger.
        let pace = self.pace.unwrap_or_else(|| Pace::towards(IpAddr::from([192, 0, 2, 1])));
        match outcome {
            Ok(sample) => {
                self.filter.push(sample);
                (self.failures, self.trouble) = (0, None);
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                match error {
                    SntpError::Kiss(Kiss::Denied(_)) => self.denied = true,
                    // For good, not for once: it has told its limit.
                    SntpError::Kiss(Kiss::TooOften) => self.poll = (self.poll + self.poll).min(pace.slowest),
                    _ => {}
                }
                self.trouble = Some(error);
            }
        }
        let wait = match self.failures {
            0 if self.asked < pace.burst => Span::ZERO,
            0 => self.poll,
            // Doubled with every failure.
            n => Span::from_nanos(self.poll.max(pace.poll).as_nanos().saturating_mul(1 << (n - 1).min(10))),
        };
        self.next_at = Some(now + wait.min(pace.slowest));
    }
}

impl OffsetSource for Sntp {
    fn name(&self) -> String {
        match self.server {
            Some(server) if self.host.parse::<IpAddr>().is_ok() => format!("NTP server {server}"),
            Some(server) => format!("NTP server {} ({server})", self.host),
            None => format!("NTP server {}", self.host),
        }
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        self.poll();
        let silent_after = Span::from_nanos(self.poll.as_nanos().saturating_mul(MISSED_POLLS));
        let trouble = self.trouble.clone();
        match self.filter.best(mono_now(), silent_after) {
            Some((offset, age, leap)) => {
                let doubt =
                    trouble.map(|trouble| format!("{} {trouble}; its last word is {age} old", self.name()));
                Ok(Opinion { offset, doubt, leap: Some(leap) })
            }
            None => {
                // Without a sample there was a failure, or the clock was stepped and the next poll is to come.
                let source = trouble.unwrap_or(SntpError::Absurd("the local clock was stepped since"));
                Err(SourceError::Sntp { at: format!("{}:{}", self.host, self.port), source })
            }
        }
    }

    fn stepped(&mut self) {
        self.filter.clear();
        // What was measured is void: measure at once, but do not ask one that has refused.
        if self.failures == 0 {
            self.next_at = None;
        }
    }
}

/// One exchange with `server`.
fn measure(server: SocketAddr, timeout: Duration) -> Result<Sample, SntpError> {
    let mut ignored = 0u32;
    let told = |error, ignored| match error {
        AskError::Timeout => SntpError::Timeout { after: timeout, ignored },
        AskError::Refused => SntpError::Refused,
        AskError::Io { doing, source } => SntpError::Io { doing, kind: source.kind() },
    };
    let nonce = u64::from_ne_bytes(random().map_err(|e| told(e, 0))?);
    let socket = Socket::udp(server).map_err(|e| told(e, 0))?;
    let asked =
        socket.ask(&encode_request(nonce), timeout, |packet, received| match Reply::decode(packet, nonce) {
            Err(SntpError::Origin | SntpError::Length { .. }) => {
                ignored = ignored.saturating_add(1);
                ControlFlow::Continue(())
            }
            reply => ControlFlow::Break((reply, received)),
        });
    let ((reply, received), sent) = asked.map_err(|e| told(e, ignored))?;
    Sample::new(&reply?, (sent.mono, sent.real), (received.mono, received.real))
}

#[cfg(test)]
mod tests;
