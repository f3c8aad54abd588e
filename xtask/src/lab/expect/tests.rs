use super::*;
use crate::lab::scenario::Scenario;

fn expectation(text: &str) -> Expectation {
    let text = format!("about = 'x'\nseconds = 9\n[[expect]]\nname = 'n'\nof = 'network'\n{text}");
    Scenario::parse("test", &text).unwrap().expectations.remove(0)
}

fn holds(text: &str, measured: Option<f64>, truth: Option<f64>) -> bool {
    excess(&expectation(text), &Case { place: String::new(), measured, truth }) <= 0.0
}

#[test]
fn limits_themselves_are_fine_and_what_is_unknown_never_is() {
    let near = "near = 'truth'\nwithin = '1us'";
    assert!(holds(near, Some(5_000.0), Some(6_000.0)) && holds(near, Some(5_000.0), Some(4_000.0)));
    assert!(!holds(near, Some(5_000.0), Some(6_001.0)));
    assert!(!holds(near, Some(5_000.0), None) && !holds(near, None, Some(5_000.0)));
    let between = "at_least = '1us'\nat_most = '2us'";
    assert!(holds(between, Some(1_000.0), None) && holds(between, Some(2_000.0), None));
    assert!(!holds(between, Some(999.0), None) && !holds(between, Some(2_001.0), None));
    let all = format!("{near}\nat_most = '2us'");
    assert!(!holds(&all, Some(3_000.0), Some(3_000.0)), "near the truth, but too much");
}

#[test]
fn paths_are_meant_by_either_side() {
    let meant = |path: &str| {
        let expectation = expectation(&format!("at_most = 1\npath = '{path}'"));
        [(0, 1), (1, 0), (2, 1)].map(|(from, to)| is_meant(&expectation, from, to))
    };
    assert_eq!(meant("a>b"), [true, false, false]);
    assert_eq!(meant("*>b"), [true, false, true]);
    assert_eq!(meant("b>*"), [false, true, false]);
    assert_eq!(meant("*>*"), [true; 3]);
}

#[test]
fn a_segment_is_held_against_the_same_packets_or_the_quiet_window() {
    let packet = |sent_s: f64, network: i64, truth: Option<i64>| Packet {
        from: 0,
        to: 1,
        from_number: 0,
        to_last: true,
        sent_s,
        measured: [Some(network), None, None, None],
        truth: [truth, None, None, None],
        bound: Some(5),
        elapsed: truth,
        correction: None,
        left: [None; 3],
        wire: None,
    };
    let packets = [packet(1.0, 10, Some(11)), packet(4.0, 90, Some(70)), packet(8.0, 12, None)];
    let segment =
        |text: &str| segment(&expectation(text), &|p| p.measured[NETWORK], &|p| p.truth[NETWORK], &packets);
    assert_eq!(segment("near = 'truth'\nwithin = 1\nduring = [3, 5]"), (Some(90.0), Some(70.0)));
    let quiet = "near = 'quiet'\nwithin = 1\nquiet = [0, 2]\nduring = [7, 9]";
    assert_eq!(segment(quiet), (Some(12.0), Some(10.0)));
    assert_eq!(segment("at_most = 1\nduring = [5, 6]"), (None, None));
}
