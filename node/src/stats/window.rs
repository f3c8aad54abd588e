//! The reporting window of a latency gauge.

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::quantiles::SpanHistogram;

/// Windows of fixed length, one after the other; the gauge shows the median of the last complete one.
#[derive(Debug)]
pub struct Window {
    length: Span,
    start: MonoNs,
    current: SpanHistogram,
    last: Option<Span>,
}

impl Window {
    /// The first window starts `now`. A length of zero or less would never end: it is taken as one second.
    pub fn new(length: Span, now: MonoNs) -> Self {
        let length = if length > Span::ZERO { length } else { Span::from_secs(1) };
        Self { length, start: now, current: SpanHistogram::default(), last: None }
    }

    /// A value of `now`.
    pub fn record(&mut self, now: MonoNs, value: Span) {
        self.roll(now);
        self.current.record(value);
    }

    /// Median of the last window that is complete; `None` when that was empty, or none is complete yet.
    pub fn median(&mut self, now: MonoNs) -> Option<Span> {
        self.roll(now);
        self.last
    }

    fn roll(&mut self, now: MonoNs) {
        let complete = (now - self.start).as_nanos() / self.length.as_nanos();
        if complete < 1 {
            return;
        }
        // After two or more lengths, the last complete window is one in which nothing was recorded.
        self.last = if complete == 1 { self.current.quantile(0.5) } else { None };
        self.current.clear();
        self.start = self.start + Span::from_nanos(complete.saturating_mul(self.length.as_nanos()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(s)
    }

    #[test]
    fn shows_the_last_complete_window_only() {
        let mut w = Window::new(Span::from_secs(15), at(100));
        for ns in [10, 20, 90] {
            w.record(at(101), Span::from_nanos(ns));
        }
        assert_eq!(w.median(at(114)), None);
        assert_eq!(w.median(at(115)), Some(Span::from_nanos(20)));
        w.record(at(116), Span::from_nanos(-5));
        assert_eq!(w.median(at(129)), Some(Span::from_nanos(20)));
        assert_eq!(w.median(at(130)), Some(Span::from_nanos(-5)));
        assert_eq!(w.median(at(145)), None, "an empty window has no median");
    }

    #[test]
    fn a_long_pause_leaves_no_stale_value() {
        let mut w = Window::new(Span::from_secs(15), at(0));
        w.record(at(1), Span::from_nanos(7));
        assert_eq!(w.median(at(40)), None);
        w.record(at(44), Span::from_nanos(8));
        assert_eq!(w.median(at(45)), Some(Span::from_nanos(8)), "windows keep their grid");
    }
}
