//! What happens in a world, and what is measured.

pub(crate) mod changes;

use probe_ebpf::time::Span;

use crate::member::Member;
use crate::world::World;

/// Longest time for all to get to know each other.
const SETTLING: Span = Span::from_secs(1200);

/// Until everybody knows everybody. Returns how long it took.
fn settle<M: Member>(world: &mut World<M>) -> Result<Span, String> {
    let from = world.now;
    // Before all have started, those who have may know each other already.
    let all = world.all_started();
    if !world.run_until(SETTLING, |world| world.now >= all && world.acquaintance.is_complete())? {
        let missing = world.acquaintance.missing();
        return Err(format!("{missing} pairs of nodes have not met after {SETTLING}: nothing to measure"));
    }
    Ok(world.now - from)
}
