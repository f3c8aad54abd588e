//! The command as its users meet it: exit codes, one sentence per failure, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pikoscope::report::NodeReport;

fn pikoscope(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pikoscope"));
    command.args(args);
    command
}

fn run(args: &[&str]) -> Output {
    pikoscope(args).output().unwrap()
}

/// It failed with this code and one line that holds all of these.
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    // The log's lines carry a level, the failure does not.
    let lines: Vec<_> = said.lines().filter(|l| l.starts_with("pikoscope: ")).collect();
    assert_eq!(lines.len(), 1, "one sentence: {said}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is not in {said:?}");
    }
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
}

/// A node on loopback, killed at the end of the test if it has not ended before.
struct Node {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    dir: Option<tempfile::TempDir>,
    metrics: String,
}

impl Node {
    fn start(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, extra)
    }

    fn start_in(dir: tempfile::TempDir, extra: &[&str]) -> Self {
        let control = dir.path().join("c");
        let mut child =
            pikoscope(&["run", "--node-id", "n", "--bind", "127.0.0.1:0", "--metrics-bind", "127.0.0.1:0"])
                .args(["--probe", "timestamping", "--control"])
                .arg(&control)
                .args(extra)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut metrics, mut all) = (None, String::new());
        loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the node ended: {all}");
            all += &line;
            if let Some((_, url)) = line.split_once("metrics on http://") {
                metrics = url.trim().strip_suffix("/metrics").map(str::to_owned);
            }
            if line.contains("gossiping on ") {
                break;
            }
        }
        Self { child, log, dir: Some(dir), metrics: metrics.expect("the address of the metrics is logged") }
    }

    fn control(&self) -> PathBuf {
        self.dir.as_ref().expect("not taken yet").path().join("c")
    }

    fn ask(&self, args: &[&str]) -> Output {
        pikoscope(args).arg("--control").arg(self.control()).output().unwrap()
    }

    /// Sends a signal and waits for the end; its exit code and what it logged meanwhile.
    fn stop(&mut self, signal: Signal) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let code = self.child.wait().unwrap().code();
        let mut log = String::new();
        std::io::Read::read_to_string(&mut self.log, &mut log).unwrap();
        (code, log)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails when it has ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn http(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_node_answers_and_leaves_nothing_behind() {
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut node = Node::start(&["--final-report", report.path().to_str().unwrap()]);
    assert_eq!(std::fs::metadata(node.control()).unwrap().mode() & 0o777, 0o600);

    let version = text(&node.ask(&["set", "color", "blue"]));
    assert!(version.starts_with("version "), "{version}");
    let got = text(&node.ask(&["get", "color"]));
    assert!(got.contains("VALUE") && got.contains("blue"), "{got}");
    let trace = "00f067aa0ba902b74bf92f3577b34da6";
    text(&node.ask(&["set", "color", "red", "--trace-id", trace]));
    let got = text(&node.ask(&["get", "color"]));
    assert!(got.contains("TRACE") && got.contains(trace), "{got}");
    text(&node.ask(&["delete", "color"]));
    assert_fails(&node.ask(&["get", "color"]), 1, &["no node holds the key \"color\""]);
    assert_fails(&node.ask(&["delete", "color"]), 1, &["no such key"]);
    assert_fails(&node.ask(&["set", "_internal:x", "1"]), 1, &["_internal:"]);

    let status: NodeReport = serde_json::from_str(&text(&node.ask(&["status", "--json"]))).unwrap();
    assert_eq!((status.id.as_str(), status.tier, status.members.len()), ("n", Some(0), 1));
    assert!(text(&node.ask(&["status"])).contains("SO_TIMESTAMPING"));

    assert!(http(&node.metrics, "/healthz").contains(" 200 "), "healthy");
    assert!(http(&node.metrics, "/metrics").contains("\npikoscope_members 1\n"));

    let (code, log) = node.stop(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    assert!(!node.control().exists(), "the control socket is gone");
    let last: NodeReport = serde_json::from_slice(&std::fs::read(report.path()).unwrap()).unwrap();
    assert_eq!(last.id, "n");
}

#[test]
fn a_killed_nodes_socket_does_not_stop_the_next() {
    let mut node = Node::start(&[]);
    let control = node.control();
    assert_eq!(node.stop(Signal::SIGKILL).0, None);
    assert!(control.exists(), "nobody could remove it");
    let mut next = Node::start_in(node.dir.take().unwrap(), &[]);
    text(&next.ask(&["status"]));
    assert_eq!(next.stop(Signal::SIGINT).0, Some(0));
    assert!(!control.exists());
}

#[test]
fn a_watch_shows_changes_and_ends_with_the_node() {
    let mut node = Node::start(&[]);
    let mut watch = pikoscope(&["watch", "--json", "--control"])
        .arg(node.control())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut n = 0;
    // It begins some time after its start: what was before is not shown.
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next());
        while !first.is_finished() {
            n += 1;
            text(&node.ask(&["set", "k", &n.to_string()]));
        }
        first.join().unwrap().unwrap()
    });
    let change: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (&change["event"], &change["node"], &change["key"]),
        (&"upsert".into(), &"n".into(), &"k".into())
    );
    let shown: u32 = change["value"].as_str().unwrap().parse().unwrap();
    assert!((1..=n).contains(&shown), "{change}");
    assert_eq!(node.stop(Signal::SIGTERM).0, Some(0));
    assert!(lines.all(|line| line.contains("upsert")));
    assert_fails(&watch.wait_with_output().unwrap(), 1, &["has ended"]);
}

#[test]
fn what_is_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("c");
    let start = |bind: &str, metrics: &str, control: &Path| {
        pikoscope(&[
            "run",
            "--node-id",
            "n",
            "--probe",
            "off",
            "--bind",
            bind,
            "--metrics-bind",
            metrics,
            "--control",
        ])
        .arg(control)
        .output()
        .unwrap()
    };
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = tcp.local_addr().unwrap().to_string();
    let output = start("127.0.0.1:0", &taken, &control);
    assert_fails(&output, 1, &[&taken, "Address already in use", "--metrics-bind"]);

    let output = start(&taken, "127.0.0.1:0", &control);
    assert_fails(&output, 1, &[&taken, "TCP", "Address already in use", "--bind"]);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = udp.local_addr().unwrap().to_string();
    assert_fails(&start(&taken, "127.0.0.1:0", &control), 1, &[&taken, "Address already in use", "--bind"]);

    let node = Node::start(&[]);
    let output = start("127.0.0.1:0", "127.0.0.1:0", &node.control());
    assert_fails(&output, 1, &["in use by another running node", "--control"]);
    text(&node.ask(&["status"]));
    assert!(!control.exists(), "a node that could not start leaves no socket");
}

#[test]
fn bad_settings_are_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        pikoscope(&["run", "--config"]).arg(&file).output().unwrap()
    };
    assert_fails(&with("intervall_ms = 1\n"), 1, &["p.toml: line 1", "`intervall_ms`", "`interval_ms`"]);
    assert_fails(&with("ring_bytes = 5\nbind = '127.0.0.1:0'"), 1, &["ring_bytes is 5", "power of two"]);
    assert_fails(&with("node_id = 'a'"), 1, &["0.0.0.0:7176", "--advertise"]);
    assert_fails(&run(&["run", "--config", "/nonexistent/p.toml"]), 1, &["/nonexistent/p.toml"]);
}

#[test]
fn usage_is_two_and_absence_is_one() {
    assert_eq!(run(&["fly"]).status.code(), Some(2));
    assert_eq!(run(&["run", "--bind", "nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["set", "k", "v", "--trace-id", "5"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    for command in
        [&["status"][..], &["top"], &["watch"], &["get", "k"], &["set", "k", "v"], &["delete", "k"]]
    {
        let args = [command, &["--control", "/nonexistent/c"]].concat();
        assert_fails(&run(&args), 1, &["no node is running at /nonexistent/c"]);
    }
}

#[test]
fn doctor_says_what_to_do_and_agrees_with_its_exit_code() {
    // Nobody answers there, so this host is not ready, whatever else it is.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let chrony = silent.local_addr().unwrap().to_string();
    let output = run(&["doctor", "--json", "--chrony", &chrony, "--control", "/nonexistent/c"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), found["ready"].as_bool()), (Some(1), Some(false)), "{found}");
    for check in found["checks"].as_array().unwrap() {
        assert!(check["state"] == "ok" || check["todo"].is_string(), "{check}");
    }
    let text = run(&["doctor", "--chrony", &chrony, "--control", "/nonexistent/c"]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("not ready: "));
}
