//! Whether this node should doubt itself.

/// Lifeguard's local health ("Lifeguard", section IV.A): 0 is healthy. A node that runs late, hears from nobody
/// or is proven wrong by those it suspected waits longer before it believes its own eyes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    score: u8,
    good_ticks: u8,
}

impl Health {
    pub(super) const WORST: u8 = 8;
    /// Ticks in time, with something heard, that take one point back.
    const GOOD_TICKS: u8 = 5;

    pub(super) fn score(&self) -> u8 {
        self.score
    }
    /// By how much all timeouts are longer than for a healthy node: 1 to 9.
    pub(super) fn factor(&self) -> f64 {
        f64::from(self.score) + 1.0
    }
    pub(super) fn raise(&mut self, points: u8) {
        self.score = self.score.saturating_add(points).min(Self::WORST);
        self.good_ticks = 0;
    }
    /// A tick came in time and something was heard since the one before.
    pub(super) fn good_tick(&mut self) {
        self.good_ticks += 1;
        if self.good_ticks >= Self::GOOD_TICKS {
            self.good_ticks = 0;
            self.score = self.score.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_rises_at_once_is_bounded_and_goes_slowly() {
        let mut health = Health::default();
        assert_eq!(health.factor(), 1.0);
        health.raise(200);
        assert_eq!((health.score(), health.factor()), (8, 9.0));
        for _ in 0..4 {
            health.good_tick();
        }
        assert_eq!(health.score(), 8);
        health.good_tick();
        assert_eq!(health.score(), 7);
        for _ in 0..100 {
            health.good_tick();
        }
        assert_eq!(health.score(), 0);
    }
}
