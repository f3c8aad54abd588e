//! A node that is to take T4 from a NIC that has no clock. (Where one has, see the unit tests of `hardware`.)

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::{BINARY, http, trio};
use tempfile::TempDir;
use xtask::rig::{Namespace, Node, NodeSpec, can_make_hosts, node, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two namespaces with a veth pair between them: an end of a pair has no clock.
fn pair() -> Result<[Namespace; 2]> {
    let ends = [Namespace::new("hw1")?, Namespace::new("hw2")?];
    ends[0].batch(&format!("link add nic0 type veth peer name nic0 netns {}\n", ends[1].name()))?;
    for (i, end) in ends.iter().enumerate() {
        end.batch(&format!("addr add 10.78.0.{}/24 dev nic0\nlink set nic0 up\n", i + 1))?;
    }
    Ok(ends)
}

#[test]
fn without_a_clock_in_the_nic_the_node_says_so_once_and_the_kernels_stamps_serve() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let (ends, dir) = (pair()?, TempDir::new()?);
    let address = |i: u8| node::gossip([10, 78, 0, i + 1]);
    let mut nodes = Vec::new();
    for (i, (end, interface)) in ends.iter().zip(["nic0", "nic9"]).enumerate() {
        let mut spec = NodeSpec::new(BINARY, format!("n{i}"), address(i as u8)).seed(address(0));
        spec.metrics_bind = Some(node::metrics_everywhere());
        spec.extra = vec!["--hardware-stamps".into(), interface.into()];
        nodes.push(Node::start(&spec, Some(end), dir.path())?);
    }
    for node in &mut nodes {
        node.wait_ready()?;
        node.wait_members(2, PATIENCE)?;
    }
    let reasons = ["nic0 has no clock of its own (PHC)", "there is no network interface \"nic9\" here"];
    for (i, reason) in reasons.into_iter().enumerate() {
        let report = wait_for("times of packets from the other", PATIENCE, || {
            let report = nodes[i].status()?;
            let segments = &report["paths"][0]["segments"];
            let measured = |segment: &str| trio::count(&segments[segment]["count"]);
            ensure!(measured("network") > 20 && measured("qdisc") > 20, "{report}");
            Ok(Some(report))
        })?;
        let told = report["hardware"]["reason"].as_str().context("no reason")?.to_owned();
        println!("{told}");
        assert!(told.starts_with(reason) && told.ends_with("T4 is the kernel's own stamp"), "{told}");
        // It is no worse a probe than without the setting.
        assert_eq!((&report["tier"], &report["tier_reason"]), (&1.into(), &serde_json::Value::Null));
        assert!(report["paths"][0]["segments"]["ingress_stack"].is_object(), "{report}");
        let log = nodes[i].process().log();
        assert_eq!(log.lines().filter(|line| line.contains(&told)).count(), 1, "{told:?} in:\n{log}");
        assert!(!log.contains("panicked"), "{log}");

        // They are published once a second.
        wait_for("the metrics to say so", PATIENCE, || {
            let metrics = ends[i].within(|| http::get(([127, 0, 0, 1], 7177).into(), "/metrics"))??;
            let counted = ["missing", "used", "implausible", "no_mapping"].map(|result| {
                http::sample(&metrics, &format!("pikoscope_hardware_stamps_total{{result=\"{result}\"}}"))
            });
            ensure!(counted[0] > Some(20.0) && counted[1..] == [Some(0.0); 3], "{counted:?}");
            Ok(Some(()))
        })?;
    }
    for node in nodes {
        let report = node.stop()?;
        let (accounting, missing) = (&report["accounting"], &report["hardware"]["outcomes"]["missing"]);
        let received = trio::count(&accounting["matched"]) + trio::count(&accounting["without_event"]);
        assert_eq!(trio::count(missing), received, "every datagram is counted: {report}");
        assert_eq!(trio::count(&accounting["without_event"]), 0, "{accounting}");
    }
    Ok(())
}

#[test]
fn a_name_that_no_interface_can_have_is_refused_at_the_start() -> Result<()> {
    let output = std::process::Command::new(BINARY)
        .args(["run", "--bind", "127.0.0.1:0", "--hardware-stamps", "a name/of nothing"])
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("hardware_stamps is \"a name/of nothing\", but must be the name of a network"),
        "{said}"
    );
    Ok(())
}
