//! Tests of reading and writing items.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn numbers_come_back_and_another_decoder_agrees(n in any::<i64>(), shift in 0u32..64) {
        let n = n >> shift;
        let mut out = Vec::new();
        put_int(&mut out, n);
        prop_assert_eq!(rmp::decode::read_int::<i64, _>(&mut &out[..]).unwrap(), n);
        put_uint(&mut out, n as u64);
        put_int64(&mut out, n);
        let mut r = Reader::new(&out);
        prop_assert_eq!((r.int(), r.uint(), r.int()), (Ok(n), Ok(n as u64), Ok(n)));
        prop_assert!(r.rest().is_empty());
    }

    #[test]
    fn an_independent_encoder_is_understood(n in any::<i64>(), u in any::<u64>(), s in ".{0,80}", b in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut out = Vec::new();
        rmp::encode::write_sint(&mut out, n).unwrap();
        rmp::encode::write_uint(&mut out, u).unwrap();
        rmp::encode::write_str(&mut out, &s).unwrap();
        rmp::encode::write_bin(&mut out, &b).unwrap();
        rmp::encode::write_array_len(&mut out, 2).unwrap();
        rmp::encode::write_bool(&mut out, true).unwrap();
        rmp::encode::write_nil(&mut out).unwrap();
        let mut r = Reader::new(&out);
        prop_assert_eq!(r.int(), Ok(n));
        prop_assert_eq!(r.uint(), Ok(u));
        prop_assert_eq!(r.bytes(), Ok(s.as_bytes()));
        prop_assert_eq!(r.bytes(), Ok(&b[..]));
        prop_assert_eq!(r.array(), Ok(2));
        prop_assert_eq!(r.bool(), Ok(true));
        prop_assert!(r.nil() && r.rest().is_empty());
        let mut all = Reader::new(&out);
        prop_assert_eq!(all.skip(5), Ok(()));
        prop_assert!(all.rest().is_empty());
    }

    #[test]
    fn skipping_never_panics_and_never_passes_the_end(bytes in prop::collection::vec(any::<u8>(), 0..200), items in 0usize..5) {
        let mut r = Reader::new(&bytes);
        let _ = r.skip(items);
        prop_assert!(r.rest().len() <= bytes.len());
    }
}

#[test]
fn nesting_of_any_depth_is_skipped_without_a_stack() {
    let mut bytes = vec![0x91; 1_000_000];
    bytes.push(0xc0);
    let mut r = Reader::new(&bytes);
    assert_eq!(r.skip(1), Ok(()));
    assert!(r.rest().is_empty());
    bytes.pop();
    assert_eq!(Reader::new(&bytes).skip(1), Err(WireError::Truncated));
}

#[test]
fn announced_lengths_are_checked_against_what_is_there() {
    assert_eq!(Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0]).array(), Err(WireError::Truncated));
    assert_eq!(Reader::new(&[0xc6, 0xff, 0xff, 0xff, 0xff, 0]).bytes(), Err(WireError::Truncated));
    assert_eq!(Reader::new(&[0xdf, 0xff, 0xff, 0xff, 0xff, 0]).skip(1), Err(WireError::Truncated));
    assert_eq!(Reader::new(&[0xcf, 0xff, 0, 0, 0, 0, 0, 0, 0]).int().unwrap_err().reason(), "too_large");
    assert_eq!(Reader::new(&[0xff]).uint().unwrap_err().reason(), "malformed");
}
