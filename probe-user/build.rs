//! Embeds the eBPF object, so that a deployed binary is one file.
//!
//! The object is built by `cargo xtask build` (it needs a compiler of its own). Without it the crate still
//! builds: the node then runs at tier 0 and says why.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=PIKOSCOPE_BPF_OBJECT");
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let object = env::var("PIKOSCOPE_BPF_OBJECT")
        .map(PathBuf::from)
        .unwrap_or_else(|_| Path::new(&manifest).join("../target/bpf/bpfel-unknown-none/bpf/pikoscope-bpf"));
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_else(|_| {
        println!("cargo::warning=no eBPF object: the node will run at tier 0; `cargo xtask build` makes it");
        Vec::new()
    });
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("pikoscope-bpf");
    fs::write(out, bytes).expect("OUT_DIR is writable");
}
