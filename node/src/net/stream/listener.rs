//! Conversations that others begin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::budget::{Budget, Share};
use super::failure::{Failure, Teller};
use super::message::{Inbox, write};
use super::sources::Sources;
use super::{Incoming, PATIENCE, Reply};
use crate::bell::Sender;
use crate::metrics::Metrics;
use crate::wire::v0::stream::{Framing, Limits};

/// Connections at a time; more wait in the kernel.
const MOST: usize = 256;
/// Connections at a time of one source; more are closed.
const MOST_OF_ONE: usize = 64;
/// Requests on one connection.
const MOST_REQUESTS: usize = 16;
/// Longest request: the state of one node and the digest of the largest cluster.
const REQUEST_BYTES: usize = 2 << 20;
/// Bytes of all unfinished requests together.
const ALL_REQUESTS_BYTES: usize = 8 << 20;
/// After the gossip thread has worked on a request it is left alone for so many times as long.
const LEAVE_ALONE: u32 = 5;
/// How long a place stays taken when its connection came to nothing: makes trying again and again slow.
const PENALTY: Duration = Duration::from_secs(1);
/// Time between connections while they are refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// What all connections share.
#[derive(Debug)]
struct Service {
    limits: Limits,
    sender: Sender<Incoming>,
    metrics: Arc<Metrics>,
    /// For requests as they come in.
    requests: Budget,
    /// For responses on their way out.
    responses: Budget,
    /// Longest response.
    response_bytes: usize,
    /// Held by the request that the gossip thread works on; when the next may come.
    turn: Mutex<Instant>,
}

/// Accepts and serves connections until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    limits: Limits,
    sender: Sender<Incoming>,
    metrics: Arc<Metrics>,
) {
    let service = Arc::new(Service {
        limits: Limits { bytes: limits.bytes.min(REQUEST_BYTES), ..limits },
        sender,
        requests: Budget::new(ALL_REQUESTS_BYTES),
        responses: Budget::new(2 * limits.bytes),
        response_bytes: limits.bytes,
        turn: Mutex::new(Instant::now()),
        metrics,
    });
    let sources = Sources::default();
    let mut open = JoinSet::new();
    let mut teller = Teller::new("TCP from");
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MOST => match accepted {
                Ok((stream, from)) => {
                    service.metrics.streams.connections_inbound.inc();
                    let Some(place) = sources.take(from.ip(), MOST_OF_ONE) else {
                        drop(stream);
                        service.failed(from, &Failure::TooMany, &mut teller);
                        sleep(REFUSED_PAUSE).await;
                        continue;
                    };
                    let service = Arc::clone(&service);
                    open.spawn(async move {
                        let result = service.converse(stream, from).await;
                        if result.is_err() {
                            tokio::spawn(async move { sleep(PENALTY).await; drop(place) });
                        }
                        (from, result)
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would only burn the processor.
                    tracing::warn!(%error, "TCP: accept failed");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = open.join_next() => {
                // A panic has been reported by the panic hook.
                if let Ok((from, Err(failure))) = ended {
                    service.failed(from, &failure, &mut teller);
                }
            }
        }
    }
}

impl Service {
    fn failed(&self, from: SocketAddr, failure: &Failure, teller: &mut Teller) {
        self.metrics.streams.inbound_failed.inc(failure.reason());
        teller.tell(from, failure);
    }

    /// Answers requests until the other side has no more.
    async fn converse(&self, mut stream: TcpStream, from: SocketAddr) -> Result<(), Failure> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let counts = &self.metrics.streams;
        let mut inbox = Inbox::new(&self.requests).ok_or(Failure::Crowded)?;
        stream.set_nodelay(true)?;
        for served in 0..MOST_REQUESTS {
            let framing = Framing::request(&self.limits);
            let request = match inbox.next(&mut stream, framing, &counts.bytes_inbound).await {
                Ok(Some(request)) => request,
                Ok(None) if served == 0 => return Err(Failure::Empty),
                // It has what it wanted.
                Ok(None) => return Ok(()),
                Err(Failure::Idle) if served > 0 => return Ok(()),
                Err(failure) => return Err(failure),
            };
            let (response, _share) = self.ask(from, request).await?;
            inbox.release();
            let write = write(&mut stream, &response, &counts.bytes_outbound);
            timeout(PATIENCE, write).await.map_err(|_| Failure::NotReading)??;
        }
        Ok(())
    }

    /// Has the gossip thread answer a request, when it is this one's turn.
    async fn ask(&self, from: SocketAddr, bytes: Vec<u8>) -> Result<(Vec<u8>, Share), Failure> {
        // How long it will be is not known before.
        let mut share = self.responses.wait_for(self.response_bytes).await.ok_or(Failure::ShuttingDown)?;
        let mut turn = self.turn.lock().await;
        sleep_until(*turn).await;
        let (reply, answer) = oneshot::channel();
        let request = Incoming::Request { from, bytes, reply };
        self.sender.send(request).await.map_err(|_| Failure::ShuttingDown)?;
        let Reply { response, took } = answer.await.map_err(|_| Failure::ShuttingDown)?;
        *turn = Instant::now() + took * LEAVE_ALONE;
        drop(turn);
        let response = response.map_err(Failure::Refused)?;
        share.shrink_to(response.capacity());
        Ok((response, share))
    }
}
