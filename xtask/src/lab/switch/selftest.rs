//! `lab selftest`: how exactly the switch does what it is asked to, and whether it loses what it should not.
//!
//! The rule by which it passes, which is also printed. Beside every packet a bare real-time thread
//! ([`Yardstick`](super::yardstick::Yardstick)) wakes on the same CPU, when the packet comes in and when it is due.
//! Where that thread is more than [`STALL`] late, half of the target, the CPU was not to be had. A packet for which
//! this was so at some instant between when it was due and when it left, at most [`STALL`] after it was due, is left
//! out of the p99, counted and shown, and the p99 with it is shown too. Nothing is left out of the p50, which is that of
//! a switch without bare threads beside it, nor of the account of packets. More than [`MOST_LEFT_OUT`] left out is a failure: there is nothing to judge by. A failed
//! measurement is made again, up to [`ATTEMPTS`] times in all, only if the bare threads' own p99 missed the switch's
//! target, too; each is shown. From edge to edge there is the waking of the switch by the kernel as well, which is as
//! exact as that of bare threads: where those miss the target, edges are shown but not judged.

mod judge;
mod machine;
mod socket;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use probe_ebpf::time::{MonoNs, Span};
use serde::Serialize;

use super::clock::mono_now;
use super::yardstick::Stalls;
use super::{Capture, Captured, Closing, Granted, Journey, LinkSpec, Log, Port, Settings, Switch, truth};
use crate::rig::{Hosts, sandbox, wait_for};
pub use judge::{Errors, Judged};
use machine::Beside;
pub use machine::Machine;
use socket::{Socket, pair, sleep_until};

/// Delays that are asked for.
const DELAYS: [Span; 4] = [Span::ZERO, Span::from_millis(1), Span::from_millis(5), Span::from_millis(20)];
/// Most by which half of the packets, and 99 of 100, may be off in the switch.
const SWITCH_TARGETS: [Span; 2] = [Span::from_micros(50), Span::from_micros(300)];
/// The same from edge to edge: with the time that the kernel takes to wake the switch.
const EDGE_TARGETS: [Span; 2] = [Span::from_micros(100), Span::from_micros(500)];

/// A bare thread that is so late was kept from the CPU: half of what the switch is allowed at p99.
pub const STALL: Span = Span::from_micros(150);
/// Packets in a hundred that may be left out for that.
pub const MOST_LEFT_OUT: f64 = 20.0;
/// Measurements of one delay, the first included.
pub const ATTEMPTS: usize = 3;

const HOSTS: usize = 5;
/// Datagrams per delay, from each host in turn.
const IDLE_DATAGRAMS: u64 = 2_500;
/// The same without bare threads beside the switch: they cost it some time, and keep its CPU awake.
const ALONE_DATAGRAMS: u64 = 1_000;
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

const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether every target was met.
    pub pass: bool,
    /// Which were not, in words.
    pub missed: Vec<String>,
    /// What could not be judged here, in words: targets of the edges that bare threads missed, too.
    pub unjudged: Vec<String>,
    /// What the switch's thread had.
    pub granted: Granted,
    /// Five hosts with little to send.
    pub idle: Vec<Idle>,
    /// As much as it has to stand.
    pub flood: Flood,
}

/// Done against asked for one delay: one attempt.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// What was asked for.
    pub asked_ns: i64,
    /// From 1.
    pub attempt: usize,
    /// What it missed; empty if it passed.
    pub missed: Vec<String>,
    /// From when the switch read the frame until it wrote it, against asked.
    pub switch: Judged,
    /// From the sender's edge to the receiver's, against asked: with the waiting in the device's ring.
    pub edge: Judged,
    /// The same machine without a switch.
    pub machine: Machine,
    /// The accounts, without the bare threads and with them.
    pub closing: [Closing; 2],
}

/// Many packets. Only the account and the rate are judged.
#[derive(Debug, Serialize)]
pub struct Flood {
    /// Datagrams sent.
    pub sent: u64,
    /// Per second.
    pub rate: f64,
    /// Received by the processes that they were for.
    pub seen: u64,
    /// As when idle.
    pub switch: Judged,
    /// As when idle.
    pub edge: Judged,
    /// As when idle.
    pub machine: Machine,
    /// The account.
    pub closing: Closing,
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
    say(&format!(
        "  (`own` leaves out packets due while a bare real-time thread on this CPU was over {STALL} late; at most {MOST_LEFT_OUT} %)"
    ));
    let (mut idle, mut unjudged) = (Vec::new(), Vec::new());
    for delay in DELAYS {
        for attempt in 1..=ATTEMPTS {
            let mut measured = measure_idle(&hosts, &switch, &sockets, delay)?;
            tell(&delay.to_string(), &measured.switch, &measured.edge, &measured.machine, say);
            // An account that does not close is nothing that noise could excuse.
            for closing in &measured.closing {
                judge_closing(&format!("delay {delay}"), closing, &mut missed);
            }
            let noisy = measured.machine.is_noisy(SWITCH_TARGETS[1]);
            let what = |place: &str| format!("delay {delay}, {place}");
            let own = measured.switch.judge(&what("in the switch"), SWITCH_TARGETS);
            let edges = measured.edge.judge(&what("edge to edge"), EDGE_TARGETS);
            measured.attempt = attempt;
            measured.missed = [own.as_slice(), &edges].concat();
            idle.push(measured);
            if noisy && !(own.is_empty() && edges.is_empty()) && attempt < ATTEMPTS {
                let number = attempt + 1;
                say(&format!(
                    "  missed, but so did the bare threads: the machine is noisy; once more ({number} of {ATTEMPTS})"
                ));
                continue;
            }
            missed.extend(own);
            if noisy { &mut unjudged } else { &mut missed }.extend(edges);
            break;
        }
    }
    let flood = measure_flood(&hosts, &switch, &sockets)?;
    let Flood { sent, rate, seen, closing, .. } = &flood;
    say(&format!("flood: {sent} datagrams, {rate:.0} a second; received {seen}"));
    tell(&FLOOD_DELAY.to_string(), &flood.switch, &flood.edge, &flood.machine, say);
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
    for what in &unjudged {
        say(&format!("not judged, since bare threads miss the target as well: {what}"));
    }
    Ok(Figures { pass: missed.is_empty(), missed, unjudged, granted, idle, flood })
}

fn tell(asked: &str, switch: &Judged, edge: &Judged, machine: &Machine, say: &mut dyn FnMut(&str)) {
    say(&format!("  asked {asked:>8}  switch:     {switch}"));
    say(&format!("  {:>14}  edges:      {edge}", ""));
    for line in machine.to_string().lines() {
        say(&format!("  {:>14}  {line}", ""));
    }
}

fn judge_closing(what: &str, closing: &Closing, missed: &mut Vec<String>) {
    if !closing.closes() || closing.ordered > 0 {
        missed.push(format!("{what}: the account does not close: {closing:?}"));
    }
}

fn measure_idle(hosts: &Hosts, switch: &Switch, sockets: &[Socket], delay: Span) -> Result<Idle> {
    let (journeys, alone_closing) = send(hosts, switch, sockets, delay, ALONE_DATAGRAMS, None)?;
    let alone = errors(&journeys, delay, &Stalls::default())?;
    let beside = Beside::start(switch.granted(), IDLE_DATAGRAMS as usize)?;
    let (journeys, closing) = send(hosts, switch, sockets, delay, IDLE_DATAGRAMS, Some(&beside))?;
    let (machine, stalls) = beside.end()?;
    let (switch, edge) = errors(&journeys, delay, &stalls)?;
    let (switch, edge) = (switch.beside(alone.0.all), edge.beside(alone.1.all));
    let (asked_ns, closing) = (delay.as_nanos(), [alone_closing, closing]);
    Ok(Idle { asked_ns, attempt: 1, missed: Vec::new(), switch, edge, machine, closing })
}

/// Little at a time, between all hosts in turn.
fn send(
    hosts: &Hosts,
    switch: &Switch,
    sockets: &[Socket],
    delay: Span,
    count: u64,
    beside: Option<&Beside>,
) -> Result<(Vec<Journey>, Closing)> {
    let begun = Begun::new(hosts, switch, delay)?;
    let mut due = mono_now();
    for i in 0..count {
        let (from, to) = pair(i, sockets);
        from.send(to, i)?;
        beside.inspect(|beside| beside.sent(delay));
        // Not in step with anything: between half and one and a half of the pace.
        due = due + Span::from_nanos(IDLE_PACE.as_nanos() / 2 + (i as i64 * 7_919) % IDLE_PACE.as_nanos());
        sleep_until(due);
        for socket in sockets {
            socket.drain();
        }
    }
    let ended = begun.end(switch, count)?;
    for socket in sockets {
        socket.drain();
    }
    Ok(ended)
}

fn measure_flood(hosts: &Hosts, switch: &Switch, sockets: &[Socket]) -> Result<Flood> {
    let beside =
        Beside::start(switch.granted(), FLOOD_TIME.as_nanos() as usize / FLOOD_PACE.as_nanos() as usize)?;
    let begun = Begun::new(hosts, switch, FLOOD_DELAY)?;
    let done = AtomicBool::new(false);
    let started = mono_now();
    let (sent, seen, took) = thread::scope(|scope| {
        let receivers: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| receive(socket, &done))).collect();
        let senders: Vec<_> = (0..FLOOD_SENDERS)
            .map(|i| {
                let beside = (i == 0).then_some(&beside);
                scope.spawn(move || flood(&sockets[i], &sockets[i + 1], started, beside))
            })
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
    let (machine, stalls) = beside.end()?;
    let (switch, edge) = errors(&journeys, FLOOD_DELAY, &stalls)?;
    Ok(Flood { sent, rate: sent as f64 / took.as_secs_f64(), seen, switch, edge, machine, closing })
}

/// Sends for [`FLOOD_TIME`] and returns how much; the bare threads wake with each burst of one sender.
fn flood(from: &Socket, to: &Socket, started: MonoNs, beside: Option<&Beside>) -> Result<u64> {
    let mut sent = 0;
    let mut due = started;
    while due - started < FLOOD_TIME {
        for _ in 0..FLOOD_BURST {
            from.send(to, sent)?;
            sent += 1;
        }
        beside.inspect(|beside| beside.sent(FLOOD_DELAY));
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

/// The switch's and the edges' errors against `asked`, apart for those that met a stalled CPU.
fn errors(journeys: &[Journey], asked: Span, stalls: &Stalls) -> Result<(Judged, Judged)> {
    let records = journeys.iter().filter_map(|journey| journey.record);
    // Found taken before it left, and not long after it was due: later, it was late by itself.
    let meets = |from: MonoNs, to: MonoNs| stalls.meets(from, to.min(from + STALL));
    let switch =
        Judged::of(records.map(|record| (record.held() - asked, meets(record.asked, record.departure))))?;
    let edges = journeys.iter().filter_map(|journey| {
        let record = journey.record?;
        // It waits to be read, then to be due.
        let stalled = meets(journey.sent?, record.arrival) || meets(record.asked, record.departure);
        Some((journey.network()? - asked, stalled))
    });
    Ok((switch, Judged::of(edges)?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
