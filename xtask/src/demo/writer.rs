//! The application of the demo: it changes entries, about ten a second on every node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::rig::Control;

/// Pause between two changes on one node.
const PACE: Duration = Duration::from_millis(100);
/// Keys that are changed in turn.
const KEYS: u64 = 10;

/// One thread per node, so that a node that hangs holds up only its own changes.
pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(controls: Vec<Control>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = controls
            .into_iter()
            .map(|control| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || write(&control, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends the changes; returns when none is under way any more.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // It only sends requests; had it panicked, the changes would be missing in the report.
            let _ = thread.join();
        }
    }
}

fn write(control: &Control, stop: &AtomicBool) {
    for count in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A node that died is found and told by the one who watches the nodes.
        let _ = control.set(&format!("demo/{}", count % KEYS), &count.to_string());
        // The pace of the load, not a wait for anything.
        thread::sleep(PACE);
    }
}
