//! All nodes join together: is anybody held for unreachable in the first minute?

use std::collections::BTreeSet;

use probe_ebpf::time::Span;
use serde::Serialize;

use super::false_alarms;
use crate::host::Host;
use crate::member::{Liveness, Member};
use crate::report::{Column, milliseconds, shown};
use crate::world::{START, World};

const MINUTE: Span = Span::from_secs(60);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Until everybody knew everybody; `None` when that was not within the minute.
    settled_ms: Option<f64>,
    /// How often someone was held for unreachable, all the while running.
    pub(crate) false_unreachable: usize,
    /// Share of the pairs that this happened to.
    pub(crate) false_share: f64,
    /// When it happened first.
    first_false_ms: Option<f64>,
}

pub(crate) fn run<M: Member>(world: &mut World<M>) -> Result<Figures, String> {
    let (start, all) = (world.now, world.all_started());
    let met = world.run_until(MINUTE, |world| world.now >= all && world.acquaintance.is_complete())?;
    let settled = met.then(|| world.now - start);
    world.run(MINUTE - (world.now - start))?;
    let wrong = || world.judgements.iter().filter(|j| j.liveness == Liveness::Unreachable && !j.right);
    let pairs: BTreeSet<(Host, Host)> = wrong().map(|judgement| (judgement.by, judgement.about)).collect();
    let nodes = world.nodes();
    Ok(Figures {
        settled_ms: settled.map(milliseconds),
        false_unreachable: false_alarms(world, START),
        false_share: pairs.len() as f64 / (nodes * (nodes - 1)) as f64,
        first_false_ms: wrong().next().map(|judgement| milliseconds(judgement.at - start)),
    })
}

impl Figures {
    pub(crate) fn columns(&self) -> Vec<Column> {
        [
            ("settled", shown(self.settled_ms)),
            ("false un.", self.false_unreachable.to_string()),
            ("of pairs", format!("{:.1} %", 100.0 * self.false_share)),
            ("first", self.first_false_ms.map_or_else(|| "-".into(), |ms| shown(Some(ms)))),
        ]
        .into()
    }
}
