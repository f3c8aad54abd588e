//! Nodes whose packets are stamped by hooks on their way out, among others.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use support::{alone, http, trio};
use xtask::rig::{can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Node `a` has hooks, `b` is told of a kernel without what they need, `c` does not ask for them. Through veth and
/// bridge, where the packets lose their socket: only the first device counts.
#[test]
fn each_time_on_the_way_out_is_exported_with_its_senders_tier() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let nodes = trio::Trio::start(|i, spec| {
        spec.probe = if i == 2 { "ebpf" } else { "hooks" };
        spec.probe_stats = i == 0;
        if i == 1 {
            spec.extra.extend(["--btf".into(), "/nonexistent/btf".into()]);
        }
    })?;
    let tiers: Vec<_> =
        nodes.nodes.iter().map(|node| Ok(node.status()?["tier"].as_u64())).collect::<Result<_>>()?;
    assert_eq!(tiers, [Some(2), Some(1), Some(1)]);
    let reason = nodes.nodes[1].status()?["tier_reason"].to_string();
    assert!(reason.contains("tier 2") && reason.contains("/nonexistent/btf"), "{reason}");

    // To b come packets of a and of c.
    let count = |node: usize, segment: &str, tier: &str| -> Result<f64> {
        let name = format!(
            "pikoscope_segment_seconds_count{{correction=\"\",segment=\"{segment}\",tier=\"{tier}\"}}"
        );
        Ok(http::sample(&nodes.metrics(node)?, &name).unwrap_or(0.0))
    };
    for segment in ["egress_stack", "qdisc"] {
        wait_for(&format!("{segment} of both tiers at b"), PATIENCE, || {
            let (hooked, plain) = (count(1, segment, "2")?, count(1, segment, "0")?);
            ensure!(hooked >= 20.0 && plain >= 20.0, "{hooked} of tier 2, {plain} of tier 0");
            Ok(Some(()))
        })?;
        assert!(count(0, segment, "2")? < 1.0, "nobody else has hooks");
    }
    let runs = "pikoscope_hook_runs_total{program=\"pikoscope_xmit\"}";
    assert!(http::sample(&nodes.metrics(0)?, runs).unwrap() > 0.0);

    let reports = nodes.finish()?;
    let departures = &reports[0]["gossip"]["departures"];
    let n = |event: &str| trio::count(&departures[event]);
    assert!(n("complete") >= 40, "{departures}");
    for never in ["without_t2", "overrun", "unknown_id", "late", "repeated", "hook_ring_failed"] {
        assert_eq!(n(never), 0, "{never}: {departures}");
    }
    Ok(())
}
