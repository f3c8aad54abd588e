//! The product's own core as a [`Member`]: the only file that knows it.

use std::collections::BTreeMap;

use pikoscope::proto::{BEACON_KEY, Config, Core, EntryKind, NodeId, Outbox, Received};
use pikoscope::wire::v1;
use probe_ebpf::time::{Bounded, MonoNs, Span};
use probe_user::analysis::align::PeerClock;
use probe_user::clock::{ClockOffset, ClockSource, ClockState, ClockView, Mapping};

use crate::host::Host;
use crate::member::{Effects, Io, KEY, Learned, Member, Start};

pub(crate) struct Ours {
    core: Core,
    rejected: u64,
}

impl Member for Ours {
    type Scratch = Outbox;

    fn start(start: &Start<'_>) -> Result<Self, String> {
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
        drain(io.scratch, now, io.effects);
    }

    fn tick(&mut self, now: MonoNs, io: &mut Io<'_, Self>) {
        self.core.tick(now, &clock(now), io.scratch);
        drain(io.scratch, now, io.effects);
    }

    fn next_wakeup(&self) -> MonoNs {
        self.core.next_wakeup()
    }

    fn set(&mut self, value: &[u8], now: MonoNs, io: &mut Io<'_, Self>) -> Result<u64, String> {
        let version = self.core.set(KEY, value, now, &clock(now)).map_err(|error| error.to_string())?;
        drain(io.scratch, now, io.effects);
        Ok(version)
    }

    fn count(&self, sum: &mut BTreeMap<&'static str, u64>) {
        for (name, total) in self.core.counters().labelled().chain([("rejected", self.rejected)]) {
            *sum.entry(name).or_default() += total;
        }
    }
}

/// Hands over what the core left in its outbox, packets stamped as if sent at once.
fn drain(out: &mut Outbox, now: MonoNs, effects: &mut Effects) {
    let clock = clock(now);
    for (transmit, packet) in out.packets_mut() {
        // It fails for packets without room for the times only, and those need none.
        let _ = v1::stamp(
            packet,
            clock.mapping.wall(now),
            Span::ZERO,
            &PeerClock::of(&clock, now),
            clock.offset.source,
        );
        if let Some(to) = Host::of_addr(transmit.to) {
            effects.send(to, packet);
        }
    }
    for entry in &out.entries {
        if let Some(origin) = Host::of_id(entry.origin.as_str()) {
            let application = entry.kind == EntryKind::Entry;
            debug_assert!(application || &*entry.key != KEY, "{BEACON_KEY} and the like are not ours");
            effects.learned.push(Learned { origin, application, version: entry.version });
        }
    }
    out.clear();
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
