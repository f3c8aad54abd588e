//! Joining and leaving over TCP: the rim of [`Core::handle_stream`](crate::proto::Core::handle_stream).
//!
//! All of it runs beside the packet path, on the runtime that the caller lends: the gossip thread only ever sees
//! whole messages, through a bounded channel, and hands whole messages out. What a stranger can cost is bounded:
//! connections (in all and by source), bytes (of one message and of all), time (of a message and between two), and
//! the share of the gossip thread that requests may take.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::bell::{Bell, Sender};
use crate::metrics::Metrics;
use crate::proto::StreamKind;
use crate::wire::v0::stream::Limits;

mod budget;
mod client;
mod failure;
mod listener;
mod message;
mod seeds;
mod sources;

pub(super) use seeds::resolve as resolve_seeds;

/// Whole messages that may wait for the gossip thread.
const INCOMING: usize = 8;
/// Conversations that may wait to be begun.
const OUTGOING: usize = 16;
/// How long a message may take from its first byte to its last, and a connection may say nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something for the gossip thread.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Somebody joins or leaves.
    Request {
        /// The other end of the connection.
        from: SocketAddr,
        /// The whole request.
        bytes: Vec<u8>,
        /// For the response.
        reply: oneshot::Sender<Reply>,
    },
    /// A seed's answer to a join.
    JoinResponse {
        /// The seed.
        from: SocketAddr,
        /// The whole response.
        bytes: Vec<u8>,
    },
    /// Names have got other addresses: all seeds.
    Seeds(Vec<SocketAddr>),
}

/// What the gossip thread says to a request.
#[derive(Debug)]
pub(super) struct Reply {
    /// The response, or why there is none.
    pub(super) response: Result<Vec<u8>, &'static str>,
    /// How long the gossip thread was busy with it.
    pub(super) took: Duration,
}

/// A conversation to begin.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// With whom.
    pub(super) to: SocketAddr,
    /// What it is about.
    pub(super) kind: StreamKind,
    /// What to say.
    pub(super) request: Vec<u8>,
    /// Told, or dropped, when it is over, however it went.
    pub(super) over: Option<oneshot::Sender<()>>,
}

/// The running service; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Streams {
    /// What it has for the gossip thread.
    pub(super) incoming: mpsc::Receiver<Incoming>,
    /// For others that have something for the gossip thread.
    pub(super) sender: Sender<Incoming>,
    outgoing: mpsc::Sender<Outgoing>,
    metrics: Arc<Metrics>,
    tasks: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Serves `listener`, and speaks to others from the IP address `source`; rings when it has something.
    pub(super) fn start(
        runtime: &Handle,
        listener: std::net::TcpListener,
        source: Option<IpAddr>,
        limits: Limits,
        metrics: Arc<Metrics>,
        bell: &Bell,
    ) -> std::io::Result<Self> {
        let (sender, incoming) = bell.channel(INCOMING);
        let (outgoing, jobs) = mpsc::channel(OUTGOING);
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let server = listener::serve(listener, limits, sender.clone(), Arc::clone(&metrics));
        let client = client::run(jobs, source, limits, sender.clone(), Arc::clone(&metrics));
        let tasks = vec![runtime.spawn(server), runtime.spawn(client)];
        Ok(Self { incoming, sender, outgoing, metrics, tasks })
    }

    /// Begins a conversation; one that there is no room for is counted, and asked for again by the core.
    pub(super) fn begin(&self, conversation: Outgoing) {
        if self.outgoing.try_send(conversation).is_err() {
            self.metrics.streams.outbound_failed.inc("busy");
        }
    }

    /// A task that is to end with the service.
    pub(super) fn keep(&mut self, task: JoinHandle<()>) {
        self.tasks.push(task);
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
