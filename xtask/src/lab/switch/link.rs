//! One direction of one path: what becomes of each packet, and when. No IO, no clock.

use std::collections::VecDeque;

use probe_ebpf::time::{MonoNs, Span};
use rand::{Rng, RngCore};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use super::spec::{Jitter, LinkSpec, Loss, Rate};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves the switch at `at`, and a second copy of it right after if it is `doubled`.
    Deliver {
        /// Not before the packet came in.
        at: MonoNs,
        /// Whether a copy follows.
        doubled: bool,
    },
    /// It does not arrive.
    Drop(Cause),
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// By order: the link's [`Loss`].
    Loss,
    /// By order: the [`Rate`]'s queue was full.
    Queue,
    /// By order: the link was cut, on arrival or while the packet was under way.
    Partition,
    /// Not asked for: the switch holds as many frames as it may.
    Overload,
    /// Not asked for: the device did not take it.
    Refused,
}

impl Cause {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 5] = [Self::Loss, Self::Queue, Self::Partition, Self::Overload, Self::Refused];

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a link was asked to do this.
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::Loss | Self::Queue | Self::Partition)
    }
}

/// A link's state: where its queue, its wire and its random numbers are.
#[derive(Clone, Debug)]
pub struct Link<R> {
    spec: LinkSpec,
    rng: R,
    bad: bool,
    /// Frames that wait or are being sent: when the last bit of each is on the wire, and its length.
    backlog: VecDeque<(MonoNs, u64)>,
    backlog_bytes: u64,
    /// When the last packet that was not held back departs: no later one departs before it.
    floor: MonoNs,
}

impl<R: RngCore> Link<R> {
    /// A link with an empty queue. The same `rng` and the same packets give the same fates.
    pub fn new(spec: LinkSpec, rng: R) -> Self {
        let floor = MonoNs::from_nanos(i64::MIN);
        Self { spec, rng, bad: false, backlog: VecDeque::new(), backlog_bytes: 0, floor }
    }

    /// What it is asked to do.
    pub fn spec(&self) -> &LinkSpec {
        &self.spec
    }

    /// Asks something else of it from now on. Departures already set stay as they are, and later packets queue
    /// behind them.
    pub fn set(&mut self, spec: LinkSpec) {
        self.spec = spec;
    }

    /// Bytes that wait or are being sent at `now`.
    pub fn backlog_bytes(&mut self, now: MonoNs) -> u64 {
        while let Some(&(sent, length)) = self.backlog.front()
            && sent <= now
        {
            self.backlog.pop_front();
            self.backlog_bytes -= length;
        }
        self.backlog_bytes
    }

    /// Decides about a frame of `length` bytes that comes in at `now`.
    ///
    /// It goes through queue, wire (loss), distance (delay, jitter, reorder) and doubling, in this order.
    pub fn offer(&mut self, now: MonoNs, length: usize) -> Fate {
        if self.spec.partition {
            return Fate::Drop(Cause::Partition);
        }
        let Some(sent) = self.enqueue(now, length as u64) else { return Fate::Drop(Cause::Queue) };
        if self.is_lost() {
            return Fate::Drop(Cause::Loss);
        }
        let at = sent + self.spec.delay + self.jitter();
        let at = match self.spec.reorder {
            Some(reorder) if self.rng.random_bool(reorder.share) => at.max(self.floor) + reorder.late,
            _ => {
                self.floor = at.max(self.floor);
                self.floor
            }
        };
        let doubled = self.spec.duplicate > 0.0 && self.rng.random_bool(self.spec.duplicate);
        Fate::Deliver { at, doubled }
    }

    /// When its last bit is on the wire; `None` when the queue has no room.
    fn enqueue(&mut self, now: MonoNs, length: u64) -> Option<MonoNs> {
        let queued = self.backlog_bytes(now);
        let idle_from = self.backlog.back().map_or(now, |(sent, _)| *sent);
        let Some(Rate { bits_per_second, queue_bytes }) = self.spec.rate else { return Some(idle_from) };
        if queued > 0 && queued + length > queue_bytes {
            return None;
        }
        let sent = idle_from + on_the_wire(length, bits_per_second);
        self.backlog.push_back((sent, length));
        self.backlog_bytes += length;
        Some(sent)
    }

    fn is_lost(&mut self) -> bool {
        match self.spec.loss {
            None => false,
            Some(Loss::Random { share }) => self.rng.random_bool(share),
            Some(Loss::Bursty { enter, leave, good, bad }) => {
                if self.rng.random_bool(if self.bad { leave } else { enter }) {
                    self.bad = !self.bad;
                }
                self.rng.random_bool(if self.bad { bad } else { good })
            }
        }
    }

    fn jitter(&mut self) -> Span {
        match self.spec.jitter {
            None => Span::ZERO,
            Some(Jitter::Uniform { max }) => Span::from_nanos(self.rng.random_range(0..=max.as_nanos())),
            Some(Jitter::Normal { mean, sigma }) => {
                // With a mean that is not negative at least every second draw is good: this ends.
                loop {
                    let z: f64 = StandardNormal.sample(&mut self.rng);
                    let drawn = Span::from_secs_f64(mean.as_secs_f64() + z * sigma.as_secs_f64());
                    if !drawn.is_negative() {
                        return drawn;
                    }
                }
            }
            Some(Jitter::Pareto { scale, alpha, cap }) => {
                // The inverse of F(x) = 1 - (1 + x/scale)^-alpha, over that part of F which lies below the cap.
                if scale == Span::ZERO {
                    return Span::ZERO;
                }
                let below_cap = 1.0 - (1.0 + cap.as_secs_f64() / scale.as_secs_f64()).powf(-alpha);
                let u = self.rng.random::<f64>() * below_cap;
                Span::from_secs_f64(scale.as_secs_f64() * ((1.0 - u).powf(-1.0 / alpha) - 1.0)).min(cap)
            }
        }
    }
}

/// How long `length` bytes take, rounded up to the nanosecond.
fn on_the_wire(length: u64, bits_per_second: u64) -> Span {
    let ns = (u128::from(length) * 8_000_000_000).div_ceil(u128::from(bits_per_second));
    Span::from_nanos(i64::try_from(ns).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
