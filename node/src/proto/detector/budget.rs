//! How many probes may be sent.

use probe_ebpf::time::{MonoNs, Span};

/// A token bucket that holds two intervals' worth, so that the bound is one on time and not on calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Time that earns one probe.
    price: Span,
    most: Span,
    saved: Span,
    at: MonoNs,
}

impl Budget {
    pub(super) fn new(per_interval: u8, interval: Span, now: MonoNs) -> Self {
        let price =
            Span::from_nanos(interval.as_nanos() / i64::from(per_interval.max(1))).max(Span::from_nanos(1));
        let most = interval + interval;
        Self { price, most, saved: most, at: now }
    }

    /// Takes one, or tells when there will be one.
    pub(super) fn take(&mut self, now: MonoNs) -> Result<(), MonoNs> {
        if now > self.at {
            self.saved = (self.saved + (now - self.at)).min(self.most);
            self.at = now;
        }
        if self.saved < self.price {
            return Err(self.at + (self.price - self.saved));
        }
        self.saved = self.saved - self.price;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_however_often_it_is_asked() {
        let ms = |n: i64| MonoNs::from_nanos(n * 1_000_000);
        let mut budget = Budget::new(4, Span::from_millis(100), ms(0));
        assert_eq!((0..20).filter(|_| budget.take(ms(0)).is_ok()).count(), 8);
        assert_eq!(budget.take(ms(0)), Err(ms(25)));
        assert_eq!(budget.take(ms(10)), Err(ms(25)));
        assert_eq!((1..=1000).filter(|t| budget.take(ms(*t)).is_ok()).count(), 40);
    }
}
