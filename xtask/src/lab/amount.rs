//! Amounts in scenarios: a number, or a text with a unit of time.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of whatever is counted; times are nanoseconds, written `"300us"`, `"20ms"` or `"1.5s"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amount(pub f64);

const UNITS: [(&str, f64); 4] = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        // The first that fits: every unit but the last ends in the last.
        let (number, scale) =
            UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
        let number: f64 = number.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
        Some(Self(number * scale))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text like \"300us\" with the unit ns, us, ms or s")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Amount, E> {
                Ok(Amount(value as f64))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Amount, E> {
                Ok(Amount(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Amount::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_to_nanoseconds() {
        for (text, ns) in [("300us", 3e5), ("20ms", 2e7), ("1.5s", 1.5e9), ("7ns", 7.0), ("-2 ms", -2e6)] {
            assert_eq!(Amount::parse(text), Some(Amount(ns)), "{text}");
        }
        for text in ["", "s", "3", "3m", "nans", "infs", "3 s s"] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }
}
