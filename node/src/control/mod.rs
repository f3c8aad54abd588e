//! How a running node is asked and told things: [`Request`]s to the gossip thread, and the unix socket by
//! which other processes send them.
//!
//! The socket speaks lines of JSON, one request and one answer each:
//!
//! ```text
//! {"cmd":"status"}                          -> a NodeReport
//! {"cmd":"set","key":"k","value":"v"}       -> {"ok":true,"version":7}; "trace_id" may give it one, in hex
//! {"cmd":"delete","key":"k"}                -> {"ok":true,"version":8}
//! {"cmd":"get","key":"k"}                   -> {"ok":true,"held":[{"node":"a","value":"v","version":7}]}
//! {"cmd":"watch"}                           -> {"ok":true}, then a line per change, until the client closes
//!                                              or says more; {"internal":true} adds the protocol's own keys
//! {"cmd":"slow_handler","us":5000}         -> {"ok":true}; the setting of this name, while the node runs: for the lab
//! anything that fails                       -> {"ok":false,"error":"one sentence"}
//! ```
//!
//! The lines of a watch are [`watch::Change`]s: `{"event":"upsert","node":"a","key":"k","value":"v","version":7,"at_mono_ns":9}`.
//!
//! Whoever may open the socket may change entries, so its mode is 0600 from the first moment on
//! ([`socket`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, error::SendError};
use tokio::sync::oneshot;

use crate::bell::{Bell, Sender};
use crate::report::NodeReport;

pub mod client;
pub mod server;
pub mod socket;
mod trace_id;
pub mod watch;

pub use trace_id::{NoTraceId, TraceId};
use watch::Watch;

/// Requests that may wait for the gossip thread at a time; more wait at their senders.
pub const QUEUE: usize = 16;

/// Something asked of the gossip thread, with the place for its answer. A dropped receiver means that
/// nobody waits any more: not an error.
#[derive(Debug)]
pub enum Request {
    /// The whole node.
    Status(oneshot::Sender<NodeReport>),
    /// Set an entry of this node; answers with its version, or why it can't be.
    Set {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// The trace that it belongs to.
        trace_id: Option<TraceId>,
        /// For the new version.
        reply: oneshot::Sender<Result<u64, String>>,
    },
    /// Delete an entry of this node; answers with the version of the deletion, or why it can't be.
    Delete {
        /// Key.
        key: String,
        /// For the new version.
        reply: oneshot::Sender<Result<u64, String>>,
    },
    /// Who holds this key: this node first, then the others by id.
    Get {
        /// Key.
        key: String,
        /// For those that hold it.
        reply: oneshot::Sender<Vec<Held>>,
    },
    /// From now on so much time is lost on every datagram (`slow_handler_us`).
    SlowHandler {
        /// How much.
        time: Duration,
        /// When it is so.
        reply: oneshot::Sender<()>,
    },
    /// Every change from now on; answers with the watch, or why there can't be one.
    Watch {
        /// Those of the protocol's own keys too.
        internal: bool,
        /// For the watch.
        reply: oneshot::Sender<Result<Watch, String>>,
    },
}

/// A live entry under some key, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Owner's node id.
    pub node: String,
    /// Value.
    pub value: String,
    /// Version within the owner's state.
    pub version: u64,
    /// The trace that it belongs to, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<TraceId>,
}

/// Where requests are put, from any thread.
#[derive(Clone, Debug)]
pub struct Requests {
    queue: Sender<Request>,
    bell: Bell,
    stop: Arc<AtomicBool>,
}

/// The gossip thread's end.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) requests: Receiver<Request>,
    /// Rung by whoever has something for the gossip thread.
    pub(crate) bell: Bell,
    stop: Arc<AtomicBool>,
}

/// A way to the gossip thread.
///
/// # Errors
/// No descriptor is left.
pub fn channel() -> io::Result<(Requests, Inbox)> {
    let (bell, stop) = (Bell::new()?, Arc::new(AtomicBool::new(false)));
    let (queue, requests) = bell.channel(QUEUE);
    let others = Requests { queue, bell: bell.clone(), stop: Arc::clone(&stop) };
    Ok((others, Inbox { requests, bell, stop }))
}

impl Requests {
    /// Waits for room and puts a request there.
    ///
    /// # Errors
    /// The gossip thread has ended.
    pub async fn send(&self, request: Request) -> Result<(), SendError<Request>> {
        self.queue.send(request).await
    }

    /// Tells the gossip thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Inbox {
    /// Was it told to end?
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A request as it comes over the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the same as `Request`")]
pub enum Line {
    Status,
    Set {
        key: String,
        value: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        trace_id: Option<TraceId>,
    },
    Delete {
        key: String,
    },
    Get {
        key: String,
    },
    Watch {
        #[serde(default)]
        internal: bool,
    },
    SlowHandler {
        us: u32,
    },
}

/// An answer other than a report, as it goes over the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Was it done?
    pub ok: bool,
    /// New version, after `set` and `delete`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u64>,
    /// Who holds the key, after `get`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held: Option<Vec<Held>>,
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl Answer {
    /// It was not done, because of this.
    pub fn failed(why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::default() }
    }
}
