//! Real nodes find each other, tell each other when they leave, and notice when one is killed.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use pikoscope::control::watch::Change;
use serde_json::Value;
use support::local::Local;
use support::{alone, http};
use xtask::rig::{Stopwatch, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const JOINS: &str = "pikoscope_gossip_events_total{event=\"joins_received\",part=\"proto\"}";

/// Every node holds `key` of every node.
fn gossip_goes_on(local: &Local, key: &str) -> Result<()> {
    for node in &local.nodes {
        node.set(key, node.id())?;
    }
    for node in &local.nodes {
        wait_for(&format!("{key} of all at {}", node.id()), PATIENCE, || {
            let held = node.get(key)?.as_array().map_or(0, Vec::len);
            ensure!(held == local.nodes.len(), "{held}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

#[test]
fn three_nodes_join_by_one_seed_over_tcp() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let local = Local::start(3, |_, _| {})?;
    gossip_goes_on(&local, "k")?;
    // Written once a second.
    let metrics = wait_for("both joins in the metrics", PATIENCE, || {
        let metrics = local.metrics(0)?;
        Ok((http::sample(&metrics, JOINS) == Some(2.0)).then_some(metrics))
    })?;
    let value = |series: &str| http::sample(&metrics, series).unwrap_or(f64::NAN);
    assert!(value("piko_gossip_connections_inbound_total") >= 2.0);
    assert!(value("piko_gossip_stream_bytes_inbound_total") > 100.0);
    assert!(value("piko_gossip_stream_bytes_outbound_total") > 100.0);
    assert!(value("piko_gossip_delta_entries_inbound_total") > 0.0);
    for reason in ["slow", "malformed", "ended", "empty", "own_id"] {
        assert_eq!(value(&format!("pikoscope_streams_inbound_failed_total{{reason=\"{reason}\"}}")), 0.0);
    }
    assert_eq!(local.metric(1, "piko_gossip_connections_outbound_total")?, 1.0);
    wait_for("all to be spoken to in v1, and measured", PATIENCE, || {
        let report = local.nodes[2].status()?;
        let members = report["members"].as_array().into_iter().flatten();
        let good = members.filter(|m| {
            m["status"] == "alive"
                && m["protocol"] == "v1"
                && (m["id"] == "n3" || m["round_trip_ns"].is_i64())
        });
        ensure!(good.count() == 3, "{}", report["members"]);
        ensure!(local.metric(2, "pikoscope_peers{protocol=\"v1\",status=\"alive\"}")? == 2.0);
        let entries = "piko_gossip_entries{deleted=\"false\",internal=\"false\",node_id=\"n1\"}";
        ensure!(local.metric(2, entries)? == 1.0, "the entries are counted every 5 s");
        Ok(Some(()))
    })
}

#[test]
fn a_seed_by_name_that_comes_later_is_found() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(1, |_, spec| {
        spec.extra = ["--seed", "localhost:8002", "--seed", "nowhere.invalid:1"].map(Into::into).into();
    })?;
    let failed = "pikoscope_streams_outbound_failed_total{reason=\"connection_refused\"}";
    wait_for("a try in vain", PATIENCE, || Ok((local.metric(0, failed)? > 1.0).then_some(())))?;
    local.add(|spec| {
        spec.bind = ([127, 0, 0, 1], 8002).into();
        spec.seeds.clear();
    })?;
    for node in &mut local.nodes {
        node.wait_members(2, PATIENCE)?;
    }
    gossip_goes_on(&local, "k")?;
    let log = local.nodes[0].process().log();
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(
        (lines("TCP to 127.0.0.1:8002"), lines("seed nowhere.invalid:1 cannot be looked up")),
        (1, 1),
        "{log}"
    );
    assert_eq!(lines("seed localhost:8002: 127.0.0.1:8002"), 1, "{log}");
    Ok(())
}

#[test]
fn a_goodbye_is_heard_at_once_and_ends_nobody_late() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(3, |_, _| {})?;
    let watched = [local.watch(0)?, local.watch(1)?];
    let leaving = local.nodes.pop().expect("three nodes");
    let started = Stopwatch::start();
    leaving.stop()?;
    let stopped = started.elapsed();
    for watch in &watched {
        let left = Duration::from_secs(1).saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        watch.wait("a goodbye", left, |c| matches!(c, Change::Leave { node, .. } if node == "n3"))?;
    }
    println!("stopped after {stopped:?}, heard by all within {:?}", started.elapsed());
    assert!(stopped < Duration::from_secs(2), "{stopped:?}");
    for node in &local.nodes {
        let report = node.status()?;
        let events = &report["gossip"]["events"];
        assert_eq!(
            (&events["leaves_received"], &events["foreign_leave"]),
            (&1.into(), &Value::Null),
            "{events}"
        );
        let gone = report["members"].as_array().into_iter().flatten().find(|m| m["id"] == "n3").cloned();
        assert_eq!(gone.map(|m| m["status"].clone()), Some("left".into()), "{report}");
    }
    Ok(())
}

#[test]
fn a_node_told_not_to_leaves_nothing_and_is_found_out() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local =
        Local::start(3, |_, spec| spec.extra = ["--leave-on-shutdown", "false"].map(Into::into).into())?;
    let watched = local.watch(0)?;
    local.nodes.pop().expect("three nodes").stop()?;
    let change = watched.wait(
        "the end of n3",
        PATIENCE,
        |c| matches!(c, Change::Leave { node, .. } | Change::Unreachable { node, .. } if node == "n3"),
    )?;
    assert!(matches!(change, Change::Unreachable { .. }), "{change:?}");
    Ok(())
}

#[test]
fn a_killed_node_is_unreachable_within_five_seconds_and_comes_back() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(3, |_, _| {})?;
    // Long enough to know each other.
    gossip_goes_on(&local, "k")?;
    let watched = [local.watch(0)?, local.watch(1)?];
    local.nodes.pop().expect("three nodes").process().kill()?;
    let started = Stopwatch::start();
    for watch in &watched {
        let left = Duration::from_secs(5).saturating_sub(started.elapsed());
        watch.wait(
            "the loss of n3",
            left,
            |c| matches!(c, Change::Unreachable { node, .. } if node == "n3"),
        )?;
    }
    println!("unreachable for all after {:?}", started.elapsed());
    let unreachable = "pikoscope_peers{protocol=\"v1\",status=\"unreachable\"}";
    wait_for("it in the metrics", PATIENCE, || Ok((local.metric(0, unreachable)? == 1.0).then_some(())))?;
    local.add(|_| {})?;
    for watch in &watched {
        watch.wait("n3 again", PATIENCE, |c| matches!(c, Change::Reachable { node, .. } if node == "n3"))?;
    }
    gossip_goes_on(&local, "again")
}

#[test]
fn a_watch_shows_what_others_set_with_its_value_and_trace() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let local = Local::start(2, |_, _| {})?;
    let watched = local.watch(0)?;
    let trace = "00f067aa0ba902b74bf92f3577b34da6";
    let set = serde_json::json!({"cmd": "set", "key": "k", "value": "v 1", "trace_id": trace});
    local.nodes[1].control().ask(&set)?;
    let change = watched.wait("k", PATIENCE, |c| matches!(c, Change::Upsert { key, .. } if key == "k"))?;
    let Change::Upsert { node, value, trace_id, .. } = change else { unreachable!("it is one") };
    assert_eq!((node.as_str(), value.as_deref()), ("n2", Some("v 1")));
    assert_eq!(trace_id.map(|id| id.to_string()).as_deref(), Some(trace));
    local.nodes[1].delete("k")?;
    watched.wait("its end", PATIENCE, |c| matches!(c, Change::Delete { key, .. } if key == "k"))?;
    local.nodes[0].set("own", "1")?;
    watched.wait(
        "an own one",
        PATIENCE,
        |c| matches!(c, Change::Upsert { node, key, .. } if node == "n1" && key == "own"),
    )?;
    Ok(())
}
