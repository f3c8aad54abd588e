//! All that Piko's decoder takes.

use rmp::encode as mp;

use super::*;

/// Writes values in any of the forms that mean the same, as a tape of choices tells.
struct Loose<'t> {
    out: Vec<u8>,
    tape: std::iter::Cycle<std::slice::Iter<'t, u8>>,
}

type Write<'f> = &'f dyn Fn(&mut Loose<'_>);

impl<'t> Loose<'t> {
    fn new(start: &[u8], tape: &'t [u8]) -> Self {
        Self { out: start.to_vec(), tape: tape.iter().cycle() }
    }
    /// A choice below `n`.
    fn choose(&mut self, n: usize) -> usize {
        usize::from(*self.tape.next().unwrap_or(&0)) % n
    }
    fn bytes(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u32;
        let form = self.choose(6);
        let (out, be) = (&mut self.out, len.to_be_bytes());
        match form {
            0 if len == 0 => out.push(0xc0),
            1 if len < 256 => out.extend([0xd9, be[3]]),
            2 if len < 256 => out.extend([0xc4, be[3]]),
            3 if len < 65536 => out.extend([0xc5, be[2], be[3]]),
            4 if len < 65536 => out.extend([0xda, be[2], be[3]]),
            5 => out.extend([0xc6, be[0], be[1], be[2], be[3]]),
            _ => drop(mp::write_str_len(out, len)),
        }
        out.extend_from_slice(bytes);
    }
    fn uint(&mut self, n: u64) {
        let form = self.choose(8);
        let (out, be) = (&mut self.out, n.to_be_bytes());
        let float = (n as f64) as u64 == n && n < 1 << 53;
        match form {
            0 if n == 0 => out.push(0xc0),
            1 if float => mp::write_f64(out, n as f64).unwrap(),
            2 if n < 1 << 24 => mp::write_f32(out, n as f32).unwrap(),
            3 if n < 1 << 63 => mp::write_i64(out, n as i64).unwrap(),
            4 if n < 1 << 31 => mp::write_i32(out, n as i32).unwrap(),
            5 if n < 1 << 15 => mp::write_i16(out, n as i16).unwrap(),
            6 => {
                out.push(0xcf);
                out.extend(be);
            }
            _ => drop(mp::write_uint(out, n)),
        }
    }
    fn bool(&mut self, b: bool) {
        let form = self.choose(3);
        self.out.push(match (b, form) {
            (true, 0) => 0x01,
            (true, _) => 0xc3,
            (false, 0) => 0x00,
            (false, 1) => 0xc0,
            (false, _) => 0xc2,
        });
    }
    /// Something that nobody asked for.
    fn anything(&mut self, depth: usize) {
        match self.choose(10) {
            0 => self.out.push(0xc0),
            1 => self.uint(1 << 40),
            2 => self.bytes(b"max_version"),
            3 => mp::write_f64(&mut self.out, 0.5).unwrap(),
            4 => self.out.extend([0xd6, 9, 1, 2, 3, 4]),
            5 => mp::write_sint(&mut self.out, -70_000).map(drop).unwrap(),
            n @ 6..=7 if depth > 0 => {
                self.out.push(0x90 | n as u8);
                (0..n).for_each(|_| self.anything(depth - 1));
            }
            n if depth > 0 => {
                self.out.push(0x80 | n as u8);
                for _ in 0..2 * n {
                    self.anything(depth - 1);
                }
            }
            _ => self.bool(true),
        }
    }
    fn fields(&mut self, fields: &[(&str, Write<'_>)]) {
        if self.choose(4) == 0 {
            // An array: more fields than are known may follow.
            let more = self.choose(3);
            mp::write_array_len(&mut self.out, (fields.len() + more) as u32).unwrap();
            fields.iter().for_each(|(_, write)| write(self));
            // The next field after those of a header is our own max_version: nothing that makes one.
            (0..more).for_each(|_| self.out.push(0xc0));
            return;
        }
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.rotate_left(self.choose(fields.len()));
        let (unknown, doubled) = (self.choose(3), self.choose(2));
        let len = (fields.len() + unknown + doubled) as u32;
        match self.choose(3) {
            0 => {
                self.out.push(0xde);
                self.out.extend(&len.to_be_bytes()[2..]);
            }
            1 => {
                self.out.push(0xdf);
                self.out.extend(len.to_be_bytes());
            }
            _ => drop(mp::write_map_len(&mut self.out, len)),
        }
        if doubled == 1 {
            // The later one wins.
            self.bytes(fields[order[0]].0.as_bytes());
            self.out.push(0xc0);
        }
        for (n, at) in order.into_iter().enumerate() {
            let (name, write) = fields[at];
            self.bytes(name.as_bytes());
            write(self);
            if n < unknown {
                self.bytes([b"create_time".as_slice(), b"", b"keys"][n]);
                self.anything(1);
            }
        }
        (fields.len()..unknown).for_each(|_| self.out.extend([0xa0, 0xc0]));
    }
    fn known(&mut self, entry: &DigestEntry<'_>) {
        self.fields(&[
            ("id", &|w| w.bytes(entry.id.as_bytes())),
            ("addr", &|w| w.bytes(entry.addr.as_bytes())),
            ("version", &|w| w.uint(entry.version)),
            ("left", &|w| w.bool(entry.left)),
        ]);
    }
    fn entry(&mut self, entry: &OwnedEntry) {
        self.fields(&[
            ("key", &|w| w.bytes(&entry.key)),
            ("value", &|w| w.bytes(&entry.value)),
            ("version", &|w| w.uint(entry.version)),
            ("internal", &|w| w.bool(entry.internal)),
            ("deleted", &|w| w.bool(entry.deleted)),
        ]);
    }
    fn header(&mut self, third: Option<(&str, Write<'_>)>) {
        let mut fields: Vec<(&str, Write<'_>)> =
            vec![("node_id", &|w| w.bytes(b"a")), ("addr", &|w| w.bytes(b"10.0.0.1:7000"))];
        fields.extend(third);
        self.fields(&fields);
    }
}

fn tape() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..200)
}

proptest! {
    #[test]
    fn all_forms_of_a_digest_are_the_same(tape in tape(), request: bool, nodes in prop::collection::vec(known(), 0..9)) {
        let mut w = Loose::new(&[1, 0], &tape);
        w.header(Some(("request", &|w| w.bool(request))));
        let all = as_entries(&nodes);
        all.iter().for_each(|e| w.known(e));
        let Packet::Digest { header, request: wanted, digest } = decode(&w.out).unwrap() else { panic!("a digest") };
        prop_assert_eq!((header.node_id, header.addr, header.max_version, wanted), ("a", "10.0.0.1:7000", None, request));
        prop_assert!(digest.entries().eq(all.iter().copied()));
        prop_assert_eq!(digest.refused(), 0);
    }

    #[test]
    fn all_forms_of_a_delta_are_the_same(tape in tape(), nodes in prop::collection::vec(node(), 0..5)) {
        let mut w = Loose::new(&[2, 0], &tape);
        w.header(Some(("entries", &|w| w.uint(0))));
        for node in &nodes {
            w.fields(&[
                ("node_id", &|w| w.bytes(node.id.as_bytes())),
                ("addr", &|w| w.bytes(node.addr.as_bytes())),
                ("entries", &|w| w.uint(node.entries.len() as u64)),
            ]);
            node.entries.iter().for_each(|e| w.entry(e));
        }
        let Packet::Delta { delta, .. } = decode(&w.out).unwrap() else { panic!("a delta") };
        prop_assert_eq!((said(&delta), delta.refused()), (nodes, 0));
    }

    #[test]
    fn all_forms_of_a_join_are_the_same(tape in tape(), nodes in prop::collection::vec(node(), 0..5), digest in prop::collection::vec(known(), 0..9)) {
        let limits = stream::Limits { bytes: 1 << 20, nodes: 10, entries: 100 };
        let mut w = Loose::new(&[3, 0], &tape);
        w.header(None);
        mp::write_array_len(&mut w.out, nodes.len() as u32).unwrap();
        for node in &nodes {
            w.fields(&[
                ("id", &|w| w.bytes(node.id.as_bytes())),
                ("addr", &|w| w.bytes(node.addr.as_bytes())),
                ("entries", &|w| {
                    mp::write_array_len(&mut w.out, node.entries.len() as u32).unwrap();
                    node.entries.iter().for_each(|e| w.entry(e));
                }),
            ]);
        }
        let known = as_entries(&digest);
        mp::write_array_len(&mut w.out, known.len() as u32).unwrap();
        known.iter().for_each(|e| w.known(e));
        prop_assert_eq!(stream::Framing::request(&limits).end(&w.out), Ok(Some(w.out.len())));
        let stream::Request::Join { delta, digest, .. } = stream::decode_request(&w.out, &limits).unwrap() else { panic!("a join") };
        prop_assert_eq!(said(&delta), nodes);
        prop_assert!(digest.entries().eq(known.iter().copied()));
    }
}

/// A digest packet of one node whose map is this.
fn one(node: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    DigestWriter::new(&mut out, MAX, &sender(), true);
    out.extend_from_slice(node);
    out
}
fn version_of(number: &[u8]) -> Result<u64, WireError> {
    let packet = one(&[b"\x82\xa2id\xa1b\xa7version", number].concat());
    match decode(&packet)? {
        Packet::Digest { digest, .. } => Ok(digest.entries().next().unwrap().version),
        Packet::Delta { .. } => panic!("a digest"),
    }
}

#[test]
fn missing_fields_are_zero() {
    let packet = one(b"\x81\xa2id\xa1b");
    let Packet::Digest { digest, .. } = decode(&packet).unwrap() else { panic!("a digest") };
    let entries: Vec<_> = digest.entries().collect();
    assert_eq!(entries, [DigestEntry { id: "b", addr: "", version: 0, left: false }]);
}

#[test]
fn numbers_are_whole_and_within_64_bits() {
    assert_eq!(version_of(&[0xcf; 9]), Ok(0xcfcf_cfcf_cfcf_cfcf));
    assert_eq!(version_of(&[0xca, 0x40, 0x40, 0, 0]), Ok(3));
    assert_eq!(
        version_of(&[&[0xcb], &1.8e19_f64.to_be_bytes()[..]].concat()),
        Ok(18_000_000_000_000_000_000)
    );
    assert_eq!(version_of(&[&[0xcb], &(-0.0_f64).to_be_bytes()[..]].concat()), Ok(0));
    for refused in [1.5, -1.0, 1.9e19, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = version_of(&[&[0xcb], &refused.to_be_bytes()[..]].concat()).unwrap_err();
        assert!(matches!(error, WireError::Malformed(_) | WireError::TooLarge(_)), "{refused}: {error}");
    }
    for refused in [&[0xff][..], &[0xd0, 0x80], &[0xa1, b'1'], &[0xc2], &[0x90], &[0x80], &[0xd4, 0, 0]] {
        assert_eq!(version_of(refused).unwrap_err().reason(), "malformed", "{refused:02x?}");
    }
}

#[test]
fn what_piko_refuses_is_refused() {
    for (node, what) in [
        (&b"\x81\x01\xa1b"[..], "a key that is a number"),
        (b"\x81\xc2\xa1b", "a key that is a boolean"),
        (b"\x81\x90\xa1b", "a key that is an array"),
        (b"\x82\xa2id\xa1b\xa1x\xc1", "byte 0xc1 in an unknown field"),
        (b"\x82\xa2id\xa1b\xa1x\x92\x91\x01\xc1", "byte 0xc1 deep in an unknown field"),
        (b"\x82\xa2id\xa1b\xa4left\x02", "2 as a boolean"),
        (b"\x82\xa2id\xa1b\xa4left\xcc\x01", "a boolean as a long number"),
        (b"\x81\xa2id\x07", "a number as a string"),
        (b"\xa1b", "a string as a structure"),
        (b"\x07", "a number as a structure"),
        (b"\xc1", "byte 0xc1 behind the last item"),
    ] {
        assert_eq!(decode(&one(node)).unwrap_err().reason(), "malformed", "{what}");
    }
    assert_eq!(decode(&[1, 1]).unwrap_err(), WireError::WrongVersion(1));
    assert_eq!(decode(&[3, 0]).unwrap_err(), WireError::UnknownType(3), "a join is nothing for a datagram");
    assert_eq!(decode(&[0, 0]).unwrap_err(), WireError::UnknownType(0));
    for short in [&[][..], &[1], &[1, 0], &[2, 0]] {
        assert_eq!(decode(short).unwrap_err(), WireError::Truncated);
    }
}

#[test]
fn our_field_may_be_anything() {
    let max_version = |value: &[u8]| {
        let packet = [b"\x01\x00\x82\xa7node_id\xa1a\xabmax_version".as_slice(), value].concat();
        decode(&packet).map(|p| p.header().max_version)
    };
    assert_eq!(max_version(&[1]), Ok(Some(1)));
    assert_eq!(max_version(&[0xd2, 0, 0, 0, 1]), Ok(Some(1)));
    assert_eq!(max_version(&[0xcd, 1, 0]), Ok(Some(255)), "it speaks at least what one byte can say");
    for other in [&b"\xc0"[..], b"\xff", b"\xa11", b"\x91\x91\x01", b"\x81\x01\x01", b"\xca\x3f\x80\x00\x00"]
    {
        assert_eq!(max_version(other), Ok(None), "{other:02x?}");
    }
    assert_eq!(max_version(&[]), Err(WireError::Truncated));
}
