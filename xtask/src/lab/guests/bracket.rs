//! A guest's clock against the host's, from nothing but causality.
//!
//! No packet leaves the emulator before the guest has sent it, and none is received before it was handed over. So
//! each stamp of the guest has a neighbour on the host's clock that is certainly later, or earlier. Between all of
//! them the straight lines that a clock of constant rate can have are a small polygon: Moon, Skelly and Towsley's
//! linear programme (INFOCOM 1999), solved by clipping. No symmetry is assumed and no NTP is asked, so what it says
//! can be held against what NTP says.

use probe_ebpf::time::{MonoNs, Span};

/// A clock's rate is off by less than this: one part in a hundred, in nanoseconds a second.
const MOST_DRIFT: f64 = 1e7;

/// Which of two instants on two clocks came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The guest's, as when it sends.
    GuestFirst,
    /// The host's, as when the guest receives.
    HostFirst,
}

/// One packet on its way between guest and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    /// The guest's stamp, on its own CLOCK_MONOTONIC.
    pub(super) guest: MonoNs,
    /// The host's stamp, on its own.
    pub(super) host: MonoNs,
    /// Which of them happened first.
    pub(super) order: Order,
}

/// All lines `host - guest = a + b x` that no packet contradicts, `x` being the guest's time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bracket {
    /// Where `x` is zero, and what is taken from `host - guest`.
    origin: (MonoNs, i64),
    /// Corners (a, b) in nanoseconds and nanoseconds a second.
    corners: Vec<(f64, f64)>,
}

impl Bracket {
    /// None when there are no packets in one of the directions, or when no line fits: one of the clocks does not run
    /// straight, or a stamp is not what it says.
    pub(super) fn around(passings: &[Passing]) -> Option<Self> {
        for order in [Order::GuestFirst, Order::HostFirst] {
            passings.iter().find(|passing| passing.order == order)?;
        }
        let first = passings.first()?;
        let origin = (first.guest, first.host.as_nanos() - first.guest.as_nanos());
        // Far beyond what any pair of stamps is from another one.
        let (a, b) = (1e12, MOST_DRIFT);
        let mut corners = vec![(-a, -b), (a, -b), (a, b), (-a, b)];
        for passing in passings {
            let (x, y) = place(origin, passing);
            // Positive on the side of the lines that are possible.
            let room = |&(a, b): &(f64, f64)| match passing.order {
                Order::GuestFirst => y - (a + b * x),
                Order::HostFirst => a + b * x - y,
            };
            corners = clip(&corners, room);
            if corners.is_empty() {
                return None;
            }
        }
        Some(Self { origin, corners })
    }

    /// The instant of the host's clock at a stamp of the guest's: the middle of what is possible, with half its width.
    pub(super) fn host(&self, guest: MonoNs) -> (MonoNs, Span) {
        let x = (guest - self.origin.0).as_nanos() as f64 / 1e9;
        let values = self.corners.iter().map(|(a, b)| a + b * x);
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let middle = guest.as_nanos() + self.origin.1 + ((low + high) / 2.0).round() as i64;
        (MonoNs::from_nanos(middle), Span::from_nanos(((high - low) / 2.0).ceil() as i64))
    }

    /// By how much the guest's clock gains on the host's, in nanoseconds a second: least and most.
    pub(super) fn drift_ppb(&self) -> (f64, f64) {
        let gains = self.corners.iter().map(|(_, b)| -b);
        gains.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), gain| (low.min(gain), high.max(gain)))
    }
}

/// Seconds and nanoseconds from the origin, both small enough to lose nothing as floats.
fn place((guest, difference): (MonoNs, i64), passing: &Passing) -> (f64, f64) {
    let x = (passing.guest - guest).as_nanos() as f64 / 1e9;
    (x, (passing.host.as_nanos() - passing.guest.as_nanos() - difference) as f64)
}

/// The part of a convex polygon where `room` is not negative (Sutherland and Hodgman).
fn clip(corners: &[(f64, f64)], room: impl Fn(&(f64, f64)) -> f64) -> Vec<(f64, f64)> {
    let mut kept = Vec::with_capacity(corners.len() + 1);
    let Some(mut last) = corners.last() else { return kept };
    let mut last_room = room(last);
    for corner in corners {
        let next_room = room(corner);
        if (last_room < 0.0) != (next_room < 0.0) {
            let share = last_room / (last_room - next_room);
            kept.push((last.0 + share * (corner.0 - last.0), last.1 + share * (corner.1 - last.1)));
        }
        if next_room >= 0.0 {
            kept.push(*corner);
        }
        (last, last_room) = (corner, next_room);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: i64 = 7_000_000_000_000;

    /// The host's time at a guest's whose clock gains `ppb`.
    fn host(guest: i64, ppb: i64) -> i64 {
        guest + BOOT - guest / 1_000 * ppb / 1_000_000
    }

    fn passing(guest: i64, ppb: i64, late: i64, order: Order) -> Passing {
        let late = if order == Order::GuestFirst { late } else { -late };
        let [guest, host] = [guest, host(guest, ppb) + late].map(MonoNs::from_nanos);
        Passing { guest, host, order }
    }

    proptest! {
        /// The true instant is always within, however long packets took.
        #[test]
        fn the_truth_is_inside(
            ppb in -400_000_i64..400_000,
            lates in prop::collection::vec((0_i64..3_000_000, any::<bool>()), 2..200),
            when in 0_i64..60_000_000_000,
        ) {
            let passings: Vec<Passing> = lates.iter().enumerate().map(|(i, (late, out))| {
                let order = if *out { Order::GuestFirst } else { Order::HostFirst };
                passing(i as i64 * 100_000_000, ppb, *late, order)
            }).collect();
            let both = lates.iter().any(|(_, out)| *out) && lates.iter().any(|(_, out)| !*out);
            let found = Bracket::around(&passings);
            prop_assert_eq!(found.is_some(), both);
            if let Some(bracket) = found {
                let (at, bound) = bracket.host(MonoNs::from_nanos(when));
                let off = (at.as_nanos() - host(when, ppb)).abs();
                // Rounding of the test's own clock.
                prop_assert!(off <= bound.as_nanos() + 1_000, "{} off, bound {}", off, bound);
                let (low, high) = bracket.drift_ppb();
                prop_assert!(low - 1_000.0 <= ppb as f64 && ppb as f64 <= high + 1_000.0);
            }
        }
    }

    #[test]
    fn it_is_as_narrow_as_the_fastest_packets() {
        let passings: Vec<Passing> = (0..600)
            .map(|i| {
                let order = if i % 2 == 0 { Order::GuestFirst } else { Order::HostFirst };
                passing(i * 50_000_000, 35_000, if i % 7 < 2 { 40_000 } else { 900_000 }, order)
            })
            .collect();
        let bracket = Bracket::around(&passings).unwrap();
        let (_, bound) = bracket.host(MonoNs::from_nanos(15_000_000_000));
        assert!(bound <= Span::from_micros(41), "{bound}");
        let (low, high) = bracket.drift_ppb();
        assert!(low > 30_000.0 && high < 40_000.0 && low <= 35_000.0 && high >= 35_000.0, "{low} {high}");
    }

    #[test]
    fn a_clock_that_is_stepped_or_changes_its_rate_is_noticed() {
        let straight = |i: i64, shift: i64| {
            let order = if i % 2 == 0 { Order::GuestFirst } else { Order::HostFirst };
            let passing = passing(i * 100_000_000, 0, 50_000, order);
            Passing { host: passing.host + Span::from_nanos(shift), ..passing }
        };
        let stepped: Vec<Passing> = (0..200).map(|i| straight(i, (i / 100) * 1_000_000)).collect();
        assert_eq!(Bracket::around(&stepped), None);
        let bent: Vec<Passing> = (0..200).map(|i| straight(i, (i - 100).max(0) * 10_000)).collect();
        assert_eq!(Bracket::around(&bent), None);
        let whole: Vec<Passing> = (0..200).map(|i| straight(i, 0)).collect();
        assert!(Bracket::around(&whole).is_some());
        assert_eq!(Bracket::around(&whole[..1]), None, "one direction only");
    }
}
