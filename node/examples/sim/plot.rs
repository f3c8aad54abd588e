//! Who knew a change when, as SVG: a line for each run, time on a logarithmic scale.

use std::fmt::Write;

use crate::report::{Figures, Outcome};
use crate::scenario::changes;

/// In pixels: the plot area, and what is around it.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 190.0;
const ABOVE: f64 = 56.0;
const BELOW: f64 = 46.0;
/// Distinct for most eyes.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const DASHES: [&str; 3] = ["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 3\""];

/// Exponents of ten, in milliseconds.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn of(lines: &[(&Outcome, &changes::Figures)]) -> Self {
        let times = lines.iter().flat_map(|(_, figures)| &figures.curve).map(|(ms, _)| ms.max(0.01).log10());
        let (low, high) = times.fold((0.0_f64, 1.0_f64), |(low, high), log| (low.min(log), high.max(log)));
        Self { low: low.floor() as i32, high: high.ceil() as i32 }
    }
    fn x(&self, ms: f64) -> f64 {
        WIDTH * (ms.max(0.01).log10() - f64::from(self.low)) / f64::from(self.high - self.low)
    }
}

fn y(share: f64) -> f64 {
    HEIGHT * (1.0 - share)
}

/// Draws all runs that made changes.
pub(crate) fn draw(outcomes: &[Outcome]) -> String {
    let lines: Vec<(&Outcome, &changes::Figures)> = outcomes
        .iter()
        .filter_map(|outcome| match &outcome.figures {
            Figures::Changes(figures) => Some((outcome, figures)),
            _ => None,
        })
        .collect();
    let scale = Scale::of(&lines);
    let (width, height) = (LEFT + WIDTH + RIGHT, ABOVE + HEIGHT + BELOW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">Share of the nodes that know a change, \
         over the time since</text>\n"
    );
    if let Some((first, figures)) = lines.first() {
        let setting = &first.setting;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"42\" fill=\"#555\">{} changes, interval {} ms, seed {}; simulated</text>",
            figures.changes, setting.interval_ms, setting.seed
        );
    }
    let _ = writeln!(svg, "<g transform=\"translate({LEFT},{ABOVE})\">");
    axes(&mut svg, &scale);
    let mut rules: Vec<&str> = lines.iter().map(|(outcome, _)| outcome.setting.rule).collect();
    rules.dedup();
    let mut nodes: Vec<usize> = lines.iter().map(|(outcome, _)| outcome.setting.nodes).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for (place, (outcome, figures)) in lines.iter().enumerate() {
        let setting = &outcome.setting;
        let rule = rules.iter().position(|rule| *rule == setting.rule).unwrap_or(0);
        let size = nodes.iter().position(|nodes| *nodes == setting.nodes).unwrap_or(0);
        let style = format!(
            "fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}",
            COLOURS[size % COLOURS.len()],
            DASHES[rule % DASHES.len()]
        );
        curve(&mut svg, figures, &scale, &style);
        let at = 14.0 + 20.0 * place as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{:.0} {at}h26\" {style}/><text x=\"{:.0}\" y=\"{:.0}\">{}, N = {}</text>",
            WIDTH + 12.0,
            WIDTH + 44.0,
            at + 4.0,
            setting.rule,
            setting.nodes
        );
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn curve(svg: &mut String, figures: &changes::Figures, scale: &Scale, style: &str) {
    let mut path = String::new();
    for (place, (ms, share)) in figures.curve.iter().enumerate() {
        let verb = if place == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{verb}{:.1} {:.1}", scale.x(*ms), y(*share));
    }
    if !path.is_empty() {
        let _ = writeln!(svg, "<path d=\"{path}\" {style}/>");
    }
}

/// Frame, decades with names and lines between, tenths.
fn axes(svg: &mut String, scale: &Scale) {
    for exponent in scale.low..=scale.high {
        let decade = 10f64.powi(exponent);
        let name = if exponent < 3 { format!("{decade} ms") } else { format!("{} s", decade / 1e3) };
        let x = scale.x(decade);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} 0V{HEIGHT}\" stroke=\"#bbb\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT + 18.0
        );
        for step in (2..10).filter(|_| exponent < scale.high) {
            let x = scale.x(decade * f64::from(step));
            let _ = writeln!(svg, "<path d=\"M{x:.1} 0V{HEIGHT}\" stroke=\"#eee\"/>");
        }
    }
    for (share, name) in [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (0.95, "95 %")] {
        let y = y(share);
        let _ = writeln!(
            svg,
            "<path d=\"M0 {y:.1}H{WIDTH}\" stroke=\"#ddd\"/>\
             <text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            y + 4.0
        );
    }
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>");
}
