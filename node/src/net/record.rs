//! `--record FILE`: every packet's stamps as JSON lines, for replay and for holding against an outside truth.
//!
//! The packet path only hands a small value to a channel; a thread of its own formats and writes. When it cannot
//! keep up records are dropped and counted, and the count is the file's last line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use probe_ebpf::parse::PacketId;
use probe_ebpf::time::MonoNs;
use probe_user::analysis::align::OneWay;
use probe_user::analysis::breakdown::{Propagation, Receipt};
use probe_user::analysis::journey::{Journey, Leg};
use probe_user::analysis::verdict::record::ReplayLine;

use crate::proto::NodeId;
use crate::wire::v1::Egress;

/// Records that may wait for the writer.
const QUEUE: usize = 65_536;

/// One packet at one end.
#[derive(Clone, Debug)]
pub(super) enum Record {
    /// A packet that this node sent.
    Sent { to: SocketAddr, id: PacketId, handed_over: MonoNs, sent: MonoNs, epoch: u32 },
    /// An entry that was new here and came in a packet: who sent that, and its id.
    Entry {
        from: NodeId,
        id: PacketId,
        origin: NodeId,
        key: Arc<str>,
        hops: u8,
        egress: Egress,
        way: Propagation,
    },
    /// A journey to here that is over.
    Journey { from: NodeId, journey: Journey },
    /// What the judges of paths were told and said, for `pikoscope replay`.
    Judged(ReplayLine),
    /// A v1 packet that this node received and understood.
    Received { from: NodeId, id: PacketId, receipt: Receipt, applied: MonoNs, one_way: Option<OneWay> },
}

/// The packet path's end.
#[derive(Debug)]
pub(super) struct Recorder {
    // Grows as far as it must: one that has its whole memory from the start would take 14 MB of a node.
    queue: Sender<Record>,
    waiting: Arc<AtomicUsize>,
    dropped: u64,
    writer: JoinHandle<io::Result<File>>,
}

impl Recorder {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (queue, records) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let writer = std::thread::Builder::new()
            .name("pikoscope-record".into())
            .spawn(move || write_all(file, &records, &left))?;
        Ok(Self { queue, waiting, dropped: 0, writer })
    }

    pub(super) fn push(&mut self, record: Record) {
        // Only this thread adds, so it is never more than QUEUE.
        if self.waiting.load(Ordering::Relaxed) >= QUEUE {
            self.dropped += 1;
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Fails when the writer has ended, which `finish` tells with its reason.
        if self.queue.send(record).is_err() {
            self.dropped += 1;
        }
    }

    /// Writes out what waits, and how much was dropped.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.queue);
        let mut file =
            self.writer.join().map_err(|_| io::Error::other("the recorder's thread panicked"))??;
        writeln!(file, r#"{{"type":"end","dropped":{}}}"#, self.dropped)
    }
}

fn write_all(file: File, records: &Receiver<Record>, waiting: &AtomicUsize) -> io::Result<File> {
    let mut out = BufWriter::new(file);
    for record in records {
        waiting.fetch_sub(1, Ordering::Relaxed);
        write_one(&mut out, &record)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

fn write_one(out: &mut impl Write, record: &Record) -> io::Result<()> {
    let line = match record {
        Record::Sent { to, id, handed_over, sent, epoch } => serde_json::json!({
            "type": "tx", "to": to.to_string(), "id": id.to_u64(),
            "t0_mono_ns": handed_over.as_nanos(), "t1_mono_ns": sent.as_nanos(),
            "epoch": epoch,
        }),
        Record::Judged(line) => serde_json::to_value(line)?,
        Record::Entry { from, id, origin, key, hops, egress, way } => serde_json::json!({
            "type": "entry", "from": from.as_str(), "id": id.to_u64(), "origin": origin.as_str(), "key": &**key,
            "hops": hops, "egress_estimated": egress.estimated, "egress_in_network": egress.in_network,
            "total_ns": way.total.value.as_nanos(), "total_bound_ns": way.total.bound.as_nanos(),
            "network_ns": way.network.value.as_nanos(), "network_bound_ns": way.network.bound.as_nanos(),
            "kernel_ns": way.kernel.value.as_nanos(), "kernel_bound_ns": way.kernel.bound.as_nanos(),
            "application_ns": way.application.value.as_nanos(),
        }),
        Record::Journey { from, journey } => {
            let legs: serde_json::Map<_, _> = (journey.segments())
                .map(|(segment, time)| (segment.name().to_owned(), time.value.as_nanos().into()))
                .collect();
            serde_json::json!({
                "type": "journey", "from": from.as_str(), "counter": journey.counter,
                "at_mono_ns": journey.at.as_nanos(), "segments_ns": legs,
                "network_bound_ns": journey.leg(Leg::Network).map(|network| network.bound.as_nanos()),
                "correction": journey.correction,
            })
        }
        Record::Received { from, id, receipt, applied, one_way } => serde_json::json!({
            "type": "rx", "from": from.as_str(), "id": id.to_u64(),
            "t4_mono_ns": receipt.received.map(|s| s.at.as_nanos()),
            "t4_error_ns": receipt.received.map(|s| s.error.as_nanos()),
            "t5_mono_ns": receipt.filtered.map(|s| s.at.as_nanos()),
            "t6_mono_ns": receipt.read.as_nanos(), "t7_mono_ns": applied.as_nanos(),
            "network_ns": one_way.map(|o| o.time.value.as_nanos()),
            "network_bound_ns": one_way.map(|o| o.time.bound.as_nanos()),
            "uncorrected_ns": one_way.map(|o| o.uncorrected.as_nanos()),
            "correction": one_way.map(|o| o.correction),
        }),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
