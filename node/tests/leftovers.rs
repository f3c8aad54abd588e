//! However a node ends, the kernel holds nothing of it any more.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use aya::maps::loaded_maps;
use aya::programs::loaded_programs;
use support::BINARY;
use xtask::rig::{Namespace, Node, NodeSpec, can_make_hosts, node, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where eBPF objects would be kept beyond their process.
const PINS: &str = "/sys/fs/bpf";

/// eBPF objects by their ids.
#[derive(Debug, PartialEq, Eq)]
struct Objects {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Objects {
    /// Those that a process has open.
    fn of(pid: u32) -> Result<Self> {
        let mut found = Self { programs: BTreeSet::new(), maps: BTreeSet::new() };
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // It opens and closes others meanwhile.
            let Some(text) = fs::read_to_string(entry?.path()).map(Some).or_else(unless_gone)? else {
                continue;
            };
            for line in text.lines() {
                match line.split_once(':') {
                    Some(("prog_id", id)) => found.programs.insert(id.trim().parse()?),
                    Some(("map_id", id)) => found.maps.insert(id.trim().parse()?),
                    _ => false,
                };
            }
        }
        Ok(found)
    }

    /// Those of these that the kernel still holds.
    fn still_loaded(&self) -> Result<Self> {
        let mut left = Self { programs: BTreeSet::new(), maps: BTreeSet::new() };
        // One that goes while it is looked at, of another test, is an error: it is not loaded.
        for program in loaded_programs().flatten() {
            left.programs.extend(Some(program.id()).filter(|id| self.programs.contains(id)));
        }
        for map in loaded_maps().flatten() {
            left.maps.extend(Some(map.id()).filter(|id| self.maps.contains(id)));
        }
        Ok(left)
    }

    fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty()
    }
}

/// `None` in place of an error that says that there is no such file any more.
fn unless_gone<T>(error: io::Error) -> io::Result<Option<T>> {
    if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

/// Names of the loaded programs with these ids.
fn names(ids: &BTreeSet<u32>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for program in loaded_programs().flatten() {
        if ids.contains(&program.id()) {
            names.push(program.name_as_str().context("a name")?.to_owned());
        }
    }
    Ok(names)
}

/// Every file below `dir`; none where no bpf file system is mounted.
fn files_below(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            let below = if path.is_dir() { files_below(&path) } else { BTreeSet::new() };
            below.into_iter().chain([path])
        })
        .collect()
}

/// Runs a node at tier 1, ends it by `end`, and expects the kernel to let go of all that it had.
fn leaves_nothing(end: impl FnOnce(Node) -> Result<()>) -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let (dir, namespace) = (tempfile::tempdir()?, Namespace::new("leftovers")?);
    let pinned = files_below(Path::new(PINS));
    let mut spec = NodeSpec::new(BINARY, "n", node::gossip([127, 0, 0, 1]));
    spec.probe = "ebpf";
    let mut node = Node::start(&spec, Some(&namespace), dir.path())?;
    assert_eq!(node.wait_ready()?["tier"], 1);

    let had = Objects::of(node.process().pid())?;
    assert_eq!(had.still_loaded()?, had);
    assert!(names(&had.programs)?.contains(&"pikoscope_rx".to_owned()), "{had:?}");
    assert!(had.maps.len() >= 2, "ring and counters: {had:?}");
    end(node)?;
    // The kernel frees them after a grace period of its own.
    wait_for("the kernel to free programs and maps", PATIENCE, || {
        let left = had.still_loaded()?;
        ensure!(left.is_empty(), "of {had:?} there are left {left:?}");
        Ok(Some(()))
    })?;
    let new: Vec<PathBuf> = files_below(Path::new(PINS)).difference(&pinned).cloned().collect();
    assert!(new.is_empty(), "pinned: {new:?}");
    Ok(())
}

#[test]
fn after_sigterm() -> Result<()> {
    leaves_nothing(|node| node.stop().map(drop))
}

#[test]
fn after_sigkill() -> Result<()> {
    leaves_nothing(|mut node| node.process().kill())
}

#[test]
fn after_sigkill_while_stopped() -> Result<()> {
    leaves_nothing(|mut node| {
        node.process().pause()?;
        node.process().kill()
    })
}
