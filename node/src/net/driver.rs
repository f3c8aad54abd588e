//! The loop that owns the packet path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::align::PeerClock;
use probe_user::clock::mapping::{MappingReader, mono_now};
use probe_user::clock::reader::{ClockReader, Reading};
use probe_user::clock::{ClockOffset, ClockView};
use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use rand::TryRngCore as _;
use tokio::runtime::Handle;

use crate::bell::Bell;
use crate::config::{Config, Seed};
use crate::control::Inbox;
use crate::control::watch::Watchers;
use crate::metrics::{GossipTotals, Metrics};
use crate::proto::{self, Core, NodeId, Outbox, Protocol, Received};
use crate::stats::Stats;
use crate::wire::v1;

use super::NetError;
use super::clock::ClockThread;
use super::observe::Observer;
use super::record::{Record, Recorder};
use super::socket::GossipSocket;
use super::stamping::Stamping;
use super::stream::{Streams, resolve_seeds};
use super::wait::wait;

mod publish;
mod report;
mod requests;
mod streams;

use publish::events;

/// Datagrams taken by one `recvmmsg`.
const BATCH: usize = 32;
/// Datagrams of at least this size are taken whole, so that a larger peer's packet is judged and not cut.
const SLOT_MIN: usize = 2048;
/// Time between looks at the clocks, the probe's counters and the published levels.
const HOUSEKEEPING: Span = Span::from_secs(1);
/// How much longer they may wait for something else to wake this thread: rounds are more frequent as a rule.
const HOUSEKEEPING_SLACK: Span = Span::from_millis(200);

/// Everything the packet path needs; owned by one thread.
pub(super) struct Driver {
    config: Config,
    core: Core,
    out: Outbox,
    socket: GossipSocket,
    streams: Streams,
    stamping: Stamping,
    batch: RecvBatch,
    observer: Observer,
    watchers: Watchers,
    mapping: MappingReader,
    clock: ClockView,
    clock_note: Option<String>,
    /// Readings from before this are of another epoch.
    stepped_at: MonoNs,
    totals: GossipTotals,
    /// When the entries of all nodes are to be counted again.
    count_entries_at: MonoNs,
    readings: ClockThread,
    kernel: String,
    sending: bool,
}

impl Driver {
    pub(super) fn start(
        config: Config,
        metrics: Arc<Metrics>,
        helper: &Handle,
        bell: &Bell,
    ) -> Result<Self, NetError> {
        let mut options =
            Options { ring_bytes: config.ring_bytes, stats: config.probe_stats, ..Options::default() };
        if let Some(btf) = &config.btf {
            options.btf.clone_from(btf);
        }
        let (socket, stamping, listener) =
            GossipSocket::open(config.bind, config.rcvbuf_bytes, config.probe, &options)?;
        if let Some(reason) = stamping.reason() {
            tracing::warn!("{reason}");
        }
        let os = |what| move |source| NetError::Os { what, source };
        let mut readings =
            ClockThread::start(ClockReader::new(config.chrony)).map_err(os("starting the clock thread"))?;
        let mut mapping = MappingReader::new(config.inject_clock_error);
        let reading = readings.latest();
        tell(&reading);
        let Reading { offset, note } = reading;
        let (clock, now) = (ClockView { mapping: mapping.read(), offset }, mono_now());
        let mut random = rand::rngs::OsRng;
        let mut draw =
            || random.try_next_u64().map_err(|e| os("drawing random numbers")(std::io::Error::other(e)));
        let core = Core::new(
            proto::Config {
                seeds: config.seeds.iter().filter_map(Seed::address).collect(),
                interval: span(config.interval),
                fanout: config.fanout,
                max_packet: config.max_packet_bytes,
                beacon_interval: span(config.beacon_interval),
                seed: draw()?,
                incarnation: draw()? as u32,
                ..proto::Config::new(
                    NodeId::new(&config.node_id).map_err(|_| {
                        os("node id")(std::io::Error::new(
                            std::io::ErrorKind::InvalidInput,
                            config.node_id.clone(),
                        ))
                    })?,
                    config.advertise_when_bound(socket.bound()),
                )
            },
            now,
            &clock,
        )?;
        let source =
            [config.bind, config.advertise].map(|a| a.ip()).into_iter().find(|ip| !ip.is_unspecified());
        let mut streams =
            Streams::start(helper, listener, source, core.stream_limits(), Arc::clone(&metrics), bell)
                .map_err(os("starting to listen"))?;
        if config.seeds.iter().any(|seed| seed.address().is_none()) {
            let (seeds, sender) = (config.seeds.clone(), streams.sender.clone());
            streams.keep(helper.spawn(resolve_seeds(seeds, config.seed_interval, config.advertise, sender)));
        }
        let recorder = match &config.record {
            Some(path) => Some(
                Recorder::create(path)
                    .map_err(|source| NetError::Record { path: path.display().to_string(), source })?,
            ),
            None => None,
        };
        let stats = Stats::new(&config.node_id, span(config.reporting_window), now);
        let totals = metrics.gossip.totals(events(&core).map(|(part, event, _)| (part, event)));
        let slot = SLOT_MIN.max(config.max_packet_bytes);
        Ok(Self {
            observer: Observer::new(stats, metrics, stamping.tier(), recorder),
            watchers: Watchers::default(),
            core,
            out: Outbox::default(),
            socket,
            streams,
            stamping,
            batch: RecvBatch::new(BATCH, slot),
            mapping,
            clock,
            clock_note: note,
            stepped_at: now,
            totals,
            count_entries_at: now,
            readings,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            sending: true,
            config,
        })
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.socket.bound()
    }

    /// Gossips until told to stop.
    pub(super) fn run(mut self, mut inbox: Inbox, helper: &Handle) -> Result<(), NetError> {
        let failed = |source| NetError::Os { what: "waiting for packets", source };
        let mut housekeeping_at = mono_now();
        let mut messages = false;
        // Each turn gives everything its share: a flood of datagrams must starve neither rounds nor requests.
        while !inbox.is_stopped() {
            let now = mono_now();
            if now >= housekeeping_at {
                self.housekeep();
                housekeeping_at = now + HOUSEKEEPING;
            }
            if now >= self.core.next_wakeup() {
                self.tick();
            }
            let until = self.core.next_wakeup().min(housekeeping_at + HOUSEKEEPING_SLACK);
            let time = if messages { Span::ZERO } else { until - mono_now() };
            let ready = wait(&self.socket, &inbox.bell, time).map_err(failed)?;
            if ready.socket {
                match self.socket.receive(&mut self.batch) {
                    Ok(n) => self.received(n),
                    Err(e) => self.receive_failed(&e),
                }
            }
            if ready.bell {
                inbox.bell.hush();
            }
            if ready.bell || messages {
                messages = self.take_messages(&mut inbox);
            }
        }
        if self.config.leave_on_shutdown {
            helper.block_on(self.leave());
        }
        self.finish()
    }

    /// Takes one message out of each channel; was there any?
    fn take_messages(&mut self, inbox: &mut Inbox) -> bool {
        let (incoming, request) = (self.streams.incoming.try_recv().ok(), inbox.requests.try_recv().ok());
        let any = incoming.is_some() || request.is_some();
        if let Some(incoming) = incoming {
            self.stream(incoming);
        }
        if let Some(request) = request {
            self.serve(request);
        }
        any
    }

    /// Handles the batch of `n` datagrams that was just received.
    fn received(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        let read = mono_now();
        self.observer.metrics.health.socket(None);
        self.stamping.drain(read);
        for i in 0..n {
            self.datagram(i, read);
            self.carry_out();
        }
        self.stamping.set_rcvbuf_dropped(self.batch.dropped());
    }

    fn receive_failed(&mut self, error: &std::io::Error) {
        self.observer.rejected("receive_error");
        self.observer.metrics.health.socket(error.raw_os_error());
    }

    fn datagram(&mut self, i: usize, read: MonoNs) {
        let Some(datagram) = self.batch.get(i) else { return };
        let metrics = &self.observer.metrics;
        metrics.packets_received.inc();
        metrics.bytes_received.inc_by(datagram.wire_len as u64);
        // Also for what is refused below: its event must not wait for it.
        let receipt = self.stamping.receipt(&datagram, read, &self.clock.mapping);
        self.out.clear();
        let Some(from) = datagram.from else { return self.observer.rejected("no_sender_address") };
        if datagram.is_cut() {
            return self.observer.rejected("oversize");
        }
        let received = Received {
            from,
            bytes: datagram.payload,
            now: mono_now(),
            received: receipt.received.map(|stamp| stamp.at),
            kernel: receipt.kernel(),
            clock: &self.clock,
        };
        if let Err(refused) = self.core.handle_datagram(received, &mut self.out) {
            return self.observer.rejected(refused.reason());
        }
        if !self.config.slow_handler.is_zero() {
            std::thread::sleep(self.config.slow_handler);
        }
        let applied = mono_now();
        self.observer.arrived(&self.out, &receipt, applied, &self.clock);
    }

    fn tick(&mut self) {
        self.out.clear();
        self.core.tick(mono_now(), &self.clock, &mut self.out);
        self.carry_out();
    }

    /// Does what the core wants done.
    fn carry_out(&mut self) {
        if !self.out.events.is_empty() {
            self.watchers.tell(&self.core, &self.out, mono_now());
        }
        self.send();
        self.begin_streams();
    }

    /// Sends what the core left in the outbox, each packet stamped (T1) just before its `sendmsg`.
    fn send(&mut self) {
        if !self.sending {
            return;
        }
        let source = self.clock.offset.source;
        for (transmit, bytes) in self.out.packets_mut() {
            let sent = mono_now();
            let (wall, queued) = (self.clock.mapping.wall(sent), sent - transmit.handed_over);
            if transmit.protocol == Protocol::V1 {
                v1::stamp(bytes, wall, queued, &PeerClock::of(&self.clock, sent), source)
                    .expect("the core's own packets have a header");
            }
            match self.socket.send(bytes, transmit.to) {
                Ok(()) => {
                    self.observer.metrics.packets_sent.inc();
                    self.observer.metrics.bytes_sent.inc_by(bytes.len() as u64);
                }
                // An unreachable or congested peer shows as loss on its side; here it is only counted.
                Err(_) => self.observer.metrics.send_failed.inc(),
            }
            if let Some(recorder) = &mut self.observer.recorder {
                let (to, id, handed_over) = (transmit.to, transmit.id, transmit.handed_over);
                recorder.push(Record::Sent { to, id, handed_over, sent });
            }
        }
    }

    /// Once a second: clocks, expiry, published levels.
    fn housekeep(&mut self) {
        let epoch = self.clock.mapping.epoch;
        self.clock.mapping = self.mapping.read();
        if self.clock.mapping.epoch != epoch {
            tracing::warn!("the wall clock was stepped (epoch {})", self.clock.mapping.epoch);
            self.clock.offset = self.clock.offset.voided();
            self.stepped_at = mono_now();
        }
        if let Some(reading) = self.readings.changed()
            && reading.offset.read_at >= self.stepped_at
        {
            // Not whenever the note changes: it tells ages, which change with every reading.
            let kind =
                |offset: &ClockOffset, note: &Option<String>| (offset.source, offset.state, note.is_some());
            if kind(&reading.offset, &reading.note) != kind(&self.clock.offset, &self.clock_note) {
                tell(&reading);
            }
            self.clock.offset = reading.offset;
            self.clock_note = reading.note;
        }
        let now = mono_now();
        self.stamping.housekeep(now);
        self.publish(now);
    }

    /// Stops sending, takes the filter off, and handles what is queued still, so that the accounting closes.
    fn finish(mut self) -> Result<(), NetError> {
        self.sending = false;
        self.stamping.detach();
        while let Ok(n @ 1..) = self.socket.receive(&mut self.batch) {
            self.received(n);
        }
        let now = mono_now();
        self.stamping.finish(now);
        self.publish(now);
        if let Some(path) = &self.config.final_report {
            let write = |source| NetError::Report { path: path.display().to_string(), source };
            let json = serde_json::to_vec_pretty(&self.report(now)).map_err(|e| write(e.into()))?;
            std::fs::write(path, json).map_err(write)?;
        }
        if let Some(recorder) = self.observer.recorder.take() {
            let path = self.config.record.as_deref().map(|p| p.display().to_string()).unwrap_or_default();
            recorder.finish().map_err(|source| NetError::Record { path, source })?;
        }
        Ok(())
    }
}

/// One line about the clock, as it is told at the start and when something about it changes.
fn tell(reading: &Reading) {
    let (source, state) = (reading.offset.source, reading.offset.state);
    match &reading.note {
        Some(note) => tracing::warn!(?source, ?state, "clock: {note}"),
        None => tracing::info!(?source, ?state, "clock: all is well"),
    }
}

fn span(duration: Duration) -> Span {
    Span::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}
