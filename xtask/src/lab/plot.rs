//! A drawing of every path's segments over time, as SVG.

use super::packets::Packet;
use super::scenario::Scenario;

/// Draws them.
pub fn draw(_scenario: &Scenario, _packets: &[Packet]) -> String {
    String::new()
}
