//! A real `chronyd -x`, which measures and reports but never touches the clock, and its upstream: both on free
//! loopback ports, with their files in a directory of their own. Needs no privilege.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use probe_ebpf::time::Span;
use probe_user::clock::chrony::query::query;
use probe_user::clock::mapping::{mono_now, real_now};
use probe_user::clock::reader::{ClockReader, Reading};
use probe_user::clock::spec::SourceSpec;
use probe_user::clock::{ClockSource, ClockState, DRIFT_PPB, Leap};

/// A running chronyd; killed when dropped.
struct Chronyd(Child);

impl Drop for Chronyd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, name: &str, config: &str) -> Chronyd {
    let file = dir.join(name);
    // The default unix socket is not for tests.
    let none = if config.contains("bindcmdaddress /") { "" } else { "bindcmdaddress /\n" };
    let config = format!("{config}{none}pidfile {}\n", dir.join(name).with_extension("pid").display());
    std::fs::write(&file, config).expect("write the configuration");
    // SAFETY: geteuid has no preconditions and cannot fail (geteuid(2)).
    let uid = unsafe { libc::geteuid() };
    let user = Command::new("id").args(["-un", &uid.to_string()]).output().expect("id").stdout;
    Chronyd(
        Command::new("chronyd")
            .args(["-x", "-U", "-d", "-L", "1", "-u", String::from_utf8_lossy(&user).trim(), "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chronyd is not on PATH ({error}): `cargo xtask test` puts it there")
            }),
    )
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a free port"));
    sockets.map(|socket| socket.local_addr().expect("bound").port())
}

/// Reads until `done`, and gives that reading.
fn poll(reader: &mut ClockReader, limit: Duration, what: &str, done: impl Fn(&Reading) -> bool) -> Reading {
    let deadline = mono_now() + Span::from_nanos(limit.as_nanos() as i64);
    loop {
        let reading = reader.read();
        if done(&reading) {
            return reading;
        }
        assert!(mono_now() < deadline, "not {what} within {limit:?}: {reading:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_real_chronyd_is_read_and_found_free_running_without_its_upstream() {
    let dir = tempfile::tempdir().expect("a directory");
    let [ntp, command] = free_ports();
    let upstream = start(
        dir.path(),
        "upstream",
        &format!("local stratum 1\nport {ntp}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\n"),
    );
    let _client = start(
        dir.path(),
        "client",
        &format!(
            "server 127.0.0.1 port {ntp} offset 0.050 iburst minpoll -2 maxpoll -2\nport 0\ncmdport {command}\nbindcmdaddress 127.0.0.1\n"
        ),
    );
    let addr: SocketAddr = ([127, 0, 0, 1], command).into();
    let mut reader = ClockReader::new(addr);

    // Synchronised, and 50 ms slow. Right after the start its own bound is wider than the error it still has.
    let expected = Span::from_millis(-50);
    let synchronised = poll(&mut reader, Duration::from_secs(30), "synchronised to 1 ms", |r| {
        r.offset.state == ClockState::Synchronised && r.offset.bound_at_read < Span::from_millis(1)
    });
    let offset = synchronised.offset;
    assert_eq!((offset.source, synchronised.note), (ClockSource::Chrony, None));
    assert!((offset.theta - expected).abs() < Span::from_millis(1), "{offset:?}");
    let (tracking, read_at) = query(&addr.into(), Duration::from_secs(1)).expect("a report");
    assert!(mono_now() - read_at < Span::from_secs(1));
    assert_eq!((tracking.reference_id, tracking.stratum, tracking.leap), (0x7f00_0001, 2, 0));

    // Its upstream dies: chronyd goes on to say that all is normal, we do not.
    drop(upstream);
    let is_free_running = |r: &Reading| r.offset.state == ClockState::FreeRunning;
    let free = poll(&mut reader, Duration::from_secs(60), "free-running", is_free_running);
    assert_eq!(free.offset.source, ClockSource::Chrony);
    let note = free.note.expect("a reason");
    assert!(note.starts_with(&format!("chronyd at {addr} has not updated its clock for 1")), "{note}");
    assert_eq!(
        query(&addr.into(), Duration::from_secs(1)).expect("a report").0.leap,
        0,
        "the trap this is about"
    );
    assert!((free.offset.theta - expected).abs() < Span::from_millis(1), "{:?}", free.offset);

    // On top of what chronyd itself adds (a lot, so soon after its start) the bound holds 50 ppm of the age.
    let mut added = || {
        let (tracking, read_at) = query(&addr.into(), Duration::from_secs(1)).expect("a report");
        let owed = tracking.age(real_now()).drift(DRIFT_PPB);
        let added = reader.read().offset.bound_at_read - tracking.bound();
        assert!((added - owed).abs() < Span::from_micros(50), "{added} where {owed} is owed");
        (read_at, added)
    };
    let (first_at, first) = added();
    assert!(first > Span::from_secs(16).drift(DRIFT_PPB), "{first}");
    std::thread::sleep(Duration::from_secs(4));
    let (second_at, second) = added();
    let (grown, owed) = (second - first, (second_at - first_at).drift(DRIFT_PPB));
    assert!((grown - owed).abs() < Span::from_micros(100), "{grown} where {owed} is owed");
}

#[test]
fn a_chronyd_that_has_no_source_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let [command, local_command] = free_ports();
    let _lonely =
        start(dir.path(), "lonely", &format!("port 0\ncmdport {command}\nbindcmdaddress 127.0.0.1\n"));
    let _local = start(
        dir.path(),
        "local",
        &format!("local stratum 1\nport 0\ncmdport {local_command}\nbindcmdaddress 127.0.0.1\n"),
    );
    for (port, doubt) in [
        (command, "is not synchronised to any source"),
        (local_command, "follows its own clock (the local reference)"),
    ] {
        let wanted = format!("chronyd at 127.0.0.1:{port} {doubt}; ");
        let mut reader = ClockReader::new(([127, 0, 0, 1], port).into());
        let reading = poll(&mut reader, Duration::from_secs(10), doubt, |r| {
            r.note.as_ref().is_some_and(|note| note.starts_with(&wanted))
        });
        // What takes its place depends on this machine's kernel state, and is never called synchronised.
        assert_ne!(reading.offset.state, ClockState::Synchronised);
    }
}

/// A server that is right, and a client beside it that says that the clock is 50 ms slow: asked directly, the server
/// agrees with the kernel's clock and contradicts the client. The client is asked by its unix socket where that is
/// permitted.
#[test]
fn a_server_is_asked_directly_and_contradicts_a_client_that_lies() {
    let dir = tempfile::tempdir().expect("a directory");
    let [ntp, command] = free_ports();
    let _upstream = start(
        dir.path(),
        "upstream",
        &format!("local stratum 1\nport {ntp}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\n"),
    );
    // chronyd insists on a directory that is its own and closed to others.
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).expect("a directory");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o750)).expect("closed");
    let path = closed.join("chronyd.sock");
    let _client = start(
        dir.path(),
        "client",
        &format!(
            "server 127.0.0.1 port {ntp} offset 0.050 iburst minpoll -2 maxpoll -2\nport 0\ncmdport {command}\nbindcmdaddress 127.0.0.1\nbindcmdaddress {}\n",
            path.display()
        ),
    );
    let sources = |texts: &[String]| {
        let specs: Vec<SourceSpec> = texts.iter().map(|text| text.parse().expect("a source")).collect();
        ClockReader::of(&specs)
    };
    let (lying, server) = (format!("chrony:{}", path.display()), format!("sntp:127.0.0.1:{ntp}"));
    let limit = Duration::from_secs(30);
    let precise = |r: &Reading| {
        r.offset.state == ClockState::Synchronised && r.offset.bound_at_read < Span::from_millis(5)
    };

    // The server serves this very clock: no offset, and a bound that holds that.
    let direct = poll(&mut sources(std::slice::from_ref(&server)), limit, "answered by the server", precise);
    assert_eq!((direct.offset.source, direct.leap), (ClockSource::Sntp, Some(Leap::None)));
    assert_eq!(direct.note, None);
    assert!(direct.offset.theta.abs() <= direct.offset.bound_at_read, "{:?}", direct.offset);
    println!("asked directly: {}", direct.offset.at(direct.offset.read_at));

    let mut both = sources(&[lying, server.clone()]);
    let contradicted = |r: &Reading| precise(r) && r.disagreement.is_some();
    let found = poll(&mut both, limit, "contradicted", contradicted);
    assert_eq!((found.offset.source, found.disagreements), (ClockSource::Chrony, 1));
    assert!((found.offset.theta + Span::from_millis(50)).abs() < Span::from_millis(2), "{:?}", found.offset);
    let disagreement = found.disagreement.expect("contradicted");
    assert!((disagreement.apart - Span::from_millis(50)).abs() < Span::from_millis(5), "{disagreement:?}");
    assert_eq!(disagreement.used, format!("chronyd at {}", path.display()));
    assert_eq!(disagreement.other, format!("NTP server 127.0.0.1:{ntp}"));
    assert!(found.note.is_some_and(|note| note.contains(&disagreement.to_string())));

    // The other way round, the server is believed.
    let mut reversed = sources(&[server, format!("chrony:127.0.0.1:{command}")]);
    let found = poll(&mut reversed, limit, "contradicted", contradicted);
    assert_eq!(found.offset.source, ClockSource::Sntp);
}

/// Twice a second against a chronyd whose server drifts by 20 ppm: the rate is found, and a reading foretells the next.
#[test]
fn the_rate_of_a_drifting_clock_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let [ntp, command] = free_ports();
    // A clock that is 20 ppm fast by its drift file: what it serves runs slower.
    std::fs::write(dir.path().join("drift"), "20.0 0.1\n").expect("write");
    let _upstream = start(
        dir.path(),
        "upstream",
        &format!(
            "local stratum 1\ndriftfile {}\nport {ntp}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\n",
            dir.path().join("drift").display()
        ),
    );
    let _client = start(
        dir.path(),
        "client",
        &format!(
            "server 127.0.0.1 port {ntp} iburst minpoll -2 maxpoll -2\nport 0\ncmdport {command}\nbindcmdaddress 127.0.0.1\n"
        ),
    );
    let specs = [SourceSpec::Chrony(SocketAddr::from(([127, 0, 0, 1], command)).into())];
    let mut reader = ClockReader::of(&specs);
    let known = |r: &Reading| {
        r.offset.rate.is_some_and(|rate| (rate.ppb - 20_000).abs() < 1_000 && rate.bound_ppb < 5_000)
    };
    let before = poll(&mut reader, Duration::from_secs(60), "known to drift by 20 ppm", known).offset;
    std::thread::sleep(Duration::from_millis(1500));
    let after = reader.read().offset;
    let (foretold, lasted) = (before.at(after.read_at), after.read_at - before.read_at);
    let error = foretold.value - after.theta;
    println!("{:?}; {lasted} later {foretold} was foretold: off by {error}", before.rate);
    assert!(
        error.abs() < Span::from_micros(20) && foretold.covers(after.theta),
        "off by {error} of {foretold}"
    );
    assert!((after.theta - before.theta) > Span::from_micros(10), "it did drift");
}
