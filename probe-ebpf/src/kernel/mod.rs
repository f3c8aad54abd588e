//! One file per program, and `emit` for what they share.

mod emit;
mod socket;
