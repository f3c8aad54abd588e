//! Inputs to start from: Piko's own bytes, and packets of our own writers.

use std::path::{Path, PathBuf};

use pikoscope::wire::{self, v1};
use probe_ebpf::parse::PacketId;
use probe_ebpf::time::{Bounded, Span, WallNs};

/// Where the seeds are to be written, instead of fuzzing.
const VAR: &str = "PIKOSCOPE_FUZZ_SEEDS";

/// When a target is started for its seeds, writes them and ends the process.
pub fn offer(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os(VAR).map(PathBuf::from) else { return };
    let all = seeds();
    std::fs::create_dir_all(&dir).expect("the directory for seeds");
    for (n, seed) in all.iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{n:03}")), seed).expect("a seed");
    }
    println!("{} seeds in {}", all.len(), dir.display());
    std::process::exit(0);
}

/// The files of `tests/piko-v0` whose name has one of these in it, and each without its last bytes.
fn fixtures(names: &[&str]) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/piko-v0");
    let mut files: Vec<_> =
        std::fs::read_dir(&dir).expect("the fixtures").flatten().map(|f| f.path()).collect();
    files.sort();
    files
        .iter()
        .filter(|file| file.extension().is_some_and(|e| e == "bin"))
        .filter(|file| names.iter().any(|name| file.to_string_lossy().contains(name)))
        .map(|file| std::fs::read(file).expect("a fixture"))
        .filter(|bytes| bytes.len() < 3000)
        .flat_map(|bytes| [bytes[..bytes.len() - bytes.len() / 4].to_vec(), bytes])
        .collect()
}

/// Datagrams of version 0.
pub fn v0_datagrams() -> Vec<Vec<u8>> {
    fixtures(&["digest-", "delta-"])
}

/// Messages of version 0 over TCP.
pub fn v0_streams() -> Vec<Vec<u8>> {
    fixtures(&["join-", "leave-"])
}

/// Datagrams of version 1.
pub fn v1_datagrams() -> Vec<Vec<u8>> {
    let id = PacketId { incarnation: 7, counter: 1 };
    let node = |n: u64| v1::NodeRef::of(&format!("n{n}"));
    let sum = v1::StateSum::from_u64(0x0102_0304_0506_0708);
    let list = |w: &mut v1::PacketWriter<'_>, nodes: u64| {
        (0..nodes).for_each(|n| {
            w.list(v1::Listed { node: node(n), version: n * 300 });
        });
    };
    let suspects = [v1::Suspect { node: node(1), version: 300, by: node(2) }];
    let digest = |step, nodes: u64| {
        let mut out = Vec::new();
        let sender = v1::Sender { node_id: "fuzz-peer", answers: None };
        let suspects = &suspects[..(nodes as usize).min(1)];
        let mut w = v1::PacketWriter::digest(&mut out, 1400, id, &sender, step, sum, suspects);
        list(&mut w, nodes);
        w.finish();
        out
    };
    let delta = |eager, nodes: u64| {
        let mut out = Vec::new();
        let sender = v1::Sender { node_id: "fuzz-peer", answers: Some(id) };
        let mut w = v1::PacketWriter::delta(&mut out, 1400, id, &sender, eager);
        for n in 0..nodes {
            let addr = "10.0.0.1:7000".parse().expect("an address");
            let head = v1::NodeHead { id: &format!("n{n}"), addr, from_version: 9, known_version: 13 };
            w.node(&head, (10..13).map(|version| entry(version, n == 0)), 0);
        }
        if !eager {
            w.begin_digest(v1::Step::Answer, sum, &suspects);
            list(&mut w, nodes);
        }
        w.finish();
        out
    };
    vec![
        digest(v1::Step::Request, 0),
        digest(v1::Step::Answer, 1),
        digest(v1::Step::Pull, 9),
        digest(v1::Step::Offer, 2),
        delta(false, 0),
        delta(true, 1),
        delta(false, 5),
    ]
}

fn entry(version: u64, internal: bool) -> v1::Entry<'static> {
    let time = Some(Bounded::new(Span::from_micros(250), Span::from_micros(3)));
    let stamp = v1::EntryStamp {
        created: WallNs::from_nanos(1_700_000_000_000_000_001),
        theta: Span::from_micros(-20),
        bound: Span::from_micros(80),
        hops: 1,
        network: time,
        kernel: None,
        trace_id: Some([9; 16]),
        egress: v1::Egress::default(),
    };
    v1::Entry {
        key: if internal { wire::BEACON_KEY } else { "key" },
        value: b"value",
        version,
        internal,
        deleted: version == 12,
        reversioned: false,
        stamp: (version != 11).then_some(stamp),
    }
}

/// Scripts for the core, see `targets/core.rs`: both nodes speak, and between them comes a message of every kind.
/// In the first byte is which versions they speak.
pub fn core_scripts() -> Vec<Vec<u8>> {
    let [pass, datagram, hear, stream, write, tick, meet] = [0, 2, 3, 4, 5, 6, 7].map(|op: u8| op << 1);
    // A round of a, heard by b, whose answer a hears; a change; then the same the other way round.
    let talk = [
        [pass, 30, tick, hear | 1, 255, 0, hear, 255, 0].as_slice(),
        &[write, 1, 9, tick | 1, hear, 255, 0, hear | 1, 255, 0],
    ]
    .concat();
    let met = [meet, 255, 0, 255, 0, meet | 1, 255, 0, 255, 0];
    let with = |op: u8, message: &Vec<u8>, versions: u8| {
        let (whole, part) = (message.len() >> 3, (message.len() & 7) as u8);
        let mut script = [&[versions][..], &met, &talk].concat();
        script.extend([part << 4 | op, u8::try_from(whole).unwrap_or(u8::MAX)]);
        script.extend(message);
        script.extend(talk.repeat(2));
        script
    };
    let datagrams = [v0_datagrams(), v1_datagrams()].concat();
    let streams = v0_streams();
    let quiet = (0..4).map(|versions| [&[versions][..], &met, &talk.repeat(9)].concat());
    quiet
        .chain(datagrams.iter().flat_map(|d| [0, 3].map(|versions| with(datagram, d, versions))))
        .chain(streams.iter().map(|s| with(stream, s, 3)))
        .collect()
}
