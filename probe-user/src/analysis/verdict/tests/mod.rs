//! Whole judges on synthetic paths.

mod attribution;
mod correction;
mod localise;
mod ports;
mod pressure;
mod properties;
mod rng;
mod steady;
mod world;
