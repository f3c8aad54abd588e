//! `lab selftest`: how exactly the switch does what it is asked to, and whether it loses what it should not.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use probe_ebpf::time::{MonoNs, Span};
use serde::Serialize;

use super::clock::mono_now;
use super::{Capture, Captured, Closing, Granted, Journey, LinkSpec, Log, Port, Settings, Switch, truth};
use crate::rig::{Hosts, sandbox, wait_for};

/// Delays that are asked for.
const DELAYS: [Span; 4] = [Span::ZERO, Span::from_millis(1), Span::from_millis(5), Span::from_millis(20)];
/// Most by which half of the packets, and 99 of 100, may be off in the switch.
const SWITCH_TARGETS: [Span; 2] = [Span::from_micros(50), Span::from_micros(300)];
/// The same from edge to edge: with the time that the kernel takes to wake the switch.
const EDGE_TARGETS: [Span; 2] = [Span::from_micros(100), Span::from_micros(500)];

const HOSTS: usize = 5;
/// Datagrams per delay, from each host in turn.
const IDLE_DATAGRAMS: u64 = 2_500;
/// About how far apart: 500 a second.
const IDLE_PACE: Span = Span::from_millis(2);

const FLOOD_TIME: Span = Span::from_secs(4);
/// Pairs of hosts that send, each in both directions...
const FLOOD_SENDERS: usize = 4;
/// ...5 datagrams each millisecond: together 20 000 a second.
const FLOOD_BURST: u64 = 5;
const FLOOD_PACE: Span = Span::from_millis(1);
const FLOOD_DELAY: Span = Span::from_millis(1);
/// The rate must really have been reached.
const FLOOD_RATE: f64 = 19_000.0;

const DATAGRAM: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether every target was met.
    pub pass: bool,
    /// Which were not, in words.
    pub missed: Vec<String>,
    /// What the switch's thread had.
    pub granted: Granted,
    /// Five hosts with little to send.
    pub idle: Vec<Idle>,
    /// As much as it has to stand.
    pub flood: Flood,
}

/// Done against asked for one delay.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// What was asked for.
    pub asked_ns: i64,
    /// From when the switch read the frame until it wrote it, against asked.
    pub switch: Errors,
    /// From the sender's edge to the receiver's, against asked: with the waiting in the device's ring.
    pub edge: Errors,
    /// The account.
    pub closing: Closing,
}

/// Many packets.
#[derive(Debug, Serialize)]
pub struct Flood {
    /// Datagrams sent.
    pub sent: u64,
    /// Per second.
    pub rate: f64,
    /// Received by the processes that they were for.
    pub seen: u64,
    /// As when idle.
    pub switch: Errors,
    /// As when idle.
    pub edge: Errors,
    /// The account.
    pub closing: Closing,
}

/// How far off, without sign.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Errors {
    /// How many packets.
    pub count: usize,
    /// Half of them.
    pub p50_ns: i64,
    /// 99 of 100.
    pub p99_ns: i64,
    /// The worst.
    pub max_ns: i64,
}

impl Errors {
    fn of(spans: impl Iterator<Item = Span>) -> Result<Self> {
        let mut ns: Vec<i64> = spans.map(|span| span.abs().as_nanos()).collect();
        ns.sort_unstable();
        let at = |share: f64| ns[((ns.len() - 1) as f64 * share).ceil() as usize];
        ensure!(!ns.is_empty(), "no packet was measured");
        Ok(Self { count: ns.len(), p50_ns: at(0.5), p99_ns: at(0.99), max_ns: at(1.0) })
    }

    fn judge(&self, what: &str, [p50, p99]: [Span; 2], missed: &mut Vec<String>) {
        for (name, value, target) in [("p50", self.p50_ns, p50), ("p99", self.p99_ns, p99)] {
            let value = Span::from_nanos(value);
            if value > target {
                missed
                    .push(format!("{what}: {name} of the error is {value}, at most {target} was the target"));
            }
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_ns, self.p99_ns, self.max_ns].map(Span::from_nanos);
        write!(f, "p50 {:>9}  p99 {:>9}  max {:>9}", p50.to_string(), p99.to_string(), max.to_string())
    }
}

/// Runs it in a sandbox, prints the figures, writes them to `json`. Missing a target is an error. Needs root.
pub fn command(json: Option<&Path>) -> Result<()> {
    sandbox::enter()?;
    let figures = measure(&mut |line| println!("{line}"))?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    if !figures.pass {
        bail!("FAIL\n  {}", figures.missed.join("\n  "));
    }
    println!("PASS");
    Ok(())
}

/// Measures everything; lines for a reader go to `say` as they come.
pub fn measure(say: &mut dyn FnMut(&str)) -> Result<Figures> {
    let hosts = Hosts::unlinked(HOSTS)?;
    let switch = Switch::start(&hosts, Settings::default())?;
    let granted = switch.granted();
    say(&format!(
        "switch: {}, {}",
        if granted.realtime { "SCHED_FIFO" } else { "no real-time priority" },
        granted.cpu.map_or("any CPU".to_owned(), |cpu| format!("CPU {cpu}")),
    ));
    let mut missed = Vec::new();
    let sockets = hosts
        .iter()
        .enumerate()
        .map(|(i, host)| Socket::open(host, Port::host(i)))
        .collect::<Result<Vec<_>>>()?;
    say(&format!(
        "{HOSTS} hosts, {IDLE_DATAGRAMS} datagrams for each delay, about {IDLE_PACE} apart; how far off:"
    ));
    let mut idle = Vec::new();
    for delay in DELAYS {
        let measured = measure_idle(&hosts, &switch, &sockets, delay)?;
        say(&format!("  asked {:>8}  switch: {}", delay.to_string(), measured.switch));
        say(&format!("  {:>14}  edges:  {}", "", measured.edge));
        measured.switch.judge(&format!("delay {delay}, in the switch"), SWITCH_TARGETS, &mut missed);
        measured.edge.judge(&format!("delay {delay}, edge to edge"), EDGE_TARGETS, &mut missed);
        judge_closing(&format!("delay {delay}"), &measured.closing, &mut missed);
        idle.push(measured);
    }
    let flood = measure_flood(&hosts, &switch, &sockets)?;
    let Flood { sent, rate, seen, closing, .. } = &flood;
    say(&format!("flood: {sent} datagrams, {rate:.0} a second; received {seen}"));
    say(&format!("  asked {:>8}  switch: {}", FLOOD_DELAY.to_string(), flood.switch));
    say(&format!("  {:>14}  edges:  {}", "", flood.edge));
    say(&format!("  {closing:?}"));
    judge_closing("flood", closing, &mut missed);
    if flood.rate < FLOOD_RATE {
        missed.push(format!("flood: only {:.0} datagrams a second were sent", flood.rate));
    }
    if flood.seen != flood.sent {
        missed.push(format!("flood: {} of {} datagrams were received", flood.seen, flood.sent));
    }
    let totals = switch.stop()?.totals;
    if !totals.all.closes() || totals.all.unasked() > 0 {
        missed.push(format!("the switch's own account: {totals:?}"));
    }
    Ok(Figures { pass: missed.is_empty(), missed, granted, idle, flood })
}

fn judge_closing(what: &str, closing: &Closing, missed: &mut Vec<String>) {
    if !closing.closes() || closing.ordered > 0 {
        missed.push(format!("{what}: the account does not close: {closing:?}"));
    }
}

fn measure_idle(hosts: &Hosts, switch: &Switch, sockets: &[Socket], delay: Span) -> Result<Idle> {
    let begun = Begun::new(hosts, switch, delay)?;
    let mut due = mono_now();
    for i in 0..IDLE_DATAGRAMS {
        let (from, to) = pair(i, sockets);
        from.send(to, i)?;
        // Not in step with anything: between half and one and a half of the pace.
        due = due + Span::from_nanos(IDLE_PACE.as_nanos() / 2 + (i as i64 * 7_919) % IDLE_PACE.as_nanos());
        sleep_until(due);
        for socket in sockets {
            socket.drain();
        }
    }
    let (journeys, closing) = begun.end(switch, IDLE_DATAGRAMS)?;
    for socket in sockets {
        socket.drain();
    }
    let (switch, edge) = errors(&journeys, delay)?;
    Ok(Idle { asked_ns: delay.as_nanos(), switch, edge, closing })
}

fn measure_flood(hosts: &Hosts, switch: &Switch, sockets: &[Socket]) -> Result<Flood> {
    let begun = Begun::new(hosts, switch, FLOOD_DELAY)?;
    let done = AtomicBool::new(false);
    let started = mono_now();
    let (sent, seen, took) = thread::scope(|scope| {
        let receivers: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| receive(socket, &done))).collect();
        let senders: Vec<_> = (0..FLOOD_SENDERS)
            .map(|i| scope.spawn(move || flood(&sockets[i], &sockets[i + 1], started)))
            .collect();
        let sent: Result<u64> = senders.into_iter().map(|sender| joined(sender)?).sum();
        let took = mono_now() - started;
        // What was sent is in the receivers' sockets by the time that the account is closed.
        let settled = sent.and_then(|sent| begun.settle(switch, sent).map(|()| sent));
        done.store(true, Ordering::Relaxed);
        let seen: Result<u64> = receivers.into_iter().map(joined).sum();
        Ok::<_, anyhow::Error>((settled?, seen?, took))
    })?;
    let (journeys, closing) = begun.end(switch, sent)?;
    let (switch, edge) = errors(&journeys, FLOOD_DELAY)?;
    Ok(Flood { sent, rate: sent as f64 / took.as_secs_f64(), seen, switch, edge, closing })
}

/// Sends for [`FLOOD_TIME`] and returns how much.
fn flood(from: &Socket, to: &Socket, started: MonoNs) -> Result<u64> {
    let mut sent = 0;
    let mut due = started;
    while due - started < FLOOD_TIME {
        for _ in 0..FLOOD_BURST {
            from.send(to, sent)?;
            sent += 1;
        }
        due = due + FLOOD_PACE;
        sleep_until(due);
    }
    Ok(sent)
}

/// Receives until `done` and nothing is left; returns how much.
fn receive(socket: &Socket, done: &AtomicBool) -> u64 {
    let mut seen = 0;
    loop {
        let last = done.load(Ordering::Relaxed);
        seen += socket.drain();
        if last {
            return seen;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
}

/// A measurement under way: a fresh log and a capture.
struct Begun {
    capture: Capture,
    delivered: u64,
}

impl Begun {
    fn new(hosts: &Hosts, switch: &Switch, delay: Span) -> Result<Self> {
        let ports = &switch.ports()[..HOSTS];
        let links: Vec<_> =
            ports.iter().flat_map(|a| ports.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b).collect();
        switch.set_all(&links, LinkSpec::delay(delay))?;
        let capture = Capture::start(hosts, 400_000)?;
        switch.take_log()?;
        Ok(Self { capture, delivered: switch.totals()?.all.delivered })
    }

    /// Waits until the switch has nothing left of what was sent.
    fn settle(&self, switch: &Switch, sent: u64) -> Result<()> {
        wait_for("all datagrams to leave the switch", PATIENCE, || {
            let all = switch.totals()?.all;
            let ends = all.delivered + all.ordered() + all.unasked();
            Ok((ends >= self.delivered + sent && all.queued == 0).then_some(()))
        })
    }

    fn end(self, switch: &Switch, sent: u64) -> Result<(Vec<Journey>, Closing)> {
        // If some never come, the account says so.
        let _ = self.settle(switch, sent);
        let captured = self.capture.stop()?;
        let log: Log = switch.take_log()?;
        let Captured { omitted, missed, unstamped, .. } = captured;
        ensure!(
            log.omitted() + omitted + missed + unstamped == 0,
            "the truth is not whole: log left out {}, stamps {omitted}, sockets {missed}, without stamp {unstamped}",
            log.omitted()
        );
        Ok(truth::join(&captured.stamps, log.records()))
    }
}

/// The switch's and the edges' errors against `asked`.
fn errors(journeys: &[Journey], asked: Span) -> Result<(Errors, Errors)> {
    let records = journeys.iter().filter_map(|journey| journey.record);
    let switch = Errors::of(records.map(|record| record.held() - asked))?;
    let edge = Errors::of(journeys.iter().filter_map(Journey::network).map(|network| network - asked))?;
    Ok((switch, edge))
}

/// Who sends the `i`-th datagram, and to whom: all directed pairs in turn.
fn pair(i: u64, sockets: &[Socket]) -> (&Socket, &Socket) {
    let count = sockets.len();
    let from = i as usize % count;
    let to = (from + 1 + (i as usize / count) % (count - 1)) % count;
    (&sockets[from], &sockets[to])
}

/// A UDP socket inside a host's namespace.
struct Socket {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Socket {
    fn open(host: &crate::rig::Host, port: Port) -> Result<Self> {
        let socket = host.namespace().within(|| UdpSocket::bind((port.v4(), 9_000)))??;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    fn send(&self, to: &Self, number: u64) -> Result<()> {
        let mut datagram = [0xa5; DATAGRAM];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        self.socket.send_to(&datagram, to.address).with_context(|| format!("sending to {}", to.address))?;
        Ok(())
    }

    /// Receives all there is; how many.
    fn drain(&self) -> u64 {
        let mut received = 0;
        while self.socket.recv_from(&mut [0; DATAGRAM]).is_ok() {
            received += 1;
        }
        received
    }
}

/// The pace of the load.
fn sleep_until(due: MonoNs) {
    let left = due - mono_now();
    if left > Span::ZERO {
        thread::sleep(Duration::from_nanos(left.as_nanos().unsigned_abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_sizes_and_a_missed_target_is_told() {
        let errors =
            Errors::of((1..=100).map(|us| Span::from_micros(if us % 2 == 0 { us } else { -us }))).unwrap();
        assert_eq!(
            (errors.count, errors.p50_ns, errors.p99_ns, errors.max_ns),
            (100, 51_000, 100_000, 100_000)
        );
        let mut missed = Vec::new();
        errors.judge("met", [Span::from_micros(51), Span::from_micros(100)], &mut missed);
        assert!(missed.is_empty(), "{missed:?}");
        errors.judge("half", [Span::from_micros(50), Span::from_micros(100)], &mut missed);
        assert!(missed.len() == 1 && missed[0].contains("half") && missed[0].contains("p50"), "{missed:?}");
        assert!(Errors::of(std::iter::empty()).is_err(), "nothing measured is no success");
    }

    #[test]
    fn an_account_with_an_unasked_loss_is_a_missed_target() {
        let mut missed = Vec::new();
        judge_closing(
            "all there",
            &Closing { sent: 1, read: 1, delivered: 1, received: 1, ..Closing::default() },
            &mut missed,
        );
        assert!(missed.is_empty(), "{missed:?}");
        judge_closing("one gone", &Closing { sent: 1, unread: 1, ..Closing::default() }, &mut missed);
        judge_closing(
            "dropped",
            &Closing { sent: 1, read: 1, ordered: 1, ..Closing::default() },
            &mut missed,
        );
        assert_eq!(missed.len(), 2, "{missed:?}");
    }
}
