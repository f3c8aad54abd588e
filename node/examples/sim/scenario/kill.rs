//! Nodes of a settled cluster die, one after the other: how long until the others notice?

use probe_ebpf::time::Span;
use serde::Serialize;

use super::{false_alarms, settle};
use crate::member::Member;
use crate::options::Options;
use crate::report::{Column, quantile, shown};
use crate::spread::Spread;
use crate::world::{START, World};

/// Longest time to notice.
const PATIENCE: Span = Span::from_secs(300);

/// What was measured: over all kills, and in them the first, the median and the last of the others.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    kills: usize,
    /// Medians over the kills.
    first_ms: Option<f64>,
    median_ms: Option<f64>,
    last_ms: Option<f64>,
    /// The longest of all.
    pub(crate) longest_ms: Option<f64>,
    /// How many did not notice in time, over all kills.
    pub(crate) unnoticed: usize,
    pub(crate) false_unreachable: usize,
}

pub(crate) fn run<M: Member>(world: &mut World<M>, options: &Options) -> Result<Figures, String> {
    settle(world)?;
    // Failure detectors learn from what is usual.
    world.run(Span::from_secs(options.warm_up_s.into()))?;
    let mut deaths = Vec::new();
    for _ in 0..options.kill.max(1) {
        let victim = world.any_victim()?;
        world.kill_and_watch(victim);
        world.run_until(PATIENCE, |world| world.noticing.as_ref().is_none_or(Spread::is_complete))?;
        deaths.extend(world.noticing.take());
        world.run(Span::from_secs(1))?;
    }
    let each = |time: fn(&Spread) -> Option<Span>| deaths.iter().map(time).collect::<Vec<_>>();
    Ok(Figures {
        kills: deaths.len(),
        first_ms: quantile(each(|death| death.times.first().copied()), 0.5),
        median_ms: quantile(each(|death| death.time_of_others(0.5)), 0.5),
        last_ms: quantile(each(|death| death.time_of_others(1.0)), 0.5),
        longest_ms: quantile(each(|death| death.time_of_others(1.0)), 1.0),
        unnoticed: deaths.iter().map(Spread::left).sum(),
        false_unreachable: false_alarms(world, START),
    })
}

impl Figures {
    pub(crate) fn columns(&self) -> Vec<Column> {
        [
            ("kills", self.kills.to_string()),
            ("first", shown(self.first_ms)),
            ("median", shown(self.median_ms)),
            ("last", shown(self.last_ms)),
            ("longest", shown(self.longest_ms)),
            ("unnoticed", self.unnoticed.to_string()),
            ("false un.", self.false_unreachable.to_string()),
        ]
        .into()
    }
}
