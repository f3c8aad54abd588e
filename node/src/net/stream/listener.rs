//! Conversations that others begin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
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
/// Time before another try when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    let service = Arc::new(Service::new(limits, sender, metrics));
    let sources = Sources::default();
    let mut open = JoinSet::new();
    let (mut teller, mut broken) = (Teller::new("TCP from"), Teller::new("TCP:"));
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MOST => match accepted {
                Ok((stream, from)) => {
                    service.metrics.streams.connections_inbound.inc();
                    let Some(place) = sources.take(from.ip(), MOST_OF_ONE) else {
                        drop(stream);
                        service.metrics.streams.inbound_failed.inc(Failure::TooMany.reason());
                        teller.tell(&from, &Failure::TooMany);
                        sleep(REFUSED_PAUSE).await;
                        continue;
                    };
                    let service = Arc::clone(&service);
                    open.spawn(async move {
                        let result = service.serve(stream, from).await;
                        if result.is_err() {
                            sleep(PENALTY).await;
                        }
                        drop(place);
                        (from, result)
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would only burn the processor.
                    broken.tell(&"accept", &error.into());
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = open.join_next() => {
                // A panic has been reported by the panic hook.
                if let Ok((from, Err(failure))) = ended {
                    teller.tell(&from, &failure);
                }
            }
        }
    }
}

impl Service {
    fn new(limits: Limits, sender: Sender<Incoming>, metrics: Arc<Metrics>) -> Self {
        Self {
            limits: Limits { bytes: limits.bytes.min(REQUEST_BYTES), ..limits },
            sender,
            requests: Budget::new(ALL_REQUESTS_BYTES),
            responses: Budget::new(2 * limits.bytes),
            response_bytes: limits.bytes,
            turn: Mutex::new(Instant::now()),
            metrics,
        }
    }

    /// Serves one connection, closes it, and counts how it ended.
    async fn serve(&self, mut stream: TcpStream, from: SocketAddr) -> Result<(), Failure> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let result = match stream.set_nodelay(true) {
            Ok(()) => self.converse(&mut stream, from).await,
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = &result {
            self.metrics.streams.inbound_failed.inc(failure.reason());
        }
        result
    }

    /// Answers requests until the other side has no more.
    async fn converse(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        from: SocketAddr,
    ) -> Result<(), Failure> {
        let counts = &self.metrics.streams;
        let mut inbox = Inbox::new(&self.requests).ok_or(Failure::Crowded)?;
        for served in 0..MOST_REQUESTS {
            let framing = Framing::request(&self.limits);
            let request = match inbox.next(stream, framing, &counts.bytes_inbound).await {
                Ok(Some(request)) => request,
                Ok(None) if served == 0 => return Err(Failure::Empty),
                // It has what it wanted.
                Ok(None) => return Ok(()),
                Err(Failure::Idle) if served > 0 => return Ok(()),
                Err(failure) => return Err(failure),
            };
            let (response, _share) = self.ask(from, request).await?;
            inbox.release();
            let write = write(stream, &response, &counts.bytes_outbound);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v0::{Sender, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    const LIMITS: Limits = Limits { bytes: 64 << 10, nodes: 10, entries: 10 };
    /// How long the gossip thread is busy with each request here.
    const TOOK: Duration = Duration::from_millis(100);

    /// A service, and a gossip thread that answers everything with its first four bytes and refuses a leave.
    fn service() -> Arc<Service> {
        let (sender, mut incoming) = crate::bell::Bell::new().unwrap().channel(1);
        tokio::spawn(async move {
            while let Some(Incoming::Request { bytes, reply, .. }) = incoming.recv().await {
                let response = if bytes[0] == 4 { Err("own_id") } else { Ok(bytes[..4].to_vec()) };
                let _ = reply.send(Reply { response, took: TOOK });
            }
        });
        Arc::new(Service::new(LIMITS, sender, Arc::new(Metrics::new().unwrap())))
    }

    /// A connection, and how it ended. What it has not read fills a pipe of a few bytes.
    fn open(service: &Arc<Service>) -> (DuplexStream, tokio::task::JoinHandle<Result<(), Failure>>) {
        let (client, mut server) = duplex(8);
        let service = Arc::clone(service);
        let ended =
            tokio::spawn(async move { service.converse(&mut server, ([127, 0, 0, 1], 1).into()).await });
        (client, ended)
    }

    fn join() -> Vec<u8> {
        let mut request = Vec::new();
        let sender = Sender { node_id: "a", addr: "127.0.0.1:1", max_version: None };
        stream::put_join_request(&mut request, &sender, &[], &[]);
        request
    }

    async fn ended(with: tokio::task::JoinHandle<Result<(), Failure>>) -> Option<&'static str> {
        with.await.unwrap().err().map(|failure| failure.reason())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_answered_one_after_the_other_and_leave_the_gossip_thread_time() {
        let service = service();
        let (mut client, end) = open(&service);
        let started = Instant::now();
        for round in 0..3u32 {
            client.write_all(&join()).await.unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, join()[..4]);
            assert!(started.elapsed() >= TOOK * LEAVE_ALONE * round, "{:?}", started.elapsed());
        }
        drop(client);
        assert_eq!(ended(end).await, None);
        let streams = &service.metrics.streams;
        assert_eq!(
            (streams.bytes_inbound.get(), streams.bytes_outbound.get()),
            (3 * join().len() as u64, 12)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_bad_end_has_its_reason() {
        let service = service();
        for (bytes, close, reason) in [
            (&b""[..], true, "empty"),
            (b"", false, "idle"),
            (&join()[..9], true, "ended"),
            (&join()[..9], false, "slow"),
            (b"\x03\x01", true, "wrong_version"),
            (b"\x04\x00\xc0\xc0", false, "own_id"),
        ] {
            let (mut client, end) = open(&service);
            client.write_all(bytes).await.unwrap();
            if close {
                client.shutdown().await.unwrap();
            }
            assert_eq!(ended(end).await, Some(reason));
        }
        let (mut client, end) = open(&service);
        let many = join().repeat(3);
        // The pipe holds eight bytes, which is two answers.
        let _ = client.write_all(&many).await;
        assert_eq!(ended(end).await, Some("not_reading"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_buy_more_time() {
        let service = service();
        let (mut client, end) = open(&service);
        let started = Instant::now();
        for byte in join() {
            sleep(Duration::from_secs(1)).await;
            if client.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        assert_eq!(ended(end).await, Some("slow"));
        assert!(started.elapsed() <= PATIENCE + Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_requests_share_a_bounded_memory() {
        let service = service();
        let _held = service.requests.take(ALL_REQUESTS_BYTES - 4096).unwrap();
        let (mut client, end) = open(&service);
        // A string of 40 000 bytes, of which the first ten thousand come.
        let _ = client.write_all(&[&[3, 0, 0xda, 0x9c, 0x40][..], &[b'x'; 10_000]].concat()).await;
        assert_eq!(ended(end).await, Some("crowded"));
        let (_client, end) = open(&service);
        drop(_client);
        assert_eq!(ended(end).await, Some("empty"), "others go on");
    }
}
