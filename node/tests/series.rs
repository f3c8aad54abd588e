//! A node that knows a thousand others is no burden to Prometheus.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use pikoscope::wire::v0::stream::{self, Node};
use pikoscope::wire::v0::{Entry, NodeHead, Sender};
use support::alone;
use support::local::{Local, address};
use xtask::rig::{can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many nodes join.
const MEMBERS: usize = 1000;
/// Series of a node, at most (issue E, point 7).
const MOST: usize = 2000;

/// Series in the text format.
fn series(metrics: &str) -> usize {
    metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// One more member says over TCP that it joins.
fn join(node: SocketAddr, i: usize) -> Result<()> {
    let (id, addr) = (format!("member-{i:04}"), format!("127.1.{}.{}:7176", i / 250, 1 + i % 250));
    let entry = Entry { key: b"key", value: b"value", version: 1, internal: false, deleted: false };
    let sender = Sender { node_id: &id, addr: &addr, max_version: None };
    let own = Node { head: NodeHead { id: &id, addr: &addr }, entries: vec![entry] };
    let mut request = Vec::new();
    stream::put_join_request(&mut request, &sender, &[own], &[]);
    let mut connection = TcpStream::connect(node)?;
    connection.write_all(&request)?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    ensure!(!answer.is_empty(), "{id} was not answered");
    Ok(())
}

#[test]
fn a_node_with_a_thousand_members_has_a_bounded_number_of_series() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let local = Local::start(3, |_, _| {})?;
    let few = series(&local.metrics(0)?);
    local.namespace.within(|| (0..MEMBERS).try_for_each(|i| join(address(0), i)))??;
    let all = wait_for("all members to be counted", PATIENCE, || {
        let members = local.metric(0, "pikoscope_members")?;
        ensure!(members == (MEMBERS + 3) as f64, "{members}");
        // Entries are counted every few seconds: those of the nodes that have no series of their own, in one.
        let metrics = local.metrics(0)?;
        ensure!(metrics.contains("node_id=\"\""), "not yet");
        Ok(Some(series(&metrics)))
    })?;
    println!("{few} series with 3 members, {all} with {}", MEMBERS + 3);
    assert!(all > few && all < MOST, "{all} series");
    Ok(())
}
