//! Single changes in a settled cluster: how fast they spread, and what that costs.

use probe_ebpf::time::Span;

use super::settle;
use crate::member::{Liveness, Member};
use crate::net::Traffic;
use crate::options::Options;
use crate::spread::Spread;
use crate::world::World;

/// After the nodes have met, before anything is measured.
const CALM: Span = Span::from_secs(5);
/// How long the cluster's idle traffic is measured.
const IDLE: Span = Span::from_secs(10);

/// What was measured.
pub(crate) struct Outcome {
    /// Until everybody knew everybody.
    pub(crate) settled: Span,
    pub(crate) idle: Load,
    pub(crate) changing: Load,
    pub(crate) spreads: Vec<Spread>,
    /// Wrong judgements of a node on another.
    pub(crate) false_unreachable: usize,
}

/// Traffic over some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) traffic: Traffic,
    pub(crate) over: Span,
}

pub(crate) fn run<M: Member>(world: &mut World<M>, options: &Options) -> Result<Outcome, String> {
    let settled = settle(world)?;
    world.run(CALM)?;

    let before = world.net.traffic;
    world.run(IDLE)?;
    let idle = Load { traffic: world.net.traffic.since(before), over: IDLE };

    let (before, from) = (world.net.traffic, world.now);
    let mut spreads = Vec::with_capacity(options.changes);
    let interval = world.interval();
    let patience = Span::from_secs(options.patience_s.into());
    for change in 1..=options.changes {
        // At any phase of anybody's rounds, and after the last change's own traffic.
        let pause = world.between(scaled(interval, 3), scaled(interval, 8));
        world.run(pause)?;
        let host = world.any_up();
        world.follow(host, change.to_string().as_bytes())?;
        world.run_until(patience, |world| world.spread.as_ref().is_none_or(Spread::is_complete))?;
        spreads.extend(world.spread.take());
    }
    let changing = Load { traffic: world.net.traffic.since(before), over: world.now - from };
    let wrong = world.judgements.iter().filter(|j| j.liveness == Liveness::Unreachable && !j.right).count();
    Ok(Outcome { settled, idle, changing, spreads, false_unreachable: wrong })
}

const fn scaled(span: Span, by: i64) -> Span {
    Span::from_nanos(span.as_nanos() * by)
}
