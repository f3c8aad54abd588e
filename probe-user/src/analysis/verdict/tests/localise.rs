//! Clusters with one thing wrong, told by summaries that went through their encoding.

use probe_ebpf::time::{MonoNs, Span};

use super::rng::Rng;
use crate::analysis::verdict::{
    Cause, Confidence, Diagnosis, Loss, Place, Summary, Verdict, diagnose, short_name,
};

const SIZES: [usize; 3] = [3, 20, 1000];
/// Ring neighbours: two each way.
const HALF_K: usize = 2;

fn id(n: usize) -> String {
    // Too long for a summary: travels as a hash.
    format!("node-in-rack-seven-{n:04}")
}

fn verdict(cause: Cause) -> Verdict {
    Verdict {
        cause,
        also: None,
        samples: 50,
        confidence: Confidence::High,
        evidence: String::new(),
        since: MonoNs::from_nanos(0),
        effect: if cause.is_trouble() { Span::from_millis(20) } else { Span::ZERO },
        legs: [None; 7],
        loss: Loss::default(),
    }
}

/// Every host judges both directions with its ring neighbours; `of(from, to)` says what is the matter with a path.
fn cluster(n: usize, of: impl Fn(usize, usize) -> Cause) -> Diagnosis {
    let summaries: Vec<Summary> = (0..n)
        .map(|host| {
            let mut peers: Vec<usize> =
                (1..=HALF_K).flat_map(|step| [(host + step) % n, (host + n - step) % n]).collect();
            peers.sort_unstable();
            peers.dedup();
            peers.retain(|peer| *peer != host);
            let ids: Vec<String> = peers.iter().map(|peer| id(*peer)).collect();
            let verdicts: Vec<(usize, bool, Verdict)> = (0..peers.len())
                .flat_map(|at| {
                    let peer = peers[at];
                    [(at, true, verdict(of(host, peer))), (at, false, verdict(of(peer, host)))]
                })
                .collect();
            let paths =
                verdicts.iter().map(|(at, outgoing, verdict)| (ids[*at].as_str(), *outgoing, verdict));
            let summary = Summary::of(&id(host), paths);
            Summary::decode(&id(host), &summary.encode()).unwrap()
        })
        .collect();
    diagnose(&summaries)
}

fn when(bad: bool, cause: Cause) -> Cause {
    if bad { cause } else { Cause::Ok }
}

#[test]
fn each_place_is_found_at_every_size() {
    for n in SIZES {
        let (h, next) = (n / 2, n / 2 + 1);
        let network = Cause::Network;
        let check = |of: &dyn Fn(usize, usize) -> Cause, place: Place, cause: Cause| {
            let found = cluster(n, of);
            assert_eq!((&found.place, found.cause), (&place, cause), "{n}: {found:?}");
        };
        check(&|_, _| Cause::Ok, Place::Nobody, Cause::Ok);
        check(&|_, _| Cause::Unknown, Place::Unclear, Cause::Unknown);
        check(&|_, _| network, Place::Everybody, network);
        check(&|a, b| when(a == h || b == h, network), Place::OneHost(id(h)), network);
        check(&|_, b| when(b == h, network), Place::ReceiveSide(id(h)), network);
        check(&|a, _| when(a == h, Cause::LossNetwork), Place::SendSide(id(h)), Cause::LossNetwork);
        check(&|a, b| when((a, b) == (h, next), network), Place::Direction(id(h), id(next)), network);
        check(
            &|a, b| when((a, b) == (h, next) || (b, a) == (h, next), network),
            Place::Link(id(h), id(next)),
            network,
        );
        // A cause that names an end itself.
        let (receiver, sender) = (Cause::ReceiverProcess, Cause::LocalQueue);
        check(&|_, b| when(b == h, receiver), Place::ReceiveSide(id(h)), receiver);
        // Both ends say it, the sender by the receiver's word.
        check(&|_, b| when(b == h, Cause::LossHere), Place::ReceiveSide(id(h)), Cause::LossHere);
        check(&|a, b| when((a, b) == (next, h), receiver), Place::ReceiveSide(id(h)), receiver);
        check(&|a, _| when(a == h, sender), Place::SendSide(id(h)), sender);
        check(&|_, _| receiver, Place::Everybody, receiver);
    }
}

#[test]
fn both_sides_of_a_host_with_causes_of_their_own_are_one_host() {
    for n in SIZES {
        let of = |a, b| match (a, b) {
            (1, _) => Cause::SenderProcess,
            (_, 1) => Cause::ReceiverProcess,
            _ => Cause::Ok,
        };
        assert_eq!(cluster(n, of).place, Place::OneHost(id(1)));
    }
}

#[test]
fn a_lying_clock_is_one_hosts() {
    for n in SIZES {
        let found = cluster(n, |a, b| when(a == 1 || b == 1, Cause::ClockUncertain));
        assert_eq!((found.place, found.cause), (Place::OneHost(id(1)), Cause::ClockUncertain));
        assert!(found.sentence.contains("clock"));
    }
}

#[test]
fn strays_do_not_hide_a_host_and_make_none_of_their_own() {
    for seed in 0..20 {
        let bad = |a: usize, b: usize| Rng(seed ^ (a * 7919 + b) as u64).chance(0.002);
        let alone = cluster(1000, |a, b| when(bad(a, b), Cause::Network));
        assert!(matches!(alone.place, Place::Unclear | Place::Direction(..) | Place::Link(..)), "{alone:?}");
        let host = cluster(1000, |a, b| when(a == 77 || b == 77 || bad(a, b), Cause::Network));
        assert_eq!(host.place, Place::OneHost(id(77)), "{host:?}");
        assert!(host.evidence.len() <= 8 && host.paths.1 >= 8);
    }
}

#[test]
fn a_host_that_says_nothing_is_still_found() {
    let worst = |from: usize| {
        let found = verdict(Cause::Network);
        let summary = Summary::of(
            &id(from),
            [(id(9).as_str(), true, &found), (id(4).as_str(), true, &verdict(Cause::Ok))],
        );
        Summary::decode(&id(from), &summary.encode()).unwrap()
    };
    let found = diagnose(&[worst(1), worst(2), worst(3)]);
    assert_eq!(found.place, Place::ReceiveSide(short_name(&id(9))));
    assert_eq!(diagnose(&[]).place, Place::Unclear);
}
