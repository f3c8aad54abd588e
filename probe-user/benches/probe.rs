//! What the socket filter costs per packet, side by side with a filter that does nothing, and with one that reads the
//! clock, the packet and its stamp and keeps nothing of it: the least that the stamps can cost on this machine.
//!
//! The kernel's own run-time statistics (BPF_ENABLE_STATS) on real sockets: back to back (hot caches), and one
//! packet per 20 ms (cold caches: gossip's own case). The statistics themselves and the call cost 30 to 65 ns,
//! which the empty filter shows and the difference leaves out. Prints one JSON object.

use std::net::UdpSocket;
use std::time::Duration;

use probe_user::load::{Options, Probe};
use probe_user::recv::RecvBatch;
use probe_user::timestamping;

struct Lane {
    probe: Probe,
    receiver: UdpSocket,
    sender: UdpSocket,
    before: (u64, Duration),
}

impl Lane {
    fn new(probe: Result<Probe, probe_user::load::LoadError>) -> Result<Self, Box<dyn std::error::Error>> {
        let mut probe = probe?;
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        receiver.set_nonblocking(true)?;
        timestamping::enable_receive_stamps(&receiver)?;
        probe.attach(&receiver)?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        Ok(Self { probe, receiver, sender, before: (0, Duration::ZERO) })
    }

    fn start(&mut self) {
        self.before = self.probe.cost();
    }

    fn ns_per_run(&self) -> f64 {
        let (runs, time) = self.probe.cost();
        (time - self.before.1).as_nanos() as f64 / (runs - self.before.0).max(1) as f64
    }

    fn burst(&mut self, n: usize, batch: &mut RecvBatch) -> std::io::Result<()> {
        for _ in 0..n {
            self.sender.send(&[1; 200])?;
        }
        while batch.receive(&self.receiver).is_ok() {}
        self.probe.ring.drain(|_| {});
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|a| a == "--quick");
    let options = Options { stats: true, ..Options::default() };
    let mut lanes = [
        Lane::new(Probe::load(&options))?,
        Lane::new(Probe::load_reads(&options))?,
        Lane::new(Probe::load_empty(&options))?,
    ];
    let count = lanes.len() as u32;
    let mut batch = RecvBatch::new(32, 2048);
    let mut report = Vec::new();
    let cases = [
        ("hot", if quick { 200 } else { 2000 }, 64, Duration::ZERO),
        ("paced_20ms", if quick { 50 } else { 500 }, 1, Duration::from_millis(20)),
    ];
    for (name, rounds, per_round, pause) in cases {
        for lane in &mut lanes {
            lane.burst(per_round, &mut batch)?;
            lane.start();
        }
        for _ in 0..rounds {
            for lane in &mut lanes {
                lane.burst(per_round, &mut batch)?;
                std::thread::sleep(pause / count);
            }
        }
        let [filter, reads, empty] = [0, 1, 2].map(|lane: usize| lanes[lane].ns_per_run());
        report.push(format!(
            r#""{name}":{{"packets":{},"filter_ns":{filter:.0},"reads_ns":{reads:.0},"empty_ns":{empty:.0},"net_ns":{:.0},"reads_net_ns":{:.0}}}"#,
            rounds * per_round,
            filter - empty,
            reads - empty
        ));
    }
    println!("{{{}}}", report.join(","));
    Ok(())
}
