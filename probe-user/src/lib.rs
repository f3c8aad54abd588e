//! From kernel stamps to named segments: the user side of pikoscope's probe.
//!
//! A received packet walks one way, and every step yields a plain value:
//!
//! ```text
//! socket filter -> ring -> drain -> correlate -> align -> breakdown -> window
//!       (load)             (IO)    |------------ analysis, pure ------------|
//! ```
//!
//! [`clock`] turns readings of NTP daemons and of the kernel's clocks into one bounded offset; its values are
//! what [`analysis`] works with. A sent packet's own stamps ([`transmit`]) are joined by [`departures`]. Nothing
//! under `analysis` does IO or reads a clock.

pub mod analysis;
pub mod btf;
pub mod clock;
mod cookie;
pub mod departures;
pub mod drain;
pub mod drops;
pub mod hardware;
pub mod hooks;
pub mod load;
pub mod memory;
pub mod recv;
pub mod self_check;
pub mod timestamping;
pub mod transmit;
