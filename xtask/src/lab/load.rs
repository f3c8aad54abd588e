//! The application of the lab: it changes entries, at a given rate, from one or all hosts.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bed::Place;
use super::scenario::{Load, host_index};
use crate::rig::{Control, Stopwatch};

/// One thread per host, so that a node that hangs holds up only its own changes.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts the changes at the nodes of these places.
    pub fn start(load: &Load, places: Vec<Place>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicU64::new(0));
        let hosts: Option<Vec<usize>> =
            load.nodes.as_ref().map(|names| names.iter().filter_map(|name| host_index(name)).collect());
        let chosen = |host: usize| hosts.as_ref().is_none_or(|hosts| hosts.contains(&host));
        let threads = places
            .into_iter()
            .enumerate()
            .filter(|(host, _)| load.changes_per_s > 0.0 && chosen(*host))
            .map(|(_, place)| {
                let (load, stop, made) = (load.clone(), Arc::clone(&stop), Arc::clone(&made));
                thread::spawn(move || write(&load, &place, &stop, &made))
            })
            .collect();
        Self { stop, made, threads }
    }

    /// Changes made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ends the changes; returns how many there were, when none is under way any more.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // It only sends requests; had it panicked, the changes would be missing.
            let _ = thread.join();
        }
        self.made.load(Ordering::Relaxed)
    }
}

fn write(load: &Load, place: &Place, stop: &AtomicBool, made: &AtomicU64) {
    let started = Stopwatch::start();
    for count in 0u32.. {
        // The pace of the load, not a wait for anything. Whole bursts keep to the rate.
        let due = Duration::from_secs_f64(f64::from(count / load.burst * load.burst) / load.changes_per_s);
        while let Some(left) = due.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let control = place.read().unwrap_or_else(PoisonError::into_inner).clone();
        // A node that is down has no changes; one that died is found and told by the one who watches the nodes.
        if control.is_some_and(|control| change(load, &control, count).is_ok()) {
            made.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn change(load: &Load, control: &Control, count: u32) -> anyhow::Result<()> {
    // Every `churn` changes the window of keys moves on by one.
    let moved = count.checked_div(load.churn).unwrap_or(0);
    if moved > 0 && count.is_multiple_of(load.churn) {
        control.delete(&format!("lab/{}", moved - 1))?;
    }
    let value = format!("{count:0width$}", width = load.value_bytes);
    control.set(&format!("lab/{}", moved + count % load.keys), &value)
}
