//! pikoscope's developer commands, one module each, and [`rig`]: namespaces, time servers and nodes for tests.
//!
//! Nothing here depends on the node crate: nodes are spawned as processes, so this builds in seconds and
//! measures what a user would run.

#![forbid(unsafe_code)]

pub mod bench;
pub mod build;
pub mod ci;
pub mod demo;
pub mod exec;
pub mod fuzz;
pub mod lab;
pub mod licences;
pub mod lint;
pub mod paths;
pub mod rig;
pub mod setup;
pub mod sim;
pub mod test;
pub mod vmtest;
