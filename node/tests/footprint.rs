//! What a node that gossips with its peers keeps in memory.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use support::{BINARY, alone};
use xtask::rig::{Namespace, Node, NodeSpec, can_make_hosts, wait_for};

const NODES: u16 = 5;
const PATIENCE: Duration = Duration::from_secs(30);
/// Bound of the memory that is a node's own: heaps, stacks, written data. The rest of its resident memory is its
/// file, which a debug build makes several times as large. In use are about two megabytes; what the start takes
/// for a moment and must give back is more than ten.
const OWN_KB: u64 = 5_000;

fn status(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("kB")
}

#[test]
fn five_nodes_with_the_probe_and_a_record_keep_what_they_use_and_no_more() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let (dir, namespace) = (tempfile::tempdir()?, Namespace::new("footprint")?);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        let id = format!("n{number}");
        let mut spec = NodeSpec::new(BINARY, &id, at(8000 + number)).seed(at(8001));
        spec.metrics_bind = Some(at(9000 + number));
        spec.probe = "ebpf";
        spec.record = Some(dir.path().join(format!("{id}.jsonl")));
        nodes.push(Node::start(&spec, Some(&namespace), dir.path())?);
    }
    for node in &mut nodes {
        node.wait_members(usize::from(NODES), PATIENCE)?;
        node.set("key", "value")?;
    }
    for node in &mut nodes {
        wait_for("all keys", PATIENCE, || {
            let held = node.get("key")?.as_array().map_or(0, Vec::len);
            Ok((held == usize::from(NODES)).then_some(()))
        })?;
        let pid = node.process().pid();
        let (own, all) = (status(pid, "RssAnon")?, status(pid, "VmRSS")?);
        println!("node {}: {own} kB of its own, {all} kB with its file", node.id());
        assert!(own < OWN_KB, "node {} keeps {own} kB", node.id());
    }
    nodes.into_iter().try_for_each(|node| node.stop().map(drop))
}
