//! How long an answer of one peer takes.

use probe_ebpf::time::Span;

/// Round-trip estimate of Jacobson and Karels (RFC 6298, section 2), in steps of RTT/8 and deviation/4.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Smoothed time and mean deviation, once there was a sample.
    estimate: Option<(Span, Span)>,
    /// Doublings of the timeout, for answers that came after it (RFC 6298, 5.5), until a clean sample.
    doublings: u8,
}

impl Rtt {
    /// While nothing is known.
    pub(super) const UNKNOWN: Span = Span::from_millis(500);
    /// A peer may be scheduled late, whatever the network does.
    pub(super) const FLOOR: Span = Span::from_millis(200);
    pub(super) const CEILING: Span = Span::from_secs(1);

    /// Takes the time from a request to its answer. Negative ones are no measurement and change nothing.
    pub(super) fn sample(&mut self, rtt: Span) {
        if rtt.is_negative() {
            return;
        }
        self.doublings = 0;
        let eighth = |span: Span, n: i64| Span::from_nanos(span.as_nanos() / 8 * n);
        self.estimate = Some(match self.estimate {
            None => (rtt, rtt.half_up()),
            Some((smoothed, deviation)) => (
                eighth(smoothed, 7) + eighth(rtt, 1),
                eighth(deviation, 6) + eighth((smoothed - rtt).abs(), 2),
            ),
        });
    }

    /// An answer came, but after the timeout: it was lost and repeated, or the timeout is too short. Nobody can
    /// tell which request it answers (Karn's rule), so only wait longer the next time.
    pub(super) fn late(&mut self) {
        self.doublings = (self.doublings + 1).min(3);
    }

    /// The smoothed time.
    pub(super) fn smoothed(&self) -> Option<Span> {
        self.estimate.map(|(smoothed, _)| smoothed)
    }

    /// How long to wait for an answer.
    pub(super) fn timeout(&self) -> Span {
        let base = match self.estimate {
            None => Self::UNKNOWN,
            Some((smoothed, deviation)) => {
                let four = Span::from_nanos(deviation.as_nanos().saturating_mul(4));
                (smoothed + four).max(Self::FLOOR).min(Self::CEILING)
            }
        };
        Span::from_nanos(base.as_nanos() << self.doublings).min(Self::CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_samples_between_floor_and_ceiling() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), Rtt::UNKNOWN);
        rtt.sample(Span::from_millis(-1));
        assert_eq!(rtt.timeout(), Rtt::UNKNOWN);
        rtt.sample(Span::from_micros(300));
        assert_eq!(rtt.timeout(), Rtt::FLOOR);
        assert_eq!(rtt.smoothed(), Some(Span::from_micros(300)));
        for _ in 0..100 {
            rtt.sample(Span::from_millis(300));
        }
        let settled = rtt.timeout();
        assert!(settled > Span::from_millis(295) && settled < Span::from_millis(320), "{settled}");
        rtt.sample(Span::MAX);
        assert_eq!(rtt.timeout(), Rtt::CEILING);
    }

    #[test]
    fn late_answers_double_the_timeout_until_a_clean_sample() {
        let mut rtt = Rtt::default();
        rtt.sample(Span::from_millis(1));
        rtt.late();
        assert_eq!(rtt.timeout(), Span::from_millis(400));
        for _ in 0..300 {
            rtt.late();
        }
        assert_eq!(rtt.timeout(), Rtt::CEILING);
        rtt.sample(Span::from_millis(1));
        assert_eq!(rtt.timeout(), Rtt::FLOOR);
    }
}
