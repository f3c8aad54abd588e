//! Whether this node should doubt itself.

use probe_ebpf::time::{MonoNs, Span};

/// Lifeguard's local health ("Lifeguard", section IV.A): 0 is healthy. A node that runs late, hears from nobody
/// or is proven wrong by those it suspected waits longer before it believes its own eyes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    score: u8,
    changed: MonoNs,
}

impl Health {
    pub(super) const WORST: u8 = 8;

    pub(super) fn new(now: MonoNs) -> Self {
        Self { score: 0, changed: now }
    }
    pub(super) fn score(&self) -> u8 {
        self.score
    }
    /// By how much all timeouts are longer than for a healthy node: 1 to 9.
    pub(super) fn factor(&self) -> f64 {
        f64::from(self.score) + 1.0
    }
    pub(super) fn raise(&mut self, points: u8, now: MonoNs) {
        self.score = self.score.saturating_add(points).min(Self::WORST);
        self.changed = now;
    }
    /// All is well: each `patience` of that takes a point back.
    pub(super) fn well(&mut self, patience: Span, now: MonoNs) {
        if self.score > 0 && now - self.changed >= patience {
            self.score -= 1;
            self.changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_rises_at_once_is_bounded_and_goes_slowly() {
        let ms = |n: i64| MonoNs::from_nanos(n * 1_000_000);
        let patience = Span::from_millis(500);
        let mut health = Health::new(ms(0));
        assert_eq!(health.factor(), 1.0);
        health.raise(200, ms(100));
        assert_eq!((health.score(), health.factor()), (8, 9.0));
        health.well(patience, ms(599));
        assert_eq!(health.score(), 8);
        for t in 600..1099 {
            health.well(patience, ms(t));
        }
        assert_eq!(health.score(), 7, "one point, however often it is told");
        for t in 1099..9000 {
            health.well(patience, ms(t));
        }
        assert_eq!(health.score(), 0);
    }
}
