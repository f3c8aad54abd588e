//! How long a change takes until all know it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::json;

use super::cluster::{Cluster, KEY};
use crate::rig::Control;

/// A change that has not reached all after this is incomplete.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two changes, so that they fall into any part of the nodes' rounds.
const PAUSE_MS: std::ops::Range<u64> = 300..500;

/// Milliseconds from the change at its origin.
pub(super) struct Spread {
    /// Until all knew it, per change that reached all.
    pub(super) until_all: Vec<f64>,
    /// Until each other node knew it, over all changes.
    pub(super) each: Vec<f64>,
    /// Changes that did not reach all in [`PATIENCE`].
    pub(super) incomplete: usize,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    version: u64,
    #[serde(default)]
    at_mono_ns: i64,
}

/// Node `watcher` knew of this change.
struct Seen {
    watcher: usize,
    line: Line,
}

/// Changes keys of nodes drawn at random.
pub(super) fn measure(cluster: &mut Cluster, tries: u16, seed: u64) -> Result<Spread> {
    let controls = cluster.controls();
    let (tell, seen) = channel();
    // They end when the nodes do.
    for (watcher, control) in controls.iter().enumerate() {
        watch(watcher, control, tell.clone())?;
    }
    drop(tell);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut spread = Spread { until_all: Vec::new(), each: Vec::new(), incomplete: 0 };
    for number in 1..=tries {
        thread::sleep(Duration::from_millis(random.random_range(PAUSE_MS)));
        let origin = random.random_range(0..controls.len());
        let request = json!({"cmd": "set", "key": KEY, "value": number.to_string()});
        let answer = controls[origin].ask(&request)?;
        let version = answer["version"].as_u64().context("set told no version")?;
        let times = arrivals(&seen, origin, &controls[origin], version, controls.len())?;
        let Some(start) = times[origin] else { bail!("the origin's own watch did not show its change") };
        let after: Vec<Option<f64>> = times.iter().map(|at| at.map(|at| (at - start) as f64 / 1e6)).collect();
        spread
            .each
            .extend(after.iter().enumerate().filter(|(node, _)| *node != origin).filter_map(|(_, t)| *t));
        match after.into_iter().collect::<Option<Vec<f64>>>() {
            Some(all) => spread.until_all.push(all.into_iter().fold(0.0, f64::max)),
            None => spread.incomplete += 1,
        }
    }
    Ok(spread)
}

/// When each node knew of this version of the origin's key; `None` where it did not in time.
fn arrivals(
    seen: &Receiver<Seen>,
    origin: usize,
    control: &Control,
    version: u64,
    nodes: usize,
) -> Result<Vec<Option<i64>>> {
    let mut times = vec![None; nodes];
    let mut missing = nodes;
    while missing > 0 {
        let Ok(Seen { watcher, line }) = seen.recv_timeout(PATIENCE) else { break };
        ensure!(line.event != "missed", "the watch of node {watcher} missed changes");
        if line.event == "upsert"
            && line.key == KEY
            && line.node == control.id()
            && line.version >= version
            && times[watcher].is_none()
        {
            times[watcher] = Some(line.at_mono_ns);
            missing -= 1;
        }
    }
    ensure!(times[origin].is_some() || missing == nodes, "node {} saw no change of its own", control.id());
    Ok(times)
}

/// Starts a watch, and a thread that passes on its lines.
fn watch(watcher: usize, control: &Control, tell: Sender<Seen>) -> Result<()> {
    let mut stream = UnixStream::connect(control.path())
        .with_context(|| format!("connecting to {}", control.path().display()))?;
    stream.write_all(b"{\"cmd\":\"watch\"}\n")?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("no answer to a watch")??;
    ensure!(first == r#"{"ok":true}"#, "a watch was answered with `{first}`");
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // What is no line of a watch would show as a change that never came.
            let Ok(line) = serde_json::from_str(&line) else { continue };
            if tell.send(Seen { watcher, line }).is_err() {
                return;
            }
        }
    });
    Ok(())
}
