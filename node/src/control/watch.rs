//! Following a node's changes as they happen: `{"cmd":"watch"}` on the control socket.
//!
//! The gossip thread puts each change into a bounded queue per watcher and waits for none of them; one that
//! reads too slowly is told how many changes it missed, at the place where they are missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::time::MonoNs;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use tokio::sync::oneshot;

use super::{Request, Requests, TraceId};
use crate::proto::{Core, EntryArrival, Event, Outbox};
use crate::wire::INTERNAL_PREFIX;

/// Changes that may wait for a watcher.
pub const QUEUE: usize = 1024;
/// Watchers at a time: fewer than connections, so that a node full of watchers can still be asked.
pub const MAX_WATCHERS: usize = 8;

/// One line of a watch. Times are CLOCK_MONOTONIC of the node's host, in nanoseconds: when the packet that brought
/// the change had been applied (T7), or when it was made here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Change {
    /// A node became known.
    Join {
        /// Its id.
        node: String,
        /// When.
        at_mono_ns: i64,
    },
    /// A node said that it leaves.
    Leave {
        /// Its id.
        node: String,
        /// When.
        at_mono_ns: i64,
    },
    /// A node is held for dead.
    Unreachable {
        /// Its id.
        node: String,
        /// When.
        at_mono_ns: i64,
    },
    /// A node that was held for dead is back.
    Reachable {
        /// Its id.
        node: String,
        /// When.
        at_mono_ns: i64,
    },
    /// A node that left or was unreachable for long is forgotten.
    Expire {
        /// Its id.
        node: String,
        /// When.
        at_mono_ns: i64,
    },
    /// A key has a new value.
    Upsert {
        /// Whose key: that of this node too.
        node: String,
        /// Which.
        key: String,
        /// The value; absent when there is a newer one already, of which the next change tells.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        value: Option<String>,
        /// The owner's version of it.
        version: u64,
        /// The trace that it belongs to, if that is known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        trace_id: Option<TraceId>,
        /// When.
        at_mono_ns: i64,
    },
    /// A key was deleted.
    Delete {
        /// Whose key: that of this node too.
        node: String,
        /// Which.
        key: String,
        /// The owner's version of the deletion.
        version: u64,
        /// When.
        at_mono_ns: i64,
    },
    /// Here so many changes are missing, because the watcher did not keep up.
    Missed {
        /// How many.
        changes: u64,
    },
}

/// The gossip thread's end of all watches.
#[derive(Debug, Default)]
pub struct Watchers {
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    queue: Sender<Waiting>,
    missed: Arc<AtomicU64>,
    /// The protocol's own keys too?
    internal: bool,
}

#[derive(Debug)]
struct Waiting {
    missed_before: u64,
    change: Arc<Change>,
}

/// The watcher's end. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    queue: Receiver<Waiting>,
    missed: Arc<AtomicU64>,
}

/// Begins a watch, for a program that has the node in itself: of every change from here on, with the protocol's own
/// keys if `internal`. To know the state too, begin the watch first and then ask for the state: what changed in between
/// is told twice, and nothing is missed.
///
/// # Errors
/// There are [`MAX_WATCHERS`] already, or the node has ended.
pub async fn watch(requests: &Requests, internal: bool) -> Result<Watch, String> {
    let (reply, answer) = oneshot::channel();
    let ended = || "the node has ended".to_owned();
    requests.send(Request::Watch { internal, reply }).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

impl Watchers {
    /// Begins a watch: of every change from here on, with the protocol's own keys if `internal`.
    ///
    /// # Errors
    /// There are [`MAX_WATCHERS`] already.
    pub fn watch(&mut self, internal: bool) -> Result<Watch, String> {
        self.forget_gone();
        if self.watchers.len() >= MAX_WATCHERS {
            return Err(format!("{MAX_WATCHERS} watches are going on already"));
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        self.watchers.push(Watcher { queue: sender, missed: Arc::clone(&missed), internal });
        Ok(Watch { queue, missed })
    }

    /// Tells what the core found at `at`.
    pub fn tell(&mut self, core: &Core, found: &Outbox, at: MonoNs) {
        if self.watchers.is_empty() {
            return;
        }
        let at_mono_ns = at.as_nanos();
        for event in &found.events {
            let version = |of: &str, key: &str| {
                let newest = |e: &&EntryArrival| e.origin.as_str() == of && &*e.key == key;
                found.entries.iter().rfind(newest).map_or(0, |entry| entry.version)
            };
            let change = match event {
                Event::Joined { node } => Change::Join { node: node.to_string(), at_mono_ns },
                Event::Left { node } => Change::Leave { node: node.to_string(), at_mono_ns },
                Event::Unreachable { node } => Change::Unreachable { node: node.to_string(), at_mono_ns },
                Event::Reachable { node } => Change::Reachable { node: node.to_string(), at_mono_ns },
                Event::Expired { node } => Change::Expire { node: node.to_string(), at_mono_ns },
                Event::Upserted { node, key, version } => {
                    upsert(core, node.as_str(), key.to_string(), *version, at)
                }
                Event::Deleted { node, key } => Change::Delete {
                    version: version(node.as_str(), key),
                    node: node.to_string(),
                    key: key.to_string(),
                    at_mono_ns,
                },
            };
            self.push(change);
        }
    }

    /// Tells a change, which may be one of this node's own.
    pub fn push(&mut self, change: Change) {
        if self.watchers.is_empty() {
            return;
        }
        let change = Arc::new(change);
        let internal = change.is_internal();
        let mut gone = false;
        for watcher in self.watchers.iter().filter(|watcher| watcher.internal || !internal) {
            match watcher.queue.try_reserve() {
                Ok(place) => place.send(Waiting {
                    missed_before: watcher.missed.swap(0, Ordering::Relaxed),
                    change: Arc::clone(&change),
                }),
                Err(TrySendError::Full(())) => drop(watcher.missed.fetch_add(1, Ordering::Relaxed)),
                Err(TrySendError::Closed(())) => gone = true,
            }
        }
        if gone {
            self.forget_gone();
        }
    }

    fn forget_gone(&mut self) {
        self.watchers.retain(|watcher| !watcher.queue.is_closed());
    }
}

impl Watch {
    /// Waits for the next changes and returns all that are there; none when the node ends.
    pub async fn next(&mut self) -> Vec<Arc<Change>> {
        let mut waiting = Vec::new();
        self.queue.recv_many(&mut waiting, QUEUE).await;
        let mut changes = Vec::with_capacity(waiting.len());
        for Waiting { missed_before, change } in waiting {
            changes.extend(missing(missed_before));
            changes.push(change);
        }
        // Nothing may ever come after them that could tell.
        if self.queue.is_empty() {
            changes.extend(missing(self.missed.swap(0, Ordering::Relaxed)));
        }
        changes
    }
}

/// A node's key has a new value.
pub(crate) fn upsert(core: &Core, node: &str, key: String, version: u64, at: MonoNs) -> Change {
    let held = core.entry(node, &key).filter(|held| held.version == version);
    Change::Upsert {
        value: held.map(|held| String::from_utf8_lossy(held.value).into_owned()),
        trace_id: held.and_then(|held| held.trace_id).map(TraceId::from),
        node: node.to_owned(),
        key,
        version,
        at_mono_ns: at.as_nanos(),
    }
}

fn missing(changes: u64) -> Option<Arc<Change>> {
    (changes > 0).then(|| Arc::new(Change::Missed { changes }))
}

impl Change {
    fn is_internal(&self) -> bool {
        match self {
            Self::Upsert { key, .. } | Self::Delete { key, .. } => key.starts_with(INTERNAL_PREFIX),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(key: &str, version: u64) -> Change {
        let (node, key, value) = ("a".into(), key.into(), Some("v".into()));
        Change::Upsert { node, key, value, version, trace_id: None, at_mono_ns: 5 }
    }

    fn versions(changes: &[Arc<Change>]) -> Vec<u64> {
        let version = |change: &Arc<Change>| match &**change {
            Change::Upsert { version, .. } => *version,
            Change::Missed { changes } => 1_000_000 + changes,
            other => panic!("{other:?}"),
        };
        changes.iter().map(version).collect()
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed_and_where_and_holds_up_no_other() {
        let mut watchers = Watchers::default();
        let (mut slow, mut fast) = (watchers.watch(false).unwrap(), watchers.watch(false).unwrap());
        for version in 0..QUEUE as u64 + 7 {
            watchers.push(upsert("k", version));
            assert_eq!(versions(&fast.next().await), [version]);
        }
        let read = versions(&slow.next().await);
        assert_eq!(read.len(), QUEUE + 1);
        assert_eq!(read[QUEUE - 1..], [QUEUE as u64 - 1, 1_000_007]);
        watchers.push(upsert("k", 99));
        assert_eq!(versions(&slow.next().await), [99], "told once");
    }

    #[tokio::test]
    async fn what_was_missed_comes_before_what_came_later() {
        let mut watchers = Watchers::default();
        let mut watch = watchers.watch(false).unwrap();
        (0..=QUEUE as u64).for_each(|version| watchers.push(upsert("k", version)));
        let first = watch.queue.recv().await.unwrap();
        assert_eq!(versions(&[first.change]), [0]);
        watchers.push(upsert("k", 5000));
        let read = versions(&watch.next().await);
        assert_eq!(read[QUEUE - 2..], [QUEUE as u64 - 1, 1_000_001, 5000]);
    }

    #[tokio::test]
    async fn the_protocols_own_keys_are_told_when_asked_for() {
        let mut watchers = Watchers::default();
        let (mut plain, mut all) = (watchers.watch(false).unwrap(), watchers.watch(true).unwrap());
        watchers.push(upsert("_internal:beacon", 1));
        watchers.push(upsert("k", 2));
        assert_eq!(versions(&plain.next().await), [2]);
        assert_eq!(versions(&all.next().await), [1, 2]);
    }

    #[tokio::test]
    async fn the_dead_make_room_and_the_living_are_not_pushed_out() {
        let mut watchers = Watchers::default();
        let mut living: Vec<Watch> = (0..MAX_WATCHERS).map(|_| watchers.watch(false).unwrap()).collect();
        assert!(watchers.watch(false).is_err());
        living.pop();
        let mut next = watchers.watch(false).unwrap();
        drop(watchers);
        assert!(next.next().await.is_empty(), "the node has ended");
    }

    #[tokio::test]
    async fn a_program_watches_its_own_node() {
        let (requests, mut inbox) = crate::control::channel().unwrap();
        let node = tokio::spawn(async move {
            let mut watchers = Watchers::default();
            let Some(Request::Watch { internal, reply }) = inbox.requests.recv().await else { return };
            let _ = reply.send(watchers.watch(internal));
            watchers.push(upsert("k", 1));
        });
        let mut watch = watch(&requests, false).await.unwrap();
        assert_eq!(versions(&watch.next().await), [1]);
        node.await.unwrap();
        assert!(watch.next().await.is_empty());
        assert!(super::watch(&requests, false).await.is_err(), "it has ended");
    }

    #[test]
    fn lines_are_as_documented() {
        let line = serde_json::to_string(&upsert("k", 7)).unwrap();
        assert_eq!(line, r#"{"event":"upsert","node":"a","key":"k","value":"v","version":7,"at_mono_ns":5}"#);
        let line = serde_json::to_string(&Change::Missed { changes: 3 }).unwrap();
        assert_eq!(line, r#"{"event":"missed","changes":3}"#);
    }
}
