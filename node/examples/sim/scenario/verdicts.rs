//! All nodes start and follow their packets: until when has each a verdict on every path to and from its neighbours?

use std::collections::BTreeMap;

use probe_ebpf::time::Span;
use serde::Serialize;

use crate::member::Member;
use crate::report::{Column, milliseconds, shown};
use crate::world::World;

/// By then all must have them.
const MINUTE: Span = Span::from_secs(60);
/// Time between looks.
const LOOK: Span = Span::from_secs(1);

/// What was measured, a minute after the last node's start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// From the last start until every node had a verdict, not `unknown`, on each of its paths; `None` when that was
    /// not within the minute.
    complete_ms: Option<f64>,
    /// Nodes with a verdict on each path.
    pub(crate) nodes_complete: usize,
    /// The least number of directed paths to and from ring neighbours that a node has.
    pub(crate) least_paths: usize,
    /// All such paths, each seen from both its ends.
    pub(crate) paths: usize,
    /// Those on which there is a verdict, by its name.
    pub(crate) verdicts: BTreeMap<&'static str, usize>,
}

pub(crate) fn run<M: Member>(world: &mut World<M>) -> Result<Figures, String> {
    world.run(world.all_started() - world.now)?;
    let (started, mut complete) = (world.now, None);
    while world.now - started < MINUTE {
        world.run(LOOK)?;
        let all = world.verdicts().all(|node| node.paths > 0 && node.judged.len() == node.paths);
        // For good: a neighbour that comes late is a path without a verdict.
        complete = if all { complete.or(Some(world.now - started)) } else { None };
    }
    let mut figures = Figures {
        complete_ms: complete.map(milliseconds),
        nodes_complete: 0,
        least_paths: usize::MAX,
        paths: 0,
        verdicts: BTreeMap::new(),
    };
    for node in world.verdicts() {
        figures.nodes_complete += usize::from(node.paths > 0 && node.judged.len() == node.paths);
        figures.least_paths = figures.least_paths.min(node.paths);
        figures.paths += node.paths;
        node.judged.iter().for_each(|verdict| *figures.verdicts.entry(*verdict).or_default() += 1);
    }
    Ok(figures)
}

impl Figures {
    pub(crate) fn columns(&self) -> Vec<Column> {
        let ok = self.verdicts.get("ok").copied().unwrap_or(0);
        let judged: usize = self.verdicts.values().sum();
        [
            ("complete", shown(self.complete_ms)),
            ("by nodes", self.nodes_complete.to_string()),
            ("paths", self.paths.to_string()),
            ("judged", judged.to_string()),
            ("ok", ok.to_string()),
        ]
        .into()
    }
}
