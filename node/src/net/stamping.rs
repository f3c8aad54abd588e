//! Which kernel stamps this node gets, and each received datagram's share of them.

use std::time::Duration;

use probe_ebpf::event::{PacketKey, RING_SLOT};
use probe_ebpf::time::MonoNs;
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::analysis::correlate::Correlator;
use probe_user::clock::Mapping;
use probe_user::load::{LoadError, Options, Probe};
use probe_user::recv::Datagram;
use probe_user::timestamping;
use socket2::Socket;

use crate::config::ProbeMode;
use crate::report::{AccountingReport, ProbeReport};

use super::NetError;

/// The source of kernel stamps.
#[derive(Debug)]
pub(super) struct Stamping {
    probe: Option<Probe>,
    correlator: Correlator,
    /// 1 eBPF socket filter, 0 `SO_TIMESTAMPING`, `None` no kernel stamps.
    tier: Option<u8>,
    reason: Option<String>,
    rcvbuf_dropped: u32,
}

impl Stamping {
    /// Prepares a socket that is not bound yet: a datagram that comes before the filter would have no event.
    pub(super) fn prepare(socket: &Socket, mode: ProbeMode, options: &Options) -> Result<Self, NetError> {
        // One slot more than the ring has, so that a drain after a long stop never pushes events out.
        let slots = (u64::from(options.ring_bytes) / RING_SLOT) as usize + 1;
        let mut stamping = Self {
            probe: None,
            correlator: Correlator::new(slots),
            tier: None,
            reason: None,
            rcvbuf_dropped: 0,
        };
        if let Err(e) = timestamping::enable_drop_count(socket) {
            stamping.reason = Some(format!("drops at the socket cannot be counted: {e}"));
        }
        if mode == ProbeMode::Off {
            stamping.reason =
                Some("kernel stamps are switched off (probe = \"off\"): no network time".into());
            return Ok(stamping);
        }
        timestamping::enable_receive_stamps(socket).map_err(NetError::Timestamping)?;
        stamping.tier = Some(0);
        if mode == ProbeMode::Timestamping {
            stamping.reason = Some(tier_0("probe = \"timestamping\" was asked for"));
            return Ok(stamping);
        }
        match attach(socket, options) {
            Ok(probe) => {
                stamping.reason = probe.no_tstamp().map(|e| {
                    format!("the filter cannot read the receive stamp, which is taken from the datagram instead: {e}")
                });
                stamping.tier = Some(1);
                stamping.probe = Some(probe);
                Ok(stamping)
            }
            Err(e) if mode == ProbeMode::Ebpf => Err(NetError::Probe(e)),
            Err(e) => {
                stamping.reason = Some(tier_0(&e.to_string()));
                Ok(stamping)
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

    /// Takes the new events out of the ring. Call right after `recvmmsg` returned, at `now`.
    pub(super) fn drain(&mut self, now: MonoNs) {
        if let Some(probe) = &mut self.probe {
            let correlator = &mut self.correlator;
            probe.ring.drain(|event| correlator.push(event, now));
        }
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
        let received = event.and_then(|e| e.received()).or(datagram.received);
        Receipt {
            received: received.map(|at| Stamp { at: mapping.mono_of_real(at), error: mapping.error }),
            filtered: event.map(|e| Stamp::exact(e.filtered())),
            read,
        }
    }

    /// Once a second or so: expires old events and passes on the kernel side's rare log records.
    pub(super) fn housekeep(&mut self, now: MonoNs) {
        self.drain(now);
        self.correlator.expire(now);
        if let Some(probe) = &mut self.probe {
            probe.flush_log();
        }
    }

    /// The kernel's count of datagrams dropped at the socket (wraps).
    pub(super) fn set_rcvbuf_dropped(&mut self, dropped: u32) {
        self.rcvbuf_dropped = dropped;
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
            late: o.late,
            ring_failed: kernel.ring_failed,
            pending: self.correlator.pending(),
            without_event: o.without_event,
            rcvbuf_dropped: u64::from(self.rcvbuf_dropped),
        }
    }

    /// Runs that the kernel timed, and the time they took.
    pub(super) fn cost(&self) -> (u64, Duration) {
        self.probe.as_ref().map(Probe::cost).unwrap_or_default()
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
