//! Single changes in a settled cluster: how fast they spread, and what that costs.

use probe_ebpf::time::Span;
use serde::Serialize;

use super::{false_alarms, settle};
use crate::member::Member;
use crate::net::Traffic;
use crate::options::Options;
use crate::report::{Column, milliseconds, quantile, shown};
use crate::spread::Spread;
use crate::world::{START, World};

/// How long the cluster's idle traffic is measured.
const IDLE: Span = Span::from_secs(10);

/// What was measured. Times are `None` where too many nodes never knew.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) changes: usize,
    /// Until half of the nodes knew a change: median over the changes.
    pub(crate) t50_ms: Option<f64>,
    /// Likewise 95 %.
    pub(crate) t95_ms: Option<f64>,
    /// Likewise all.
    pub(crate) t100_ms: Option<f64>,
    /// Of the times from a change to each of the nodes.
    pub(crate) p95_ms: Option<f64>,
    /// Until all knew, the longest of the changes.
    pub(crate) t100_max_ms: Option<f64>,
    /// Changes that not everybody knew in time.
    pub(crate) incomplete: usize,
    /// Datagrams and their payloads while nothing changes but the rule's own entries.
    pub(crate) bytes_per_s_per_node: f64,
    pub(crate) packets_per_s_per_node: f64,
    /// The same with the changes, which come about twice a second.
    pub(crate) changing_bytes_per_s_per_node: f64,
    pub(crate) changing_packets_per_s_per_node: f64,
    /// Until everybody knew everybody.
    pub(crate) settled_ms: f64,
    pub(crate) false_unreachable: usize,
    /// Who knew when: milliseconds, and the share of all nodes and changes.
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, f64)>,
}

/// Traffic over some time.
struct Load {
    traffic: Traffic,
    over: Span,
}

impl Load {
    fn per_node(&self, nodes: usize) -> (f64, f64) {
        let share = |total: u64| total as f64 / self.over.as_secs_f64() / nodes as f64;
        (share(self.traffic.bytes), share(self.traffic.packets))
    }
}

pub(crate) fn run<M: Member>(world: &mut World<M>, options: &Options) -> Result<Figures, String> {
    let settled = settle(world)?;
    let before = world.net.traffic;
    world.run(IDLE)?;
    let idle = Load { traffic: world.net.traffic.since(before), over: IDLE };

    for _ in 0..options.kill {
        let victim = world.any_victim()?;
        world.kill(victim);
    }
    if options.churn > 0.0 {
        world.churn(Span::from_secs_f64(60.0 / options.churn));
    }
    let (before, from) = (world.net.traffic, world.now);
    let mut spreads = Vec::with_capacity(options.changes);
    for change in 1..=options.changes {
        spreads.push(follow(world, change, options)?);
    }
    let changing = Load { traffic: world.net.traffic.since(before), over: world.now - from };

    let nodes = world.nodes();
    let until = |share| quantile(spreads.iter().map(|spread| spread.time(share)).collect(), 0.5);
    let mut all = Vec::new();
    for spread in &spreads {
        all.extend(spread.times.iter().copied().map(Some));
        all.extend(std::iter::repeat_n(None, spread.left()));
    }
    let (bytes, packets) = idle.per_node(nodes);
    let (changing_bytes, changing_packets) = changing.per_node(nodes);
    Ok(Figures {
        changes: spreads.len(),
        t50_ms: until(0.5),
        t95_ms: until(0.95),
        t100_ms: until(1.0),
        curve: curve(&mut all),
        p95_ms: quantile(all, 0.95),
        t100_max_ms: quantile(spreads.iter().map(|spread| spread.time(1.0)).collect(), 1.0),
        incomplete: spreads.iter().filter(|spread| !spread.is_complete()).count(),
        bytes_per_s_per_node: bytes,
        packets_per_s_per_node: packets,
        changing_bytes_per_s_per_node: changing_bytes,
        changing_packets_per_s_per_node: changing_packets,
        settled_ms: milliseconds(settled),
        false_unreachable: false_alarms(world, START),
    })
}

/// Makes a change and watches it, until all know it or for as long as there is patience.
fn follow<M: Member>(world: &mut World<M>, change: usize, options: &Options) -> Result<Spread, String> {
    // At any phase of anybody's rounds, and after the last change's own traffic.
    let interval = world.interval().as_nanos();
    let pause = world.between(Span::from_nanos(3 * interval), Span::from_nanos(8 * interval));
    world.run(pause)?;
    let origin = world.any_up();
    world.follow(origin, change.to_string().as_bytes())?;
    let patience = Span::from_secs(options.patience_s.into());
    world.run_until(patience, |world| world.spread.as_ref().is_none_or(Spread::is_complete))?;
    world.spread.take().ok_or_else(|| "nobody follows the change".into())
}

/// Points for drawing: so many that the line is smooth.
fn curve(times: &mut [Option<Span>]) -> Vec<(f64, f64)> {
    const POINTS: usize = 200;
    times.sort_by_key(|time| time.unwrap_or(Span::MAX));
    let all = times.len();
    let mut places: Vec<usize> = (0..POINTS).map(|point| point * all / POINTS).collect();
    // The start is drawn to the very first, the end to the very last: the slowest are what matters.
    places.extend(all.checked_sub(1));
    places.dedup();
    places
        .into_iter()
        .filter_map(|place| {
            let time = times.get(place).copied().flatten()?;
            Some((milliseconds(time), (place + 1) as f64 / all as f64))
        })
        .collect()
}

impl Figures {
    pub(crate) fn columns(&self) -> Vec<Column> {
        let settled = format!("{:.1} s", self.settled_ms / 1e3);
        [
            ("t50", shown(self.t50_ms)),
            ("t95", shown(self.t95_ms)),
            ("t100", shown(self.t100_ms)),
            ("max", shown(self.t100_max_ms)),
            ("p95", shown(self.p95_ms)),
            ("never", self.incomplete.to_string()),
            ("B/s idle", format!("{:.0}", self.bytes_per_s_per_node)),
            ("pk/s", format!("{:.1}", self.packets_per_s_per_node)),
            ("B/s chg", format!("{:.0}", self.changing_bytes_per_s_per_node)),
            ("false un.", self.false_unreachable.to_string()),
            ("settled", settled),
        ]
        .into()
    }
}
