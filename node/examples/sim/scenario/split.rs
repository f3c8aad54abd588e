//! The network falls into two halves for a while: how long until all is well again afterwards?

use probe_ebpf::time::{MonoNs, Span};
use serde::Serialize;

use super::settle;
use crate::host::Host;
use crate::member::Member;
use crate::options::Options;
use crate::report::{Column, milliseconds, shown};
use crate::spread::Spread;
use crate::world::World;

/// Longest time to be well again.
const PATIENCE: Span = Span::from_secs(300);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    split_s: u32,
    /// Pairs of nodes, one on either side, of which one held the other for unreachable when the split ended.
    pub(crate) parted: usize,
    /// From the end of the split until a change that was made on one side during it was known everywhere.
    pub(crate) change_ms: Option<f64>,
    /// Until everybody held everybody for reachable again.
    pub(crate) reunited_ms: Option<f64>,
}

pub(crate) fn run<M: Member>(world: &mut World<M>, options: &Options) -> Result<Figures, String> {
    settle(world)?;
    world.run(Span::from_secs(options.warm_up_s.into()))?;
    let middle = Host::at(world.nodes() / 2);
    world.net.split = Some(middle);
    world.run(Span::from_secs(options.split_s.into()))?;
    let origin = world.any_up();
    world.follow(origin, b"while split")?;
    world.run(Span::from_secs(1))?;

    let parted = world.doubts();
    let healed = world.now;
    world.net.split = None;
    let mut change = None;
    let mut reunited = None;
    world.run_until(PATIENCE, |world| {
        let known = world.spread.as_ref().is_none_or(Spread::is_complete);
        note(&mut change, known, world.now, healed);
        note(&mut reunited, world.doubts() == 0, world.now, healed);
        change.is_some() && reunited.is_some()
    })?;
    Ok(Figures {
        split_s: options.split_s,
        parted,
        change_ms: change.map(milliseconds),
        reunited_ms: reunited.map(milliseconds),
    })
}

/// When it was first so.
fn note(first: &mut Option<Span>, so: bool, now: MonoNs, from: MonoNs) {
    if so && first.is_none() {
        *first = Some(now - from);
    }
}

impl Figures {
    pub(crate) fn columns(&self) -> Vec<Column> {
        [
            ("split", format!("{} s", self.split_s)),
            ("parted", self.parted.to_string()),
            ("change", shown(self.change_ms)),
            ("reunited", shown(self.reunited_ms)),
        ]
        .into()
    }
}
