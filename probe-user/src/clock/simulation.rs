//! Hosts with drifting clocks, paths with delays and NTP daemons, in virtual time and from a seed: what is true is known.

mod drift;
mod fusion;
mod honesty;
mod peer;

use probe_ebpf::time::{Bounded, MonoNs, Span, WallNs};

use super::peer::{Exchange, PeerEstimate};

const SECOND: i64 = 1_000_000_000;
/// Stamp and mapping error that the samples are given.
const STAMPS: Span = Span::from_nanos(200);

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// A clock's error `theta` as a function of true time (ns): linear between knots.
#[derive(Clone)]
struct SimClock(Vec<Knot>);

#[derive(Clone, Copy)]
struct Knot {
    from: i64,
    theta: f64,
    ppb: f64,
}

impl SimClock {
    fn constant(theta: Span, ppb: f64) -> Self {
        Self(vec![Knot { from: 0, theta: theta.as_nanos() as f64, ppb }])
    }
    /// Starts anywhere within +-50 ms and +-`ppm`; every two minutes or so its rate changes by up to +-`change` ppm.
    fn wandering(rng: &mut Dice, seconds: i64, ppm: f64, change: f64) -> Self {
        let theta = Span::from_nanos(rng.between(-5e7, 5e7) as i64);
        let mut clock = Self::constant(theta, rng.between(-ppm, ppm) * 1e3);
        let mut at = rng.exponential(120.0);
        while at < seconds as f64 {
            let from = (at * 1e9) as i64;
            let last = clock.knot(from);
            let ppb = (last.ppb + rng.between(-change, change) * 1e3).clamp(-ppm * 1e3, ppm * 1e3);
            clock.0.push(Knot { from, theta: clock.exact(from), ppb });
            at += rng.exponential(120.0);
        }
        clock
    }
    fn knot(&self, t: i64) -> Knot {
        self.0[self.0.partition_point(|knot| knot.from <= t).saturating_sub(1)]
    }
    fn exact(&self, t: i64) -> f64 {
        let Knot { from, theta, ppb } = self.knot(t);
        theta + ppb * 1e-9 * (t - from) as f64
    }
    fn theta(&self, t: i64) -> Span {
        Span::from_nanos(self.exact(t).round() as i64)
    }
    fn wall(&self, t: i64) -> WallNs {
        WallNs::from_nanos(t) + self.theta(t)
    }
    /// MONOTONIC runs on the same timekeeper.
    fn mono(&self, t: i64) -> MonoNs {
        MonoNs::from_nanos(self.wall(t).as_nanos())
    }
}

/// One direction of a path; times in ns.
#[derive(Clone, Copy)]
struct SimPath {
    base: f64,
    /// Mean of the exponential jitter.
    jitter: f64,
    /// One packet in twenty is delayed by this much more, exponentially.
    tail: f64,
}

impl SimPath {
    /// The path of the requirements.
    const LAN: Self = Self { base: 250e3, jitter: 200e3, tail: 3e6 };

    fn delay(&self, rng: &mut Dice) -> i64 {
        let tail = if rng.unit() < 0.05 { rng.exponential(self.tail) } else { 0.0 };
        (self.base + rng.exponential(self.jitter) + tail) as i64
    }
}

/// Two hosts and what is between them.
#[derive(Clone)]
struct Link {
    local: SimClock,
    peer: SimClock,
    out: SimPath,
    back: SimPath,
}

impl Link {
    fn delta(&self, t: i64) -> Span {
        self.peer.theta(t) - self.local.theta(t)
    }

    /// An exchange that starts at `t`, with so much more delay out and back, and its end.
    fn exchange(&self, t: i64, more: [i64; 2], rng: &mut Dice) -> (Exchange, i64) {
        let there = t + self.out.delay(rng) + more[0];
        let answered = there + rng.exponential(1e6) as i64;
        let end = answered + self.back.delay(rng) + more[1];
        let exchange = Exchange {
            sent: self.local.wall(t),
            peer_received: self.peer.wall(there),
            peer_sent: self.peer.wall(answered),
            received: self.local.wall(end),
            at: self.local.mono(end),
            error: STAMPS,
        };
        (exchange, end)
    }

    /// `hz` exchanges a second for so long; after each, `each` is given the estimate and the true time.
    fn run(
        &self,
        seconds: i64,
        hz: i64,
        rng: &mut Dice,
        mut each: impl FnMut(&PeerEstimate, i64, &mut Dice),
    ) {
        let mut estimate = PeerEstimate::default();
        for n in 0..seconds * hz {
            let t = n * SECOND / hz + rng.between(0.0, 0.1 * SECOND as f64) as i64;
            let (exchange, end) = self.exchange(t, [0, 0], rng);
            estimate.exchange(&exchange, self.local.mono(end)).expect("an honest sample is taken");
            each(&estimate, end, rng);
        }
    }
}

/// What an NTP daemon says of a clock: `theta^` is off by a slow wander within its bound, by its drift while the
/// upstream is lost, and by its lie.
#[derive(Clone)]
struct SimNtp {
    bound: f64,
    /// How much of the bound its own error takes, at most.
    wanders: f64,
    /// Phases and periods (seconds) of that.
    waves: [(f64, f64); 2],
    /// Upstream lost in this time (true ns), with this residual drift (ppb).
    lost: Option<(i64, i64, f64)>,
    /// From when to when it lies, and by how much.
    lie: Option<(i64, i64, Span)>,
}

impl SimNtp {
    fn new(bound: Span, rng: &mut Dice) -> Self {
        let mut wave = || (rng.between(0.0, 6.3), rng.between(100.0, 2_000.0));
        let waves = [wave(), wave()];
        Self { bound: bound.as_nanos() as f64, wanders: 0.9, waves, lost: None, lie: None }
    }
    fn wander(&self, t: i64) -> f64 {
        let wave =
            |(phase, period): (f64, f64)| (phase + t as f64 / 1e9 / period * std::f64::consts::TAU).sin();
        self.wanders / 2.0 * self.bound * self.waves.map(wave).iter().sum::<f64>()
    }
    /// `theta^` and `eps` at `t`.
    fn read(&self, clock: &SimClock, t: i64) -> Bounded {
        let mut error = self.wander(t);
        let mut bound = self.bound;
        if let Some((from, to, ppb)) = self.lost
            && (from..to).contains(&t)
        {
            let silent = (t - from) as f64;
            error = self.wander(from) + silent * ppb * 1e-9;
            bound += silent * f64::from(super::DRIFT_PPB) * 1e-9;
        }
        if let Some((from, to, lie)) = self.lie
            && (from..to).contains(&t)
        {
            error += lie.as_nanos() as f64;
        }
        Bounded::new(clock.theta(t) + Span::from_nanos(error as i64), Span::from_nanos(bound as i64 + 2))
    }
}

/// The value below which a share of the sorted values lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1]
}
