//! The loop that owns the packet path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::clock::ClockView;
use probe_user::clock::mapping::{MappingReader, mono_now};
use probe_user::clock::reader::{ClockReader, Reading};
use probe_user::clock::watch::{Disturbances, StepWatch};
use probe_user::load::Options;
use probe_user::recv::RecvBatch;
use rand::TryRngCore as _;
use tokio::runtime::Handle;

use crate::bell::Bell;
use crate::config::{Config, Seed};
use crate::control::Inbox;
use crate::control::watch::Watchers;
use crate::journey::{Journeys, Way};
use crate::metrics::{GossipTotals, Metrics};
use crate::proto::{self, Core, NodeId, Outbox, Received};
use crate::stats::Stats;
use crate::wire::v1;

use super::NetError;
use super::clock::ClockThread;
use super::departing::Departing;
use super::further::Further;
use super::hardware::Hardware;
use super::loads::Loads;
use super::observe::Observer;
use super::record::{Record, Recorder};
use super::socket::{GossipSocket, Marks};
use super::stamping::Stamping;
use super::stream::{Streams, resolve_seeds};
use super::wait::{Ready, wait};

mod clocks;
mod housekeep;
mod publish;
mod report;
mod requests;
mod send;
mod streams;

use clocks::tell;
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
    further: Further,
    streams: Streams,
    stamping: Stamping,
    batch: RecvBatch,
    observer: Observer,
    journeys: Journeys,
    tail: v1::Tail,
    watchers: Watchers,
    mapping: MappingReader,
    disturbances: Disturbances,
    /// Without it a step is seen when the mapping is next read.
    step_watch: Option<StepWatch>,
    clock: ClockView,
    clock_note: Option<String>,
    /// Contradictions between its sources so far.
    disagreements: u64,
    /// Readings from before this are of another epoch.
    stepped_at: MonoNs,
    totals: GossipTotals,
    /// When the entries of all nodes are to be counted again.
    count_entries_at: MonoNs,
    readings: ClockThread,
    kernel: String,
    loads: Loads,
    /// Time lost on every datagram, to try what a slow process looks like.
    slow_handler: Duration,
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
        let marks = Marks { dscp: config.dscp };
        let (socket, stamping, listener) = GossipSocket::open(
            config.bind,
            config.rcvbuf_bytes,
            &marks,
            config.probe,
            config.tx_stamps,
            config.hardware_stamps.as_deref(),
            &options,
        )?;
        let stamped = stamping.departing.is_some();
        let advertise = config.advertise_when_bound(socket.bound());
        let further = Further::open(config.bind, advertise.port(), &config.source_ports, &marks, stamped)?;
        for reason in
            stamping.reason().into_iter().chain(stamping.hardware.as_ref().and_then(Hardware::reason))
        {
            tracing::warn!("{reason}");
        }
        if let Some(note) = stamping.drops_note() {
            tracing::info!("{note}");
        }
        let os = |what| move |source| NetError::Os { what, source };
        let mut readings = ClockThread::start(ClockReader::of(&config.clock_sources))
            .map_err(os("starting the clock thread"))?;
        let mut mapping = MappingReader::new(config.inject_clock_error);
        let reading = readings.latest();
        tell(&reading);
        let Reading { offset, note, disagreements, .. } = reading;
        let (clock, now) = (ClockView { mapping: mapping.read(), offset }, mono_now());
        let mut random = rand::rngs::OsRng;
        let mut draw =
            || random.try_next_u64().map_err(|e| os("drawing random numbers")(std::io::Error::other(e)));
        let core = Core::new(
            proto::Config {
                source_ports: further.numbers(),
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
                    advertise,
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
        let mut journeys = Journeys::new(core.id().clone());
        if recorder.is_some() {
            journeys.judges_mut().record();
        }
        let totals = metrics
            .gossip
            .totals(events(&core, &journeys, Departing::NOTHING).map(|(part, event, _)| (part, event)));
        let slot = SLOT_MIN.max(config.max_packet_bytes);
        Ok(Self {
            observer: Observer::new(stats, metrics, stamping.tier(), recorder),
            journeys,
            tail: v1::Tail::default(),
            watchers: Watchers::default(),
            core,
            out: Outbox::default(),
            socket,
            further,
            streams,
            stamping,
            batch: RecvBatch::new(BATCH, slot),
            mapping,
            disturbances: Disturbances::of_this_host(),
            step_watch: StepWatch::new().ok(),
            clock,
            clock_note: note,
            disagreements,
            stepped_at: now,
            totals,
            count_entries_at: now,
            readings,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            loads: Loads::new(),
            slow_handler: config.slow_handler,
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
            let further = self.further.sockets();
            let ready =
                wait(&self.socket, &inbox.bell, self.step_watch.as_ref(), further, time).map_err(failed)?;
            if ready == Ready::default() && time > Span::ZERO {
                self.loads.was_late((mono_now() - until).max(Span::ZERO));
            }
            if ready.clock && self.step_watch.as_ref().is_some_and(StepWatch::was_set) {
                self.read_mapping();
            }
            self.take_reading();
            if ready.departures || self.stamping.departing.as_ref().is_some_and(Departing::has_to_be_asked) {
                self.read_departures(ready.departures);
            }
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
        for dropped in self.stamping.take_dropped() {
            self.journeys.dropped_packet(&dropped.packet.head, &dropped.reason, read);
        }
        if self.mapping.is_stepped() {
            self.read_mapping();
        }
        for i in 0..n {
            self.datagram(i, read);
            self.carry_out();
        }
        let journeys = &mut self.journeys;
        self.stamping.note_dropped(self.batch.dropped(), |reason, n| journeys.dropped(reason, n, read));
    }

    /// Asks the kernel what it dropped at the socket.
    fn count_drops(&mut self, now: MonoNs) {
        let journeys = &mut self.journeys;
        self.stamping.count_drops(&self.socket, |reason, n| journeys.dropped(reason, n, now));
        // Their events, if they are new too.
        self.stamping.drain(now);
        for dropped in self.stamping.take_dropped() {
            self.journeys.dropped_packet(&dropped.packet.head, &dropped.reason, now);
        }
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
            received: receipt.received,
            kernel: receipt.kernel(),
            clock: &self.clock,
            align: &self.journeys,
        };
        if let Err(refused) = self.core.handle_datagram(received, &mut self.out) {
            return self.observer.rejected(refused.reason());
        }
        if !self.slow_handler.is_zero() {
            std::thread::sleep(self.slow_handler);
        }
        let applied = mono_now();
        if let Some(packet) = &self.out.packet {
            self.journeys.received(packet, &self.out.reports, &receipt, applied, &self.clock);
        }
        self.observer.arrived(&self.out, &receipt, applied, &self.clock);
        self.end_journeys();
    }

    /// Takes in when packets left this host; `all`: also from ports that sent nothing since the last time.
    fn read_departures(&mut self, all: bool) {
        let journeys = &mut self.journeys;
        let mut departed = |to: &NodeId, sent, report| journeys.departed(to, sent, report);
        let due = |departing: &&mut Departing| all || departing.is_due() || departing.has_to_be_asked();
        if let Some(departing) = self.stamping.departing.as_mut().filter(due) {
            departing.read(&self.socket, &self.clock.mapping, all, &mut departed);
        }
        self.further.read(all, &self.clock.mapping, departed);
    }

    /// Takes in the journeys that are over.
    fn end_journeys(&mut self) {
        for (peer, way, journey) in self.journeys.over() {
            if way == Way::Incoming {
                self.observer.journey(peer, &journey);
            }
        }
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
        if self.stamping.departing.as_ref().is_some_and(Departing::is_due) || self.further.is_due() {
            self.read_departures(false);
        }
        self.begin_streams();
    }
}

fn span(duration: Duration) -> Span {
    Span::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}
