//! A drawing of every path's segments over time, as SVG: a panel for each path, time on a logarithmic scale, events
//! as shaded bands.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::packets::{NETWORK, Packet, SEGMENTS, quantile};
use super::report::time;
use super::scenario::{Scenario, host_name};
use super::timeline::{Mark, marks};

/// More panels than this are not for looking at.
const MOST_PANELS: usize = 12;
const COLUMNS: usize = 2;
/// In pixels: a panel's plot area, and what is around it.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const ABOVE: f64 = 40.0;
const BELOW: f64 = 28.0;
/// Title and legend.
const HEAD: f64 = 74.0;
/// Medians are drawn over so many seconds.
const BIN_S: f64 = 0.5;
/// Distinct for most eyes, in the order of [`SEGMENTS`].
const COLOURS: [&str; SEGMENTS.len()] = ["#0072b2", "#999999", "#d55e00", "#009e73"];
const TRUTH: &str = "#000000";

/// A panel's scales.
struct Scales {
    seconds: f64,
    /// Exponents of ten, in nanoseconds.
    low: i32,
    high: i32,
}

impl Scales {
    fn of(scenario: &Scenario, packets: &[&Packet]) -> Self {
        let times =
            packets.iter().flat_map(|packet| packet.measured.iter().chain(&packet.truth[..1])).flatten();
        let (low, high) = times
            .filter(|time| **time > 0)
            .map(|time| (*time as f64).log10())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| (low.min(log), high.max(log)));
        // Without any packet from a microsecond to a second.
        let (low, high) = if low <= high { (low.floor() as i32, high.ceil() as i32) } else { (3, 9) };
        Self { seconds: scenario.seconds, low, high: high.max(low + 1) }
    }

    fn x(&self, at_s: f64) -> f64 {
        at_s / self.seconds * WIDTH
    }

    /// None for what a logarithmic scale has no place for.
    fn y(&self, ns: i64) -> Option<f64> {
        let log = (ns > 0).then(|| (ns as f64).log10())?;
        Some(HEIGHT * (1.0 - (log - f64::from(self.low)) / f64::from(self.high - self.low)))
    }
}

/// Draws all paths, as far as that can be looked at.
pub fn draw(scenario: &Scenario, packets: &[Packet]) -> String {
    let mut paths: BTreeMap<(usize, usize), Vec<&Packet>> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| (0.0..scenario.seconds).contains(&packet.sent_s)) {
        paths.entry((packet.from, packet.to)).or_default().push(packet);
    }
    let all = paths.len();
    let shown = all.min(MOST_PANELS);
    let scales = Scales::of(scenario, &paths.values().take(shown).flatten().copied().collect::<Vec<_>>());
    let (panel_width, panel_height) = (LEFT + WIDTH + RIGHT, ABOVE + HEIGHT + BELOW);
    let width = panel_width * COLUMNS as f64;
    let height = HEAD + panel_height * shown.div_ceil(COLUMNS) as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    head(&mut svg, scenario, shown, all);
    let marks = marks(scenario);
    for (number, ((from, to), packets)) in paths.iter().take(shown).enumerate() {
        let x = panel_width * (number % COLUMNS) as f64 + LEFT;
        let y = HEAD + panel_height * (number / COLUMNS) as f64 + ABOVE;
        let _ = writeln!(svg, "<g transform=\"translate({x},{y})\">");
        let title = format!("{} > {}", host_name(*from), host_name(*to));
        panel(&mut svg, &title, packets, &scales, &marks);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, scenario: &Scenario, shown: usize, all: usize) {
    let rest = if shown < all { format!(" ({shown} of {all} paths)") } else { String::new() };
    let title = escape(&format!("{}: {}{rest}", scenario.name, scenario.about));
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{title}</text>");
    let mut x = LEFT;
    let lines = SEGMENTS.iter().zip(COLOURS).map(|(name, colour)| (name.to_string(), colour, ""));
    let truth = (format!("{}, truth (edge to edge)", SEGMENTS[NETWORK]), TRUTH, DASHED);
    for (name, colour, dashed) in lines.chain([truth]) {
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"48\" x2=\"{}\" y2=\"48\" stroke=\"{colour}\" stroke-width=\"2.5\"{dashed}/>\
             <text x=\"{}\" y=\"52\">{name}</text>",
            x + 26.0,
            x + 32.0
        );
        x += 62.0 + 7.0 * name.len() as f64;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"52\" fill=\"#555\">dots: packets; lines: medians of {BIN_S} s</text>"
    );
}

const DASHED: &str = " stroke-dasharray=\"5 3\"";

fn panel(svg: &mut String, title: &str, packets: &[&Packet], scales: &Scales, marks: &[Mark]) {
    for mark in marks {
        let (from, to) = (scales.x(mark.from_s), scales.x(mark.to_s));
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#f3e3b8\" opacity=\"0.6\"/>\
             <text x=\"{:.1}\" y=\"-5\" font-size=\"11\" fill=\"#7a5c00\">{}</text>",
            (to - from).max(2.0),
            from + 2.0,
            escape(&mark.label)
        );
    }
    axes(svg, scales);
    let below =
        packets.iter().filter(|packet| packet.measured.iter().flatten().any(|time| *time <= 0)).count();
    let below =
        if below > 0 { format!(", {below} with a time not above zero: not shown") } else { String::new() };
    let _ = writeln!(
        svg,
        "<text x=\"0\" y=\"-20\" font-weight=\"bold\">{title}</text>\
         <text x=\"52\" y=\"-20\" fill=\"#555\">{} packets{below}</text>",
        packets.len()
    );
    for (place, colour) in COLOURS.iter().enumerate() {
        let value = |packet: &Packet| packet.measured[place];
        let _ = writeln!(svg, "<g fill=\"{colour}\" opacity=\"0.55\">");
        for packet in packets {
            if let Some(y) = value(packet).and_then(|time| scales.y(time)) {
                let _ =
                    write!(svg, "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"1.8\"/>", scales.x(packet.sent_s));
            }
        }
        svg.push_str("</g>\n");
        median_line(svg, packets, scales, value, &format!("stroke=\"{colour}\" stroke-width=\"2\""));
    }
    let truth = |packet: &Packet| packet.truth[NETWORK];
    median_line(svg, packets, scales, truth, &format!("stroke=\"{TRUTH}\" stroke-width=\"1.2\"{DASHED}"));
}

/// Frame, decades with names, seconds.
fn axes(svg: &mut String, scales: &Scales) {
    for exponent in scales.low..=scales.high {
        let ns = 10f64.powi(exponent);
        let Some(y) = scales.y(ns as i64) else { continue };
        let name = time(ns).replace(".00", "").replace(".0 ", " ");
        let _ = writeln!(
            svg,
            "<line x1=\"0\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            y + 4.0
        );
    }
    let step = if scales.seconds > 60.0 { (scales.seconds / 12.0).ceil() } else { 2.0 };
    let mut at = 0.0;
    while at <= scales.seconds {
        let x = scales.x(at);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{HEIGHT}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#888\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{at} s</text>",
            HEIGHT + 4.0,
            HEIGHT + 17.0
        );
        at += step;
    }
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>");
}

/// A line through the medians of equal pieces of time; it is broken where there are no packets.
fn median_line(
    svg: &mut String,
    packets: &[&Packet],
    scales: &Scales,
    value: impl Fn(&Packet) -> Option<i64>,
    style: &str,
) {
    let mut bins: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for packet in packets {
        if let Some(time) = value(packet) {
            bins.entry((packet.sent_s / BIN_S) as i64).or_default().push(time);
        }
    }
    let mut path = String::new();
    let mut last = None;
    for (bin, times) in bins {
        let Some(y) = quantile(times, 0.5).and_then(|median| scales.y(median)) else { continue };
        let verb = if last == Some(bin - 1) { 'L' } else { 'M' };
        // A short piece, so that one that stands alone is seen too.
        let (from, to) = (scales.x(bin as f64 * BIN_S), scales.x((bin + 1) as f64 * BIN_S).min(WIDTH));
        let _ = write!(path, "{verb}{from:.1} {y:.1}L{to:.1} {y:.1}");
        last = Some(bin);
    }
    if !path.is_empty() {
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" {style}/>");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sent_s: f64, network: i64) -> Packet {
        Packet {
            from: 0,
            to: 1,
            from_number: 0,
            to_last: true,
            sent_s,
            measured: [Some(network), Some(3_000), None, Some(20_000)],
            truth: [Some(20_000_000), None, None, None],
            bound: Some(1),
            elapsed: None,
            correction: None,
            left: [None; 3],
            wire: None,
        }
    }

    #[test]
    fn every_packet_is_a_dot_or_said_to_be_missing() {
        let scenario = Scenario::parse("x", "about = 'a & b'\nseconds = 4").unwrap();
        let svg = draw(&scenario, &[packet(1.0, 20_000_000), packet(1.1, -5), packet(9.0, 7)]);
        assert_eq!(svg.matches("<circle").count(), 1 + 2 + 2, "the third is outside");
        assert!(svg.contains("2 packets, 1 with a time not above zero") && svg.contains("a &amp; b"));
        assert!(svg.contains("stroke-dasharray") && svg.contains("b</text>"));
        assert!(draw(&scenario, &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn the_scale_has_whole_decades_around_all_that_is_shown() {
        let scenario = Scenario::parse("x", "about = 'a'\nseconds = 4").unwrap();
        let packet = packet(1.0, 30_000_000);
        let scales = Scales::of(&scenario, &[&packet]);
        assert_eq!((scales.low, scales.high), (3, 8));
        assert_eq!((scales.y(1_000), scales.y(100_000_000), scales.y(0)), (Some(HEIGHT), Some(0.0), None));
        assert_eq!(scales.x(2.0), WIDTH / 2.0);
    }
}
