//! Figures, for programs and for readers.

use probe_ebpf::time::Span;
use serde::Serialize;

use crate::scenario::{changes, join, kill, split, verdicts};

/// What a run was given.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) rule: &'static str,
    pub(crate) nodes: usize,
    pub(crate) interval_ms: u32,
    pub(crate) loss: f64,
    pub(crate) seed: u64,
}

/// What a run took, and what tells it from others.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    /// Time of one processor: what `wall_s` would be on an idle machine. `None` where the kernel does not tell.
    pub(crate) cpu_s: Option<f64>,
    pub(crate) virtual_s: f64,
    /// Datagrams sent.
    pub(crate) packets: u64,
    /// Of these, lost in the network.
    pub(crate) lost: u64,
    pub(crate) events: u64,
    /// Of all messages: times, ends and bytes.
    pub(crate) fingerprint: String,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    #[serde(flatten)]
    pub(crate) cost: Cost,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Figures {
    Changes(changes::Figures),
    Join(join::Figures),
    Kill(kill::Figures),
    Split(split::Figures),
    Verdicts(verdicts::Figures),
}

/// A column's name and what is in it.
pub(crate) type Column = (&'static str, String);

impl Outcome {
    fn columns(&self) -> Vec<Column> {
        let Self { setting, figures, cost } = self;
        let mut columns =
            vec![("nodes", setting.nodes.to_string()), ("loss", format!("{:.1} %", 100.0 * setting.loss))];
        columns.extend(match figures {
            Figures::Changes(figures) => figures.columns(),
            Figures::Join(figures) => figures.columns(),
            Figures::Kill(figures) => figures.columns(),
            Figures::Split(figures) => figures.columns(),
            Figures::Verdicts(figures) => figures.columns(),
        });
        columns.extend([
            ("virtual", format!("{:.0} s", cost.virtual_s)),
            ("wall", format!("{:.1} s", cost.wall_s)),
            ("cpu", cost.cpu_s.map_or_else(|| "?".into(), |cpu| format!("{cpu:.1} s"))),
            ("x real", format!("{:.1}", cost.virtual_s / cost.cpu_s.unwrap_or(cost.wall_s))),
        ]);
        columns
    }
    /// The names of the columns.
    pub(crate) fn heading(&self) -> String {
        line("rule", self.columns().into_iter().map(|(name, _)| name.to_owned()))
    }
    /// What is in them.
    pub(crate) fn line(&self) -> String {
        line(self.setting.rule, self.columns().into_iter().map(|(_, value)| value))
    }
}

fn line(first: &str, rest: impl Iterator<Item = String>) -> String {
    rest.fold(format!("{first:17}"), |line, value| line + &format!(" {value:>9}"))
}

pub(crate) fn milliseconds(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e6
}

/// A time for readers.
pub(crate) fn shown(ms: Option<f64>) -> String {
    match ms {
        None => "never".into(),
        Some(ms) if ms < 9_999.5 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

/// The least time that so many of `times` do not exceed, in milliseconds; those that never came are the longest.
pub(crate) fn quantile(mut times: Vec<Option<Span>>, share: f64) -> Option<f64> {
    times.sort_by_key(|time| time.unwrap_or(Span::MAX));
    let place = (share * times.len() as f64).ceil() as usize;
    times.get(place.max(1) - 1).copied().flatten().map(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times_and_never_is_the_longest() {
        let ms = |ms| Some(Span::from_millis(ms));
        let times = vec![ms(4), None, ms(1), ms(3), ms(2)];
        assert_eq!(quantile(times.clone(), 0.5), Some(3.0));
        assert_eq!(quantile(times.clone(), 0.8), Some(4.0));
        assert_eq!(quantile(times.clone(), 0.0), Some(1.0));
        assert_eq!(quantile(times, 0.81), None);
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }
}
