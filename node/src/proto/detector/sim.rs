//! A cluster of nothing but detectors, under virtual time: rounds, answers, loss, and rumours that reach each
//! node after about log2(N) rounds. Deterministic from its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use probe_ebpf::time::{MonoNs, Span};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::config::times;
use super::{Config, Contact, Detector, Finding, Reachability, Transition};

pub(super) const INTERVAL: Span = Span::from_millis(100);

/// A time of the simulation.
pub(super) fn at(seconds: f64) -> MonoNs {
    MonoNs::from_nanos(0) + Span::from_secs_f64(seconds)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start,
    Wake,
    Learn(usize),
    Request(usize),
    Answer(usize),
    Rumour { about: usize, by: usize, version: u64 },
    Version { about: usize, version: u64 },
}

/// When a node's process runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Running {
    Always,
    /// Not between these; what comes meanwhile waits.
    Paused(MonoNs, MonoNs),
    /// For `run` in each `period`.
    Starved {
        run: Span,
        period: Span,
    },
    /// Not from there on.
    Killed(MonoNs),
}

impl Running {
    /// When it handles what comes at `t`.
    fn ready(self, t: MonoNs) -> Option<MonoNs> {
        match self {
            Self::Paused(from, to) if t >= from && t < to => Some(to),
            Self::Starved { run, period } => {
                let phase = Span::from_nanos(t.as_nanos() % period.as_nanos());
                Some(if phase < run { t } else { t + (period - phase) })
            }
            Self::Killed(from) if t >= from => None,
            _ => Some(t),
        }
    }
}

struct Node {
    detector: Detector<usize>,
    running: Running,
    started: bool,
    /// Its packets and rumours get nowhere while this holds.
    cut: Option<(MonoNs, MonoNs)>,
    v0: bool,
    version: u64,
    peers: Vec<usize>,
    round_at: MonoNs,
    wake_at: Option<MonoNs>,
}

pub(super) struct Sim {
    now: MonoNs,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(MonoNs, u64, usize, Event)>>,
    sequence: u64,
    rng: StdRng,
    loss: f64,
    /// Who cannot talk to whom, in both directions.
    pub(super) broken: Option<(usize, usize)>,
    /// Changes of mind: who, about whom.
    pub(super) changes: Vec<(usize, Transition<usize>)>,
    pub(super) packets: u64,
}

impl Sim {
    /// `n` nodes that start within the first second and learn of each other as rumours spread.
    pub(super) fn new(n: usize, loss: f64, seed: u64) -> Self {
        let mut sim = Self {
            now: at(0.0),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            loss,
            broken: None,
            changes: Vec::new(),
            packets: 0,
        };
        let starts: Vec<MonoNs> = (0..n).map(|_| at(sim.rng.random())).collect();
        for (i, start) in starts.iter().copied().enumerate() {
            sim.nodes.push(Node {
                detector: Detector::new(Config::new(INTERVAL, 1), start),
                running: Running::Always,
                started: false,
                cut: None,
                v0: false,
                version: 10,
                peers: Vec::new(),
                round_at: start + times(INTERVAL, sim.rng.random()),
                wake_at: None,
            });
            sim.push(start, i, Event::Start);
            for (j, other) in starts.iter().copied().enumerate().filter(|(j, _)| *j != i) {
                let learn = start.max(other) + times(INTERVAL, sim.rng.random::<f64>() * (n as f64).log2());
                sim.push(learn, i, Event::Learn(j));
            }
        }
        sim
    }

    pub(super) fn set_running(&mut self, node: usize, running: Running) {
        self.nodes[node].running = running;
    }
    pub(super) fn cut(&mut self, node: usize, from: MonoNs, to: MonoNs) {
        self.nodes[node].cut = Some((from, to));
    }
    /// Before the start: this node speaks v0. Here that means that it neither spreads rumours nor heeds them.
    pub(super) fn make_v0(&mut self, node: usize) {
        self.nodes[node].v0 = true;
    }
    pub(super) fn detector(&self, node: usize) -> &Detector<usize> {
        &self.nodes[node].detector
    }

    pub(super) fn run_until(&mut self, end: MonoNs) {
        while let Some(Reverse((t, sequence, node, event))) = self.queue.peek().copied() {
            if t > end {
                break;
            }
            self.queue.pop();
            self.now = t;
            match self.nodes[node].running.ready(t) {
                None => {}
                Some(ready) if ready > t => self.queue.push(Reverse((ready, sequence, node, event))),
                Some(_) => self.handle(node, event),
            }
        }
        self.now = end;
    }

    fn push(&mut self, t: MonoNs, node: usize, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((t, self.sequence, node, event)));
    }

    fn handle(&mut self, i: usize, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if !node.started && event != Event::Start {
            return;
        }
        match event {
            Event::Start => node.started = true,
            Event::Wake if node.wake_at != Some(now) && matches!(node.running, Running::Always) => return,
            Event::Wake => {
                node.wake_at = None;
                self.wake(i);
            }
            Event::Learn(j) => {
                node.peers.push(j);
                let v0 = self.nodes[j].v0;
                self.nodes[i].detector.learn(j, 10, v0, now);
            }
            Event::Request(from) => {
                let changed = node.detector.heard(from, Contact::Other, now);
                self.note(i, changed);
                self.send(i, from, Event::Answer(i));
            }
            Event::Answer(from) => {
                let changed = node.detector.heard(from, Contact::Answer, now);
                self.note(i, changed);
            }
            Event::Rumour { about, version, .. } if about == i => {
                if !node.v0 && version >= node.version {
                    node.version = version + 1;
                    let version = node.version;
                    self.spread(i, Event::Version { about, version });
                }
            }
            Event::Rumour { about, by, version } => {
                let rumour = node.detector.accused(about, by, version, now, &mut self.rng);
                if let super::Rumour::Taken(changed) = rumour {
                    self.note(i, changed);
                }
            }
            Event::Version { about, version } => {
                let changed = node.detector.advanced(about, version, now);
                self.note(i, changed);
            }
        }
        let node = &mut self.nodes[i];
        let due = node.round_at.min(node.detector.next_due()).max(now);
        if node.wake_at.is_none_or(|at| due < at) {
            node.wake_at = Some(due);
            self.push(due, i, Event::Wake);
        }
    }

    fn wake(&mut self, i: usize) {
        let now = self.now;
        let mut findings = Vec::new();
        self.nodes[i].detector.tick(now, &mut self.rng, &mut findings);
        for finding in findings {
            match finding {
                Finding::Probe(peer) => self.send(i, peer, Event::Request(i)),
                Finding::Accuse { peer, version } => {
                    self.spread(i, Event::Rumour { about: peer, by: i, version });
                }
                Finding::Changed(transition) => self.note(i, Some(transition)),
            }
        }
        let node = &mut self.nodes[i];
        if now < node.round_at {
            return;
        }
        let next = node.round_at + times(INTERVAL, self.rng.random_range(0.9..1.1));
        node.round_at = if next > now { next } else { now + INTERVAL };
        for _ in 0..20.min(node.peers.len()) {
            let peer = node.peers[self.rng.random_range(0..node.peers.len())];
            if node.detector.reachability(peer) != Some(Reachability::Unreachable) {
                node.detector.asked(peer, now);
                self.send(i, peer, Event::Request(i));
                return;
            }
        }
    }

    fn is_cut(&self, node: usize) -> bool {
        self.nodes[node].cut.is_some_and(|(from, to)| self.now >= from && self.now < to)
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        self.packets += 1;
        let broken = self.broken.is_some_and(|pair| pair == (from, to) || pair == (to, from));
        if broken || self.is_cut(from) || self.is_cut(to) || self.rng.random_bool(self.loss) {
            return;
        }
        let delay = Span::from_micros(self.rng.random_range(100..3000));
        self.push(self.now + delay, to, event);
    }

    /// Gossip as a delay: about log2(N) rounds, longer as packets get lost.
    fn spread(&mut self, from: usize, event: Event) {
        if self.is_cut(from) || (self.nodes[from].v0 && matches!(event, Event::Rumour { .. })) {
            return;
        }
        let rounds = (self.nodes.len() as f64).log2() / (1.0 - self.loss).powi(2);
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if !self.is_cut(to) {
                let delay = times(INTERVAL, rounds * self.rng.random_range(0.2..1.0));
                self.push(self.now + delay, to, event);
            }
        }
    }

    fn note(&mut self, by: usize, transition: Option<Transition<usize>>) {
        self.changes.extend(transition.map(|transition| (by, transition)));
    }

    /// Verdicts about nodes other than `except`, by nodes other than that.
    pub(super) fn false_verdicts(&self, except: usize) -> usize {
        (self.changes.iter())
            .filter(|(by, change)| {
                change.to == Reachability::Unreachable && *by != except && change.peer != except
            })
            .count()
    }
    /// Suspicions likewise.
    pub(super) fn false_suspicions(&self, except: usize) -> usize {
        (self.changes.iter())
            .filter(|(by, change)| {
                change.to == Reachability::Suspect && *by != except && change.peer != except
            })
            .count()
    }
    /// Seconds from `since` until each other node gave `dead` up for good, rising; `None` while one has not.
    pub(super) fn detection(&self, dead: usize, since: MonoNs) -> Option<Vec<f64>> {
        let others = (0..self.nodes.len()).filter(|i| *i != dead && !self.nodes[*i].v0);
        let mut times = others
            .map(|i| Some((self.nodes[i].detector.unreachable_since(dead)? - since).as_secs_f64()))
            .collect::<Option<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Some(times)
    }
}
