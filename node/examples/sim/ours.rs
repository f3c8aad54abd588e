//! The product's own core as a [`Member`]: the only file that knows it.

use std::collections::BTreeMap;

use pikoscope::journey::Journeys;
use pikoscope::proto::{Config, Core, EntryKind, Event, NodeId, Outbox, Protocol, Received, StreamKind};
use pikoscope::wire::v1;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::{Align, ByReadings, PeerClock};
use probe_user::analysis::breakdown::{Receipt, Stamp};
use probe_user::analysis::verdict::Cause;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

use crate::host::Host;
use crate::member::{Io, KEY, Learned, Liveness, Member, Start, Verdicts};

pub(crate) struct Ours {
    core: Core,
    rejected: u64,
    judging: Option<Box<Judging>>,
}

/// What the driver has beside the core, for nodes that judge their paths.
struct Judging {
    journeys: Journeys,
    tail: v1::Tail,
    packet: Vec<u8>,
    max_packet: usize,
    look_at: MonoNs,
}

/// As often as the driver does.
const HOUSEKEEPING: Span = Span::from_secs(1);

impl Member for Ours {
    type Scratch = Outbox;

    fn start(start: &Start<'_>, _: &mut Io<'_, Self>) -> Result<Self, String> {
        let id = NodeId::new(&start.host.id()).map_err(|error| error.to_string())?;
        let default = Config::new(id, start.host.addr());
        let config = Config {
            seeds: start.seeds.iter().map(|host| host.addr()).collect(),
            interval: start.rule.interval,
            fanout: start.rule.fanout.unwrap_or(default.fanout),
            max_packet: start.rule.max_packet,
            seed: start.seed,
            incarnation: (start.seed >> 32) as u32,
            ..default
        };
        let judging = start.rule.judge.then(|| {
            Box::new(Judging {
                journeys: Journeys::new(config.id.clone()),
                tail: v1::Tail::default(),
                packet: Vec::new(),
                max_packet: config.max_packet,
                look_at: start.now + HOUSEKEEPING,
            })
        });
        let core = Core::new(config, start.now, &clock(start.now)).map_err(|error| error.to_string())?;
        Ok(Self { core, rejected: 0, judging })
    }

    fn handle_datagram(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>) {
        let received = Received {
            from: from.addr(),
            bytes,
            now,
            received: Some(Stamp::exact(now)),
            kernel: Some(Bounded::default()),
            clock: &clock(now),
            align: self.judging.as_ref().map_or(&ByReadings as &dyn Align, |judging| &judging.journeys),
        };
        self.rejected += u64::from(self.core.handle_datagram(received, io.scratch).is_err());
        if let (Some(judging), Some(packet)) = (&mut self.judging, &io.scratch.packet) {
            let stamp = Some(Stamp::exact(now));
            let receipt = Receipt { received: stamp, filtered: stamp, read: now };
            judging.journeys.received(packet, &io.scratch.reports, &receipt, now, &clock(now));
            judging.journeys.over().for_each(drop);
        }
        self.drain(now, io);
    }

    fn handle_request(
        &mut self,
        from: Host,
        bytes: &[u8],
        now: MonoNs,
        io: &mut Io<'_, Self>,
        out: &mut Vec<u8>,
    ) {
        let done = self.core.handle_stream(bytes, from.addr(), now, &clock(now), out, io.scratch);
        self.rejected += u64::from(done.is_err());
        self.drain(now, io);
    }

    fn handle_response(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>) {
        let done = self.core.handle_join_response(bytes, from.addr(), now, &clock(now), io.scratch);
        self.rejected += u64::from(done.is_err());
        self.drain(now, io);
    }

    fn tick(&mut self, now: MonoNs, io: &mut Io<'_, Self>) {
        if self.core.next_wakeup() <= now {
            self.core.tick(now, &clock(now), io.scratch);
            self.drain(now, io);
        }
        if let Some(judging) = self.judging.as_mut().filter(|judging| judging.look_at <= now) {
            judging.look_at = now + HOUSEKEEPING;
            let (journeys, clock) = (&mut judging.journeys, clock(now));
            journeys.expire(now);
            journeys.over().for_each(drop);
            journeys.judge(&clock, now);
            journeys.evaluate(self.core.ring(), &clock, now);
            self.core.tell(&journeys.judges().summary().encode());
        }
    }

    fn next_wakeup(&self) -> MonoNs {
        let look_at = self.judging.as_ref().map(|judging| judging.look_at);
        look_at.into_iter().fold(self.core.next_wakeup(), Ord::min)
    }

    fn verdicts(&self) -> Verdicts {
        let Some(judging) = &self.judging else { return Verdicts::default() };
        let ring: Vec<&NodeId> = self.core.ring().collect();
        let judged = judging
            .journeys
            .judges()
            .verdicts()
            .filter(|(peer, _, verdict)| ring.contains(peer) && verdict.cause != Cause::Unknown);
        Verdicts { paths: 2 * ring.len(), judged: judged.map(|(.., verdict)| verdict.cause.name()).collect() }
    }

    fn set(&mut self, value: &[u8], now: MonoNs, io: &mut Io<'_, Self>) -> Result<u64, String> {
        let version = self.core.set(KEY, value, None, now, &clock(now)).map_err(|error| error.to_string())?;
        self.drain(now, io);
        Ok(version)
    }

    fn count(&self, sum: &mut BTreeMap<&'static str, u64>) {
        for (name, total) in self.core.counters().labelled().chain([("rejected", self.rejected)]) {
            *sum.entry(name).or_default() += total;
        }
    }
}

impl Ours {
    /// Hands over what the core left in its outbox, packets stamped as if sent at once.
    fn drain(&mut self, now: MonoNs, io: &mut Io<'_, Self>) {
        let (out, effects, clock) = (&mut *io.scratch, &mut *io.effects, clock(now));
        for (transmit, packet) in out.packets_mut() {
            if transmit.protocol == Protocol::V1 {
                let reading = PeerClock::of(&clock, now);
                let (wall, source) = (clock.mapping.wall(now), clock.offset.source);
                v1::stamp(packet, wall, Span::ZERO, &reading, source).expect("the core's own packet");
            }
            let Some(to) = Host::of_addr(transmit.to) else { continue };
            match (&mut self.judging, &transmit.destination) {
                (Some(judging), Some(peer)) if transmit.protocol == Protocol::V1 => {
                    let Judging { journeys, tail, packet: whole, max_packet, .. } = &mut **judging;
                    journeys.sent(peer, transmit.id, now, Span::ZERO, None, &clock);
                    whole.clear();
                    if transmit.limited {
                        whole.extend_from_slice(packet);
                    } else {
                        tail.begin(packet, *max_packet);
                        journeys.write_reports(peer, transmit.answers, now, tail);
                        tail.split(packet).iter().for_each(|part| whole.extend_from_slice(part));
                    }
                    effects.send(to, whole);
                    if transmit.id.counter > 0 {
                        let left = Some(Span::ZERO);
                        let report = v1::Sending {
                            counter: transmit.id.counter,
                            egress: left,
                            qdisc: left,
                            hooked: false,
                        };
                        journeys.departed(peer, now, report);
                    }
                }
                _ => effects.send(to, packet),
            }
        }
        for (to, kind) in std::mem::take(&mut out.streams) {
            let mut request = Vec::new();
            match kind {
                StreamKind::Join => self.core.join_request(&mut request),
                StreamKind::Leave => self.core.leave_request(&mut request),
            }
            if let Some(to) = Host::of_addr(to) {
                effects.connect(to, &request);
            }
        }
        for event in &out.events {
            let (node, liveness) = match event {
                Event::Unreachable { node } => (node, Liveness::Unreachable),
                // Who was forgotten meanwhile joins anew.
                Event::Reachable { node } | Event::Joined { node } => (node, Liveness::Reachable),
                _ => continue,
            };
            effects.liveness.extend(Host::of_id(node.as_str()).map(|host| (host, liveness)));
        }
        for entry in &out.entries {
            if let Some(origin) = Host::of_id(entry.origin.as_str()) {
                let application = entry.kind == EntryKind::Entry;
                effects.learned.push(Learned { origin, application, version: entry.version });
            }
        }
        out.clear();
    }
}

/// Every host's clock is right, and known to be.
fn clock(now: MonoNs) -> ClockView {
    ClockView {
        mapping: Mapping {
            real_minus_mono: Span::from_secs(1_700_000_000),
            error: Span::ZERO,
            epoch: 0,
            injected: Span::ZERO.into(),
        },
        offset: ClockOffset {
            theta: Span::ZERO,
            bound_at_read: Span::from_micros(1),
            read_at: now,
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
            rate: None,
        },
    }
}
