//! From a NIC's clock to REALTIME. Pure: whoever reads the clocks hands in the readings.
//!
//! The two run at rates of their own, each of which somebody may discipline (ptp4l, phc2sys, chronyd) or set. So nothing
//! is believed before a reading has come true as the ones before it foretold: that takes three, and again three after
//! whatever breaks the line.

use probe_ebpf::time::{PhcNs, RealNs, Span};

use crate::clock::{DRIFT_PPB, Rate};

/// Readings that are nearer to each other than this tell no rate worth having.
const LEAST_APART: Span = Span::from_millis(100);
/// Two clocks that run do not differ by a thousandth: an oscillator is off by a tenth of that, and the kernel's clock is
/// disciplined by half of it.
const MOST_RATE_PPB: i64 = 1_000_000;
/// A stamp that is known no better says less than the kernel's own, which is late by no more as a rule. It is reached
/// about four seconds after the last reading.
pub const MOST_ERROR: Span = Span::from_micros(250);

/// One reading of a NIC's clock beside REALTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhcReading {
    /// What the NIC's clock showed.
    pub phc: PhcNs,
    /// What REALTIME showed then.
    pub real: RealNs,
    /// How far off that can be.
    pub error: Span,
}

impl PhcReading {
    /// From a reading between two of REALTIME; `None` if that went backwards meanwhile.
    pub fn between(before: RealNs, phc: PhcNs, after: RealNs) -> Option<Self> {
        let width = after - before;
        let half = width.half_up();
        (!width.is_negative()).then_some(Self { phc, real: after - half, error: half })
    }

    /// The best of several.
    pub fn narrowest(brackets: impl Iterator<Item = (RealNs, PhcNs, RealNs)>) -> Option<Self> {
        let readings = brackets.filter_map(|(before, phc, after)| Self::between(before, phc, after));
        readings.min_by_key(|reading| reading.error)
    }
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There was none before it, or too little yet to foretell it.
    Begins,
    /// It came true. It need not be used for that: one between interrupted clock reads knows less than was foretold.
    Agrees,
    /// Too near to the one before it to tell anything.
    TooSoon,
    /// It contradicts what was before, of which nothing is left.
    Breaks(Break),
}

/// Why a reading contradicts those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// It shows no later time.
    #[error("it stands still or went backwards")]
    Stands,
    /// The rate is none that a clock has.
    #[error("one of the two was set, or its rate is off by {0} ppm")]
    Rate(i64),
    /// The time is another than was foretold.
    #[error("it is off by {0} from what it should show: one of the two was set, or is slewed")]
    Off(Span),
}

/// Where a NIC's clock and REALTIME stand to each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhcMapping {
    latest: Option<PhcReading>,
    /// What REALTIME gains on the NIC's clock.
    rate: Option<Rate>,
    /// Has a reading come true?
    confirmed: bool,
}

impl PhcMapping {
    /// Takes the next reading.
    pub fn accept(&mut self, reading: PhcReading) -> Taken {
        let Some(last) = self.latest else {
            *self = Self::begin(reading);
            return Taken::Begins;
        };
        let (passed, real) = (reading.phc - last.phc, reading.real - last.real);
        if passed.abs() < LEAST_APART && real.abs() < LEAST_APART {
            return Taken::TooSoon;
        }
        let rate = match rate(passed, real, reading.error + last.error) {
            Ok(rate) => rate,
            Err(broken) => return self.broken(reading, broken),
        };
        let Some((foretold, error)) = self.foretell(reading.phc) else {
            (self.latest, self.rate) = (Some(reading), Some(rate));
            return Taken::Begins;
        };
        let off = reading.real - foretold;
        if off.abs() > error + reading.error {
            return self.broken(reading, Break::Off(off));
        }
        self.confirmed = true;
        if reading.error <= error {
            (self.latest, self.rate) = (Some(reading), Some(rate));
        }
        Taken::Agrees
    }

    /// REALTIME at an instant of the NIC's clock and how far off that can be, if it is known well enough.
    pub fn real_of(&self, phc: PhcNs) -> Option<(RealNs, Span)> {
        self.foretell(phc).filter(|(_, error)| self.confirmed && *error <= MOST_ERROR)
    }

    fn foretell(&self, phc: PhcNs) -> Option<(RealNs, Span)> {
        let (latest, rate) = (self.latest?, self.rate?);
        let age = phc - latest.phc;
        // The rate may be another since then, by as much as every bound allows for. One nanosecond for rounding.
        let unsure = age.drift(rate.bound_ppb) + age.drift(DRIFT_PPB) + Span::from_nanos(1);
        Some((latest.real + age + rate.over(age), latest.error + unsure))
    }

    fn begin(reading: PhcReading) -> Self {
        Self { latest: Some(reading), ..Self::default() }
    }

    fn broken(&mut self, reading: PhcReading, broken: Break) -> Taken {
        *self = Self::begin(reading);
        Taken::Breaks(broken)
    }
}

/// What REALTIME gains while `passed` passes on the NIC's clock and `real`, known to `error`, on itself.
fn rate(passed: Span, real: Span, error: Span) -> Result<Rate, Break> {
    let nanos = |span: Span| i128::from(span.as_nanos());
    if passed <= Span::ZERO {
        return Err(Break::Stands);
    }
    let ppb = |span: i128| span * 1_000_000_000 / nanos(passed);
    let (gained, bound) = (ppb(nanos(real) - nanos(passed)), ppb(nanos(error)) + 2);
    if gained.abs() > i128::from(MOST_RATE_PPB) + bound {
        return Err(Break::Rate(i64::try_from(gained / 1_000).unwrap_or(i64::MAX)));
    }
    // A reading as wide as that foretells nothing, and is forgotten with the next.
    let bound_ppb = u32::try_from(bound).unwrap_or(u32::MAX);
    let limit = if gained < 0 { i32::MIN } else { i32::MAX };
    Ok(Rate { ppb: i32::try_from(gained).unwrap_or(limit), bound_ppb })
}

#[cfg(test)]
mod tests;
