//! The best offset that this host's sources give, why it is not a better one, and who contradicts it.

use std::net::{Ipv4Addr, SocketAddr};

use probe_ebpf::time::Span;

use super::history::ClockHistory;
use super::mapping::{MappingReader, mono_now};
use super::source::{Disagreement, OffsetSource, Opinion};
use super::spec::SourceSpec;
use super::{ClockOffset, ClockSource, ClockState, Leap};

/// Where chronyd listens unless its `cmdport` says otherwise.
pub const CHRONYD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 323);

/// The outcome of asking the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The best offset there is, with the rate that its source's last readings show.
    pub offset: ClockOffset,
    /// Why it is not a better one, and who contradicts it, in one sentence; `None` when all is well.
    pub note: Option<String>,
    /// The leap second that the source in use announces, where it knows.
    pub leap: Option<Leap>,
    /// How often a source began to contradict the one in use, since the start.
    pub disagreements: u64,
    /// The largest of the present contradictions.
    pub disagreement: Option<Disagreement>,
}

/// Asks its sources in order: the first that is synchronised wins, else the first that was once. The others are
/// compared with it.
pub struct ClockReader {
    sources: Vec<Slot>,
    history: ClockHistory,
    mapping: MappingReader,
    epoch: u32,
    disagreements: u64,
}

/// A source, and whether it contradicted the one in use when last asked.
struct Slot {
    source: Box<dyn OffsetSource>,
    contradicts: bool,
}

impl ClockReader {
    /// The default sources, with chronyd at `chronyd`.
    pub fn new(chronyd: SocketAddr) -> Self {
        Self::of(&SourceSpec::with_chrony(None, Some(chronyd)))
    }

    /// These sources, the best first.
    pub fn of(specs: &[SourceSpec]) -> Self {
        Self::with_sources(specs.iter().map(SourceSpec::open).collect())
    }

    /// These sources, the best first.
    pub fn with_sources(sources: Vec<Box<dyn OffsetSource>>) -> Self {
        let mut mapping = MappingReader::new(Span::ZERO);
        let epoch = mapping.read().epoch;
        let sources = sources.into_iter().map(|source| Slot { source, contradicts: false }).collect();
        Self { sources, history: ClockHistory::default(), mapping, epoch, disagreements: 0 }
    }

    /// The readings so far of the source in use: for instants other than now.
    pub fn history(&self) -> &ClockHistory {
        &self.history
    }

    /// The local clock's offset now. Blocks while a source does not answer: not for an async task.
    ///
    /// Never fails: where no source knows anything, the offset is zero, unsynchronised, with
    /// [`Span::MAX`] as its bound.
    pub fn read(&mut self) -> Reading {
        let epoch = self.mapping.read().epoch;
        if epoch != self.epoch {
            self.sources.iter_mut().for_each(|slot| slot.source.stepped());
            self.epoch = epoch;
        }
        let answers: Vec<_> = self.sources.iter_mut().map(|slot| slot.source.read()).collect();
        let first = |wanted: &[ClockState]| {
            answers.iter().position(|a| a.as_ref().is_ok_and(|o| wanted.contains(&o.offset.state)))
        };
        let used = first(&[ClockState::Synchronised]).or_else(|| first(&[ClockState::FreeRunning]));

        // Why not a better one: what keeps those above the winner, and itself, from being synchronised.
        let mut clauses: Vec<String> = answers
            .iter()
            .take(used.map_or(answers.len(), |used| used + 1))
            .filter_map(|answer| match answer {
                Ok(opinion) => opinion.doubt.clone(),
                Err(error) => Some(error.to_string()),
            })
            .collect();
        let fallback = || answers.iter().flatten().next().map_or_else(unknown, |opinion| opinion.offset);
        let (index, offset, leap) =
            match used.and_then(|used| Some((used, answers.get(used)?.as_ref().ok()?))) {
                Some((used, opinion)) => (used, opinion.offset, opinion.leap),
                None => {
                    clauses.push(
                        "until then packets alone correct one-way times, and cannot see which way is slow"
                            .to_owned(),
                    );
                    (usize::MAX, fallback(), None)
                }
            };
        let offset = self.history.push(epoch, index, offset);
        let disagreement = self.compare(index, &offset, answers.iter().map(|answer| answer.as_ref().ok()));
        clauses.extend(disagreement.as_ref().map(ToString::to_string));
        let note = (!clauses.is_empty()).then(|| clauses.join("; "));
        Reading { offset, note, leap, disagreements: self.disagreements, disagreement }
    }

    /// Compares the sources with the one in use, counts who began to contradict it, and gives the worst.
    ///
    /// The kernel's word takes part: its bound is 100 ms at least, so it contradicts gross errors only.
    fn compare<'a>(
        &mut self,
        used: usize,
        offset: &ClockOffset,
        answers: impl Iterator<Item = Option<&'a Opinion>>,
    ) -> Option<Disagreement> {
        let used_name = self.sources.get(used)?.source.name();
        let mut worst: Option<Disagreement> = None;
        for (index, (slot, answer)) in self.sources.iter_mut().zip(answers).enumerate() {
            let found = answer.filter(|_| index != used).and_then(|opinion| {
                Disagreement::between((&used_name, offset), (&slot.source.name(), &opinion.offset))
            });
            if found.is_some() && !slot.contradicts {
                self.disagreements += 1;
            }
            slot.contradicts = found.is_some();
            if let Some(found) = found
                && worst.as_ref().is_none_or(|worst| found.beyond > worst.beyond)
            {
                worst = Some(found);
            }
        }
        worst
    }
}

/// What is known where even the kernel does not answer.
fn unknown() -> ClockOffset {
    ClockOffset {
        theta: Span::ZERO,
        bound_at_read: Span::MAX,
        read_at: mono_now(),
        source: ClockSource::Adjtimex,
        state: ClockState::Unsynchronised,
        rate: None,
    }
}

#[cfg(test)]
mod tests;
