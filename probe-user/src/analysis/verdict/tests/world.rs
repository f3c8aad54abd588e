//! Two hosts, `a` and `b`, with a packet each way ten times a second, and one kind of trouble. All times in seconds.

use std::collections::BTreeMap;

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, Leg};
use crate::analysis::verdict::record::{PathName, ReplayLine, VERSION, VerdictRecord, write_line};
use crate::analysis::verdict::{Circumstances, HostEvidence, Loss, PathJudge, Verdict};

use super::rng::Rng;

/// What goes wrong; delays in seconds, shares of 1. It concerns packets from `a` to `b` unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trouble {
    /// More one-way time: there, and back.
    Delay(f64, f64),
    /// A link of the path with a queue that is up to this long.
    RateLimited(f64),
    /// The own link of `a`, likewise.
    OwnLink(f64),
    /// `b` is stopped for so long once a second.
    Stopped(f64),
    /// The process on `b` waits for the CPU with this chance, for this long on the average, at each step.
    Starved(f64, f64),
    /// The hypervisor starves `b`: its interrupts too.
    Steal(f64),
    /// `b` handles a packet in this time.
    Handler(f64),
    /// The kernel of `b` drops this share.
    Dropped(f64),
    /// This share is lost on the way.
    Lost(f64),
    /// The clock of `b` is off, all at once; those who compare clocks notice after 3 s.
    Lie(f64),
    /// The same, in the one second from 0 to 1, and nobody notices.
    Slew(f64),
    /// The wall clock of `b` is stepped, which is seen.
    Step(f64),
    /// The clock of `b` drifts by so many parts per million.
    Drift(f64),
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) troubles: Vec<Trouble>,
    /// Quiet before, trouble, quiet after.
    pub(super) quiet: f64,
    pub(super) lasts: f64,
    pub(super) after: f64,
    /// Packets a second each way.
    pub(super) rate: f64,
    pub(super) drift_ppb: u32,
    /// Both directions are judged at the same place.
    pub(super) both: bool,
    /// T2 and T3 are not known.
    pub(super) no_tx_stamps: bool,
    /// Of ten packets in the trouble's time, so many find the event ring full: their T5 is not known.
    pub(super) ring_full: u32,
    /// Times as long scheduling noise.
    pub(super) noise: f64,
    /// A constant that is in every network time.
    pub(super) offset: f64,
}

impl Case {
    pub(super) fn new(seed: u64, troubles: &[Trouble]) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        Self {
            seed,
            troubles: troubles.to_vec(),
            quiet: rng.between(8.0, 60.0),
            lasts: 20.0,
            after: 0.0,
            rate: rng.between(8.0, 13.0),
            drift_ppb: if rng.chance(0.3) { 100_000 } else { 5_000 },
            both: true,
            no_tx_stamps: false,
            ring_full: 0,
            noise: 1.0,
            offset: 0.0,
        }
    }
}

/// What the judges said, second by second from the start of the trouble: of `a` to `b`, of `b` to `a`.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) there: Vec<(f64, Verdict)>,
    pub(super) back: Vec<(f64, Verdict)>,
    /// All that the judges were told and said.
    pub(super) file: String,
}

fn mono(seconds: f64) -> MonoNs {
    MonoNs::from_nanos(1_000_000_000_000 + (seconds * 1e9) as i64)
}
fn span(seconds: f64) -> Span {
    Span::from_secs_f64(seconds)
}

struct World<'a> {
    case: &'a Case,
    rng: Rng,
    /// Queues of the rate-limited and of the own link.
    queue: f64,
    counter: [u32; 2],
}

/// A packet's fate.
enum Fate {
    Arrived(Box<Journey>),
    Dropped,
    Lost,
}

impl World<'_> {
    fn active(&self, t: f64) -> impl Iterator<Item = Trouble> + use<> {
        let on = t >= self.case.quiet && t < self.case.quiet + self.case.lasts;
        self.case.troubles.clone().into_iter().filter(move |_| on)
    }

    /// How far `b`'s clock has moved since the beginning.
    fn clock(&self, t: f64) -> f64 {
        let since = t - self.case.quiet;
        if since < 0.0 {
            return 0.0;
        }
        let of = |trouble: &Trouble| match trouble {
            Trouble::Lie(by) | Trouble::Step(by) => *by,
            Trouble::Slew(by) => by * since.min(1.0),
            Trouble::Drift(ppm) => ppm * 1e-6 * since,
            _ => 0.0,
        };
        self.case.troubles.iter().map(of).sum()
    }

    /// How long `b`'s process goes on being stopped at `t`.
    fn stopped(&self, t: f64) -> f64 {
        self.active(t)
            .map(|trouble| match trouble {
                Trouble::Stopped(long) => (long - t.rem_euclid(1.0)).max(0.0),
                _ => 0.0,
            })
            .sum()
    }

    fn scheduling(&mut self) -> f64 {
        let noise = self.case.noise;
        match self.rng.unit() {
            p if p < 0.001 => self.rng.between(0.001, 0.005) * noise,
            p if p < 0.02 => self.rng.between(0.0, 0.0005) * noise,
            _ => 0.0,
        }
    }

    fn packet(&mut self, t: f64, direction: usize) -> Option<Fate> {
        let to_b = direction == 0;
        // A stopped process sends nothing; now and then it is stopped between deciding to and doing so.
        let stopped = if to_b { 0.0 } else { self.stopped(t) };
        let caught = self.rng.chance(0.005);
        if stopped > 0.0 && !caught {
            return None;
        }
        self.counter[direction] += 1;
        let medians = [20e-6, 8e-6, 3e-6, 40e-6, 6e-6, 30e-6, 50e-6];
        let mut legs = medians.map(|median| self.rng.lognormal(median, 0.4));
        for leg in [Leg::SendQueue, Leg::Network, Leg::SocketQueue, Leg::Handling] {
            legs[leg.index()] += self.scheduling();
        }
        let mut fate = None;
        let add = |legs: &mut [f64; 7], leg: Leg, more: f64| legs[leg.index()] += more;
        for trouble in self.active(t).collect::<Vec<_>>() {
            match trouble {
                Trouble::Delay(there, back) => {
                    let delay = if to_b { there } else { back };
                    add(&mut legs, Leg::Network, delay * self.rng.between(0.97, 1.03));
                }
                Trouble::RateLimited(most) | Trouble::OwnLink(most) if to_b => {
                    // Fills and empties, as the competing traffic comes and goes.
                    self.queue = (self.queue + most * self.rng.between(-0.25, 0.35)).clamp(0.0, most);
                    let own = matches!(trouble, Trouble::OwnLink(_));
                    add(&mut legs, if own { Leg::Qdisc } else { Leg::Network }, self.queue);
                    if self.queue >= most && self.rng.chance(0.1) {
                        fate = Some(Fate::Lost);
                    }
                }
                Trouble::Starved(chance, mean) => {
                    let steps: &[Leg] =
                        if to_b { &[Leg::SocketQueue, Leg::Handling] } else { &[Leg::SendQueue] };
                    for leg in steps {
                        if self.rng.chance(chance) {
                            add(&mut legs, *leg, self.rng.exponential(mean));
                        }
                    }
                    if !to_b && self.rng.chance(chance / 50.0) {
                        add(&mut legs, Leg::EgressStack, self.rng.exponential(mean));
                    }
                }
                Trouble::Steal(mean) => {
                    let leg = if to_b { Leg::Network } else { Leg::SendQueue };
                    if self.rng.chance(0.5) {
                        add(&mut legs, leg, self.rng.exponential(mean));
                    }
                }
                Trouble::Handler(long) if to_b => {
                    add(&mut legs, Leg::Handling, long * self.rng.between(0.9, 1.1));
                    // Behind another packet.
                    if self.rng.chance(long * self.case.rate) {
                        add(&mut legs, Leg::SocketQueue, self.rng.between(0.0, long));
                    }
                }
                Trouble::Dropped(share) if to_b && self.rng.chance(share) => fate = Some(Fate::Dropped),
                Trouble::Lost(share) if to_b && self.rng.chance(share) => fate = Some(Fate::Lost),
                _ => {}
            }
        }
        add(&mut legs, Leg::SendQueue, stopped);
        let at = t + legs[..=Leg::Network.index()].iter().sum::<f64>();
        if to_b {
            let queued = at + legs[Leg::IngressStack.index()];
            add(&mut legs, Leg::SocketQueue, self.stopped(queued));
        }
        if let Some(fate) = fate {
            return Some(fate);
        }
        Some(Fate::Arrived(Box::new(self.journey(direction, t, at, legs))))
    }

    fn journey(&self, direction: usize, t: f64, at: f64, mut legs: [f64; 7]) -> Journey {
        let (egress, qdisc, network) = (Leg::EgressStack.index(), Leg::Qdisc.index(), Leg::Network.index());
        if self.case.no_tx_stamps {
            legs[network] += legs[egress] + legs[qdisc];
        }
        let sign = if direction == 0 { 1.0 } else { -1.0 };
        legs[network] += sign * self.clock(at);
        // Added to whole nanoseconds, so that nothing is rounded otherwise with it than without.
        let shift = span(sign * self.case.offset);
        let stepped = self.case.troubles.iter().any(|trouble| matches!(trouble, Trouble::Step(_)));
        let ingress = Leg::IngressStack.index();
        // Scattered, as a full ring is.
        let without_event = t >= self.case.quiet
            && (self.counter[direction].wrapping_mul(0x9e37_79b1) >> 16) % 10 < self.case.ring_full;
        if without_event {
            legs[Leg::SocketQueue.index()] += legs[ingress];
        }
        let hidden = |leg: usize| {
            self.case.no_tx_stamps && (leg == egress || leg == qdisc) || without_event && leg == ingress
        };
        let error = Span::from_nanos(40);
        let shifted = |leg: usize| if leg == network { shift } else { Span::ZERO };
        let bounded = |leg: usize| Bounded::new(span(legs[leg]) + shifted(leg), error);
        let at = mono(if direction == 0 { at } else { t });
        Journey {
            legs: std::array::from_fn(|leg| (!hidden(leg)).then(|| bounded(leg))),
            network_has_egress: self.case.no_tx_stamps,
            queue_has_ingress: without_event,
            correction: Correction::Fused,
            stamps: error,
            epochs: u64::from(stepped && t >= self.case.quiet),
            ..Journey::unknown(self.counter[direction], at)
        }
    }

    fn hosts(&mut self, t: f64) -> [HostEvidence; 2] {
        let idle = |rng: &mut Rng| HostEvidence {
            age: span(rng.between(0.1, 2.0)),
            softnet_dropped: Some(0),
            time_squeeze: Some(u32::from(rng.chance(0.1))),
            cpu_some: Some(rng.between(5.0, 100.0) as u16),
            cpu_full: Some(0),
            steal: Some(rng.between(0.0, 5.0) as u16),
            softirq: Some(rng.between(0.0, 50.0) as u16),
            receive_buffer: Some(10),
            late: Some(2),
        };
        let mut hosts = [idle(&mut self.rng), idle(&mut self.rng)];
        for trouble in self.active(t) {
            match trouble {
                Trouble::Starved(..) => (hosts[1].cpu_some, hosts[1].late) = (Some(900), Some(40)),
                Trouble::Steal(_) => hosts[1].steal = Some(350),
                Trouble::Dropped(_) => hosts[1].receive_buffer = Some(990),
                _ => {}
            }
        }
        hosts
    }
}

/// Runs a case.
pub(super) fn run(case: &Case) -> Outcome {
    let mut world = World { case, rng: Rng(case.seed), queue: 0.0, counter: [0; 2] };
    let names = [("a", "b"), ("b", "a")];
    let path = |direction: usize| PathName { from: names[direction].0.into(), to: names[direction].1.into() };
    let mut judges = names.map(|(from, to)| PathJudge::new(from, to));
    let mut lines = vec![ReplayLine::Head { version: VERSION, host: "b".into() }];
    let mut outcome = Outcome { there: Vec::new(), back: Vec::new(), file: String::new() };
    let mut next = [0.0_f64, 0.03];
    // Journeys that wait for the other end's timing report, by when it comes.
    let mut waiting: Vec<(f64, usize, Journey)> = Vec::new();
    let end = case.quiet + case.lasts + case.after;
    let mut second = 1.0;
    while second <= end {
        let mut losses = [Loss::default(), Loss::default()];
        for direction in [0, 1] {
            while next[direction] < second {
                let t = next[direction];
                next[direction] += world.rng.between(0.5, 1.5) / case.rate;
                let loss = &mut losses[direction];
                match world.packet(t, direction) {
                    Some(Fate::Arrived(journey)) => {
                        loss.received += 1;
                        let known = t + world.rng.between(0.1, 1.0);
                        waiting.push((known, direction, *journey));
                    }
                    Some(Fate::Dropped) => {
                        *loss.lost_here.entry("SOCKET_RCVBUFF".into()).or_default() += 1;
                    }
                    Some(Fate::Lost) => loss.lost_outside += 1,
                    None => {}
                }
            }
        }
        waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ready = waiting.partition_point(|(known, ..)| *known < second);
        for (_, direction, journey) in waiting.drain(..ready) {
            judges[direction].observe(&journey);
            lines.push(ReplayLine::Journey { path: path(direction), journey: (&journey).into() });
        }
        let now = mono(second);
        let changes = [0, 1].map(|direction| judges[direction].recent_change(now, case.drift_ppb));
        let hosts = world.hosts(second);
        let since = second - case.quiet;
        for direction in [0, 1] {
            let loss = &losses[direction];
            judges[direction].observe_loss(now, loss);
            lines.push(ReplayLine::Loss { path: path(direction), at: now, loss: loss.clone() });
            let found = |trouble: &Trouble| matches!(trouble, Trouble::Lie(_)) && since >= 3.0;
            let step = |trouble: &Trouble| matches!(trouble, Trouble::Step(_)) && since >= 0.0;
            let circumstances = Circumstances {
                sender: Some(hosts[direction]),
                receiver: Some(hosts[1 - direction]),
                clock_uncertain: case.troubles.iter().any(found),
                drift_ppb: case.drift_ppb,
                opposite: changes[1 - direction].filter(|_| case.both),
                last_step: case.troubles.iter().any(step).then(|| mono(case.quiet)),
            };
            let verdict = judges[direction].evaluate(now, &circumstances);
            let record = VerdictRecord::from(&verdict);
            lines.push(ReplayLine::Evaluation { path: path(direction), now, circumstances, verdict: record });
            let said = if direction == 0 { &mut outcome.there } else { &mut outcome.back };
            said.push((since, verdict));
        }
        second += 1.0;
    }
    for line in &lines {
        outcome.file += &write_line(line).unwrap();
        outcome.file.push('\n');
    }
    outcome
}

/// The verdict said most often from the seventh second of the trouble to its end.
pub(super) fn mostly(said: &[(f64, Verdict)], lasts: f64) -> Verdict {
    let counted = || said.iter().filter(|(since, _)| *since > 6.0 && *since <= lasts);
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    counted().for_each(|(_, verdict)| *counts.entry(verdict.cause).or_default() += 1);
    let (cause, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
    counted().rev().map(|(_, verdict)| verdict).find(|verdict| verdict.cause == cause).unwrap().clone()
}
