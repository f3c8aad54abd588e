//! The daemon `pikoscope` as a library: wire format, sans-IO gossip core, and the rim around it.
//!
//! Read [`wire`] and [`proto`] first: bytes and `now` in, packets and findings out. [`net`] gives them sockets
//! and clocks; everything else shows what they found.
#![forbid(unsafe_code)]
pub mod bell;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod health;
pub mod http;
pub mod journey;
pub mod metrics;
pub mod net;
pub mod proto;
pub mod report;
pub mod stats;
pub mod wire;
