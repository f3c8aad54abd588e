use super::*;
use crate::clock::sntp::tests::stamp_of;
use proptest::prelude::*;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

const NOW: RealNs = RealNs::from_nanos(1_700_000_000_000_000_000);
const READ: MonoNs = MonoNs::from_nanos(5);

fn source(offset: &str, uncertainty: &str, age: i64, unanswered: u32) -> String {
    let updated = stamp_of(NOW - Span::from_secs(age));
    format!(
        r#"{{"offset":{offset},"uncertainty":{uncertainty},"delay":0.002,"remote_delay":0.01,"remote_uncertainty":0.0005,
        "last_update":{{"timestamp":{updated}}},"unanswered_polls":{unanswered},"poll_interval":4,"nts_cookies":null,
        "name":"time.example.org:123","address":"192.0.2.1:123","id":3}}"#
    )
}
fn state(system: &str, sources: &[String]) -> String {
    format!(
        r#"{{"program":{{"version":"1.6.0","build_commit":"-","build_commit_date":"-","uptime_seconds":7.5}},
        "system":{{"stratum":2,"reference_id":5,"accumulated_steps_threshold":null,{system}}},
        "sources":[{}],"servers":[]}}"#,
        sources.join(",")
    )
}
const GOOD: &str = r#""precision":1e-6,"root_delay":0.01,"root_variance_base":0.0,"leap_indicator":"NoWarning","accumulated_steps":0.0"#;

fn read(json: &str) -> Result<Observed, String> {
    decode(json.as_bytes(), READ, NOW).map_err(|error| error.to_string())
}

/// A daemon that wants 50 ms added: the clock is slow. Three sigma each, half of each delay, and 50 ppm of the age.
#[test]
fn sign_and_bound() {
    let observed = read(&state(GOOD, &[source("0.05", "0.0001", 20, 0)])).expect("good");
    let wanted = Span::from_micros(3 * 100 + 3 * 500 + 1_000 + 5_000 + 1_000);
    assert_eq!(observed.offset.theta, Span::from_millis(-50));
    let off = observed.offset.bound_at_read - wanted;
    assert!(off.abs() <= Span::from_nanos(2), "{off}");
    assert_eq!(
        (observed.offset.source, observed.offset.state),
        (ClockSource::NtpdRs, ClockState::Synchronised)
    );
    assert_eq!((observed.offset.read_at, observed.leap, observed.doubt), (READ, Some(Leap::None), None));
}

#[test]
fn the_server_that_bounds_best_is_taken() {
    let never = source("0.0", "0.0", 0, 0).replace(&stamp_of(NOW).to_string(), "0");
    let sources = [source("9", "0.1", 1, 0), never.clone(), source("0.001", "0.0001", 1, 0)];
    assert_eq!(read(&state(GOOD, &sources)).expect("good").offset.theta, Span::from_millis(-1));
    for sources in [&[][..], &[never]] {
        assert_eq!(read(&state(GOOD, sources)), Err("has no measurement of any server yet".to_owned()));
    }
}

/// Older versions keep the leap indicator one level further down.
#[test]
fn leap_and_state() {
    let sources = [source("0.05", "0.0001", 1, 0)];
    let of = |system: &str| {
        let observed = read(&state(system, &sources)).expect("readable");
        (observed.leap, observed.offset.state, observed.offset.bound_at_read == Span::MAX)
    };
    use ClockState::{Synchronised, Unsynchronised};
    let nested = |leap: &str| format!(r#""time_snapshot":{{"leap_indicator":"{leap}"}}"#);
    assert_eq!(of(&nested("NoWarning")), (Some(Leap::None), Synchronised, false));
    assert_eq!(of(&nested("Leap61")), (Some(Leap::Insert), Synchronised, false));
    assert_eq!(of(&GOOD.replace("NoWarning", "Leap59")), (Some(Leap::Delete), Synchronised, false));
    for unknown in [nested("Unknown"), nested("Unsynchronized"), r#""x":1"#.to_owned()] {
        assert_eq!(of(&unknown), (None, Unsynchronised, true), "{unknown}");
    }
    let far = read(&state(GOOD, &sources).replace(r#""stratum":2"#, r#""stratum":16"#)).expect("readable");
    assert_eq!((far.offset.state, far.doubt), (Unsynchronised, Some("is not synchronised to any server")));
    let silent =
        |polls| read(&state(GOOD, &[source("0.05", "0.0001", 1, polls)])).expect("readable").offset.state;
    assert_eq!((silent(7), silent(8)), (Synchronised, ClockState::FreeRunning));
}

#[test]
fn absurd_values_and_other_json_are_refused() {
    let error = |offset: &str, uncertainty: &str| {
        read(&state(GOOD, &[source(offset, uncertainty, 1, 0)])).expect_err("absurd")
    };
    assert_eq!(error("5e9", "0"), "reports the absurd value 5000000000 as offset");
    assert_eq!(error("0", "-0.1"), "reports the absurd value -0.1 as uncertainty");
    for (offset, uncertainty) in
        [("NaN", "0"), ("1e999", "0"), ("null", "0"), ("\"0\"", "0"), ("0", "Infinity")]
    {
        let said = error(offset, uncertainty);
        assert!(said.starts_with("sent something that is not understood ("), "{said}");
    }
    for json in ["", "{}", "[1]", "{\"system\":{},\"sources\":[]}", "\u{0}"] {
        assert!(read(json).is_err(), "{json}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), offset: f64, sigma: f64, updated: u64, at: i64) {
        let _ = decode(&bytes, READ, NOW);
        let json = state(GOOD, &[source(&format!("{offset:e}"), &format!("{sigma:e}"), 1, 0)]);
        let json = json.replace(&stamp_of(NOW - Span::from_secs(1)).to_string(), &updated.to_string());
        if let Ok(observed) = decode(json.as_bytes(), READ, RealNs::from_nanos(at)) {
            prop_assert!(!observed.offset.bound_at_read.is_negative());
        }
    }
}

/// A daemon that writes `bytes` to whoever connects.
fn serve(bytes: Vec<u8>, hold: bool) -> (tempfile::TempDir, NtpdRs, JoinHandle<()>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("observe");
    let listener = UnixListener::bind(&path).expect("bind");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(&bytes).expect("write");
        if hold {
            // Until the reader has given up.
            let _ = stream.read(&mut [0]);
        }
    });
    (dir, NtpdRs { path, timeout: Duration::from_secs(10) }, thread)
}
fn framed(json: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_be_bytes()[..], json].concat()
}

#[test]
fn a_socket_is_read() {
    let (_dir, mut source, thread) =
        serve(framed(state(GOOD, &[source("0.05", "0.0001", 1, 0)]).as_bytes()), false);
    let opinion = source.read().expect("an offset");
    assert_eq!((opinion.offset.theta, opinion.leap), (Span::from_millis(-50), Some(Leap::None)));
    assert!((mono_now() - opinion.offset.read_at) < Span::from_secs(10));
    thread.join().expect("served");
}

#[test]
fn hostile_sockets_are_given_up() {
    let error = |bytes: Vec<u8>, hold| {
        let (_dir, source, thread) = serve(bytes, hold);
        let error = source.ask().expect_err("hostile");
        thread.join().expect("served");
        error
    };
    assert!(
        matches!(error((MOST_BYTES + 1).to_be_bytes().into(), true), NtpdRsError::Length(n) if n == MOST_BYTES + 1)
    );
    assert!(matches!(error(vec![0; 8], true), NtpdRsError::Length(0)));
    let (_dir, trickling, thread) = serve(vec![0; 3], true);
    let trickling = NtpdRs { timeout: TIMEOUT, ..trickling };
    assert!(matches!(trickling.ask().expect_err("hostile"), NtpdRsError::Timeout));
    thread.join().expect("served");
    assert!(matches!(error(100u64.to_be_bytes().into(), false), NtpdRsError::Io(_)));
    assert!(matches!(error(framed(b"{}"), false), NtpdRsError::Malformed(_)));
    let absent = NtpdRs::new("/nonexistent/observe".into()).ask().expect_err("absent");
    assert!(matches!(absent, NtpdRsError::Absent));
}
