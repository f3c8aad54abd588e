//! stub
#![forbid(unsafe_code)]
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod health;
pub mod http;
pub mod metrics;
pub mod proto;
pub mod report;
pub mod stats;
pub mod wire;
