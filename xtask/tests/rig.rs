//! The rig itself: hosts reach each other, clocks read as asked, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "tests, helpers included, fail by panicking")]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use nix::sys::signal::Signal;
use xtask::exec;
use xtask::lab::switch::clock::mono_now;
use xtask::rig::chrony::{self, Following, NTP_PORT, Served};
use xtask::rig::{ChronyClient, ChronyServer, Hosts, Namespace, Process, can_make_hosts, sandbox, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn hosts_reach_each_other_and_the_switch() {
    if !can_make_hosts() {
        return;
    }
    let hosts = Hosts::new(3).unwrap();
    let from = hosts[0].namespace();
    let there: [IpAddr; 5] = [
        hosts[1].v4().into(),
        hosts[2].v4().into(),
        hosts[2].v6().into(),
        hosts.switch_v4().into(),
        hosts.switch_v6().into(),
    ];
    for to in there {
        assert!(is_reached(from, to), "{to} from the first host");
    }
    // Were this reached too, the above would prove nothing.
    assert!(!is_reached(from, "10.77.0.200".parse().unwrap()), "an address that no host has");
}

/// Whether a datagram to a closed port comes back as "port unreachable", which only a host that it reached
/// says.
fn is_reached(from: &Namespace, to: IpAddr) -> bool {
    from.within(|| {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        socket.connect((to, 9)).unwrap();
        socket.send(b"anybody there?").unwrap();
        match socket.recv(&mut [0; 16]).unwrap_err().kind() {
            ErrorKind::ConnectionRefused => true,
            ErrorKind::HostUnreachable | ErrorKind::WouldBlock | ErrorKind::TimedOut => false,
            other => panic!("{to}: {other}"),
        }
    })
    .unwrap()
}

#[test]
fn dropped_hosts_are_gone() {
    if !can_make_hosts() {
        return;
    }
    let hosts = Hosts::new(2).unwrap();
    let names: Vec<String> = hosts.iter().map(|host| host.namespace().name().to_owned()).collect();
    let listed = || exec::output(Command::new("ip").args(["netns", "list"])).unwrap();
    assert!(names.iter().all(|name| listed().contains(name)), "{names:?} in {}", listed());
    drop(hosts);
    assert!(!names.iter().any(|name| listed().contains(name)), "{names:?} in {}", listed());
}

#[test]
fn a_process_in_a_namespace_is_the_program_itself_and_is_paused_and_resumed() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hosts = Hosts::new(1).unwrap();
    let mut command = hosts[0].namespace().command("sleep");
    command.arg("1000");
    let process = Process::spawn("sleeper", command, dir.path()).unwrap();
    let stat = |wanted: &str| {
        wait_for(wanted, PATIENCE, || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
            Ok(stat.contains(wanted).then_some(()))
        })
        .unwrap();
    };
    stat("(sleep) S");
    process.pause().unwrap();
    stat("(sleep) T");
    process.resume().unwrap();
    stat("(sleep) S");
}

#[test]
fn chronyd_reports_the_offset_that_was_asked_for() {
    if !can_make_hosts() {
        return;
    }
    assert!(chrony::is_available(), "no chronyd; `cargo xtask setup` gets it");
    let dir = tempfile::tempdir().unwrap();
    let hosts = Hosts::new(3).unwrap();
    let address = SocketAddr::new(hosts.switch_v4().into(), NTP_PORT);
    let mut server =
        ChronyServer::start("server", Some(hosts.switch()), address, Served::default(), dir.path()).unwrap();
    let offsets = [0.0, 0.050, -0.120];
    let mut clients: Vec<ChronyClient> = hosts
        .iter()
        .zip(offsets)
        .map(|(host, offset)| {
            let following = Following::server(server.address()).offset(offset);
            let name = format!("client{offset}");
            ChronyClient::start(&name, Some(host.namespace()), following, dir.path()).unwrap()
        })
        .collect();
    for (client, offset) in clients.iter_mut().zip(offsets) {
        let tracking = client.wait_synchronised().unwrap_or_else(|error| {
            panic!("{error:#}\nserver: {}\nclient: {}", server.process().log(), client.process().log())
        });
        assert!((tracking.correction - offset).abs() < 1e-3, "asked {offset}, reported {tracking:?}");
    }
    server.process().kill().unwrap();
    server.process().ensure_running().unwrap_err();
}

#[test]
fn a_server_that_drifts_makes_the_clock_seem_to_drift_the_other_way() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hosts = Hosts::new(1).unwrap();
    let address = SocketAddr::new(hosts.switch_v4().into(), NTP_PORT);
    let served = Served { drift_ppm: -200.0 };
    let started = mono_now();
    let server = ChronyServer::start("server", Some(hosts.switch()), address, served, dir.path()).unwrap();
    let following = Following::server(server.address()).offset(0.010);
    let mut client =
        ChronyClient::start("client", Some(hosts[0].namespace()), following, dir.path()).unwrap();
    let told = || 0.010 - 200e-6 * (mono_now() - started).as_secs_f64();
    client.wait_reporting(told).unwrap();
    let (tracking, expected) = wait_for("a drift of a millisecond", PATIENCE, || {
        let (tracking, expected) = (client.tracking()?, told());
        Ok((tracking.correction < 0.009).then_some((tracking, expected)))
    })
    .unwrap();
    println!("reported {}, expected {expected}", tracking.correction);
    assert!((tracking.correction - expected).abs() < 300e-6, "expected {expected}, got {tracking:?}");
}

/// Names the directory in which the sandboxed runner of [`killing_the_visible_process_leaves_nothing`] says
/// what it made.
const HOLD_ENV: &str = "RIG_TEST_HOLD";

/// SIGKILL can't be caught, so nobody but the kernel can have cleaned up.
#[test]
fn killing_the_visible_process_leaves_nothing() {
    if let Some(dir) = env::var_os(HOLD_ENV) {
        hold(Path::new(&dir));
    }
    if !can_make_hosts() {
        return;
    }
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let log_file = dir.path().join("runner.log");
        let log = fs::File::create(&log_file).unwrap();
        let mut runner = Command::new(env::current_exe().unwrap())
            .args(["--exact", "killing_the_visible_process_leaves_nothing", "--nocapture"])
            .env(HOLD_ENV, dir.path())
            // This test may itself be in a sandbox; the runner is to make one of its own.
            .env_remove(sandbox::SANDBOX_ENV)
            .stdin(Stdio::null())
            // Not this test's own: what is left behind would keep it open, and whoever reads it waiting.
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let made = dir.path().join("made");
        let inside = wait_for("the runner's hosts", PATIENCE, || {
            let ended = runner.try_wait()?;
            assert_eq!(ended, None, "the runner ended early: {}", fs::read_to_string(&log_file)?);
            Ok(fs::read_to_string(&made).ok().filter(|text| text.ends_with('\n')))
        })
        .unwrap();
        let (switch, netns) = inside.trim().split_once(' ').unwrap();
        let marker = dir.path().to_string_lossy().into_owned();
        assert_eq!(processes(&marker).len(), 3, "front, runner and its child");
        assert!(users_of(netns) > 0, "the child is in no namespace of the runner's");
        assert!(!namespaces().contains(switch), "the runner's namespaces are not its own");
        assert!(!links().contains("br0"), "the runner's bridge is not its own");

        let pid = i32::try_from(runner.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        runner.wait().unwrap();
        wait_for("its processes to be gone", PATIENCE, || {
            let left = processes(&marker);
            anyhow::ensure!(left.is_empty(), "{signal} left {left:?}");
            // A process that ends has no command line for a while before it is out of its namespaces.
            anyhow::ensure!(users_of(netns) == 0, "{signal} left a process in the namespace");
            Ok(Some(()))
        })
        .unwrap();
        assert!(!namespaces().contains(switch) && !links().contains("br0"));
    }
}

/// The runner: makes hosts and a process in a sandbox, says so, and waits to be killed.
fn hold(dir: &Path) -> ! {
    sandbox::enter().unwrap();
    xtask::rig::interrupt::exit_on_signals().unwrap();
    let hosts = Hosts::new(2).unwrap();
    let mut command = hosts[0].namespace().command("sleep");
    command.arg("1000");
    let sleeper = Process::spawn("sleeper", command, dir).unwrap();
    let netns = wait_for("the child to be in its namespace", PATIENCE, || {
        let own = fs::read_link("/proc/self/ns/net")?;
        let its = fs::read_link(format!("/proc/{}/ns/net", sleeper.pid()))?;
        Ok((own != its).then_some(its))
    })
    .unwrap();
    fs::write(dir.join("made"), format!("{} {}\n", hosts.switch().name(), netns.display())).unwrap();
    loop {
        thread::park();
    }
}

/// Pids of processes that have `marker` somewhere in their environment.
fn processes(marker: &str) -> Vec<String> {
    support::processes(|environ| environ.windows(marker.len()).any(|window| window == marker.as_bytes()))
}

/// How many processes are in a network namespace, given as its link in /proc reads.
fn users_of(netns: &str) -> usize {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| {
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| link.to_string_lossy() == netns)
        })
        .count()
}

fn namespaces() -> String {
    exec::output(Command::new("ip").args(["netns", "list"])).unwrap()
}

fn links() -> String {
    exec::output(Command::new("ip").args(["-o", "link"])).unwrap()
}
