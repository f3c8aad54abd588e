//! Times of the packets' segments.

use probe_ebpf::time::Span;
use probe_user::analysis::breakdown::Segment;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry};

/// 1 us to 10 s, three per decade.
const BUCKETS: [f64; 22] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Debug)]
pub(super) struct Families {
    times: HistogramVec,
    negative: IntCounterVec,
}

impl Families {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let options = HistogramOpts::new(
            "pikoscope_segment_seconds",
            "Time of received packets by segment of their journey, corrected for clock offsets; values below zero are in pikoscope_segment_negative_total instead.",
        )
        .buckets(BUCKETS.to_vec());
        Ok(Self {
            times: super::register(r, HistogramVec::new(options, &["segment", "tier"])?)?,
            negative: super::counters(
                r,
                "pikoscope_segment_negative_total",
                "Segments that came out below zero: the clocks' errors are larger than the time itself.",
                "segment",
            )?,
        })
    }

    pub(super) fn at(&self, tier: Option<u8>) -> SegmentMetrics {
        let label = match tier {
            Some(1) => "1",
            Some(_) => "0",
            None => "none",
        };
        let label_of = |segment| match segment {
            Segment::Handling => Some(label),
            Segment::Network => tier.map(|_| label),
            Segment::IngressStack | Segment::SocketQueue => (tier == Some(1)).then_some(label),
            // At tier 1 too: a packet that found the ring full has only the stamps of tier 0.
            Segment::IngressStackAndSocketQueue => tier.map(|_| "0"),
        };
        SegmentMetrics {
            children: Segment::ALL.map(|segment| {
                let label = label_of(segment)?;
                Some((
                    self.times.with_label_values(&[segment.name(), label]),
                    self.negative.with_label_values(&[segment.name()]),
                ))
            }),
        }
    }
}

/// Handles for the segments that one tier can tell.
#[derive(Clone, Debug)]
pub struct SegmentMetrics {
    children: [Option<(Histogram, IntCounter)>; Segment::ALL.len()],
}

impl SegmentMetrics {
    /// One packet's time in `segment`. Takes no lock.
    pub fn observe(&self, segment: Segment, time: Span) {
        if let Some((times, negative)) = &self.children[segment.index()] {
            if time.is_negative() {
                negative.inc();
            } else {
                times.observe(time.as_secs_f64());
            }
        }
    }
}
