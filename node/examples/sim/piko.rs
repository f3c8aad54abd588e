//! Piko's own rule, the baseline: what research/piko.md and research/gossip.md (section 3) tell of it.
//!
//! Every interval a digest of randomly chosen nodes, as many as fit, goes to a random live peer. It is answered by a
//! delta, with what is known above the versions listed, and by a digest of the same kind, which is answered by a
//! delta. Nothing else travels: a node that the digest had no room for is not answered, however new its changes.
//! Entries at or below the known version are dropped. New nodes join over TCP.

mod detector;
mod state;

use std::collections::BTreeMap;

use pikoscope::wire::v0::{self, Cut, Delta, DeltaWriter, Digest, DigestEntry, DigestWriter, Packet, stream};
use probe_ebpf::time::{MonoNs, Span};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::host::Host;
use crate::member::{Effects, Io, KEY, Learned, Liveness, Member, RuleOptions, Start};
use detector::Detector;
use state::{Names, State};

/// A node with Piko's rule. With `ACTS` its failure detector has a say, as in a real one: the unreachable are asked
/// apart from the others, and forgotten after a minute. Without, it is only watched, and every peer stays live.
pub(crate) struct Piko<const ACTS: bool> {
    own: Host,
    rule: RuleOptions,
    state: State,
    detector: Detector,
    round_at: MonoNs,
    /// Rounds are a fixed interval apart, each late by up to a tenth of that.
    beat: MonoNs,
    rounds: u64,
    rng: StdRng,
    totals: Totals,
}

#[derive(Default)]
pub(crate) struct Scratch {
    names: Names,
    packet: Vec<u8>,
    order: Vec<Host>,
    changes: Vec<(Host, Liveness)>,
}

#[derive(Default)]
struct Totals {
    digest_entries: u64,
    delta_entries: u64,
    dropped_entries: u64,
    left_out: u64,
    expired: u64,
    rejected: u64,
}

const LIMITS: stream::Limits = stream::Limits { bytes: 1 << 30, nodes: 1 << 20, entries: 1 << 24 };
/// The expired are looked for once in so many rounds.
const SWEEP: u64 = 10;

impl<const ACTS: bool> Member for Piko<ACTS> {
    type Scratch = Scratch;

    fn start(start: &Start<'_>, io: &mut Io<'_, Self>) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(start.seed);
        let beat = start.now + start.rule.interval;
        let member = Self {
            own: start.host,
            rule: start.rule,
            state: State::new(start.host),
            detector: Detector::new(start.rule.interval),
            round_at: beat + jitter(start.rule.interval, &mut rng),
            beat,
            rounds: 0,
            rng,
            totals: Totals::default(),
        };
        for seed in start.seeds.iter().filter(|seed| **seed != start.host) {
            member.join(*seed, io);
        }
        Ok(member)
    }

    fn handle_datagram(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>) {
        match v0::decode(bytes) {
            Ok(Packet::Digest { request, digest, .. }) => {
                self.discover(&digest, io.effects);
                self.send_delta(from, &digest, io);
                if request {
                    self.send_digest(from, false, io);
                }
            }
            Ok(Packet::Delta { header, delta }) => {
                if let Some(sender) = Host::of_id(header.node_id) {
                    self.detector.report(sender, now);
                }
                self.apply(&delta, io);
            }
            Err(_) => self.totals.rejected += 1,
        }
    }

    fn handle_request(&mut self, _: Host, bytes: &[u8], _: MonoNs, io: &mut Io<'_, Self>, out: &mut Vec<u8>) {
        let Ok(stream::Request::Join { delta, digest, .. }) = stream::decode_request(bytes, &LIMITS) else {
            self.totals.rejected += 1;
            return;
        };
        self.apply(&delta, io);
        self.discover(&digest, io.effects);
        let mut listed: BTreeMap<Host, u64> = BTreeMap::new();
        listed.extend(digest.entries().filter_map(|entry| Some((Host::of_id(entry.id)?, entry.version))));
        let names = &mut io.scratch.names;
        names.reach(self.state.end());
        let names = &*names;
        let lacking = |host: &Host| match listed.get(host) {
            Some(version) => self.state.version(*host) > *version,
            // Who joins knows nobody else, so all the others are told, even if nothing is known of them.
            None => true,
        };
        let nodes: Vec<stream::Node<'_>> = (self.state.known().iter().copied().filter(lacking))
            .map(|host| stream::Node {
                head: names.head(host),
                entries: self.state.since(host, listed.get(&host).copied().unwrap_or(0)).collect(),
            })
            .collect();
        stream::put_join_response(out, LIMITS.bytes, &names.sender(self.own), &nodes);
    }

    fn handle_response(&mut self, _: Host, bytes: &[u8], _: MonoNs, io: &mut Io<'_, Self>) {
        match stream::decode_join_response(bytes, &LIMITS) {
            Ok(response) => self.apply(&response.delta, io),
            Err(_) => self.totals.rejected += 1,
        }
    }

    fn tick(&mut self, now: MonoNs, io: &mut Io<'_, Self>) {
        if now < self.round_at {
            return;
        }
        self.beat = (self.beat + self.rule.interval).max(now);
        self.round_at = self.beat + jitter(self.rule.interval, &mut self.rng);
        self.rounds += 1;
        self.judge(now, io);
        for _ in 0..self.rule.fanout.unwrap_or(1) {
            if let Some(peer) = self.pick(true, io) {
                self.send_digest(peer, true, io);
            }
        }
        if ACTS && let Some(peer) = self.pick(false, io) {
            self.send_digest(peer, true, io);
        }
        if ACTS && self.rounds.is_multiple_of(SWEEP) {
            for host in self.detector.expired(now) {
                self.state.remove(host);
                self.detector.remove(host);
                self.totals.expired += 1;
            }
        }
    }

    fn next_wakeup(&self) -> MonoNs {
        self.round_at
    }

    fn set(&mut self, value: &[u8], _: MonoNs, _: &mut Io<'_, Self>) -> Result<u64, String> {
        Ok(self.state.set(self.own, KEY, value))
    }

    fn count(&self, sum: &mut BTreeMap<&'static str, u64>) {
        let Totals { digest_entries, delta_entries, dropped_entries, left_out, expired, rejected } =
            self.totals;
        for (name, total) in [
            ("digest_entries_sent", digest_entries),
            ("delta_entries_sent", delta_entries),
            ("entries_dropped", dropped_entries),
            ("entries_left_out", left_out),
            ("nodes_expired", expired),
            ("rejected", rejected),
        ] {
            *sum.entry(name).or_default() += total;
        }
    }
}

impl<const ACTS: bool> Piko<ACTS> {
    fn join(&self, seed: Host, io: &mut Io<'_, Self>) {
        let Scratch { names, packet, .. } = io.scratch;
        names.reach(self.state.end());
        packet.clear();
        let node =
            stream::Node { head: names.head(self.own), entries: self.state.since(self.own, 0).collect() };
        let digest = [self.listed(self.own, names)];
        stream::put_join_request(packet, &names.sender(self.own), &[node], &digest);
        io.effects.connect(seed, packet);
    }

    fn listed<'n>(&self, host: Host, names: &'n Names) -> DigestEntry<'n> {
        let head = names.head(host);
        DigestEntry { id: head.id, addr: head.addr, version: self.state.version(host), left: false }
    }

    fn send_digest(&mut self, to: Host, request: bool, io: &mut Io<'_, Self>) {
        let Scratch { names, packet, .. } = io.scratch;
        names.reach(self.state.end());
        packet.clear();
        let mut w = DigestWriter::new(packet, self.rule.max_packet, &names.sender(self.own), request);
        // As many steps of a shuffle as there are entries in the packet.
        for place in 0..self.state.known().len() {
            let host = self.state.shuffle(place, &mut self.rng);
            if !w.push(&self.listed(host, names)) {
                break;
            }
        }
        self.totals.digest_entries += w.finish() as u64;
        io.effects.send(to, packet);
    }

    fn send_delta(&mut self, to: Host, digest: &Digest<'_>, io: &mut Io<'_, Self>) {
        let Scratch { names, packet, .. } = io.scratch;
        names.reach(self.state.end());
        packet.clear();
        let mut w = DeltaWriter::new(packet, self.rule.max_packet, &names.sender(self.own), Cut::AsPiko);
        for entry in digest.entries() {
            let Some(host) = Host::of_id(entry.id).filter(|host| self.state.version(*host) > entry.version)
            else {
                continue;
            };
            let written = w.node(&names.head(host), self.state.since(host, entry.version));
            self.totals.delta_entries += written.entries as u64;
            self.totals.left_out += written.left_out as u64;
        }
        w.finish();
        io.effects.send(to, packet);
    }

    /// Nodes in a digest that were not known: from now on they are, with nothing of theirs.
    fn discover(&mut self, digest: &Digest<'_>, effects: &mut Effects) {
        for entry in digest.entries().filter(|entry| !entry.left) {
            if let Some(host) = Host::of_id(entry.id) {
                self.meet(host, effects);
            }
        }
    }
    /// Who was forgotten is live again at first.
    fn meet(&mut self, host: Host, effects: &mut Effects) {
        if self.state.discover(host) {
            effects.liveness.push((host, Liveness::Reachable));
        }
    }

    fn apply(&mut self, delta: &Delta<'_>, io: &mut Io<'_, Self>) {
        for node in delta.nodes() {
            let Some(origin) = Host::of_id(node.head.id).filter(|origin| *origin != self.own) else {
                continue;
            };
            self.meet(origin, io.effects);
            for entry in node.entries() {
                if self.state.put(origin, &entry) {
                    let application = !entry.internal;
                    io.effects.learned.push(Learned { origin, application, version: entry.version });
                } else {
                    self.totals.dropped_entries += 1;
                }
            }
        }
    }

    /// Asks the detector about all nodes.
    fn judge(&mut self, now: MonoNs, io: &mut Io<'_, Self>) {
        let changes = &mut io.scratch.changes;
        self.detector.judge(self.state.known(), self.own, now, changes);
        io.effects.liveness.append(changes);
    }

    /// A random peer, of the live ones or of the others.
    fn pick(&mut self, live: bool, io: &mut Io<'_, Self>) -> Option<Host> {
        let fits = |host: Host| host != self.own && (!ACTS || self.detector.is_unreachable(host) != live);
        if !ACTS && live {
            // Nearly all fit: most tries succeed.
            let known = self.state.known();
            return (known.len() > 1).then(|| {
                loop {
                    let host = known[self.rng.random_range(0..known.len())];
                    if host != self.own {
                        break host;
                    }
                }
            });
        }
        let order = &mut io.scratch.order;
        order.clear();
        order.extend(self.state.known().iter().copied().filter(|host| fits(*host)));
        (!order.is_empty()).then(|| order[self.rng.random_range(0..order.len())])
    }
}

/// How late a round is.
fn jitter(interval: Span, rng: &mut StdRng) -> Span {
    Span::from_nanos(rng.random_range(0..=interval.as_nanos() / 10))
}

#[cfg(test)]
mod tests;
