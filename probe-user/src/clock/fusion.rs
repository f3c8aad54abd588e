//! NTP's word and the peers' evidence on one clock difference, put together.
//!
//! `Delta = theta_peer - theta_local`. NTP gives its value with a bound; gossip's own packets give an interval that
//! holds whatever the paths are like. Both are true unless a clock lies, so the truth is in what they have in common.

use probe_ebpf::time::{Bounded, Span};

use super::interval::Interval;
use super::peer::PeerDelta;
use crate::analysis::align::Correction;

/// Up to about this bound NTP's value may be anywhere within it.
///
/// Where the bound is wide, the value may be at one end of the peers' interval, and a bound around it twice as wide as
/// need be.
pub const GOOD: Span = Span::from_micros(250);
/// How far from the middle of the intersection the value may stay, however wide NTP's bound: what the bound is wider by.
pub const LEAST_PREFERENCE: Span = Span::from_micros(20);

/// How far from the middle of the intersection the value may be with this bound of NTP's: as the bound grows towards
/// [`GOOD`], less and less, so that the fused value does not jump.
fn preference(bound: Span) -> Span {
    (GOOD - bound).max(LEAST_PREFERENCE)
}

/// A clock difference, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fused {
    /// `theta_peer - theta_local`; the bound is [`Span::MAX`] with [`Correction::None`].
    pub delta: Bounded,
    /// Where it comes from.
    pub kind: Correction,
    /// How far the two intervals are apart: a clock lies. Then the value is the peers' (packets cannot arrive before
    /// they were sent), and the bound covers what either of the two says.
    pub disagreement: Option<Span>,
}

/// NTP's view of `theta_peer - theta_local`; `None` when one of the two is unknown.
pub fn ntp_delta(peer: Bounded, local: Bounded) -> Option<Bounded> {
    [peer, local].iter().all(|theta| theta.bound < Span::MAX).then_some(peer - local)
}

/// Intersects NTP's interval with the peers'.
///
/// - Both, in common: NTP's value if the peers do not narrow its interval ([`Correction::Ntp`]). If they do, both values
///   weighted by what each may be off by ([`weighted`]), or the nearest that is in both and not so far from their middle
///   that the bound would be wider than NTP's, or, if that is not [`GOOD`], than need be ([`Correction::Fused`]).
/// - Both, nothing in common: [`Fused::disagreement`].
/// - The peers alone: their midpoint ([`Correction::PeerOnly`]). It makes both directions take the same time, so a
///   path's asymmetry cannot be seen; the bound covers it.
pub fn fuse(ntp: Option<Bounded>, peer: Option<&PeerDelta>) -> Fused {
    let agreed = |delta, kind| Fused { delta, kind, disagreement: None };
    match (ntp.filter(|ntp| ntp.bound < Span::MAX), peer) {
        (None, None) => agreed(Bounded::new(Span::ZERO, Span::MAX), Correction::None),
        (Some(ntp), None) => agreed(ntp, Correction::Ntp),
        (None, Some(peer)) => agreed(peer.interval.around(middle(peer)), Correction::PeerOnly),
        (Some(ntp), Some(peer)) => {
            let claimed = Interval::from(ntp);
            let Some(common) = claimed.intersection(&peer.interval) else {
                return Fused {
                    delta: claimed.hull(&peer.interval).around(middle(peer)),
                    kind: Correction::PeerOnly,
                    disagreement: claimed.gap(&peer.interval),
                };
            };
            if common == claimed {
                return agreed(ntp, Correction::Ntp);
            }
            let reach = preference(ntp.bound).min(ntp.bound - common.width().half_up()).max(Span::ZERO);
            let middle = Interval::from(Bounded::exact(common.middle())).widened(reach);
            agreed(common.around(common.nearest(middle.nearest(weighted(ntp, peer)))), Correction::Fused)
        }
    }
}

/// Between NTP's value and the peers' midpoint, weighted by the inverse squares of their likely errors.
///
/// NTP's value knows nothing of the paths between the peers and is off by its own noise; the midpoint is off by half of
/// the paths' asymmetry, which may be anything up to the interval's ends. A bound of NTP's is taken for three standard
/// deviations, as it mostly is a worst case; the peers' interval for a uniform distribution, whose deviation is its half
/// width over the root of three. So a good NTP decides over wide intervals, and hardly counts in narrow ones.
fn weighted(ntp: Bounded, peer: &PeerDelta) -> Span {
    let middle = middle(peer);
    let square = |span: Span| (span.as_nanos() as f64).powi(2);
    let (trust, doubt) = (3.0 * square(peer.interval.width().half_up()), square(ntp.bound));
    let share = if trust > 0.0 { trust / (trust + doubt) } else { 0.0 };
    // `as` saturates, and the caller keeps the value in bounds.
    middle + Span::from_nanos((share * (ntp.value - middle).as_nanos() as f64).round() as i64)
}

/// The midpoint of the least delays; inside of the interval by construction, so this changes nothing but a hand-made one.
fn middle(peer: &PeerDelta) -> Span {
    peer.interval.nearest(peer.midpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn us(us: i64) -> Span {
        Span::from_micros(us)
    }

    fn told(value: i64, bound: i64) -> Option<Bounded> {
        Some(Bounded::new(us(value), us(bound)))
    }

    fn peer(low: Span, high: Span) -> PeerDelta {
        let interval = Interval::new(low, high).expect("in order");
        PeerDelta {
            interval,
            midpoint: interval.middle(),
            min_round_trip: interval.width(),
            drift: None,
            samples: 100,
            age: Span::ZERO,
        }
    }

    /// 5 ms on the way out only: the midpoint is off by half of it, NTP is not.
    #[test]
    fn a_good_ntp_decides_over_asymmetric_paths() {
        let peer = peer(us(0), us(5_000));
        let fused = fuse(Some(Bounded::new(us(10), us(100))), Some(&peer));
        assert_eq!(fused.kind, Correction::Fused, "the peers say that the clocks differ by 0 us or more");
        assert!((fused.delta.value - us(10)).abs() < us(3), "{fused:?}");
        assert!(fused.delta.covers(us(0)) && fused.delta.covers(us(110)), "{fused:?}");
        let wide = fuse(Some(Bounded::new(us(20), us(1_000))), Some(&peer));
        assert_eq!(
            (wide.delta.value, wide.delta.bound),
            (us(490), us(530)),
            "narrow rather than near to NTP"
        );
    }

    /// Hosts close to each other and a server far away: it can say nothing of ten microseconds.
    #[test]
    fn a_far_ntp_hardly_counts_between_near_peers() {
        let peer = peer(us(-20), us(20));
        for off in [-6_000, 300, 18] {
            let fused = fuse(Some(Bounded::new(us(off), us(10_000))), Some(&peer));
            assert_eq!(fused.kind, Correction::Fused);
            assert!(fused.delta.value.abs() < us(1) && fused.delta.bound <= us(21), "{off}: {fused:?}");
        }
    }

    #[test]
    fn alone_either_is_taken_as_it_is_and_contradictions_are_told() {
        let (ntp, near) = (Bounded::new(us(100), us(10)), peer(us(-20), us(40)));
        let alone = fuse(Some(ntp), None);
        assert_eq!((alone.delta, alone.kind), (ntp, Correction::Ntp));
        let packets = fuse(None, Some(&near));
        assert_eq!((packets.delta, packets.kind), (Bounded::new(us(10), us(30)), Correction::PeerOnly));
        let both = fuse(Some(ntp), Some(&near));
        assert_eq!((both.disagreement, both.kind), (Some(us(50)), Correction::PeerOnly));
        assert!(both.delta.covers(us(110)) && both.delta.covers(us(-20)), "either may be right: {both:?}");
        let inside = fuse(Some(Bounded::new(us(10), us(10))), Some(&near));
        assert_eq!((inside.delta.value, inside.kind), (us(10), Correction::Ntp));
        let edge = fuse(Some(Bounded::new(us(-90), us(100))), Some(&peer(us(0), us(5_000))));
        assert_eq!((edge.delta.value, edge.delta.bound), (us(0), us(10)), "the nearest that both allow");
        let unknown = Some(Bounded::new(us(7), Span::MAX));
        assert_eq!(fuse(unknown, Some(&peer(us(-20), us(40)))), packets);
        assert_eq!(fuse(unknown, None), fuse(None, None));
        assert_eq!((fuse(None, None).kind, fuse(None, None).delta.bound), (Correction::None, Span::MAX));
    }

    #[test]
    fn a_lie_is_not_papered_over() {
        for sign in [-1, 1] {
            let fused = fuse(told(sign * 50_000, 100), Some(&peer(us(-300), us(300))));
            assert_eq!(fused.disagreement, Some(us(50_000 - 100 - 300)));
            assert_eq!((fused.kind, fused.delta.value), (Correction::PeerOnly, Span::ZERO));
            assert_eq!(fused.delta.bound, us(50_100), "covers the far end of what NTP says");
        }
    }

    #[test]
    fn an_unknown_theta_leaves_the_difference_unknown() {
        let known = Bounded::new(us(50), us(3));
        assert_eq!(ntp_delta(known, Bounded::new(us(-20), us(4))), told(70, 7));
        assert_eq!(ntp_delta(known, Bounded::new(us(0), Span::MAX)), None);
        assert_eq!(ntp_delta(Bounded::new(us(0), Span::MAX), known), None);
    }

    proptest! {
        /// Whatever is true by both is within the bound, and the value is one that both allow.
        #[test]
        fn the_bound_covers_all_that_both_allow(low: i64, width in 0i64.., value: i64, bound in 0i64..i64::MAX, share in 0.0..=1.0) {
            // A quarter of the range, so that no sum saturates.
            let [low, width, value, bound] = [low, width, value, bound].map(|ns| Span::from_nanos(ns / 4));
            let (peer, ntp) = (peer(low, low + width), Bounded::new(value, bound));
            let fused = fuse(Some(ntp), Some(&peer));
            match Interval::from(ntp).intersection(&peer.interval) {
                Some(common) => {
                    prop_assert!(fused.delta.bound <= bound + Span::from_nanos(1), "wider than NTP's: {:?}", fused);
                    let truth = common.low() + Span::from_nanos((common.width().as_nanos() as f64 * share) as i64);
                    prop_assert!(fused.delta.covers(common.nearest(truth)), "{:?} {:?}", fused, common);
                    prop_assert!(common.contains(fused.delta.value));
                    prop_assert_eq!(fused.disagreement, None);
                }
                None => prop_assert!(fused.disagreement > Some(Span::ZERO)),
            }
        }
    }
}
