//! One file per program, and `emit` and `depart` for what they share.

#[cfg(feature = "broken")]
mod broken;
mod depart;
mod drop;
mod egress;
mod emit;
mod socket;
mod xmit;
