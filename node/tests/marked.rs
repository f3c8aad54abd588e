//! Gossip that looks like the user's traffic: its mark and its size, as they are on the wire.

mod support;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::capture::Sniffer;
use support::{BINARY, alone, name};
use xtask::rig::{Host, Hosts, Node, NodeSpec, can_make_hosts, node};

const PATIENCE: Duration = Duration::from_secs(30);
/// EF.
const DSCP: u8 = 46;
const SIZE: usize = 1200;
/// How many of that size are to be seen.
const ENOUGH: usize = 100;

/// Traffic class and UDP payload of a frame between gossip ports.
fn gossip(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (ether, ip) = frame.split_at_checked(14)?;
    let (class, udp) = match ether.get(12..)? {
        [0x08, 0x00] => (*ip.get(1)?, ip.get(usize::from(ip[0] & 15) * 4..)?),
        [0x86, 0xdd] => ((ip.first()? & 15) << 4 | ip.get(1)? >> 4, ip.get(40..)?),
        _ => return None,
    };
    let is_udp = if ether[12] == 8 { ip[9] == 17 } else { ip[6] == 17 };
    let ports = [udp.get(..2)?, udp.get(2..4)?];
    (is_udp && ports == [&7176_u16.to_be_bytes()[..]; 2]).then_some((class, udp.get(8..)?))
}

fn run(address: impl Fn(&Host) -> IpAddr) -> Result<()> {
    let (dir, hosts) = (tempfile::tempdir()?, Hosts::new(2)?);
    let seed = node::gossip(address(hosts.get(0).context("a host")?));
    let mut sniffer = Sniffer::open(hosts.switch())?;
    let mut nodes = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let mut spec = NodeSpec::new(BINARY, name(i), node::gossip(address(host))).seed(seed);
        let (dscp, size) = (DSCP.to_string(), SIZE.to_string());
        spec.interval_ms = Some(20);
        spec.extra = ["--dscp", &dscp, "--pad-packet-bytes", &size].map(Into::into).into();
        nodes.push(Node::start(&spec, Some(host.namespace()), dir.path())?);
    }
    for node in &mut nodes {
        node.wait_ready()?;
        node.wait_members(2, PATIENCE)?;
    }
    let (mut filled, mut other) = (0, 0);
    for _ in 0..100_000 {
        let Some(frame) = sniffer.frame()? else { continue };
        let Some((class, payload)) = gossip(&frame) else { continue };
        ensure!(class == DSCP << 2, "traffic class {class} in {frame:02x?}");
        // Version 0 is Piko's, and packets to those who are not known yet stay as they are.
        if payload.get(1) == Some(&1) && payload.len() == SIZE {
            filled += 1
        } else {
            other += 1
        }
        if filled >= ENOUGH {
            break;
        }
    }
    ensure!(filled >= ENOUGH && other * 2 < filled, "{filled} packets of {SIZE} bytes, {other} others");
    for node in nodes {
        let report = node.stop()?;
        ensure!(report["rejected"].as_object().is_some_and(|why| why.is_empty()), "{}", report["rejected"]);
        ensure!(report["paths"][0]["packets"].as_u64() >= Some(ENOUGH as u64 / 4), "{}", report["paths"]);
    }
    Ok(())
}

#[test]
fn packets_have_the_mark_and_the_size_that_were_asked_for() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    run(|host| host.v4().into())?;
    run(|host| host.v6().into())
}
