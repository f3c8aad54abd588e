//! Two virtual machines with clocks of their own, as `cargo xtask lab guests` runs them.

#![allow(clippy::unwrap_used, reason = "tests, helpers included, fail by panicking")]

use std::fs;
use std::process::Command;

use serde_json::Value;
use xtask::rig::{can_make_hosts, sandbox};

#[test]
fn the_bound_holds_between_two_kernels_clocks_and_a_delay_lands_in_its_direction() {
    if !can_make_hosts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "guests", "--kernel", "6.12", "--seconds", "15", "--json"])
        .arg(&json)
        // This test may itself be in a sandbox; the lab is to make one of its own.
        .env_remove(sandbox::SANDBOX_ENV)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(result["pass"], true);
    let [kernel] = &result["kernels"].as_array().unwrap()[..] else { panic!("{result}") };
    // The guests' kernels were told to run 70 ppm apart, and nothing but their own packets says so here.
    let drift = |guest: usize, end: usize| kernel["guests"][guest]["drift_ppm"][end].as_f64().unwrap();
    assert!(drift(0, 0) <= drift(0, 1) && drift(1, 0) <= drift(1, 1), "{said}");
    assert!(drift(0, 1) - drift(1, 0) > 70.0 && drift(0, 0) > drift(1, 0), "{said}");
    let paths = kernel["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 4);
    for path in paths {
        let ns = |key: &str| path[key].as_i64().unwrap();
        let wanted = if path["path"] == "a>b" && path["delayed"] == true { 5_000_000 } else { 0 };
        assert_eq!(ns("added_ns"), wanted, "{said}");
        assert!((wanted..wanted + 4_000_000).contains(&ns("transit_p50_ns")), "{said}");
        // A packet takes its time within the guests, too.
        assert!(ns("emulation_p50_ns") > 0 && ns("truth_p50_ns") > ns("transit_p50_ns"), "{said}");
    }
}

#[test]
fn what_cannot_be_a_guests_kernel_is_told_in_one_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "guests", "--kernel", "host"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("a kernel of its own: 6.1 or 6.12"), "{said}");
}
