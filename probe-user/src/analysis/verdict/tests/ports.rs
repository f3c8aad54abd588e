//! Packets that leave from several source ports: a way that only some of them take.

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, Leg, SourcePort};
use crate::analysis::verdict::{Cause, Circumstances, PathJudge, Verdict};

const PORTS: [u16; 4] = [7176, 40_001, 40_002, 40_003];
/// Journeys in a second.
const RATE: i64 = 10;

/// What is said after half a minute of calm and ten seconds in which those of which `slow` says so, by port and number,
/// take 8 ms longer.
fn said(of: u8, slow: impl Fn(u16, u32) -> bool) -> Verdict {
    said_after(of, |port, counter, second| second >= 30 && slow(port, counter))
}

fn said_after(of: u8, slow: impl Fn(u16, u32, i64) -> bool) -> Verdict {
    let mut judge = PathJudge::new("a", "b");
    let mut verdict = None;
    for second in 0..40 {
        for part in 0..RATE {
            let counter = u32::try_from(second * RATE + part).unwrap() + 1;
            // No pattern, as in the product.
            let scattered = counter.wrapping_mul(0x9e37_79b1) >> 16;
            let port = PORTS[scattered as usize % usize::from(of)];
            let late = slow(port, counter, second);
            let mut legs = [Some(Bounded::exact(Span::from_micros(20))); 7];
            let network = Span::from_micros(if late { 8_200 } else { 200 });
            legs[Leg::Network.index()] = Some(Bounded::new(network, Span::from_micros(50)));
            let at = MonoNs::from_nanos((second * RATE + part) * 1_000_000_000 / RATE);
            judge.observe(&Journey {
                legs,
                correction: Correction::Fused,
                source: (of > 1).then_some(SourcePort { port, of }),
                ..Journey::unknown(counter, at)
            });
        }
        let now = MonoNs::from_nanos((second + 1) * 1_000_000_000);
        let said = judge.evaluate(now, &Circumstances { drift_ppb: 20_000, ..Circumstances::default() });
        assert!(second >= 30 || !said.cause.is_trouble(), "{said:?}");
        verdict = Some(said);
    }
    verdict.unwrap()
}

#[test]
fn a_way_that_some_source_ports_take_is_blamed_for_less_than_what_a_host_s_stalls_look_like() {
    let one = said(4, |port, _| port == 40_003);
    assert_eq!(one.cause, Cause::Network, "{}", one.evidence);
    let told = "from source port 40003 (of 4): one of several paths or receive queues";
    assert!(one.evidence.contains(told), "{}", one.evidence);

    // As many, but of any port, or of a sender with one port: that may be the hosts' stalls.
    let quarter = |_, counter: u32| counter % 4 == 1;
    for of in [4, 1] {
        let any = said(of, quarter);
        assert_eq!(any.cause, Cause::Ok, "{}", any.evidence);
    }

    // Not where that was always so, and nor where a host stalls now and then does its stall hide it.
    let ever = said_after(4, |port, _, _| port == 40_003);
    assert_eq!(ever.cause, Cause::Ok, "{}", ever.evidence);
    let stall = |counter: u32| counter % 20 == 1;
    let both = said_after(4, |port, counter, second| port == 40_003 && second >= 30 || stall(counter));
    assert_eq!(both.cause, Cause::Network, "{}", both.evidence);

    let all = said(4, |_, _| true);
    assert!(all.cause == Cause::Network && !all.evidence.contains("source port"), "{}", all.evidence);
}
