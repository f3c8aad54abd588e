//! `pikoscope replay`: the verdicts of a recorded run, judged again from what the judges were told.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use probe_ebpf::time::MonoNs;
use probe_user::analysis::verdict::record::{Replay, Replayed};

use super::table::printable;
use super::{Failure, print};

/// What the record's other lines, of single packets, do not have.
const MARK: &str = "\"line\":";

/// Prints each change of a path's verdict; fails when one came out otherwise than in the run.
pub(super) fn replay(file: &Path) -> Result<(), Failure> {
    let name = file.display();
    let lines =
        BufReader::new(File::open(file).map_err(|error| format!("{name} cannot be read: {error}"))?).lines();
    let (mut replay, mut start) = (Replay::default(), None);
    let (mut all, mut other) = (0_u64, 0_u64);
    let mut last = std::collections::BTreeMap::new();
    for line in lines {
        let line = line.map_err(|error| format!("{name} cannot be read: {error}"))?;
        if !line.contains(MARK) {
            continue;
        }
        let Some(done) = replay.line(&line).map_err(|error| format!("{name}: {error}"))? else { continue };
        all += 1;
        other += u64::from(!done.is_same());
        let start = *start.get_or_insert(done.now);
        if !done.is_same() || last.get(&done.path) != Some(&done.again.cause) {
            last.insert(done.path.clone(), done.again.cause);
            if !print(&text(&done, start))? {
                return Ok(());
            }
        }
    }
    if all == 0 {
        return Err(
            format!("{name} holds no evaluations: record one with `pikoscope run --record FILE`").into()
        );
    }
    print(&format!("{all} evaluations, {other} of them other than in the run\n"))?;
    if other > 0 {
        return Err("the run was judged by another version of this program".into());
    }
    Ok(())
}

fn text(done: &Replayed, start: MonoNs) -> String {
    let also = done.again.also.map(|also| format!(" and {}", also.name())).unwrap_or_default();
    let was = if done.is_same() { String::new() } else { format!(" (was {})", done.recorded.cause.name()) };
    printable(&format!(
        "{:>9.1} s  {} > {}  {}{also}{was}: {}",
        (done.now - start).as_secs_f64(),
        done.path.from,
        done.path.to,
        done.again.cause.name(),
        done.again.evidence,
    )) + "\n"
}
