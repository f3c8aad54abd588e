//! Where every datagram went, held against the kernel's own counters of the host (`Udp` in /proc/net/snmp): with a
//! receive buffer that is too small, and in a quiet run.

mod support;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::trio::{Trio, count};
use support::{alone, http, name};
use xtask::rig::{Host, Node, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// Far more than the receive buffer below holds, and fewer than the event ring does.
const FLOOD: u32 = 2000;

/// The kernel's UDP counters of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Udp {
    /// Handed to a process.
    received: u64,
    /// Found no room in their socket.
    no_room: u64,
    /// Dropped for any reason, those included.
    errors: u64,
}

fn udp(host: &Host) -> Result<Udp> {
    let text = host.namespace().within(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let of = |wanted: &str| -> Result<u64> {
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        Ok(both.find(|(name, _)| *name == wanted).context("a counter")?.1.parse()?)
    };
    Ok(Udp { received: of("InDatagrams")?, no_room: of("RcvbufErrors")?, errors: of("InErrors")? })
}

/// A node's final report says what the kernel says.
fn agrees(report: &Value, udp: Udp) {
    let n = |key: &str| count(&report["accounting"][key]);
    println!("{}: {} {} {udp:?}", report["id"], report["accounting"], report["drops"]);
    assert_eq!(report["tier"], 1, "{}", report["tier_reason"]);
    assert_eq!(report["drops"]["seen_by"], "kfree_skb", "{}", report["drops"]);
    assert_eq!(n("seen"), udp.received + udp.errors, "seen by the filter, counted by the kernel");
    assert_eq!(n("matched") + n("late"), udp.received);
    assert_eq!((n("dropped"), n("rcvbuf_dropped")), (udp.no_room, udp.no_room));
    assert_eq!((n("unmatched"), n("ring_failed"), n("without_event"), n("pending")), (0, 0, 0, 0));
    let by_reason: u64 = report["drops"]["by_reason"].as_object().expect("reasons").values().map(count).sum();
    assert_eq!((by_reason, &report["drops"]["without_event"]), (udp.errors, &0.into()));
}

#[test]
fn every_datagram_is_where_the_kernels_counters_say() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut trio = Trio::start(|i, spec| {
        spec.probe = "ebpf";
        if i == 1 {
            spec.extra = ["--rcvbuf-bytes", "16384"].map(Into::into).into();
        }
    })?;
    // A gap shows against an earlier packet of the same peer.
    wait_for("packets of both peers", PATIENCE, || {
        let report = trio.nodes[1].status()?;
        let paths = report["paths"].as_array().context("paths")?;
        let heard = paths.iter().filter(|path| count(&path["packets"]) >= 3).count();
        ensure!(heard == 2, "{}", report["paths"]);
        Ok(Some(()))
    })?;
    let pid_of_b = trio.nodes[1].process().pid();
    trio.nodes[1].process().pause()?;
    for n in 0..FLOOD {
        let mut datagram = [0; 600];
        datagram[..4].copy_from_slice(&n.to_be_bytes());
        trio.stranger.send_to(&datagram, trio.address(1))?;
    }
    // Peers add a few between two looks, the flood hundreds.
    let mut before = udp(&trio.hosts[1])?;
    let flooded = wait_for("the flood to have come", PATIENCE, || {
        let now = udp(&trio.hosts[1])?;
        let last = std::mem::replace(&mut before, now);
        ensure!(now.no_room > u64::from(FLOOD) / 2 && now.no_room - last.no_room < 5, "{now:?}");
        Ok(Some(now))
    })?;
    wait_for("packets of the peers to find no room either", PATIENCE, || {
        let udp = udp(&trio.hosts[1])?;
        ensure!(udp.no_room >= flooded.no_room + 20, "{udp:?} at {pid_of_b}");
        Ok(Some(()))
    })?;
    trio.nodes[1].process().resume()?;
    let paths = wait_for("the peers' losses to be settled", PATIENCE, || {
        let report = trio.nodes[1].status()?;
        let settled = |path: &Value| count(&path["lost_here"]["SOCKET_RCVBUFF"]) > 0;
        let paths = report["paths"].as_array().context("paths")?;
        ensure!(paths.iter().any(settled), "{}", report["paths"]);
        Ok(Some(report["paths"].clone()))
    })?;
    println!("{paths}");
    let metrics = trio.metrics(1)?;
    let drops = http::sample(&metrics, "pikoscope_socket_drops_total{reason=\"SOCKET_RCVBUFF\"}");
    assert!(drops.is_some_and(|drops| drops > f64::from(FLOOD) / 2.0), "{drops:?}");
    trio.gossip_goes_on("after")?;

    // Who is held against its host's counters ends last: what comes after it is in none of its figures.
    let Trio { nodes, hosts, .. } = trio;
    let mut left: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    for i in [0, 2, 1] {
        let report = left[i].take().context("a node")?.stop()?;
        assert_eq!(report["id"], name(i).as_str());
        let udp = udp(&hosts[i])?;
        if i == 1 {
            agrees(&report, udp);
            assert!(count(&report["accounting"]["dropped"]) > u64::from(FLOOD) / 2);
            for path in report["paths"].as_array().context("paths")? {
                let here = count(&path["lost_here"]["SOCKET_RCVBUFF"]);
                assert_eq!((count(&path["lost_outside"]), count(&path["lost"])), (0, here), "{path}");
            }
        } else {
            // Others still sent to it while it ended.
            assert_eq!((udp.errors, &report["accounting"]["dropped"]), (0, &0.into()), "{report}");
        }
    }
    Ok(())
}
