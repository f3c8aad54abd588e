//! Nodes, the network between them and the virtual time that passes.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::host::Host;
use crate::member::{Effects, Io, Liveness, Member, RuleOptions, Start};
use crate::net::{Faults, Net};
use crate::queue::{Queue, What};
use crate::spread::{Acquaintance, Spread};

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// The first so many hosts are everybody's seeds.
    pub(crate) seeds: usize,
    /// All start within this time.
    pub(crate) start_over: Span,
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) rule: RuleOptions,
}

pub(crate) struct World<M: Member> {
    pub(crate) now: MonoNs,
    pub(crate) net: Net,
    /// Who knows whose application entry.
    pub(crate) acquaintance: Acquaintance,
    /// The change that is being followed.
    pub(crate) spread: Option<Spread>,
    /// Every judgement of a node on another.
    pub(crate) judgements: Vec<Judgement>,
    plan: Plan,
    seeds: Vec<Host>,
    places: Vec<Place<M>>,
    queue: Queue,
    effects: Effects,
    scratch: M::Scratch,
    rng: StdRng,
    /// Why the world came to a stop, if it did.
    failure: Option<String>,
}

/// A host and what runs on it.
struct Place<M> {
    /// `None` before the start and after the death.
    member: Option<M>,
    /// When it will be woken; other wakings in the queue are out of date.
    wake_at: Option<MonoNs>,
}

/// A node made up its mind about another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    pub(crate) at: MonoNs,
    pub(crate) by: Host,
    pub(crate) about: Host,
    pub(crate) liveness: Liveness,
    /// Was it so?
    pub(crate) right: bool,
}

impl<M: Member> World<M> {
    /// All nodes are about to start.
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let net = Net::new(plan.faults, rng.random());
        let mut queue = Queue::default();
        let seeds: Vec<Host> = (0..plan.seeds.min(plan.nodes)).map(Host::at).collect();
        for host in (0..plan.nodes).map(Host::at) {
            let after = rng.random_range(0..=plan.start_over.as_nanos());
            // Seeds are there first.
            let at = if seeds.contains(&host) { 0 } else { after };
            queue.push(MonoNs::from_nanos(at), What::Start(host));
        }
        let places = (0..plan.nodes).map(|_| Place { member: None, wake_at: None }).collect();
        Self {
            now: MonoNs::from_nanos(0),
            net,
            acquaintance: Acquaintance::new(plan.nodes),
            spread: None,
            judgements: Vec::new(),
            plan,
            seeds,
            places,
            queue,
            effects: Effects::default(),
            scratch: M::Scratch::default(),
            rng,
            failure: None,
        }
    }

    /// Lets time pass until `done`, which is asked after every event, but for `span` at most. Says whether it was.
    pub(crate) fn run_until(
        &mut self,
        span: Span,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, String> {
        let end = self.now + span;
        while !done(self) {
            let Some((at, what)) = self.queue.pop(end) else {
                self.now = end;
                return Ok(done(self));
            };
            self.now = at;
            self.happen(what);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        Ok(true)
    }
    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Span) -> Result<(), String> {
        self.run_until(span, |_| false).map(drop)
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrival { from, to, slot } => {
                let Some(member) = self.places.get_mut(to.index()).and_then(|place| place.member.as_mut())
                else {
                    self.net.traffic.refused += 1;
                    self.effects.packets.lose(slot);
                    return;
                };
                let bytes = self.effects.packets.take(slot);
                let mut io = Io { scratch: &mut self.scratch, effects: &mut self.effects };
                member.handle_datagram(from, &bytes, self.now, &mut io);
                self.effects.packets.release(slot, bytes);
                self.settle(to);
            }
            What::Wake(host) => {
                let place = &mut self.places[host.index()];
                if place.wake_at != Some(self.now) {
                    return;
                }
                place.wake_at = None;
                if let Some(member) = &mut place.member {
                    if member.next_wakeup() <= self.now {
                        let mut io = Io { scratch: &mut self.scratch, effects: &mut self.effects };
                        member.tick(self.now, &mut io);
                    }
                    self.settle(host);
                }
            }
            What::Start(host) => {
                if let Err(failure) = self.start(host) {
                    self.failure = Some(format!("starting {}: {failure}", host.id()));
                }
            }
        }
    }

    fn start(&mut self, host: Host) -> Result<(), String> {
        let (seed, now) = (self.rng.random(), self.now);
        let start = Start { host, seed, now, seeds: &self.seeds, rule: self.plan.rule };
        self.places[host.index()].member = Some(M::start(&start)?);
        self.acquaintance.start(host);
        self.write(host, b"0").map(drop)
    }

    /// Drains what `host` left behind, and sees to it that it is woken in time.
    fn settle(&mut self, host: Host) {
        let Self { effects, net, queue, places, now, .. } = self;
        for (to, slot) in effects.sends.drain(..) {
            net.send((host, to), slot, *now, &mut effects.packets, queue);
        }
        for learned in effects.learned.drain(..).filter(|learned| learned.application) {
            self.acquaintance.note(host, learned.origin);
            if let Some(spread) = &mut self.spread {
                spread.note(host, &learned, *now);
            }
        }
        for (about, liveness) in effects.liveness.drain(..) {
            let up = places.get(about.index()).is_some_and(|place| place.member.is_some());
            let right = up == (liveness == Liveness::Reachable);
            self.judgements.push(Judgement { at: *now, by: host, about, liveness, right });
        }
        let place = &mut places[host.index()];
        if let Some(member) = &place.member {
            let next = member.next_wakeup().max(*now);
            if place.wake_at.is_none_or(|planned| next < planned) {
                place.wake_at = Some(next);
                queue.push(next, What::Wake(host));
            }
        }
    }

    /// The application on `host` writes its key. Returns the version.
    pub(crate) fn write(&mut self, host: Host, value: &[u8]) -> Result<u64, String> {
        let member = self.places[host.index()].member.as_mut().ok_or("it is not running")?;
        let mut io = Io { scratch: &mut self.scratch, effects: &mut self.effects };
        let version = member.set(value, self.now, &mut io)?;
        self.settle(host);
        Ok(version)
    }

    /// A change at `host` from now on followed.
    pub(crate) fn follow(&mut self, host: Host, value: &[u8]) -> Result<(), String> {
        let up: Vec<bool> = self.places.iter().map(|place| place.member.is_some()).collect();
        // The version is only known once it was written, and then the change is on its way already.
        let version = self.write(host, value)?;
        self.spread = Some(Spread::new(host, version, self.now, up));
        Ok(())
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, host: Host) {
        self.places[host.index()].member = None;
        self.acquaintance.stop(host);
        if let Some(spread) = &mut self.spread {
            spread.forget(host);
        }
    }

    pub(crate) fn is_up(&self, host: Host) -> bool {
        self.places[host.index()].member.is_some()
    }
    /// The hosts on which a node runs.
    pub(crate) fn up(&self) -> impl Iterator<Item = Host> {
        (0..self.places.len()).map(Host::at).filter(|host| self.is_up(*host))
    }
    /// One of them.
    pub(crate) fn any_up(&mut self) -> Host {
        let up: Vec<Host> = self.up().collect();
        up[self.rng.random_range(0..up.len())]
    }
    /// When the last node starts, those left out that start later on someone's order.
    pub(crate) fn all_started(&self) -> MonoNs {
        MonoNs::from_nanos(0) + self.plan.start_over
    }
    /// Time between rounds.
    pub(crate) const fn interval(&self) -> Span {
        self.plan.rule.interval
    }
    /// A random time.
    pub(crate) fn between(&mut self, least: Span, most: Span) -> Span {
        Span::from_nanos(self.rng.random_range(least.as_nanos()..=most.as_nanos()))
    }
    /// Events so far.
    pub(crate) const fn events(&self) -> u64 {
        self.queue.total()
    }
    /// The nodes' own totals.
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::new();
        for member in self.places.iter().filter_map(|place| place.member.as_ref()) {
            member.count(&mut sum);
        }
        sum
    }
}
