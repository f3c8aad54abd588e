//! Journeys at a steady rate, whose network times a test decides.

use probe_ebpf::time::{Bounded, MonoNs, Span};

use crate::analysis::align::Correction;
use crate::analysis::journey::{Journey, Leg, SourcePort};
use crate::analysis::verdict::{Circumstances, PathJudge, Verdict};

/// What is said at the end of each of 40 seconds with `rate` journeys each. `network` gives the network time of the journey
/// with a number, which begins at 0, in a second, and where it was sent from.
pub(super) fn said(
    rate: i64,
    network: impl Fn(i64, i64) -> (Span, Option<SourcePort>),
    circumstances: impl Fn(i64) -> Circumstances,
) -> Vec<Verdict> {
    let mut judge = PathJudge::new("a", "b");
    let mut said = Vec::new();
    for second in 0..40 {
        for n in second * rate..(second + 1) * rate {
            let (time, source) = network(n, second);
            let mut legs = [Some(Bounded::exact(Span::from_micros(20))); 7];
            legs[Leg::Network.index()] = Some(Bounded::new(time, Span::from_micros(50)));
            let at = MonoNs::from_nanos(n * 1_000_000_000 / rate);
            let known = Journey::unknown(u32::try_from(n).unwrap() + 1, at);
            judge.observe(&Journey { legs, correction: Correction::Fused, source, ..known });
        }
        let now = MonoNs::from_nanos((second + 1) * 1_000_000_000);
        said.push(judge.evaluate(now, &circumstances(second)));
    }
    said
}
