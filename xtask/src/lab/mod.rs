//! The lab: real hosts and kernels, links that can be troubled, and the truth about every packet.

pub mod switch;
