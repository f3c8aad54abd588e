//! Longer ways while a host lacks CPU time.

use probe_ebpf::time::Span;

use super::steady;
use crate::analysis::verdict::{Cause, Circumstances, HostEvidence, Verdict};

/// Journeys in a second.
const RATE: i64 = 8;

/// What is said after half a minute of calm and ten seconds in which those of which `slow` says so, by number, take 10 ms
/// longer and the receiver says `host`.
fn said(host: HostEvidence, slow: impl Fn(i64) -> bool) -> Verdict {
    let trouble = |second| second >= 30;
    let network =
        |n, second| (Span::from_micros(if trouble(second) && slow(n) { 10_100 } else { 100 }), None);
    let calm = HostEvidence {
        late: Some(1),
        steal: Some(0),
        cpu_some: Some(20),
        softirq: Some(10),
        ..HostEvidence::default()
    };
    let circumstances = |second| {
        let receiver = Some(if trouble(second) { host } else { calm });
        Circumstances { receiver, drift_ppb: 20_000, ..Circumstances::default() }
    };
    steady::said(RATE, network, circumstances).pop().unwrap()
}

#[test]
fn a_host_whose_timers_are_in_time_does_not_make_every_packet_late() {
    let host = |late| HostEvidence {
        age: Span::ZERO,
        steal: Some(90),
        cpu_some: Some(700),
        late,
        ..HostEvidence::default()
    };
    // 8 packets a second, 10 ms each: 80 per mille of the time. Timers that are late for a fifth of a fourth of that ...
    let in_time = said(host(Some(4)), |_| true);
    assert_eq!(in_time.cause, Cause::Network, "{}", in_time.evidence);
    // ... and for more than a fourth; where nothing is known of them; and where not every packet is late.
    for (late, every) in [(Some(25), 1), (None, 1), (Some(4), 2)] {
        let verdict = said(host(late), |n| n % every == 0);
        assert_eq!(verdict.cause, Cause::NetworkOrHostSoftirq, "{late:?} {every}: {}", verdict.evidence);
    }
    // A virtual CPU that is away for so long that more than half of the packets are late, and a few timers.
    let away = HostEvidence { late: Some(12), ..HostEvidence::default() };
    assert_eq!(said(away, |n| n % 3 > 0).cause, Cause::NetworkOrHostSoftirq);
    // What holds up packets and not timers counts as before.
    let softirq = HostEvidence { softirq: Some(900), ..host(Some(4)) };
    let softirq = HostEvidence { steal: Some(0), ..softirq };
    assert_eq!(said(softirq, |_| true).cause, Cause::NetworkOrHostSoftirq);
}
