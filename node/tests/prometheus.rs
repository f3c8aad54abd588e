//! A real Prometheus scrapes three hosts and answers the questions that the README promises answers to.

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::http::{self, encoded};
use support::{Cluster, Plan, alone};
use xtask::rig::{Namespace, Process, can_make_hosts, wait_for, wait_on};

const NEEDED: &str =
    "prometheus and promtool are needed on PATH: run `cargo xtask test`, which provides them";
const PATIENCE: Duration = Duration::from_secs(60);
const LATENCY: &str = r#"piko_gossip_propagation_latency_seconds{type="entry"}"#;
const P95: &str =
    "histogram_quantile(0.95, sum by (le) (rate(piko_gossip_entry_propagation_seconds_bucket[1m])))";

/// A series' labels and its value.
type Sample = (Value, f64);

/// A Prometheus beside the switch, from where it reaches every host.
struct Prometheus<'a> {
    process: Process,
    namespace: &'a Namespace,
    address: SocketAddr,
}

impl<'a> Prometheus<'a> {
    fn start(namespace: &'a Namespace, targets: &[String], dir: &Path) -> Result<Self> {
        let config = dir.join("prometheus.yml");
        let targets = targets.join("', '");
        std::fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 1s }}\n\
                 scrape_configs: [{{ job_name: pikoscope, static_configs: [{{ targets: ['{targets}'] }}] }}]\n"
            ),
        )?;
        // In a namespace of our own the usual port is free.
        let address = SocketAddr::from(([127, 0, 0, 1], 9090));
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"));
        let mut process = Process::spawn("prometheus", namespace.wrap(&command), dir)?;
        let alive = |process: &mut Process| process.ensure_running().context(NEEDED);
        wait_on(&mut process, "prometheus to be ready", PATIENCE, alive, |_| {
            namespace.within(|| http::get(address, "/-/ready"))?.map(Some)
        })?;
        Ok(Self { process, namespace, address })
    }

    /// The instant vector that answers `query`: labels and values.
    fn query(&mut self, query: &str) -> Result<Vec<Sample>> {
        self.process.ensure_running()?;
        let path = format!("/api/v1/query?query={}", encoded(query));
        let body = self.namespace.within(|| http::get(self.address, &path))??;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(answer["status"] == "success", "{body}");
        let results = answer["data"]["result"].as_array().with_context(|| body.clone())?;
        results
            .iter()
            .map(|r| {
                let value =
                    r["value"][1].as_str().and_then(|v| v.parse().ok()).with_context(|| r.to_string())?;
                Ok((r["metric"].clone(), value))
            })
            .collect()
    }
}

/// What `promtool check metrics` says to `text`: nothing, when all is well.
fn promtool_on(text: &str) -> Result<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(NEEDED)?;
    promtool.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok(format!(
        "{}{}",
        if output.status.success() { "" } else { "refused: " },
        String::from_utf8_lossy(&said)
    ))
}

#[test]
fn prometheus_scrapes_three_nodes_and_answers() -> Result<()> {
    if !can_make_hosts() {
        return Ok(());
    }
    let _alone = alone();
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "reporting_window_s = 2\n")?;
    let plan = Plan { extra: vec!["--config".into(), config.display().to_string()], ..Plan::default() };
    let cluster = Cluster::start(&[plan.clone(), plan.clone(), plan])?;
    let metrics: Vec<SocketAddr> = cluster.hosts.iter().map(|host| (host.v4(), 7177).into()).collect();
    let instances: Vec<String> = metrics.iter().map(SocketAddr::to_string).collect();
    let mut prometheus = Prometheus::start(cluster.hosts.switch(), &instances, dir.path())?;

    // Every question is asked again after more changes, until the answer is there.
    let mut written = 0u32;
    let mut ask = |what: &str, query: &str, enough: &dyn Fn(&[Sample]) -> bool| {
        wait_for(what, PATIENCE, || {
            written += 1;
            for node in &cluster.nodes {
                node.set("key", &written.to_string())?;
            }
            let answer = prometheus.query(query)?;
            ensure!(enough(&answer), "{query} gives {answer:?}");
            Ok(Some(answer))
        })
    };
    let from_all = |answer: &[Sample]| {
        let mut from: Vec<&str> =
            answer.iter().filter_map(|(labels, _)| labels["instance"].as_str()).collect();
        from.sort_unstable();
        from == instances
    };

    ask("three targets to be up", "up", &|up| from_all(up) && up.iter().all(|(_, value)| *value == 1.0))?;
    // NaN, which a node without samples gives, is no number.
    let latency = ask("every node's latency", LATENCY, &|latency| {
        from_all(latency) && latency.iter().all(|(_, value)| value.is_finite())
    })?;
    let p95 = ask("a P95", P95, &|p95| matches!(p95, [(_, value)] if value.is_finite()))?;
    println!("latency: {latency:?}\nP95: {p95:?}");
    // A change waits for a gossip round or two, of 100 ms each.
    for (labels, value) in latency.iter().chain(&p95) {
        assert!((1e-4..2.0).contains(value), "{value} s, {labels}");
    }
    ask(
        "enough samples",
        "sum(piko_gossip_entry_propagation_seconds_count)",
        &|sum| matches!(sum, [(_, value)] if *value >= 200.0),
    )?;
    let p95 = ask("a P95 of them", P95, &|p95| matches!(p95, [(_, value)] if value.is_finite()))?[0].1;
    // The nodes' own count, in fine steps where the histogram has buckets up to 2.5 times as wide as their start.
    let mut own = Vec::new();
    for node in &cluster.nodes {
        let report = node.status()?;
        let origins = report["entries"].as_array().context("entries")?;
        own.extend(
            origins.iter().filter_map(|origin| Some(origin["total"]["p95_ns"].as_i64()? as f64 / 1e9)),
        );
    }
    assert_eq!(own.len(), 6, "paths of entries");
    let (least, most) =
        (own.iter().copied().fold(f64::MAX, f64::min), own.iter().copied().fold(0.0, f64::max));
    println!("P95 {p95}, by the nodes' own count {least} to {most}");
    assert!((least / 2.5..most * 2.5).contains(&p95), "P95 is {p95}, by the nodes' own count {own:?}");

    for address in metrics {
        let text = cluster.hosts.switch().within(|| http::get(address, "/metrics"))??;
        let said = promtool_on(&text)?;
        assert!(said.is_empty(), "promtool on {address}: {said}");
    }
    Ok(())
}
