//! The product's own core as a [`Member`]: the only file that knows it.

use std::collections::BTreeMap;

use pikoscope::proto::{Config, Core, EntryKind, Event, NodeId, Outbox, Protocol, Received, StreamKind};
use pikoscope::wire::v1;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::PeerClock;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

use crate::host::Host;
use crate::member::{Io, KEY, Learned, Liveness, Member, Start};

pub(crate) struct Ours {
    core: Core,
    rejected: u64,
}

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
        let core = Core::new(config, start.now, &clock(start.now)).map_err(|error| error.to_string())?;
        Ok(Self { core, rejected: 0 })
    }

    fn handle_datagram(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>) {
        let received = Received {
            from: from.addr(),
            bytes,
            now,
            received: Some(now),
            kernel: Some(Bounded::default()),
            clock: &clock(now),
        };
        self.rejected += u64::from(self.core.handle_datagram(received, io.scratch).is_err());
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
        self.core.tick(now, &clock(now), io.scratch);
        self.drain(now, io);
    }

    fn next_wakeup(&self) -> MonoNs {
        self.core.next_wakeup()
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
            if let Some(to) = Host::of_addr(transmit.to) {
                effects.send(to, packet);
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
                Event::Reachable { node } => (node, Liveness::Reachable),
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
        },
    }
}
