//! Messages of version 0 over TCP: their end is found as they arrive, and what is accepted is within limits and can
//! be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pikoscope::wire::WireError;
use pikoscope::wire::v0::stream::{self, Framing, Limits, Request};
use pikoscope_fuzz::{nodes, seeds, sender, walk_delta, walk_digest};

const LIMITS: Limits = Limits { bytes: 4096, nodes: 16, entries: 64 };
/// What is written again may be longer than what was read: an array becomes a map with names.
const WIDE: Limits = Limits { bytes: usize::MAX, ..LIMITS };

fuzz_target!(init: seeds::offer(seeds::v0_streams), |data: &[u8]| {
    request(data);
    if let Ok(response) = stream::decode_join_response(data, &LIMITS) {
        assert_eq!(Framing::join_response(&LIMITS).end(data), Ok(Some(data.len())));
        walk_delta(&response.delta, data);
        let (said, mut out) = (nodes(&response.delta), Vec::new());
        assert_eq!(stream::put_join_response(&mut out, usize::MAX, &sender(&response.header), &said), said.len());
        let again = stream::decode_join_response(&out, &WIDE).expect("what was written");
        assert_eq!((again.header, nodes(&again.delta)), (response.header, said));
    }
    if stream::decode_leave_response(data, &LIMITS).is_ok() {
        assert_eq!(Framing::leave_response(&LIMITS).end(data), Ok(Some(data.len())));
    }
});

fn request(data: &[u8]) {
    let end = Framing::request(&LIMITS).end(data);
    let mut out = Vec::new();
    match stream::decode_request(data, &LIMITS) {
        Ok(Request::Join { header, delta, digest }) => {
            assert_eq!(end, Ok(Some(data.len())));
            walk_delta(&delta, data);
            walk_digest(&digest);
            let (said, known) = (nodes(&delta), digest.entries().collect::<Vec<_>>());
            stream::put_join_request(&mut out, &sender(&header), &said, &known);
            let Ok(Request::Join { header: again, delta, digest }) = stream::decode_request(&out, &WIDE)
            else {
                panic!("not read again: {out:02x?}")
            };
            assert_eq!((again, nodes(&delta)), (header, said));
            assert!(digest.entries().eq(known));
        }
        Ok(Request::Leave { header, delta }) => {
            assert_eq!(end, Ok(Some(data.len())));
            walk_delta(&delta, data);
            let said = nodes(&delta);
            stream::put_leave_request(&mut out, &sender(&header), &said);
            let Ok(Request::Leave { header: again, delta }) = stream::decode_request(&out, &WIDE) else {
                panic!("not read again: {out:02x?}")
            };
            assert_eq!((again, nodes(&delta)), (header, said));
        }
        Err(error) => match end {
            Ok(None) => assert!(error == WireError::Truncated || !matches!(error, WireError::Trailing)),
            Ok(Some(len)) if len == data.len() => {
                assert!(!matches!(error, WireError::Truncated | WireError::Trailing), "{error}")
            }
            _ => (),
        },
    }
}
