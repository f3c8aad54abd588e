//! What others ask of the gossip thread.

use probe_user::clock::mapping::mono_now;

use super::Driver;
use crate::control::watch::{Change, upsert};
use crate::control::{Held, Request, TraceId};

impl Driver {
    pub(super) fn serve(&mut self, request: Request) {
        let now = mono_now();
        // A receiver that is gone does not wait for its answer.
        match request {
            Request::Status(reply) => {
                self.stamping.drain(now);
                let _ = reply.send(self.report(now));
            }
            Request::Set { key, value, trace_id, reply } => {
                let trace_id = trace_id.map(TraceId::bytes);
                let done = self.core.set(&key, value.as_bytes(), trace_id, now, &self.clock);
                if let Ok(version) = done {
                    self.watchers.push(upsert(&self.core, &self.config.node_id, key, version, now));
                }
                let _ = reply.send(done.map_err(|e| e.to_string()));
            }
            Request::Delete { key, reply } => {
                let done = self.core.delete(&key, now, &self.clock);
                if let Ok(version) = done {
                    let (node, at_mono_ns) = (self.config.node_id.clone(), now.as_nanos());
                    self.watchers.push(Change::Delete { node, key, version, at_mono_ns });
                }
                let _ = reply.send(done.map_err(|e| e.to_string()));
            }
            Request::Get { key, reply } => {
                let held = self.core.get(&key).map(|found| Held {
                    node: found.node.to_string(),
                    value: String::from_utf8_lossy(found.value).into_owned(),
                    version: found.version,
                    trace_id: found.trace_id.map(TraceId::from),
                });
                let _ = reply.send(held.collect());
            }
            Request::SlowHandler { time, reply } => {
                self.slow_handler = time;
                let _ = reply.send(());
            }
            Request::Watch { internal, reply } => {
                let _ = reply.send(self.watchers.watch(internal));
            }
        }
    }
}
