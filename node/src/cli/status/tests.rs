//! What a reader of `pikoscope status` finds.

use super::*;
use crate::report::{
    DropsReport, GossipReport, HardwareReport, MemberReport, PathReport, ProbeReport, VerdictReport,
};
use probe_user::analysis::verdict::{Confidence, Diagnosis, Place};
use probe_user::clock::{ClockSource, ClockState};
use std::collections::BTreeMap;

fn report() -> NodeReport {
    let segment = |p50_ns| QuantileReport {
        count: 9,
        p50_ns,
        p95_ns: 2 * p50_ns,
        p99_ns: 3 * p50_ns,
        bound_ns: Some(5_000),
        negative: 0,
    };
    NodeReport {
        id: "b".into(),
        address: "10.0.0.2:7176".into(),
        kernel: "6.18.0".into(),
        tier: Some(1),
        tier_reason: None,
        clock: ClockReport {
            source: ClockSource::Chrony,
            state: ClockState::Synchronised,
            offset_ns: -50_000_000,
            at_mono_ns: 0,
            bound_ns: Some(1_000_000),
            age_ns: 300_000_000,
            epoch: 0,
            drift_ppb: None,
            drift_bound_ppb: None,
            disagreements: 0,
            note: None,
            honesty: Default::default(),
            peers: Vec::new(),
        },
        accounting: AccountingReport {
            seen: 9,
            matched: 9,
            rcvbuf_dropped: 3,
            ..AccountingReport::default()
        },
        drops: DropsReport { by_reason: [("SOCKET_RCVBUFF".to_owned(), 3)].into(), ..Default::default() },
        probe: ProbeReport { run_cnt: 9, ns_per_packet: 217.6 },
        hooks: Vec::new(),
        hardware: None,
        diagnosis: None,
        verdicts: Vec::new(),
        paths: vec![PathReport {
            from: "a\u{1b}c".into(),
            to: "b".into(),
            packets: 9,
            lost: 1,
            lost_here: [("SOCKET_RCVBUFF".to_owned(), 1)].into(),
            lost_outside: 0,
            network_from: "app_tx, ntp".into(),
            segments: BTreeMap::from([
                ("network".into(), segment(70_000)),
                ("handling".into(), segment(900)),
            ]),
            source_ports: Vec::new(),
        }],
        entries: Vec::new(),
        beacons: Vec::new(),
        members: vec![MemberReport {
            id: "b".into(),
            address: "10.0.0.2:7176".into(),
            version: 4,
            entries: 2,
            protocol: "v1".into(),
            status: "alive".into(),
            round_trip_ns: Some(250_000),
        }],
        gossip: GossipReport {
            local_health: 2,
            events: BTreeMap::from([("duplicates".into(), 5)]),
            inbound_failed: BTreeMap::from([("slow".into(), 4)]),
            ..GossipReport::default()
        },
        rejected: BTreeMap::from([("truncated".into(), 3), ("trailing".into(), 0)]),
        not_samples: BTreeMap::new(),
    }
}

#[test]
fn a_reader_finds_clock_accounting_paths_and_members() {
    let text = render(&report());
    for expected in [
        "node      b at 10.0.0.2:7176, kernel 6.18.0\n",
        "synchronised, 50.00 ms slow +- 1.00 ms, according to chronyd 300.00 ms ago\n",
        "9 seen = 9 matched + 0 unmatched + 0 late + 0 ring full + 0 dropped + 0 pending",
        "3 at the socket (3 SOCKET_RCVBUFF); peers' packets lost: 1 here (1 SOCKET_RCVBUFF), 0 outside",
        "218 ns per packet over 9 runs",
        "refused   truncated 3\n",
        "TCP from  slow 4\n",
        "health    doubts itself (2 of 8)",
        "b   10.0.0.2:7176  alive   v1          250.0 us        4        2\n",
        "FROM      PACKETS  LOST             NETWORK      +-         HANDLING  NETWORK FROM\n",
        "a\\u{1b}c        9     1  70.0 us / 210.0 us  5.0 us  900 ns / 2.7 us  app_tx, ntp\n",
        "users, from their creation to here, p50 / p99\n  none yet\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains("INGRESS"), "{text}");
}

#[test]
fn what_is_wrong_comes_first_and_a_large_cluster_does_not_hide_it() {
    let verdict = |from: &str, cause, effect_ns| VerdictReport {
        from: from.into(),
        to: "b".into(),
        cause,
        also: None,
        confidence: Confidence::High,
        samples: 90,
        evidence: "its evidence".into(),
        for_ns: 9_000_000_000,
        effect_ns,
    };
    let mut report = report();
    let member = report.members[0].clone();
    report.members = (0..1000)
        .map(|i| MemberReport {
            id: format!("m{i}"),
            status: if i == 777 { "unreachable".into() } else { "alive".into() },
            ..member.clone()
        })
        .collect();
    report.verdicts = vec![
        verdict("well", Cause::Ok, 0),
        verdict("slow", Cause::Network, 5_000_000),
        verdict("stuck", Cause::ReceiverProcess, 200_000_000),
    ];
    let sentence = "host b does not read".to_owned();
    let (place, evidence) = (Place::Nobody, vec!["stuck to b: 200 ms".to_owned()]);
    let cause = Cause::ReceiverProcess;
    report.diagnosis = Some((Diagnosis { place, cause, sentence, evidence, paths: (2, 2) }, 3));
    report.accounting.rcvbuf_dropped = 4;
    let text = render(&report);
    let start = "host b does not read (told by 3 of 1000 nodes)\n  stuck to b: 200 ms\n\
                 unreachable: m777 (1 of 1000 nodes)\n\
                 4 datagrams were dropped at this node's full receive buffer since it started\n\nnode ";
    assert!(text.starts_with(start), "{text}");
    let line = |start: &str| text.lines().position(|line| line.starts_with(start)).unwrap_or(usize::MAX);
    assert!(line("stuck > b") < line("slow > b") && line("slow > b") < line("well > b"), "{text}");
    assert!(line("well > b") < usize::MAX && line("m777 ") < line("m0 "), "{text}");
    assert!(text.contains("and 960 more (--json has all)\n") && text.lines().count() < 100, "{text}");
}

#[test]
fn an_unknown_offset_is_not_shown_as_a_number() {
    let mut report = report();
    report.clock.bound_ns = None;
    report.clock.state = ClockState::Unsynchronised;
    report.clock.note = Some("chronyd does not answer at 127.0.0.1:323".into());
    let text = render(&report);
    assert!(
        text.contains("NOT SYNCHRONISED, offset unknown, according to chronyd; chronyd does not answer"),
        "{text}"
    );
}

#[test]
fn where_t4_is_from_is_one_sentence_if_anybody_asked() {
    assert!(!render(&report()).contains("\nT4 "));
    let told = |hardware| render(&NodeReport { hardware: Some(hardware), ..report() });
    let interface = "eth0".to_owned();
    let hardware = HardwareReport {
        interface: interface.clone(),
        phc: Some(2),
        outcomes: [("used".to_owned(), 90), ("missing".to_owned(), 10)].into(),
        error_ns: Some(31_000),
        breaks: 3,
        ..HardwareReport::default()
    };
    let expected = "T4        the NIC's for 90 of 100 datagrams (eth0, ptp2) +- 31.0 us, the kernel's for the others \
                    (10 missing); its clock was set or ran unevenly 3 times\n";
    let text = told(hardware);
    assert!(text.contains(expected), "{text}");
    let reason = Some("eth0 has no clock".to_owned());
    let text = told(HardwareReport { interface, reason, ..HardwareReport::default() });
    assert!(text.contains("T4        eth0 has no clock\n"), "{text}");
}
