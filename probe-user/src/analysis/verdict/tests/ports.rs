//! Packets that leave from several source ports: a way that only some of them take.

use probe_ebpf::time::Span;

use super::steady;
use crate::analysis::journey::SourcePort;
use crate::analysis::verdict::{Cause, Circumstances, Verdict};

const PORTS: [u16; 4] = [7176, 40_001, 40_002, 40_003];
/// Journeys in a second.
const RATE: i64 = 10;

/// What is said after half a minute of calm and ten seconds in which those of which `slow` says so, by port and number,
/// take 8 ms longer.
fn said(of: u8, slow: impl Fn(u16, u32) -> bool) -> Verdict {
    said_after(of, |port, counter, second| second >= 30 && slow(port, counter))
}

fn said_after(of: u8, slow: impl Fn(u16, u32, i64) -> bool) -> Verdict {
    let network = |n: i64, second| {
        let counter = u32::try_from(n).unwrap() + 1;
        // No pattern, as in the product.
        let scattered = counter.wrapping_mul(0x9e37_79b1) >> 16;
        let port = PORTS[scattered as usize % usize::from(of)];
        let late = slow(port, counter, second);
        (Span::from_micros(if late { 8_200 } else { 200 }), (of > 1).then_some(SourcePort { port, of }))
    };
    let calm = Circumstances { drift_ppb: 20_000, ..Circumstances::default() };
    let mut said = steady::said(RATE, network, |_| calm);
    for said in &said[..30] {
        assert!(!said.cause.is_trouble(), "{said:?}");
    }
    said.pop().unwrap()
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
