//! TCP as Piko speaks it, and as those speak it who mean no good.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pikoscope::wire::v0::stream::{self, JoinResponse, Limits};
use pikoscope::wire::v0::{Entry, NodeHead, Sender};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::local::{Local, address};
use support::{alone, http};
use xtask::rig::{Node, Stopwatch, can_make_hosts, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits { bytes: 1 << 20, nodes: 100, entries: 1000 };

fn piko(name: &str) -> Result<Vec<u8>> {
    let path = format!("{}/tests/piko-v0/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).with_context(|| path)
}

/// A connection from a host of its own to node 0.
fn connect(local: &Local, from: [u8; 4]) -> Result<TcpStream> {
    local.namespace.within(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&address(0).into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?
}

/// Reads until `whole` understands what came.
fn read<T>(stream: &mut TcpStream, whole: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "it ended after {bytes:?}");
        bytes.extend_from_slice(&buffer[..n]);
        if let Some(found) = whole(&bytes) {
            return Ok(found);
        }
    }
}

/// A node and its keys.
type Told = (String, Vec<String>);

/// Nodes and keys of an answer to a join.
fn joined(bytes: &[u8]) -> Option<(String, Vec<Told>)> {
    let JoinResponse { header, delta } = stream::decode_join_response(bytes, &LIMITS).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let nodes =
        delta.nodes().map(|node| (node.head.id.to_owned(), node.entries().map(|e| text(e.key)).collect()));
    Some((header.node_id.to_owned(), nodes.collect()))
}

#[test]
fn pikos_own_requests_are_answered_as_piko_does() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let local = Local::start(1, |_, _| {})?;
    let node = &local.nodes[0];
    node.set("color", "blue")?;
    let mut connection = connect(&local, [127, 0, 0, 1])?;
    // In the smallest pieces: where a message ends is found whatever its pieces are.
    connection.set_nodelay(true)?;
    for byte in piko("join-req")? {
        connection.write_all(&[byte])?;
    }
    let (from, nodes) = read(&mut connection, joined)?;
    assert_eq!(from, "n1");
    assert!(nodes.iter().any(|(id, keys)| id == "n1" && keys.contains(&"color".to_owned())), "{nodes:?}");
    let report = node.status()?;
    let member = report["members"].as_array().into_iter().flatten().find(|m| m["id"] == "node-a").cloned();
    let member = member.with_context(|| format!("node-a in {report}"))?;
    assert_eq!((&member["protocol"], &member["address"]), (&"v0".into(), &"127.0.0.1:7001".into()));
    assert_eq!(node.get("zone")?[0]["value"], "eu-1");

    // The same connection again, two requests at once: it knows n1 by now, then it leaves.
    let leave = leave("node-a", "127.0.0.1:7001", 3);
    // Nobody leaves in another's name.
    let mut foreign = connect(&local, [127, 0, 0, 9])?;
    foreign.write_all(&leave)?;
    read(&mut foreign, |bytes| stream::decode_leave_response(bytes, &LIMITS).is_ok().then_some(()))?;
    assert_eq!(status_of(node, "node-a")?, "alive");
    connection.write_all(&[piko("join-req-3")?, leave].concat())?;
    connection.shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes)?;
    let ends: Vec<usize> = (0..bytes.len()).filter(|end| joined(&bytes[..*end]).is_some()).collect();
    let acknowledged = |end: &usize| stream::decode_leave_response(&bytes[*end..], &LIMITS).is_ok();
    assert!(ends.iter().any(acknowledged), "a join's answer and a leave's: {bytes:?}");
    assert_eq!(status_of(node, "node-a")?, "left");
    Ok(())
}

/// A node's goodbye, as its entry of this version.
fn leave(node_id: &str, addr: &str, version: u64) -> Vec<u8> {
    let left = Entry { key: b"_internal:left", value: b"", version, internal: true, deleted: false };
    let head = NodeHead { id: node_id, addr };
    let mut request = Vec::new();
    let sender = Sender { node_id, addr, max_version: None };
    stream::put_leave_request(&mut request, &sender, &[stream::Node { head, entries: vec![left] }]);
    request
}

/// What a node thinks of a member.
fn status_of(node: &Node, id: &str) -> Result<Value> {
    let report = node.status()?;
    let member = report["members"].as_array().into_iter().flatten().find(|m| m["id"] == id);
    Ok(member.with_context(|| format!("{id} in {report}"))?["status"].clone())
}

fn status_kb(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("kB")
}

/// Processor time of a process so far.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // USER_HZ is 100 on every architecture that Linux runs on today.
    Ok(Duration::from_millis(ticks * 10))
}

/// Bytes that are wrong in one way each, with the reason under which they are counted.
fn wrong() -> Result<Vec<(Vec<u8>, &'static str)>> {
    let join = piko("join-req")?;
    // Up to the header's end, then a list of four billion nodes.
    let header = join.iter().position(|b| *b == 0x91).context("the list of nodes")?;
    let endless = [&join[..header], &[0xdd, 0xff, 0xff, 0xff, 0xff]].concat();
    let long_string = [&[3, 0, 0xdb, 0xff, 0xff, 0xff, 0xff][..], &vec![b'x'; 3 << 20]].concat();
    let deep = [&[3, 0][..], &vec![0x91; 100_000], &[0xc0; 3]].concat();
    let deep_reason = stream::decode_request(&deep, &LIMITS).expect_err("no header").reason();
    Ok(vec![
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "wrong_version"),
        (vec![3, 9], "wrong_version"),
        (vec![9, 0], "unknown_type"),
        (vec![3, 0, 0xc1], "malformed"),
        (deep, deep_reason),
        ([&endless[..], &vec![0x80; 3 << 20]].concat(), "too_large"),
        (long_string, "too_large"),
        (join[..join.len() - 1].to_vec(), "ended"),
        (Vec::new(), "empty"),
    ])
}

#[test]
fn strangers_cost_little_and_gossip_goes_on() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let mut local = Local::start(2, |_, _| {})?;
    let pid = local.nodes[0].process().pid();
    let failed = |reason: &str| format!("pikoscope_streams_inbound_failed_total{{reason=\"{reason}\"}}");
    let before = status_kb(pid, "VmRSS")?;

    for (bytes, reason) in wrong()? {
        let count = local.metric(0, &failed(reason))?;
        let mut connection = connect(&local, [127, 0, 0, 7])?;
        // The node may close long before it has all.
        let _ = connection.write_all(&bytes).and_then(|()| connection.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = connection.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{reason}: {answer:?}");
        wait_for(&format!("{reason} to be counted"), PATIENCE, || {
            Ok((local.metric(0, &failed(reason))? == count + 1.0).then_some(()))
        })?;
    }

    // Silent ones, and ones that speak a byte at a time, more than one source may have.
    let join = piko("join-req")?;
    let mut slow = (0..100).map(|_| connect(&local, [127, 0, 0, 8])).collect::<Result<Vec<_>>>()?;
    let (cpu_before, started) = (cpu(pid)?, Stopwatch::start());
    for (i, byte) in join[..100].iter().enumerate() {
        for connection in slow.iter_mut().step_by(2) {
            // Those beyond the bound are closed.
            let _ = connection.write_all(&[*byte]);
        }
        if i % 10 == 0 {
            let key = format!("k{i}");
            local.nodes[1].set(&key, "v")?;
            let asked = Stopwatch::start();
            wait_for("gossip to go on", PATIENCE, || {
                Ok(local.nodes[0].get(&key)?.as_array().is_some_and(|held| !held.is_empty()).then_some(()))
            })?;
            ensure!(asked.elapsed() < Duration::from_secs(2), "{:?} for one key", asked.elapsed());
        }
        // The pace of a slow peer, not a wait for anything.
        std::thread::sleep(Duration::from_millis(20));
    }
    let (busy, lasted) = (cpu(pid)? - cpu_before, started.elapsed());
    println!("{busy:?} of processor time in {lasted:?}");
    assert!(busy < lasted / 4, "{busy:?} in {lasted:?}");
    assert!(local.metric(0, &failed("too_many"))? >= 36.0);
    // Another host joins meanwhile.
    let mut good = connect(&local, [127, 0, 0, 1])?;
    good.write_all(&join)?;
    assert_eq!(read(&mut good, joined)?.0, "n1");

    wait_for("the slow and the silent to be given up", PATIENCE, || {
        let metrics = local.metrics(0)?;
        let n = |reason| http::sample(&metrics, &failed(reason)).unwrap_or(0.0);
        ensure!(n("slow") >= 32.0 && n("idle") >= 32.0, "slow {}, idle {}", n("slow"), n("idle"));
        Ok(Some(()))
    })?;
    let grown = status_kb(pid, "VmRSS")?.saturating_sub(before);
    println!("grew by {grown} kB");
    assert!(grown < 8_000, "{grown} kB");
    let log = local.nodes[0].process().log();
    let told = log.lines().filter(|line| line.contains("TCP from")).count();
    assert!((1..=2).contains(&told), "once a minute: {log}");
    Ok(())
}
