//! `pikoscope diagnose`: where in the cluster the trouble is.

use std::fmt::Write as _;
use std::path::Path;

use super::status::absent;
use super::table::printable;
use super::{Failure, print};
use crate::control::client;

pub(super) fn diagnose(control: &Path, json: bool) -> Result<(), Failure> {
    let report = client::status(control)?;
    let (diagnosis, hosts) =
        report.diagnosis.as_ref().ok_or("the node is of a version that does not diagnose")?;
    if json {
        return print(&(serde_json::to_string_pretty(diagnosis)? + "\n")).map(drop);
    }
    let mut text = format!("{}\n", printable(&diagnosis.sentence));
    for line in &diagnosis.evidence {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {}", printable(line));
    }
    if let Some(absent) = absent(&report) {
        let _ = writeln!(text, "{absent}");
    }
    let _ = writeln!(text, "By the summaries of {hosts} of {} nodes.", report.members.len());
    print(&text).map(drop)
}
