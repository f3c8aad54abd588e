//! `pikoscope watch`: changes as they happen, one line each.

use std::path::Path;

use super::table::printable;
use super::{Failure, print};
use crate::control::client;
use crate::control::watch::Change;

/// Until it is interrupted, its reader goes away or the node ends, which is a failure.
pub(super) fn watch(control: &Path, json: bool, internal: bool) -> Result<(), Failure> {
    for change in client::watch(control, internal)? {
        let change = change?;
        let line = if json { serde_json::to_string(&change)? } else { line(&change) };
        if !print(&(line + "\n"))? {
            return Ok(());
        }
    }
    Err(format!("the node at {} has ended", control.display()).into())
}

/// Names and values come from other nodes: their control characters are shown escaped.
fn line(change: &Change) -> String {
    printable(&match change {
        Change::Join { node, .. } => format!("join         {node}"),
        Change::Leave { node, .. } => format!("leave        {node}"),
        Change::Unreachable { node, .. } => format!("unreachable  {node}"),
        Change::Reachable { node, .. } => format!("reachable    {node}"),
        Change::Expire { node, .. } => format!("expire       {node}"),
        Change::Upsert { node, key, value: Some(value), version, .. } => {
            format!("upsert       {node}  {key} = {value}  (version {version})")
        }
        Change::Upsert { node, key, value: None, version, .. } => {
            format!("upsert       {node}  {key}  (version {version}, replaced already)")
        }
        Change::Delete { node, key, version, .. } => {
            format!("delete       {node}  {key}  (version {version})")
        }
        Change::Missed { changes } => format!("missed       {changes} changes: this watch was too slow"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_and_cannot_draw_on_the_terminal() {
        let change = Change::Upsert {
            node: "a\u{1b}[2J".into(),
            key: "k\n".into(),
            value: Some("v".into()),
            version: 7,
            trace_id: None,
            at_mono_ns: 1,
        };
        assert_eq!(line(&change), "upsert       a\\u{1b}[2J  k\\n = v  (version 7)");
        assert_eq!(line(&Change::Missed { changes: 3 }), "missed       3 changes: this watch was too slow");
    }
}
