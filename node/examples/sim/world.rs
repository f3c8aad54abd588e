//! Nodes, the network between them and the virtual time that passes.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::time::{MonoNs, Span};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::host::Host;
use crate::member::{Effects, Io, Liveness, Member, RuleOptions, Start, Verdicts};
use crate::net::{Faults, Net};
use crate::queue::{Queue, Way, What};
use crate::spread::{Acquaintance, Spread};

/// The beginning of time.
pub(crate) const START: MonoNs = MonoNs::from_nanos(0);

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
    /// How long a node is busy with a message.
    pub(crate) handling: Span,
    pub(crate) rule: RuleOptions,
}

pub(crate) struct World<M: Member> {
    pub(crate) now: MonoNs,
    pub(crate) net: Net,
    /// Who knows whose application entry.
    pub(crate) acquaintance: Acquaintance,
    /// The change that is being followed.
    pub(crate) spread: Option<Spread>,
    /// Who has noticed the last death.
    pub(crate) noticing: Option<Spread>,
    /// Every judgement of a node on another.
    pub(crate) judgements: Vec<Judgement>,
    /// Who holds whom for unreachable, both of them running.
    doubts: BTreeSet<(Host, Host)>,
    plan: Plan,
    seeds: Vec<Host>,
    places: Vec<Place<M>>,
    queue: Queue,
    /// Mean time between two nodes' being replaced by new ones.
    churn: Option<Span>,
    effects: Effects,
    /// Memory for what is answered over TCP.
    response: Vec<u8>,
    scratch: M::Scratch,
    rng: StdRng,
    /// Why the world came to a stop, if it did.
    failure: Option<String>,
}

/// A host and what runs on it.
struct Place<M> {
    /// `None` before the start and after the death.
    member: Option<M>,
    /// Until then it is busy with a message.
    busy_until: MonoNs,
    /// When it will be woken; other wakings in the queue are out of date.
    wake_at: Option<MonoNs>,
}

impl<M> Place<M> {
    /// Until when it is busy, and the node.
    fn running(&mut self) -> Option<(&mut MonoNs, &mut M)> {
        self.member.as_mut().map(|member| (&mut self.busy_until, member))
    }
}
impl<M> Default for Place<M> {
    fn default() -> Self {
        Self { member: None, busy_until: START, wake_at: None }
    }
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
        let places = (0..plan.nodes).map(|_| Place::default()).collect();
        Self {
            now: START,
            net,
            acquaintance: Acquaintance::default(),
            spread: None,
            noticing: None,
            judgements: Vec::new(),
            doubts: BTreeSet::new(),
            plan,
            seeds,
            places,
            queue,
            churn: None,
            effects: Effects::default(),
            response: Vec::new(),
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
            What::Arrival { from, to, slot, way } => {
                let place = self.places.get_mut(to.index());
                let Some((busy_until, member)) = place.and_then(Place::running) else {
                    self.net.traffic.refused += 1;
                    self.effects.packets.lose(slot);
                    return;
                };
                if *busy_until > self.now {
                    // Behind those that are waiting already.
                    self.queue.push(*busy_until, what);
                    return;
                }
                *busy_until = self.now + self.plan.handling;
                let bytes = self.effects.packets.take(slot);
                let (effects, now) = (&mut self.effects, self.now);
                let mut io = Io { scratch: &mut self.scratch, effects };
                match way {
                    Way::Datagram => member.handle_datagram(from, &bytes, now, &mut io),
                    Way::Request => {
                        self.response.clear();
                        member.handle_request(from, &bytes, now, &mut io, &mut self.response);
                        if !self.response.is_empty() {
                            let slot = io.effects.packets.put(&self.response);
                            io.effects.responses.push((from, slot));
                        }
                    }
                    Way::Response => member.handle_response(from, &bytes, now, &mut io),
                }
                self.effects.packets.release(slot, bytes);
                self.settle(to, self.now + self.plan.handling);
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
                    self.settle(host, self.now);
                }
            }
            What::Start(host) => {
                if let Err(failure) = self.start(host) {
                    self.failure = Some(format!("starting {}: {failure}", host.id()));
                }
            }
            What::Replace => self.replace(),
        }
    }

    fn start(&mut self, host: Host) -> Result<(), String> {
        let (seed, now) = (self.rng.random(), self.now);
        let start = Start { host, seed, now, seeds: &self.seeds, rule: self.plan.rule };
        let mut io = Io { scratch: &mut self.scratch, effects: &mut self.effects };
        self.places[host.index()].member = Some(M::start(&start, &mut io)?);
        self.acquaintance.start(host);
        self.write(host, b"0").map(drop)
    }

    /// A node dies, and a new one starts elsewhere.
    fn replace(&mut self) {
        let Some(mean) = self.churn else { return };
        match self.any_victim() {
            Ok(victim) => self.kill(victim),
            Err(failure) => self.failure = Some(failure),
        }
        let new = Host::at(self.places.len());
        self.places.push(Place::default());
        self.queue.push(self.now, What::Start(new));
        let pause = self.between(Span::ZERO, mean + mean);
        self.queue.push(self.now + pause, What::Replace);
    }

    /// Drains what `host` left behind, and sees to it that it is woken in time. What it sends leaves at `sent`.
    fn settle(&mut self, host: Host, sent: MonoNs) {
        let Self { effects, net, queue, places, now, .. } = self;
        let Effects { packets, sends, connects, responses, .. } = effects;
        for (way, messages) in [(Way::Datagram, sends), (Way::Request, connects), (Way::Response, responses)]
        {
            for (to, slot) in messages.drain(..) {
                net.send((host, to), way, slot, sent, packets, queue);
            }
        }
        for learned in effects.learned.drain(..).filter(|learned| learned.application) {
            self.acquaintance.note(host, learned.origin);
            if let Some(spread) = &mut self.spread {
                spread.note(host, &learned, *now);
            }
        }
        for (about, liveness) in effects.liveness.drain(..) {
            let up = places.get(about.index()).is_some_and(|place| place.member.is_some());
            let changed = match liveness {
                _ if !up => true,
                Liveness::Unreachable => self.doubts.insert((host, about)),
                Liveness::Reachable => self.doubts.remove(&(host, about)),
            };
            if changed {
                let right = (up && !net.is_cut(host, about)) == (liveness == Liveness::Reachable);
                self.judgements.push(Judgement { at: *now, by: host, about, liveness, right });
            }
            if let Some(death) = self.noticing.as_mut().filter(|death| death.origin() == about)
                && liveness == Liveness::Unreachable
            {
                death.reached(host, *now);
            }
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
        self.settle(host, self.now);
        Ok(version)
    }

    /// Makes a change at `host` and follows it: all that run now are to know it.
    pub(crate) fn follow(&mut self, host: Host, value: &[u8]) -> Result<(), String> {
        // The version is only known once it was written, and then the change is on its way already; but nothing
        // arrives before time passes.
        let version = self.write(host, value)?;
        self.spread = Some(Spread::new(host, version, self.now, self.running()));
        Ok(())
    }
    /// Ends a node without a word, and watches who notices. Who held it for unreachable before has.
    pub(crate) fn kill_and_watch(&mut self, host: Host) {
        let prophets: Vec<Host> =
            self.doubts.iter().filter(|(_, about)| *about == host).map(|(by, _)| *by).collect();
        self.kill(host);
        let mut death = Spread::new(host, 0, self.now, self.running());
        for by in prophets {
            death.reached(by, self.now);
        }
        self.noticing = Some(death);
    }
    fn running(&self) -> Vec<bool> {
        self.places.iter().map(|place| place.member.is_some()).collect()
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, host: Host) {
        self.places[host.index()] = Place::default();
        self.acquaintance.stop(host);
        self.doubts.retain(|(by, about)| *by != host && *about != host);
        for spread in self.spread.iter_mut().chain(&mut self.noticing) {
            spread.forget(host);
        }
    }
    /// From now on nodes are replaced, one in about so long.
    pub(crate) fn churn(&mut self, mean: Span) {
        if self.churn.replace(mean).is_none() {
            self.queue.push(self.now + mean, What::Replace);
        }
    }
    /// One that may be killed: neither a seed nor where the change is from that is being followed.
    pub(crate) fn any_victim(&mut self) -> Result<Host, String> {
        let kept = self.spread.as_ref().map(Spread::origin);
        let spare: Vec<Host> =
            self.up().filter(|host| !self.seeds.contains(host) && Some(*host) != kept).collect();
        if spare.is_empty() {
            return Err("all nodes are seeds: there is none to be killed".into());
        }
        Ok(spare[self.rng.random_range(0..spare.len())])
    }
    /// How many pairs there are of running nodes of which one holds the other for unreachable.
    pub(crate) fn doubts(&self) -> usize {
        self.doubts.len()
    }

    fn is_up(&self, host: Host) -> bool {
        self.places.get(host.index()).is_some_and(|place| place.member.is_some())
    }
    /// The hosts on which a node runs.
    fn up(&self) -> impl Iterator<Item = Host> {
        (0..self.places.len()).map(Host::at).filter(|host| self.is_up(*host))
    }
    /// One of them.
    pub(crate) fn any_up(&mut self) -> Host {
        let up: Vec<Host> = self.up().collect();
        up[self.rng.random_range(0..up.len())]
    }
    /// By when all have started.
    pub(crate) fn all_started(&self) -> MonoNs {
        START + self.plan.start_over
    }
    /// How many nodes there were at first.
    pub(crate) const fn nodes(&self) -> usize {
        self.plan.nodes
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
    /// What each running node says of its paths.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = Verdicts> {
        self.places.iter().filter_map(|place| place.member.as_ref().map(Member::verdicts))
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
