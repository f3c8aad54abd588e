//! `cargo xtask sim`: the product's sans-IO core, many times over, under virtual time.
#![forbid(unsafe_code)]

mod host;
mod member;
mod net;
mod options;
mod ours;
mod piko;
mod plot;
mod queue;
mod report;
mod scenario;
mod spread;
mod world;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use member::Member;
use options::{Options, Rule, Scenario};
use report::{Cost, Figures, Outcome, Setting};
use world::{START, World};

fn main() -> ExitCode {
    match command(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command(options: &Options) -> Result<(), String> {
    println!("seed {}, interval {} ms, simulated", options.seed, options.interval_ms);
    let mut outcomes = Vec::new();
    for rule in &options.rule {
        for nodes in &options.nodes {
            let nodes = *nodes as usize;
            let outcome = match rule {
                Rule::Ours => run::<ours::Ours>(*rule, nodes, options)?,
                Rule::PikoV0 => run::<piko::Piko<false>>(*rule, nodes, options)?,
                Rule::PikoV0Detector => run::<piko::Piko<true>>(*rule, nodes, options)?,
            };
            if outcomes.is_empty() {
                println!("{}", outcome.heading());
            }
            println!("{}", outcome.line());
            outcomes.push(outcome);
        }
    }
    if let Some(file) = &options.json {
        let text = match outcomes.as_slice() {
            [outcome] => serde_json::to_string_pretty(outcome),
            outcomes => serde_json::to_string_pretty(outcomes),
        };
        write(file, text.map_err(|error| error.to_string())? + "\n")?;
    }
    if let Some(file) = &options.plot {
        write(file, plot::draw(&outcomes))?;
    }
    Ok(())
}

fn write(file: &Path, text: String) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("writing {}: {error}", file.display()))
}

/// One run from the start to the end.
#[expect(
    clippy::disallowed_methods,
    reason = "how long the run itself takes; its nodes live in virtual time"
)]
fn run<M: Member>(rule: Rule, nodes: usize, options: &Options) -> Result<Outcome, String> {
    let (started, cpu_before) = (Instant::now(), cpu_s());
    let mut world = World::<M>::new(options.plan(nodes));
    let figures = match options.scenario {
        Scenario::Changes => scenario::changes::run(&mut world, options).map(Figures::Changes),
        Scenario::Join => scenario::join::run(&mut world).map(Figures::Join),
        Scenario::Kill => scenario::kill::run(&mut world, options).map(Figures::Kill),
        Scenario::Verdicts => scenario::verdicts::run(&mut world).map(Figures::Verdicts),
        Scenario::Split => scenario::split::run(&mut world, options).map(Figures::Split),
    }?;
    if options.counters {
        for (name, total) in world.counters() {
            println!("{name:24} {total:>14}");
        }
        println!("{:#?}", world.net.traffic);
    }
    Ok(Outcome {
        setting: Setting {
            rule: rule.name(),
            nodes,
            interval_ms: options.interval_ms,
            loss: options.loss,
            seed: options.seed,
        },
        figures,
        cost: Cost {
            cpu_s: cpu_before.and_then(|before| Some(cpu_s()? - before)),
            wall_s: started.elapsed().as_secs_f64(),
            virtual_s: (world.now - START).as_secs_f64(),
            packets: world.net.traffic.packets,
            lost: world.net.traffic.lost,
            events: world.events(),
            fingerprint: format!("{:016x}", world.net.fingerprint.value()),
        },
    })
}

/// What this thread has had of a processor, in seconds (proc_pid_schedstat: the first number, nanoseconds).
fn cpu_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}
