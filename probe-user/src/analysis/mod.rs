//! The pure part: stamps in, segments out. No IO, no clock reads, no aya, no tokio.

pub mod align;
pub mod breakdown;
pub mod correlate;
pub mod journey;
pub mod quantiles;
pub mod verdict;
