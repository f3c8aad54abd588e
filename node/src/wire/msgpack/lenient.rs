//! Reading as leniently as Go's msgpack decoders do (`ugorji/go`, which Piko uses): structures as maps in any
//! key order or as arrays, nil for any value, whole floats as integers, 0 and 1 as booleans.

use super::{Integer, Reader};
use crate::wire::WireError;

impl<'a> Reader<'a> {
    /// Reads a structure with the fields `names`, and calls `field` with the index of each that is there, to read
    /// its value. What is unknown is skipped, whatever is nested in it. A map may have its keys in any order; an
    /// array has the values in the order of `names`; nil has none.
    ///
    /// # Errors
    /// Of `field`; `Malformed` for another type, or for a key that is not a string.
    #[inline]
    pub(crate) fn fields(
        &mut self,
        names: &[&str],
        mut field: impl FnMut(usize, &mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if self.nil() {
            return Ok(());
        }
        if let Some(pairs) = self.map()? {
            let mut expected = 0;
            for _ in 0..pairs {
                let key = self.bytes_or_nil()?;
                let is_key = |name: &&str| name.as_bytes() == key;
                // Nearly always they come in order.
                let found = if names.get(expected).is_some_and(is_key) {
                    Some(expected)
                } else {
                    names.iter().position(is_key)
                };
                match found {
                    Some(index) => {
                        field(index, self)?;
                        expected = index + 1;
                    }
                    None => self.skip(1)?,
                }
            }
        } else {
            let elements = self.array()?;
            for index in 0..elements.min(names.len()) {
                field(index, self)?;
            }
            self.skip(elements.saturating_sub(names.len()))?;
        }
        Ok(())
    }

    /// A map's number of pairs, or `None`, and nothing read, when the next item is no map. A pair takes at least
    /// two bytes, so more of them than bytes are refused.
    fn map(&mut self) -> Result<Option<usize>, WireError> {
        let before = *self;
        let pairs = match self.byte()? {
            m @ 0x80..=0x8f => usize::from(m & 0x0f),
            0xde => self.length::<2>()?,
            0xdf => self.length::<4>()?,
            _ => {
                *self = before;
                return Ok(None);
            }
        };
        if pairs > self.rest.len() / 2 { Err(WireError::Truncated) } else { Ok(Some(pairs)) }
    }

    /// An array's number of elements; nil has none.
    pub(crate) fn array_or_nil(&mut self) -> Result<usize, WireError> {
        if self.nil() { Ok(0) } else { self.array() }
    }

    /// A string or a binary; nil is an empty one.
    pub(crate) fn bytes_or_nil(&mut self) -> Result<&'a [u8], WireError> {
        if self.nil() { Ok(&[]) } else { self.bytes() }
    }

    /// True, false, 0 or 1; nil is false.
    pub(crate) fn bool_or_nil(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0xc0 | 0xc2 | 0x00 => Ok(false),
            0xc3 | 0x01 => Ok(true),
            _ => Err(WireError::Malformed("expected true or false")),
        }
    }

    /// A number of zero or more, as an integer of any width or as a whole float; nil is 0.
    pub(crate) fn uint_or_nil(&mut self) -> Result<u64, WireError> {
        match self.number_or_nil()? {
            Integer::Unsigned(n) => Ok(n),
            Integer::Negative(_) => Err(WireError::Malformed("expected a number of zero or more")),
        }
    }

    /// A number, as an integer of any width or as a whole float; nil is 0.
    pub(crate) fn int_or_nil(&mut self) -> Result<i64, WireError> {
        self.number_or_nil()?.signed()
    }

    fn number_or_nil(&mut self) -> Result<Integer, WireError> {
        let float = match self.rest.first() {
            Some(0xc0) => {
                self.nil();
                return Ok(Integer::Unsigned(0));
            }
            Some(0xca) => {
                self.byte()?;
                f64::from(f32::from_bits(self.number::<4>()? as u32))
            }
            Some(0xcb) => {
                self.byte()?;
                f64::from_bits(self.number::<8>()?)
            }
            _ => return self.integer(),
        };
        // The bounds are powers of two, so that they are exact as floats.
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        match float {
            f if f.fract() != 0.0 || f.is_nan() => Err(WireError::Malformed("a number with a fraction")),
            f if (0.0..2.0 * TWO_63).contains(&f) => Ok(Integer::Unsigned(f as u64)),
            f if (-TWO_63..0.0).contains(&f) => Ok(Integer::Negative(f as i64)),
            _ => Err(WireError::TooLarge("a number beyond 64 bits")),
        }
    }
}
