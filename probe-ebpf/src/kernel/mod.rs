//! One file per program, and `emit` for what they share.

#[cfg(feature = "broken")]
mod broken;
mod emit;
mod socket;
