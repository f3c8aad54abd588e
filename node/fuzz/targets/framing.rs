//! The end of a MessagePack item, as it arrives piece by piece, and by a reader of its own that recurses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pikoscope::wire::WireError;
use pikoscope::wire::v0::stream::{Framing, Limits};
use pikoscope_fuzz::seeds;

const LIMITS: Limits = Limits { bytes: usize::MAX, nodes: 0, entries: 0 };
/// Deeper nesting is left to the framing alone.
const DEPTH: usize = 200;

fuzz_target!(init: seeds::offer(seeds::v0_streams), |data: &[u8]| {
    let Some((&step, data)) = data.split_first() else { return };
    let at_once = Framing::leave_response(&LIMITS).end(data);
    let step = usize::from(step).max(1);

    let mut framing = Framing::leave_response(&LIMITS);
    let mut in_pieces = Ok(None);
    for len in (0..data.len()).step_by(step).chain([data.len()]) {
        in_pieces = framing.end(&data[..len]);
        if in_pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(in_pieces, at_once);

    match (item(data, DEPTH), at_once) {
        (Ok(rest), end) => assert_eq!(end, Ok(Some(data.len() - rest.len()))),
        (Err(Broken::Short), end) => assert_eq!(end, Ok(None)),
        (Err(Broken::Byte), end) => assert!(matches!(end, Err(WireError::Malformed(_)))),
        (Err(Broken::Deep), _) => (),
    }
});

enum Broken {
    Short,
    Byte,
    Deep,
}

/// What comes after the first item (the specification's table of formats).
fn item(bytes: &[u8], depth: usize) -> Result<&[u8], Broken> {
    let depth = depth.checked_sub(1).ok_or(Broken::Deep)?;
    let (&first, mut rest) = bytes.split_first().ok_or(Broken::Short)?;
    let mut number = |len: usize| -> Result<u64, Broken> {
        let (head, tail) = rest.split_at_checked(len).ok_or(Broken::Short)?;
        rest = tail;
        Ok(head.iter().fold(0, |n, b| n * 256 + u64::from(*b)))
    };
    let (payload, items) = match first {
        0xc1 => return Err(Broken::Byte),
        0x80..=0x8f => (0, u64::from(first - 0x80) * 2),
        0x90..=0x9f => (0, u64::from(first - 0x90)),
        0xa0..=0xbf => (u64::from(first - 0xa0), 0),
        0xc4 | 0xd9 => (number(1)?, 0),
        0xc5 | 0xda => (number(2)?, 0),
        0xc6 | 0xdb => (number(4)?, 0),
        0xc7 => (number(1)? + 1, 0),
        0xc8 => (number(2)? + 1, 0),
        0xc9 => (number(4)? + 1, 0),
        0xcc | 0xd0 => (1, 0),
        0xcd | 0xd1 | 0xd4 => (2, 0),
        0xd5 => (3, 0),
        0xca | 0xce | 0xd2 => (4, 0),
        0xd6 => (5, 0),
        0xcb | 0xcf | 0xd3 => (8, 0),
        0xd7 => (9, 0),
        0xd8 => (17, 0),
        0xdc => (0, number(2)?),
        0xdd => (0, number(4)?),
        0xde => (0, number(2)? * 2),
        0xdf => (0, number(4)? * 2),
        _ => (0, 0),
    };
    rest = rest.get(payload as usize..).ok_or(Broken::Short)?;
    for _ in 0..items {
        rest = item(rest, depth)?;
    }
    Ok(rest)
}
