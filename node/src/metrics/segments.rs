//! Times of the packets' segments.

use std::sync::OnceLock;

use probe_ebpf::time::Span;
use probe_user::analysis::align::Correction;
use probe_user::analysis::breakdown::Segment;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::clock::CORRECTIONS;

/// 1 us to 10 s, three per decade.
const BUCKETS: [f64; 22] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Clone, Debug)]
pub(super) struct Families {
    times: HistogramVec,
    negative: IntCounterVec,
}

impl Families {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let options = HistogramOpts::new(
            "pikoscope_segment_seconds",
            "Time of received packets by segment of their journey, corrected for clock offsets; values below zero are in pikoscope_segment_negative_total instead. correction: what a time between two hosts was corrected by; empty for times of one host.",
        )
        .buckets(BUCKETS.to_vec());
        Ok(Self {
            times: super::register(r, HistogramVec::new(options, &["segment", "tier", "correction"])?)?,
            negative: super::counters(
                r,
                "pikoscope_segment_negative_total",
                "Segments that came out below zero: the clocks' errors are larger than the time itself.",
                "segment",
            )?,
        })
    }

    pub(super) fn at(&self, tier: Option<u8>) -> SegmentMetrics {
        // Hooks on the way out add nothing to what is stamped on the way in.
        let tier = tier.map(|tier| tier.min(1));
        let label = match tier {
            Some(1) => "1",
            Some(_) => "0",
            None => "none",
        };
        let label_of = |segment| match segment {
            Segment::SendQueue | Segment::Handling => Some(label),
            // The sender's stamps are of its own tier, which it tells: see `hooked`.
            Segment::EgressStack | Segment::Qdisc => Some("0"),
            Segment::Network | Segment::EgressAndNetwork => tier.map(|_| label),
            Segment::IngressStack | Segment::SocketQueue => (tier == Some(1)).then_some(label),
            // At tier 1 too: a packet that found the ring full has only the stamps of tier 0.
            Segment::IngressStackAndSocketQueue => tier.map(|_| "0"),
        };
        let own = |segment, label| self.handles(segment, label, "");
        let hooked = [Segment::EgressStack, Segment::Qdisc].map(|segment| own(segment, "2"));
        let children = Segment::ALL.map(|segment| match label_of(segment) {
            Some(tier) if is_between_hosts(segment) => Child::Between(tier, Default::default()),
            Some(tier) => Child::Own(own(segment, tier)),
            None => Child::None,
        });
        SegmentMetrics { families: self.clone(), children, hooked }
    }

    fn handles(&self, segment: Segment, tier: &str, correction: &str) -> Handles {
        (
            self.times.with_label_values(&[segment.name(), tier, correction]),
            self.negative.with_label_values(&[segment.name()]),
        )
    }
}

/// Does it begin at one host and end at another?
const fn is_between_hosts(segment: Segment) -> bool {
    matches!(segment, Segment::Network | Segment::EgressAndNetwork)
}

type Handles = (Histogram, IntCounter);

#[derive(Clone, Debug)]
enum Child {
    /// What this tier does not tell.
    None,
    Own(Handles),
    /// Times between two hosts, with the tier: a series for each correction that occurs, since most never do.
    Between(&'static str, [OnceLock<Handles>; CORRECTIONS.len()]),
}

/// Handles for the segments that one tier can tell.
#[derive(Clone, Debug)]
pub struct SegmentMetrics {
    families: Families,
    children: [Child; Segment::ALL.len()],
    /// The segments that a sender of tier 2 stamps: egress_stack and qdisc.
    hooked: [Handles; 2],
}

impl SegmentMetrics {
    /// One packet's time in `segment`; `hooked`: its sender's stamps are of tier 2; `correction`: of its one-way time.
    /// Takes no lock, but for the first packet with a correction.
    pub fn observe(&self, segment: Segment, time: Span, hooked: bool, correction: Correction) {
        let (times, negative) = match (segment, &self.children[segment.index()]) {
            (Segment::EgressStack, _) if hooked => &self.hooked[0],
            (Segment::Qdisc, _) if hooked => &self.hooked[1],
            (_, Child::Own(handles)) => handles,
            (_, Child::Between(tier, children)) => {
                let known = CORRECTIONS.iter().zip(children).find(|((known, _), _)| *known == correction);
                let Some(((_, name), child)) = known else { return };
                child.get_or_init(|| self.families.handles(segment, tier, name))
            }
            (_, Child::None) => return,
        };
        if time.is_negative() {
            negative.inc();
        } else {
            times.observe(time.as_secs_f64());
        }
    }
}
