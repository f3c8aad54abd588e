//! Conversations that this node begins: it joins by a seed, or tells a member that it leaves.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::budget::Budget;
use super::failure::{Failure, Teller};
use super::message::{Inbox, write};
use super::{Incoming, Outgoing, PATIENCE};
use crate::bell::Sender;
use crate::metrics::Metrics;
use crate::proto::StreamKind;
use crate::wire::v0::stream::{Framing, Limits};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// Conversations at a time.
const AT_ONCE: usize = 8;

/// Holds the conversations that are asked for, until nobody can ask any more.
pub(super) async fn run(
    mut jobs: mpsc::Receiver<Outgoing>,
    source: Option<IpAddr>,
    limits: Limits,
    sender: Sender<Incoming>,
    metrics: Arc<Metrics>,
) {
    // Answers of seeds are as large as the cluster: two of the largest at a time.
    let budget = Budget::new(2 * limits.bytes.next_power_of_two() + AT_ONCE * 1024);
    let mut open = JoinSet::new();
    let mut with = HashSet::new();
    let mut teller = Teller::new("TCP to");
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                None => return,
                // One is enough: the core asks again while it is answered slowly.
                Some(job) if with.contains(&(job.to, job.kind)) => {}
                Some(_) if open.len() >= AT_ONCE => metrics.streams.outbound_failed.inc("busy"),
                Some(mut job) => {
                    let key = (job.to, job.kind);
                    with.insert(key);
                    let (budget, sender, metrics) = (budget.clone(), sender.clone(), Arc::clone(&metrics));
                    open.spawn(async move {
                        let all = converse(&job, source, &limits, &budget, &sender, &metrics);
                        let result = timeout(PATIENCE, all).await.unwrap_or(Err(Failure::Slow));
                        if let Some(over) = job.over.take() {
                            // Whoever waited may have given up.
                            let _ = over.send(());
                        }
                        (key, result)
                    });
                }
            },
            Some(ended) = open.join_next() => {
                // A panic has been reported by the panic hook; the address it was about stays marked.
                let Ok((key, result)) = ended else { continue };
                with.remove(&key);
                if let Err(failure) = result {
                    metrics.streams.outbound_failed.inc(failure.reason());
                    // Whoever does not hear a goodbye learns it by gossip, and may be leaving too.
                    if key.1 == StreamKind::Join {
                        teller.tell(&key.0, &failure);
                    }
                }
            }
        }
    }
}

async fn converse(
    job: &Outgoing,
    source: Option<IpAddr>,
    limits: &Limits,
    budget: &Budget,
    sender: &Sender<Incoming>,
    metrics: &Metrics,
) -> Result<(), Failure> {
    let connect = timeout(CONNECT, connect(job.to, source)).await;
    let mut stream = connect.map_err(|_| Failure::ConnectTimeout)?.map_err(Failure::Connect)?;
    let counts = &metrics.streams;
    counts.connections_outbound.inc();
    write(&mut stream, &job.request, &counts.bytes_outbound).await?;
    let mut inbox = Inbox::new(budget).ok_or(Failure::Crowded)?;
    let framing = match job.kind {
        StreamKind::Join => Framing::join_response(limits),
        StreamKind::Leave => Framing::leave_response(limits),
    };
    let bytes = inbox.next(&mut stream, framing, &counts.bytes_inbound).await?.ok_or(Failure::Ended)?;
    if job.kind == StreamKind::Join {
        let from = job.to;
        sender.send(Incoming::JoinResponse { from, bytes }).await.map_err(|_| Failure::ShuttingDown)?;
    }
    Ok(())
}

/// From the address that others know this node by, where that can be: whoever leaves in another's name is not heard.
async fn connect(to: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        // The advertised address need not be one of this host's: then the kernel chooses.
        let _ = socket.bind((source, 0).into());
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
