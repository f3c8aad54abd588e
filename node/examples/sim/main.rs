//! `cargo xtask sim`: the product's sans-IO core, many times over, under virtual time.
#![forbid(unsafe_code)]

mod host;
mod member;
mod net;
mod options;
mod ours;
mod queue;
mod report;
mod scenario;
mod spread;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use probe_ebpf::time::MonoNs;

use member::Member;
use options::{Options, Rule};
use report::{Cost, Row};
use world::World;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    println!("seed {}", options.seed);
    println!("{}", Row::heading());
    let mut rows = Vec::new();
    for rule in &options.rule {
        for nodes in &options.nodes {
            let nodes = *nodes as usize;
            let row = match rule {
                Rule::Ours => changes::<ours::Ours>(*rule, nodes, options)?,
                Rule::PikoV0 => return Err("not there yet".into()),
            };
            println!("{}", row.line());
            rows.push(row);
        }
    }
    if let Some(file) = &options.json {
        let text = match rows.as_slice() {
            [row] => serde_json::to_string_pretty(row),
            rows => serde_json::to_string_pretty(rows),
        };
        let text = text.map_err(|error| error.to_string())?;
        std::fs::write(file, text + "\n").map_err(|error| format!("writing {}: {error}", file.display()))?;
    }
    Ok(())
}

fn changes<M: Member>(rule: Rule, nodes: usize, options: &Options) -> Result<Row, String> {
    let started = Instant::now();
    let mut world = World::<M>::new(options.plan(nodes));
    let outcome = scenario::changes::run(&mut world, options)?;
    if options.counters {
        for (name, total) in world.counters() {
            println!("{name:24} {total:>14}");
        }
    }
    let cost = Cost {
        wall_s: started.elapsed().as_secs_f64(),
        virtual_s: (world.now - MonoNs::from_nanos(0)).as_secs_f64(),
        events: world.events(),
        packets: world.net.traffic.packets,
        lost: world.net.traffic.lost,
        fingerprint: world.net.fingerprint.value(),
    };
    Ok(Row::new(rule, nodes, options, &outcome, &cost))
}
