//! What happens in a world, and what is measured.

pub(crate) mod changes;
pub(crate) mod join;
pub(crate) mod kill;
pub(crate) mod split;
pub(crate) mod verdicts;

use probe_ebpf::time::{MonoNs, Span};

use crate::member::{Liveness, Member};
use crate::world::World;

/// Longest time for all to get to know each other.
const SETTLING: Span = Span::from_secs(1200);
/// After that, before anything else happens.
const CALM: Span = Span::from_secs(5);

/// Until everybody knows everybody, and a moment more. Returns how long that took, without the moment.
fn settle<M: Member>(world: &mut World<M>) -> Result<Span, String> {
    let from = world.now;
    // Before all have started, those who have may know each other already.
    let all = world.all_started();
    if !world.run_until(SETTLING, |world| world.now >= all && world.acquaintance.is_complete())? {
        let missing = world.acquaintance.missing();
        return Err(format!("{missing} pairs of nodes have not met after {SETTLING}: nothing to measure"));
    }
    let settled = world.now - from;
    world.run(CALM)?;
    Ok(settled)
}

/// How often someone was wrongly held for unreachable since `from`.
fn false_alarms<M: Member>(world: &World<M>, from: MonoNs) -> usize {
    let wrong = |judgement: &&crate::world::Judgement| {
        judgement.at >= from && judgement.liveness == Liveness::Unreachable && !judgement.right
    };
    world.judgements.iter().filter(wrong).count()
}
