//! The judge of one directed path.

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::journey::{Journey, Leg};

use super::circumstances::{Lateness, Usual};
use super::learn::{BUCKET, BUCKET_SAMPLES, History, Normal};
use super::leg::{Limits, Shape, Timed, slow_ports};
use super::loss::{Loss, LossWindow};
use super::ports::Gathered;
use super::sentence::{Names, network_normal};
use super::standing::{Found, Standing};
use super::window::{FURTHEST, Sample, Series, Window, judged_series};
use super::{Cause, Change, Circumstances, Confidence, LegNumbers, Verdict, network};

mod find;

use find::Findings;

/// The fewest journeys (of 15 s) that make a verdict, for a path and for each of its legs.
pub const LEAST_SAMPLES: usize = 8;
/// Series of network times remembered: a correction that comes and goes finds its past again.
const SERIES: usize = 3;

/// Judges the directed path from one host to another.
#[derive(Clone, Debug)]
pub struct PathJudge {
    names: Names,
    window: Window,
    loss: LossWindow,
    /// By [`Leg::index`]; the network's place is not used.
    local: [History; 7],
    /// The most recently used last.
    network: Vec<(Series, History)>,
    /// Start of the bucket that is being filled.
    bucket: Option<MonoNs>,
    standing: Standing,
    /// What is usual for the sender, the receiver.
    usual: [Usual; 2],
    /// How late their timers came, lately.
    lateness: [Lateness; 2],
    /// The verdict's cause and since when.
    last: Option<(Cause, MonoNs)>,
}

/// One evaluation's view of the window.
struct View<'a> {
    samples: Vec<&'a Sample>,
    series: Option<Series>,
    shapes: [Option<(Shape, Option<Normal>)>; 7],
    /// What is known of each leg, with or without limits.
    numbers: [Option<LegNumbers>; 7],
    /// Largest stamp error of the network times.
    stamps: Span,
    /// Where those with a long network time come from, if it is some of several ports.
    slow_ports: Option<Gathered>,
}

impl View<'_> {
    fn values(samples: &[&Sample], leg: Leg, series: Option<Series>) -> Vec<Timed> {
        let fits = |sample: &&&Sample| leg != Leg::Network || Some(sample.series) == series;
        let timed = |sample: &&Sample| {
            let source = sample.source.filter(|_| leg == Leg::Network);
            Some(Timed { at: sample.at, time: sample.leg(leg)?, source })
        };
        samples.iter().filter(fits).filter_map(timed).collect()
    }
}

impl PathJudge {
    /// A judge that has seen nothing yet; the names are used in sentences.
    pub fn new(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            names: Names { from: from.into(), to: to.into() },
            window: Window::default(),
            loss: LossWindow::default(),
            local: Default::default(),
            network: Vec::new(),
            bucket: None,
            standing: Standing::default(),
            usual: Default::default(),
            lateness: Default::default(),
            last: None,
        }
    }

    /// Takes a journey, whole or half; each journey once. Those of the last 15 s count at an evaluation.
    pub fn observe(&mut self, journey: &Journey) {
        self.window.observe(journey);
    }

    /// Takes what was counted since the last call, at `at`.
    pub fn observe_loss(&mut self, at: MonoNs, loss: &Loss) {
        self.loss.observe(at, loss);
    }

    /// How the network time changed, for the judge of the opposite direction: to be read of both judges before either
    /// evaluates. `None` while its normal time or its present one is not known.
    pub fn recent_change(&self, now: MonoNs, drift_ppb: u32) -> Option<Change> {
        self.change(now, &self.view(now, drift_ppb), drift_ppb)
    }

    /// Judges the path at `now`; about once a second is right, since causes enter after two evaluations in a row.
    pub fn evaluate(&mut self, now: MonoNs, circumstances: &Circumstances) -> Verdict {
        self.window.relax(now);
        let hosts = [&circumstances.sender, &circumstances.receiver]
            .map(|evidence| evidence.as_ref().and_then(|evidence| evidence.fresh()));
        for (lateness, evidence) in self.lateness.iter_mut().zip(hosts) {
            lateness.observe(now, evidence, FURTHEST);
        }
        let view = self.view(now, circumstances.drift_ppb);
        let enough = view.samples.len() >= LEAST_SAMPLES;
        let Findings { mut found, clock_moved, network_is_normal } =
            if enough { self.find(now, &view, circumstances) } else { Findings::default() };
        let lost = self.loss.findings(now);
        let sum = self.loss.sum(now);
        found.extend(lost.iter().map(|finding| Found {
            cause: finding.cause,
            // After all excess time, and among themselves by number.
            weight: Span::from_nanos(i64::MIN / 2 + i64::try_from(finding.lost).unwrap_or(i64::MAX / 2)),
            effect: Span::ZERO,
            confidence: finding.confidence,
            why: self.names.lost(finding, &sum),
        }));
        let (samples, numbers) = (view.samples.len(), view.numbers);
        let network_judged = view.shapes[Leg::Network.index()].is_some();
        let why_not = self.why_unknown(now, &view, circumstances);
        self.standing.update(now, found);
        self.learn(now, clock_moved);
        if self.standing.is_quiet() {
            for (usual, evidence) in self.usual.iter_mut().zip(hosts) {
                if let Some(evidence) = evidence {
                    usual.learn(evidence);
                }
            }
        }
        let causes = self.standing.causes();
        let mut verdict = Verdict {
            cause: Cause::Ok,
            also: causes.get(1).map(|(second, _)| second.cause),
            samples: u32::try_from(samples).unwrap_or(u32::MAX),
            confidence: Confidence::Low,
            evidence: String::new(),
            since: now,
            effect: Span::ZERO,
            legs: numbers,
            loss: sum,
        };
        let mut parts: Vec<String> = causes.iter().take(2).map(|(found, _)| found.why.clone()).collect();
        let network_is_cause = causes.iter().any(|(found, _)| {
            matches!(found.cause, Cause::Network | Cause::NetworkOrHostSoftirq | Cause::ClockUncertain)
        });
        let network_is_normal = network_judged && network_is_normal && !network_is_cause;
        match causes.first() {
            Some((found, since)) => {
                (verdict.cause, verdict.since) = (found.cause, *since);
                (verdict.confidence, verdict.effect) = (found.confidence, found.effect);
                let network = numbers[Leg::Network.index()].filter(|_| network_is_normal);
                parts.extend(network.as_ref().map(network_normal));
            }
            None => match why_not {
                Some((cause, why)) => {
                    verdict.cause = cause;
                    parts.push(why);
                }
                None => {
                    let clear = samples >= super::window::ENOUGH && numbers.iter().all(Option::is_some);
                    verdict.confidence = if clear { Confidence::High } else { Confidence::Medium };
                    parts.push(format!("all of {samples} journeys' legs are normal"));
                    parts.extend(numbers[Leg::Network.index()].as_ref().map(network_normal));
                }
            },
        }
        verdict.evidence = self.names.whole(&parts);
        if causes.is_empty() {
            let same = self.last.filter(|(cause, _)| *cause == verdict.cause);
            verdict.since = same.map_or(now, |(_, since)| since);
        }
        self.last = Some((verdict.cause, verdict.since));
        verdict
    }

    fn history(&self, leg: Leg, series: Option<Series>) -> Option<&History> {
        match leg {
            Leg::Network => {
                let series = series?;
                let own = self.network.iter().find(|(held, _)| *held == series).map(|(_, history)| history);
                own.or_else(|| self.kin(series))
            }
            _ => Some(&self.local[leg.index()]),
        }
    }

    /// The past of the same clocks under another correction, the latest used: one that changes shifts both directions by
    /// opposite amounts, which is seen; to learn anew in the midst of trouble would make the trouble normal.
    fn kin(&self, series: Series) -> Option<&History> {
        let kin = |(held, _): &&(Series, History)| held.is_kin(&series);
        self.network.iter().rev().find(kin).map(|(_, history)| history)
    }

    /// Is what is normal for the network known from another correction alone?
    fn is_borrowed(&self, series: Option<Series>) -> bool {
        let own = self.network.iter().find(|(held, _)| Some(*held) == series);
        own.is_none_or(|(_, history)| history.is_inherited())
    }

    fn view(&self, now: MonoNs, drift_ppb: u32) -> View<'_> {
        let samples = self.window.recent(now);
        let series = judged_series(&samples, LEAST_SAMPLES);
        let of_series = samples.iter().filter(|sample| Some(sample.series) == series);
        let stamps = of_series.map(|sample| sample.stamps).max().unwrap_or_default();
        let mut view =
            View { samples, series, shapes: [None; 7], numbers: [None; 7], stamps, slow_ports: None };
        for leg in Leg::ALL {
            let values = View::values(&view.samples, leg, series);
            let normal = self.history(leg, series).and_then(|history| history.normal(leg));
            let limits = Limits::of(leg, normal.as_ref());
            // Without limits the numbers are still shown.
            let shown = limits.or_else(|| Limits::first(leg, &values));
            let Some(shape) = shown.and_then(|limits| Shape::of(&values, &limits)) else { continue };
            if shape.of_some_ports {
                view.slow_ports = slow_ports(&values, &shape.limits);
            }
            let bound = match (leg, &normal) {
                (Leg::Network, Some(normal)) => {
                    (now - normal.oldest).drift(drift_ppb) + stamps + normal.stamps
                }
                _ => Span::ZERO,
            };
            view.numbers[leg.index()] = Some(LegNumbers {
                samples: u32::try_from(shape.samples).unwrap_or(u32::MAX),
                baseline: normal.map(|normal| normal.median),
                now: shape.median,
                p99: shape.p99,
                change: normal.map(|_| Bounded::new(shape.change(), bound)),
                excess: shape.mean,
            });
            if limits.is_some() && shape.samples >= LEAST_SAMPLES {
                view.shapes[leg.index()] = Some((shape, normal));
            }
        }
        view
    }

    fn change(&self, now: MonoNs, view: &View<'_>, drift_ppb: u32) -> Option<Change> {
        let (shape, normal) = view.shapes[Leg::Network.index()]?;
        let normal = normal?;
        let stamps = view.stamps + normal.stamps;
        let bound = (now - normal.oldest).drift(drift_ppb) + stamps;
        Some(network::change(now, &shape, bound, stamps))
    }

    /// Why nothing can be said although nothing was found.
    fn why_unknown(&self, now: MonoNs, view: &View<'_>, c: &Circumstances) -> Option<(Cause, String)> {
        let samples = view.samples.len();
        if samples < LEAST_SAMPLES {
            return Some((Cause::Unknown, format!("{samples} of {LEAST_SAMPLES} journeys in 15 s")));
        }
        if view.shapes[Leg::Network.index()].is_some() {
            return None;
        }
        if c.last_step.is_some_and(|step| (now - step).abs() < FURTHEST) {
            return Some((
                Cause::ClockUncertain,
                "a wall clock was stepped, the network time is learnt anew".to_owned(),
            ));
        }
        let known = view.numbers[Leg::Network.index()].map_or(0, |numbers| numbers.samples);
        Some((
            Cause::Unknown,
            if (known as usize) < LEAST_SAMPLES {
                format!("network time known in {known} of {LEAST_SAMPLES} journeys")
            } else {
                format!("the normal network time is learnt from {BUCKET} of journeys")
            },
        ))
    }

    /// Closes the bucket when it is full.
    fn learn(&mut self, now: MonoNs, clock: bool) {
        let from = *self.bucket.get_or_insert(now);
        if from > now {
            // Time went backwards: nothing can be told about what came between.
            self.bucket = Some(now);
            return;
        }
        if now - from < BUCKET {
            return;
        }
        let samples = self.window.between(from, now);
        if samples.len() < BUCKET_SAMPLES {
            // Waits for more, but not for what the window has forgotten.
            if now - from > FURTHEST {
                self.bucket = Some(now);
            }
            return;
        }
        self.bucket = Some(now);
        let series = judged_series(&samples, BUCKET_SAMPLES);
        for leg in Leg::ALL {
            let values = View::values(&samples, leg, series);
            if values.len() < BUCKET_SAMPLES {
                continue;
            }
            let of_series = samples.iter().filter(|sample| Some(sample.series) == series);
            let stamps = of_series.map(|sample| sample.stamps).max().unwrap_or_default();
            let history = match (leg, series) {
                (Leg::Network, Some(series)) => {
                    let known = self.network.iter().position(|(held, _)| *held == series);
                    let entry = match known {
                        Some(at) => self.network.remove(at),
                        None => (series, self.kin(series).map(History::inherited).unwrap_or_default()),
                    };
                    if self.network.len() == SERIES {
                        self.network.remove(0);
                    }
                    self.network.push(entry);
                    match self.network.last_mut() {
                        Some((_, history)) => history,
                        None => continue,
                    }
                }
                (Leg::Network, None) => continue,
                _ => &mut self.local[leg.index()],
            };
            history.learn(leg, from, &values, stamps, clock);
        }
    }
}
