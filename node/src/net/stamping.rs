//! Which kernel stamps this node gets, and each received datagram's share of them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use probe_ebpf::event::{PacketKey, RING_SLOT};
use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::analysis::correlate::Correlator;
use probe_user::clock::Mapping;
use probe_user::clock::mapping::STEP_SLACK;
use probe_user::drops::{self, DropCount, Dropped, Drops, is_after_filter};
use probe_user::hooks::{HookCost, Hooks};
use probe_user::load::{LoadError, Options, Probe};
use probe_user::recv::Datagram;
use probe_user::{timestamping, transmit};
use socket2::Socket;

use crate::config::ProbeMode;
use crate::report::{AccountingReport, DropsReport, HookReport, ProbeReport};

use super::NetError;
use super::departing::Departing;
use super::hardware::Hardware;

/// What the socket's own count of drops stands for, nearly always.
const RECEIVE_BUFFER: &str = "receive buffer";

/// The source of kernel stamps.
#[derive(Debug)]
pub(super) struct Stamping {
    probe: Option<Probe>,
    correlator: Correlator,
    /// 2 filter and hooks, 1 eBPF socket filter, 0 `SO_TIMESTAMPING`, `None` no kernel stamps.
    tier: Option<u8>,
    reason: Option<String>,
    /// The socket's own count of drops (wraps).
    rcvbuf_dropped: u32,
    /// Drops by reason; `None`: by the socket's count only.
    drops: Option<Drops>,
    /// Why not, or not all.
    drops_note: Option<String>,
    drop_counts: BTreeMap<Arc<str>, DropCount>,
    /// Drops that were told and not yet taken.
    dropped: Vec<Dropped>,
    /// When the wall clock's last step was noticed.
    stepped_at: Option<MonoNs>,
    /// Receive stamps that were not used because of a step.
    stamps_voided: u64,
    /// T2 and T3 of what is sent; `None` when they are switched off.
    pub(super) departing: Option<Departing>,
    /// T4 by the NIC; `None` when nobody asked for it.
    pub(super) hardware: Option<Hardware>,
}

impl Stamping {
    /// Prepares a socket that is not bound yet: a datagram that comes before the filter would have no event.
    pub(super) fn prepare(
        socket: &Socket,
        mode: ProbeMode,
        tx_stamps: bool,
        hardware_stamps: Option<&str>,
        options: &Options,
    ) -> Result<Self, NetError> {
        // One slot more than the ring has, so that a drain after a long stop never pushes events out.
        let slots = (u64::from(options.ring_bytes) / RING_SLOT) as usize + 1;
        let mut stamping = Self {
            probe: None,
            correlator: Correlator::new(slots),
            tier: None,
            reason: None,
            rcvbuf_dropped: 0,
            drops: None,
            drops_note: None,
            drop_counts: BTreeMap::new(),
            dropped: Vec::new(),
            stepped_at: None,
            stamps_voided: 0,
            departing: None,
            hardware: None,
        };
        if let Err(e) = timestamping::enable_drop_count(socket) {
            stamping.reason = Some(format!("drops at the socket cannot be counted: {e}"));
        }
        if mode == ProbeMode::Off {
            stamping.hardware = hardware_stamps.map(Hardware::switched_off);
            stamping.reason =
                Some("kernel stamps are switched off (probe = \"off\"): no network time".into());
            return Ok(stamping);
        }
        timestamping::enable_receive_stamps(socket).map_err(NetError::Timestamping)?;
        stamping.tier = Some(0);
        // Before the transmit stamps, which keep what is set.
        stamping.hardware = hardware_stamps.map(|interface| Hardware::begin(interface, socket));
        let hooks = match mode {
            ProbeMode::Hooks if tx_stamps => Some(Hooks::attach(socket, &options.btf)),
            _ => None,
        };
        let (hooks, no_hooks) = match hooks {
            Some(Ok(hooks)) => (Some(hooks), None),
            Some(Err(e)) => (None, Some(format!("the hooks of tier 2 are not possible here: {e}"))),
            None => (None, None),
        };
        if let Some(hooks) = hooks {
            stamping.departing = Some(Departing::hooked(hooks));
        } else if tx_stamps {
            transmit::enable(socket).map_err(NetError::Timestamping)?;
            stamping.departing = Some(Departing::new());
        }
        if mode == ProbeMode::Timestamping {
            stamping.reason = Some(tier_0("probe = \"timestamping\" was asked for"));
            return Ok(stamping);
        }
        match attach(socket, options) {
            Ok(probe) => {
                stamping.reason = no_hooks.or_else(|| probe.no_tstamp().map(|e| {
                    format!("the filter cannot read the receive stamp, which is taken from the datagram instead: {e}")
                }));
                let hooked = stamping.departing.as_ref().is_some_and(|d| d.hook_costs().is_some());
                stamping.tier = Some(if hooked { 2 } else { 1 });
                stamping.probe = Some(probe);
                stamping.attach_drops(socket, options);
                Ok(stamping)
            }
            Err(e) if mode == ProbeMode::Ebpf => Err(NetError::Probe(e)),
            Err(e) => {
                stamping.reason = Some(tier_0(&e.to_string()));
                Ok(stamping)
            }
        }
    }

    fn attach_drops(&mut self, socket: &Socket, options: &Options) {
        let options =
            drops::Options { ring_bytes: options.ring_bytes, btf: options.btf.clone(), ..Default::default() };
        match Drops::attach(socket, &options) {
            Ok(drops) => {
                self.drops_note = drops.lacking().map(str::to_owned);
                self.drops = Some(drops);
            }
            Err(e) => {
                self.drops_note =
                    Some(format!("drops at the socket are known by the socket's own count only: {e}"));
            }
        }
    }

    pub(super) fn tier(&self) -> Option<u8> {
        self.tier
    }

    /// Why the tier is not the best one, in one sentence.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Takes the new events out of the rings. Call right after `recvmmsg` returned, at `now`.
    pub(super) fn drain(&mut self, now: MonoNs) {
        // First: a datagram is dropped after its event was written, so that the event of every drop is there.
        if let Some(drops) = &mut self.drops {
            drops.drain(|dropped| self.dropped.push(dropped));
        }
        if let Some(probe) = &mut self.probe {
            let correlator = &mut self.correlator;
            probe.ring.drain(|event| correlator.push(event, now));
        }
    }

    /// The datagrams that were dropped, as far as the kernel tells of each.
    pub(super) fn take_dropped(&mut self) -> impl Iterator<Item = Dropped> + '_ {
        let correlator = &mut self.correlator;
        self.dropped.drain(..).inspect(|dropped| correlator.dropped(dropped.packet.key()))
    }

    /// Once a second, before [`housekeep`](Self::housekeep): asks the kernel for its counts of drops. Calls `each` with
    /// those that are new and known by number only.
    pub(super) fn count_drops(&mut self, socket: impl AsFd, mut each: impl FnMut(&Arc<str>, u64)) {
        // Not on kernels before 4.12: there the count comes with the next datagram.
        let dropped = timestamping::dropped(socket).unwrap_or(self.rcvbuf_dropped);
        let new = self.set_rcvbuf_dropped(dropped);
        let Some(drops) = &mut self.drops else {
            if new > 0 {
                each(&RECEIVE_BUFFER.into(), new.into());
            }
            self.correlator.set_dropped_by_number(self.rcvbuf_dropped.into());
            return;
        };
        let counts = match drops.counts(|dropped| self.dropped.push(dropped)) {
            Ok(counts) => counts,
            Err(e) => return tracing::warn!("the counts of drops cannot be read: {e}"),
        };
        for (reason, count) in &counts {
            let before = self.drop_counts.get(reason).map_or(0, |before| before.by_number);
            let new = count.by_number.saturating_sub(before);
            if new > 0 {
                each(reason, new);
            }
        }
        let after_filter = counts.iter().filter(|(reason, _)| is_after_filter(reason));
        self.correlator.set_dropped_by_number(after_filter.map(|(_, count)| count.by_number).sum());
        self.drop_counts = counts;
    }

    /// The receive-side stamps of one datagram that `recvmmsg` returned at `read`.
    pub(super) fn receipt(&mut self, datagram: &Datagram<'_>, read: MonoNs, mapping: &Mapping) -> Receipt {
        let event = match (&self.probe, datagram.from) {
            (Some(_), Some(from)) => self.correlator.take(PacketKey::of(
                datagram.payload,
                datagram.wire_len,
                from.port(),
                datagram.received,
            )),
            _ => None,
        };
        let filtered = event.map(|e| Stamp::exact(e.filtered()));
        let software = event.and_then(|e| e.received()).or(datagram.received);
        let received = match &mut self.hardware {
            Some(hardware) => hardware.received(datagram, software),
            None => software.map(|at| (at, Span::ZERO)),
        };
        let received =
            received.map(|(at, error)| Stamp { at: mapping.mono_of_real(at), error: mapping.error + error });
        let sound = received.filter(|stamp| self.is_of_this_epoch(stamp, filtered.map_or(read, |f| f.at)));
        self.stamps_voided += u64::from(sound != received);
        Receipt { received: sound, filtered, read }
    }

    /// The wall clock was stepped, which was noticed now.
    pub(super) fn stepped(&mut self, now: MonoNs) {
        self.stepped_at = Some(now);
        if let Some(hardware) = &mut self.hardware {
            hardware.stepped();
        }
    }

    /// Stamps of the kernel are REALTIME, and of one from before a step the new mapping makes a wrong MONOTONIC one: too
    /// early when the step was forward, too late when it was backward, which shows by the next stamp of the journey.
    fn is_of_this_epoch(&self, received: &Stamp, next: MonoNs) -> bool {
        self.stepped_at
            .is_none_or(|stepped| received.at >= stepped && received.at <= next + received.error + STEP_SLACK)
    }

    /// Once a second or so: expires old events and passes on the kernel side's rare log records.
    pub(super) fn housekeep(&mut self, now: MonoNs) {
        self.drain(now);
        self.correlator.expire(now);
        if let Some(probe) = &mut self.probe {
            probe.flush_log();
        }
    }

    /// The socket's count of drops as a datagram told it (wraps). Those told of it by reason are more.
    pub(super) fn note_dropped(&mut self, dropped: u32, mut each: impl FnMut(&Arc<str>, u64)) {
        // One that was read from the socket since then is newer.
        if dropped.wrapping_sub(self.rcvbuf_dropped) > u32::MAX / 2 {
            return;
        }
        let new = self.set_rcvbuf_dropped(dropped);
        if new > 0 && self.drops.is_none() {
            each(&RECEIVE_BUFFER.into(), new.into());
        }
    }

    fn set_rcvbuf_dropped(&mut self, dropped: u32) -> u32 {
        dropped.wrapping_sub(std::mem::replace(&mut self.rcvbuf_dropped, dropped))
    }

    /// Takes the filter off: what is in socket and ring now is all there will be.
    pub(super) fn detach(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.detach();
        }
    }

    /// After the last datagram was received: what still waits never comes.
    pub(super) fn finish(&mut self, now: MonoNs) {
        self.drain(now);
        self.correlator.flush();
    }

    pub(super) fn accounting(&self) -> AccountingReport {
        let kernel = self.probe.as_ref().map(Probe::counters).unwrap_or_default();
        let o = self.correlator.outcomes();
        AccountingReport {
            seen: kernel.seen,
            matched: o.matched,
            unmatched: o.unmatched,
            dropped: o.dropped,
            late: o.late,
            ring_failed: kernel.ring_failed,
            pending: self.correlator.pending(),
            without_event: o.without_event,
            rcvbuf_dropped: u64::from(self.rcvbuf_dropped),
            stamps_voided: self.stamps_voided,
        }
    }

    pub(super) fn drops_report(&self) -> DropsReport {
        let by_reason = self.drop_counts.iter();
        DropsReport {
            seen_by: self.drops.as_ref().map_or("SO_RXQ_OVFL", |drops| drops.hook().tracepoint()).to_owned(),
            note: self.drops_note.clone(),
            by_reason: by_reason.map(|(reason, count)| (reason.to_string(), count.total)).collect(),
            without_event: self.correlator.outcomes().dropped_without_event,
        }
    }

    /// Drops so far by reason, if the kernel tells it.
    pub(super) fn drop_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.drop_counts.iter().map(|(reason, count)| (&**reason, count.total))
    }

    /// Why drops are not all told by reason, if so.
    pub(super) fn drops_note(&self) -> Option<&str> {
        self.drops_note.as_deref()
    }

    /// Runs that the kernel timed, and the time they took.
    pub(super) fn cost(&self) -> (u64, Duration) {
        self.probe.as_ref().map(Probe::cost).unwrap_or_default()
    }

    /// The same of the hooks, which run for others' packets too.
    pub(super) fn hook_costs(&self) -> Vec<HookCost> {
        self.departing.as_ref().and_then(Departing::hook_costs).into_iter().flatten().collect()
    }

    pub(super) fn hook_reports(&self) -> Vec<HookReport> {
        let report = |cost: HookCost| HookReport {
            program: cost.program.to_owned(),
            run_cnt: cost.runs,
            ns_per_packet: cost.time.as_nanos() as f64 / cost.runs.max(1) as f64,
        };
        self.hook_costs().into_iter().map(report).collect()
    }

    pub(super) fn cost_report(&self) -> ProbeReport {
        let (run_cnt, time) = self.cost();
        let ns_per_packet = if run_cnt == 0 { 0.0 } else { time.as_nanos() as f64 / run_cnt as f64 };
        ProbeReport { run_cnt, ns_per_packet }
    }
}

fn attach(socket: &Socket, options: &Options) -> Result<Probe, LoadError> {
    let mut probe = Probe::load(options)?;
    probe.attach(socket)?;
    Ok(probe)
}

fn tier_0(why: &str) -> String {
    format!(
        "{why}; using SO_TIMESTAMPING (tier 0): network time is measured, but kernel time and socket queue on \
         this host cannot be told apart"
    )
}
