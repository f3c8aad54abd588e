//! What one evaluation finds: which legs are too long, and who that speaks against.

use probe_ebpf::time::{MonoNs, Span};

use super::super::circumstances::{pressed, pressed_at_times};
use super::super::leg::Shape;
use super::super::standing::Found;
use super::super::window::{FURTHEST, Sample};
use super::super::{Cause, Circumstances, Confidence, network};
use super::{PathJudge, View};
use crate::analysis::journey::Leg;

/// A cause with less than this part of all excess time is a side effect.
const SIDE_EFFECT: i64 = 8;

/// A host whose CPU is away whenever a packet comes has timers that are late, too: by this part of what it does to packets
/// at the least, for timers that begin anew when it is back fall into fewer of its absences.
const LATE_PART: i64 = 4;

/// What one evaluation finds.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) found: Vec<Found>,
    /// Both directions moved by opposite amounts.
    pub(super) clock_moved: bool,
    /// Nothing was found of the network time, nor was anything of it left out as a side effect.
    pub(super) network_is_normal: bool,
}

impl PathJudge {
    /// What this evaluation finds.
    pub(super) fn find(&self, now: MonoNs, view: &View<'_>, c: &Circumstances) -> Findings {
        let mut found: Vec<Found> = Vec::new();
        let mut network_is_normal = true;
        // A way that is longer for most packets is nobody's side effect: its stamps are the kernels', and a process that
        // is late moves none of them.
        let mut way_is_longer = false;
        let mut clock = None;
        if c.clock_uncertain {
            clock = Some("a clock of the two hosts does not tell the truth");
        }
        let mut moved = false;
        for leg in Leg::ALL {
            let (Some((shape, _)), Some(numbers)) = (view.shapes[leg.index()], view.numbers[leg.index()])
            else {
                continue;
            };
            let mut cause = Cause::of_leg(leg);
            let mut confidence = if shape.is_clear() { Confidence::High } else { Confidence::Medium };
            let mut note = None;
            if leg == Leg::Network {
                let Some(own) = self.change(now, view, c.drift_ppb) else { continue };
                let stepped = c.last_step.is_some_and(|step| (now - step).abs() < FURTHEST);
                let finding = network::judge(&own, &shape, c);
                network_is_normal = matches!(finding, network::Finding::Fine);
                match finding {
                    network::Finding::Fine => continue,
                    network::Finding::Path { .. } if stepped => {
                        clock = Some("a wall clock was stepped within the window");
                        continue;
                    }
                    // Only both directions' sum would tell the path from the correction.
                    network::Finding::Path { .. }
                        if c.opposite.is_none() && self.is_borrowed(view.series) =>
                    {
                        clock = Some("the clocks' correction is another one than before");
                        continue;
                    }
                    network::Finding::Path { direction } => {
                        let host = self.pressed_host(c, &shape);
                        let egress = view.series.is_some_and(|series| series.has_egress);
                        let twice = own.network.bound + own.network.bound;
                        if c.clock_uncertain || shape.is_typical() && own.network.value < twice {
                            confidence = confidence.min(Confidence::Medium);
                        }
                        if let Some(host) = host {
                            cause = Cause::NetworkOrHostSoftirq;
                            note = Some(host);
                        } else if egress {
                            confidence = Confidence::Low;
                            note = Some(format!("the kernel and link of {} are part of it", self.names.from));
                        } else if !direction {
                            confidence = confidence.min(Confidence::Medium);
                            note = Some(
                                "by the sum of both directions, this one's own bound is too wide".to_owned(),
                            );
                        }
                    }
                    network::Finding::Clock => {
                        (moved, clock) =
                            (true, Some("both directions moved by opposite amounts: a clock did"));
                        continue;
                    }
                    network::Finding::Within => {
                        clock = Some("the one-way time's change is within what the clocks may have drifted");
                        continue;
                    }
                    network::Finding::Lie => continue,
                }
            } else if !shape.is_long() {
                continue;
            } else if leg == Leg::SocketQueue && view.samples.iter().any(|sample| sample.queue_has_ingress) {
                confidence = confidence.min(Confidence::Medium);
            }
            way_is_longer |= cause == Cause::Network && shape.is_typical() && confidence > Confidence::Low;
            let (p99, share) = worst(view, leg);
            let mut why = self.names.long(leg, &numbers, shape.hits, p99, share);
            if let Some(ports) = view.slow_ports.as_ref().filter(|_| leg == Leg::Network) {
                why = format!("{why}, {ports}");
            }
            if let Some(note) = note {
                why = format!("{why} ({note})");
            }
            let weight = Span::from_nanos(
                shape.mean.as_nanos().saturating_mul(i64::try_from(shape.samples).unwrap_or(i64::MAX)),
            );
            let effect = shape.mean;
            match found.iter_mut().find(|other| other.cause == cause) {
                // Two legs of one process: the longer one speaks for both.
                Some(other) => {
                    if weight > other.weight {
                        (other.why, other.confidence) = (why, other.confidence.max(confidence));
                    }
                    (other.weight, other.effect) = (other.weight + weight, other.effect + effect);
                }
                None => found.push(Found { cause, weight, effect, confidence, why }),
            }
        }
        let total = found.iter().fold(Span::ZERO, |sum, found| sum + found.weight);
        // A side effect of the main cause is not a cause of its own.
        found.retain(|found| {
            way_is_longer && found.cause == Cause::Network
                || found.weight.as_nanos() >= total.as_nanos() / SIDE_EFFECT
        });
        if let Some(why) = clock {
            let (cause, weight) = (Cause::ClockUncertain, Span::from_nanos(i64::MIN));
            let why = why.to_owned();
            found.push(Found { cause, weight, effect: Span::ZERO, confidence: Confidence::Medium, why });
        }
        Findings { found, clock_moved: moved, network_is_normal }
    }

    fn pressed_host(&self, c: &Circumstances, network: &Shape) -> Option<String> {
        let hosts = [(&c.receiver, 1, &self.names.to), (&c.sender, 0, &self.names.from)];
        hosts.into_iter().find_map(|(evidence, end, name)| {
            let (evidence, usual) = (evidence.as_ref()?.fresh()?, self.usual[end].get());
            let lately = self.lateness[end].with(evidence);
            let at_times = || pressed_at_times(&lately, usual.as_ref());
            let why = pressed(evidence, usual.as_ref())
                .or_else(|| if network.is_of_all() { None } else { at_times() })?;
            let in_time = (evidence.late.and(lately.late))
                .zip(network.steady_share())
                .is_some_and(|(late, share)| i64::from(late).saturating_mul(LATE_PART) < share);
            if in_time && why.is_of_the_cpu() {
                return None;
            }
            Some(format!("{name}: {why}"))
        })
    }
}

/// The journey that is the leg's 99th percentile: its total, and the leg's part of it.
fn worst(view: &View<'_>, leg: Leg) -> (Span, Span) {
    let fits = |sample: &&&Sample| leg != Leg::Network || Some(sample.series) == view.series;
    let mut totals: Vec<(Span, Span)> = view
        .samples
        .iter()
        .filter(fits)
        .filter_map(|sample| Some((sample.leg(leg)?, sample.total())))
        .collect();
    totals.sort_unstable();
    let rank = (totals.len() * 99).div_ceil(100).max(1) - 1;
    totals.get(rank).map_or_else(Default::default, |(share, total)| (*total, *share))
}
