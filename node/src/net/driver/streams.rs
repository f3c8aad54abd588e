//! The driver's part in joining and leaving.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Driver;
use crate::net::stream::{Incoming, Outgoing, Reply};
use crate::proto::StreamKind;
use probe_user::clock::mapping::mono_now;

/// How long all members together may take to be told that this node leaves.
const GOODBYE: Duration = Duration::from_secs(1);

impl Driver {
    /// Handles what came over TCP, or was found out about seeds.
    pub(super) fn stream(&mut self, incoming: Incoming) {
        let now = mono_now();
        self.out.clear();
        match incoming {
            Incoming::Request { from, bytes, reply } => {
                let (mut response, out) = (Vec::new(), &mut self.out);
                let done = self.core.handle_stream(&bytes, from, now, &self.clock, &mut response, out);
                let response = done.map(|()| response).map_err(|refused| refused.reason());
                let took = Duration::from_nanos((mono_now() - now).as_nanos().max(0) as u64);
                // Whoever asked may be gone.
                let _ = reply.send(Reply { response, took });
            }
            Incoming::JoinResponse { from, bytes } => {
                if let Err(refused) =
                    self.core.handle_join_response(&bytes, from, now, &self.clock, &mut self.out)
                {
                    self.observer.metrics.streams.outbound_failed.inc(refused.reason());
                    tracing::debug!(%from, "the answer to a join was refused: {refused}");
                }
            }
            Incoming::Seeds(seeds) => self.core.set_seeds(seeds),
        }
        self.observer.learnt(&self.out, mono_now(), &self.clock);
        self.carry_out();
    }

    /// Begins the conversations that the core wants.
    pub(super) fn begin_streams(&mut self) {
        if self.sending {
            for (to, kind) in std::mem::take(&mut self.out.streams) {
                self.begin(to, kind, None);
            }
        }
    }

    fn begin(&mut self, to: std::net::SocketAddr, kind: StreamKind, over: Option<oneshot::Sender<()>>) {
        let mut request = Vec::new();
        match kind {
            StreamKind::Join => self.core.join_request(&mut request),
            StreamKind::Leave => self.core.leave_request(&mut request),
        }
        self.streams.begin(Outgoing { to, kind, request, over });
    }

    /// Says goodbye, and waits until those who are told in person know it.
    pub(super) async fn leave(&mut self) {
        self.out.clear();
        self.core.leave(mono_now(), &self.clock, &mut self.out);
        let mut told = Vec::new();
        for (to, kind) in std::mem::take(&mut self.out.streams) {
            let (over, is_over) = oneshot::channel();
            self.begin(to, kind, Some(over));
            told.push(is_over);
        }
        self.carry_out();
        let all = async {
            for is_over in told {
                // Dropped when it was not even begun.
                let _ = is_over.await;
            }
        };
        if timeout(GOODBYE, all).await.is_err() {
            tracing::debug!("some members did not hear the goodbye in time");
        }
    }
}
