//! What tier 2's hooks cost per packet, and what each tier costs packets that are none of ours.
//!
//! Per packet: the kernel's run-time statistics, beside hooks that do nothing, for own packets and for others', back
//! to back and one per 20 ms. Foreign traffic: packets a second that one thread sends to itself over loopback, in
//! slots of a tenth of a second that take turns, so that the machine's moods meet all alike; without a probe twice,
//! which shows what chance makes of it. Prints one JSON object.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use probe_ebpf::time::Span;
use probe_user::btf::VMLINUX;
use probe_user::clock::mapping::mono_now;
use probe_user::hooks::{HookCost, Hooks};
use probe_user::load::{Options, Probe};
use probe_user::{timestamping, transmit};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A socket that sends to another and takes it out there.
struct Pair {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Pair {
    fn new() -> Result<Self> {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        sender.connect(receiver.local_addr()?)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver })
    }

    fn burst(&self, packets: usize) -> Result<()> {
        for _ in 0..packets {
            self.sender.send(&[1; 200])?;
        }
        while self.receiver.recv(&mut [0; 256]).is_ok() {}
        Ok(())
    }
}

/// Runs and nanoseconds.
#[derive(Clone, Copy, Default)]
struct Sum(u64, f64);

impl Sum {
    fn add(&mut self, before: HookCost, after: HookCost) {
        self.0 += after.runs - before.runs;
        self.1 += (after.time - before.time).as_nanos() as f64;
    }
    fn mean(self) -> f64 {
        self.1 / self.0.max(1) as f64
    }
}

/// The hooks' means in one case: packets per burst and the pause after each.
fn hooks(bursts: usize, packets: usize, pause: Duration) -> Result<Value> {
    let pairs = [Pair::new()?, Pair::new()?];
    let btf = Path::new(VMLINUX);
    let mut hooks = [Hooks::attach(&pairs[0].sender, btf)?, Hooks::attach_empty(&pairs[1].sender, btf)?];
    // By hook: own packets, others' packets, hooks that do nothing.
    let mut sums = [[Sum::default(); 3]; 2];
    // Blocks, since asking for the figures warms the caches.
    let blocks = 10;
    for block in 0..2 * blocks {
        let own = block % 2 == 0;
        let pair = &pairs[usize::from(!own)];
        pair.burst(packets)?;
        std::thread::sleep(pause);
        let before = [hooks[0].costs(), hooks[1].costs()];
        for _ in 0..bursts / blocks {
            pair.burst(packets)?;
            hooks[0].drain(|_| {});
            std::thread::sleep(pause);
        }
        for (place, sum) in sums.iter_mut().enumerate() {
            sum[usize::from(!own)].add(before[0][place], hooks[0].costs()[place]);
            sum[2].add(before[1][place], hooks[1].costs()[place]);
        }
    }
    let report = |[own, foreign, empty]: [Sum; 3]| {
        let round = |ns: f64| ns.round() as i64;
        json!({
            "packets": own.0, "own_ns": round(own.mean()), "foreign_ns": round(foreign.mean()),
            "empty_ns": round(empty.mean()), "own_net_ns": round(own.mean() - empty.mean()),
            "foreign_net_ns": round(foreign.mean() - empty.mean()),
        })
    };
    Ok(json!({ "egress": report(sums[0]), "xmit": report(sums[1]) }))
}

/// What a node of a tier has for its own socket.
#[derive(Default)]
struct Node {
    socket: Option<UdpSocket>,
    probe: Option<Probe>,
    hooks: Option<Hooks>,
}

/// In the order in which they take turns; the first is what all are compared with.
const LANES: [&str; 5] = ["none", "none_again", "tier_0", "tier_1", "tier_2"];

fn node(lane: &str) -> Result<Node> {
    let mut node = Node::default();
    if lane.starts_with("none") {
        return Ok(node);
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    match lane {
        "tier_2" => {
            timestamping::enable_receive_stamps(&socket)?;
            node.hooks = Some(Hooks::attach(&socket, Path::new(VMLINUX))?);
        }
        _ => transmit::enable(&socket)?,
    }
    if lane != "tier_0" {
        let mut probe = Probe::load(&Options::default())?;
        probe.attach(&socket)?;
        node.probe = Some(probe);
    }
    node.socket = Some(socket);
    Ok(node)
}

fn flood(rounds: usize) -> Result<Value> {
    let pair = Pair::new()?;
    let mut rates: [Vec<f64>; LANES.len()] = Default::default();
    for round in 0..=rounds {
        for turn in 0..LANES.len() {
            // Another one begins each round: none is always the one after the costly one.
            let lane = (turn + round) % LANES.len();
            let node = node(LANES[lane])?;
            // The kernel switches receive stamps on and off from a work queue; programs go after a grace period.
            std::thread::sleep(Duration::from_millis(30));
            let (begin, mut packets) = (mono_now(), 0u32);
            while mono_now() - begin < Span::from_millis(100) {
                pair.burst(32)?;
                packets += 32;
            }
            let rate = f64::from(packets) / (mono_now() - begin).as_secs_f64();
            drop(node);
            if round > 0 {
                rates[lane].push(rate);
            }
        }
    }
    let quartile = |values: &mut Vec<f64>, quarter: usize| {
        values.sort_by(f64::total_cmp);
        values[(values.len() - 1) * quarter / 4]
    };
    let mut report = serde_json::Map::new();
    for (lane, name) in LANES.iter().enumerate() {
        let mut ratios: Vec<f64> =
            rates[lane].iter().zip(&rates[0]).map(|(with, without)| with / without).collect();
        let mut all = rates[lane].clone();
        report.insert(
            (*name).to_owned(),
            json!({
                "packets_per_s": quartile(&mut all, 2).round(),
                "ratio": quartile(&mut ratios, 2),
                "ratio_quartiles": [quartile(&mut ratios, 1), quartile(&mut ratios, 3)],
            }),
        );
    }
    Ok(Value::Object(report))
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|a| a == "--quick");
    let foreign = flood(if quick { 2 } else { 40 })?;
    // From here on: it makes every program of the host dearer.
    let _stats = Probe::load(&Options { stats: true, ..Options::default() })?;
    let hot = hooks(if quick { 50 } else { 2000 }, 64, Duration::ZERO)?;
    let paced = hooks(if quick { 20 } else { 500 }, 1, Duration::from_millis(20))?;
    println!("{}", json!({ "hooks": { "hot": hot, "paced_20ms": paced }, "foreign": foreign }));
    Ok(())
}
