//! Numbers in 7-bit groups, least first, the top bit set on all but the last (LEB128, as DWARF has it).

use super::WireError;

/// Bytes of the longest number.
pub(super) const MAX: usize = 10;

/// Appends `number`.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off the front; on an error `bytes` is as it was.
///
/// # Errors
/// It ends too soon, or has more than 64 bits.
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let (mut rest, mut number) = (*bytes, 0);
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(WireError::Truncated)?;
        rest = tail;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            *bytes = rest;
            return Ok(number);
        }
    }
    Err(WireError::TooLarge("a number beyond 64 bits"))
}

/// Appends a number that may be negative: small ones of either sign are short (zigzag).
pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Takes one off the front.
///
/// # Errors
/// As [`take`].
pub(super) fn take_signed(bytes: &mut &[u8]) -> Result<i64, WireError> {
    let number = take(bytes)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(number: u64, signed: i64, shift in 0_u32..64) {
            let (number, signed) = (number >> shift, signed >> shift);
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            prop_assert!(bytes.len() <= MAX);
            put_signed(&mut bytes, signed);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Ok(number));
            prop_assert_eq!(take_signed(&mut rest), Ok(signed));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn nothing_short_or_beyond_64_bits_is_a_number() {
        let whole = [0xff; 9];
        assert_eq!(take(&mut whole.as_slice()), Err(WireError::Truncated));
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(take(&mut max.as_slice()), Ok(u64::MAX));
        max[9] = 2;
        assert!(matches!(take(&mut max.as_slice()), Err(WireError::TooLarge(_))));
        assert_eq!(take(&mut [].as_slice()), Err(WireError::Truncated));
    }
}
