//! Gossip from several source ports, as it is on the wire and as both ends see it.

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::capture::Sniffer;
use support::{BINARY, alone, name};
use xtask::rig::{Host, Hosts, Node, NodeSpec, can_make_hosts, node};

const PATIENCE: Duration = Duration::from_secs(30);
/// Ports of the first host besides 7176.
const FURTHER: [u16; 3] = [40_001, 40_002, 40_003];
/// How many frames are to be seen from each: every packet makes two, when it comes into the switch and when it leaves.
const ENOUGH: u64 = 80;

/// Source and destination port of a UDP frame over IPv4 or IPv6 between hosts.
fn ports(frame: &[u8]) -> Option<[u16; 2]> {
    let (ether, ip) = frame.split_at_checked(14)?;
    let udp = match ether.get(12..)? {
        [0x08, 0x00] if ip.get(9) == Some(&17) => ip.get(usize::from(ip[0] & 15) * 4..)?,
        [0x86, 0xdd] if ip.get(6) == Some(&17) => ip.get(40..)?,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    Some([port(0)?, port(2)?])
}

fn run(probe: &'static str, address: impl Fn(&Host) -> IpAddr) -> Result<()> {
    let (dir, hosts) = (tempfile::tempdir()?, Hosts::new(2)?);
    let seed = node::gossip(address(hosts.get(0).context("a host")?));
    let mut sniffer = Sniffer::open(hosts.switch())?;
    let mut nodes = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let mut spec = NodeSpec::new(BINARY, name(i), node::gossip(address(host))).seed(seed);
        spec.interval_ms = Some(20);
        spec.probe = probe;
        if i == 0 {
            spec.extra = FURTHER.iter().map(|port| format!("--source-port={port}").into()).collect();
        }
        nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
    }
    for node in &mut nodes {
        node.wait_ready()?;
        node.wait_members(2, PATIENCE)?;
    }
    let mut seen: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..100_000 {
        let Some(frame) = sniffer.frame()? else { continue };
        let Some([from, to]) = ports(&frame) else { continue };
        if to == 7176 {
            *seen.entry(from).or_default() += 1;
        }
        ensure!(!FURTHER.contains(&to), "something was sent to port {to}, where nobody reads");
        if FURTHER.iter().all(|port| seen.get(port) >= Some(&ENOUGH)) {
            break;
        }
    }
    ensure!(FURTHER.iter().all(|port| seen.get(port) >= Some(&ENOUGH)), "{seen:?}");
    ensure!(seen.keys().all(|port| *port == 7176 || FURTHER.contains(port)), "{seen:?}");
    let b = nodes.pop().context("two")?.stop()?;
    let a = nodes.pop().context("two")?.stop()?;
    for report in [&a, &b] {
        ensure!(report["rejected"].as_object().is_some_and(|why| why.is_empty()), "{}", report["rejected"]);
    }
    ensure!(a["paths"][0]["source_ports"] == serde_json::json!([]), "{}", a["paths"]);
    let told = b["paths"][0]["source_ports"].as_array().context("ports")?;
    let numbers: Vec<u64> = told.iter().filter_map(|port| port["port"].as_u64()).collect();
    ensure!(numbers == [7176, 40_001, 40_002, 40_003], "{numbers:?}");
    for port in told {
        let network = &port["network"];
        ensure!(network["count"].as_u64() >= Some(ENOUGH / 8), "{port}");
        ensure!(network["p50_ns"].as_i64() < Some(5_000_000) && port["lost"] == 0, "{port}");
    }
    // The way out is stamped at every port.
    let departures = &a["gossip"]["departures"];
    let (complete, given_up) =
        (departures["complete"].as_u64(), departures["given_up"].as_u64().unwrap_or(0));
    ensure!(complete >= Some(ENOUGH) && given_up < ENOUGH / 8, "{departures}");
    let segments = &b["paths"][0]["segments"];
    let of = |segment: &str| segments[segment]["count"].as_f64().unwrap_or(0.0);
    // Of the last packets the sender could not tell any more, so these have their egress in the network time. Were one
    // port's packets not stamped, it would be a quarter of all.
    let (stamped, all) = (of("network"), of("network") + of("egress_and_network"));
    ensure!(stamped > 0.85 * all && of("qdisc") >= stamped, "{segments}");
    Ok(())
}

#[test]
fn packets_leave_from_all_ports_and_are_seen_apart() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    run("timestamping", |host| host.v4().into())?;
    run("ebpf", |host| host.v6().into())?;
    run("hooks", |host| host.v4().into())
}
