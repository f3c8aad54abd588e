//! What became of a peer's packets, second by second.

use probe_user::analysis::verdict::Loss;

use super::drops::Reasons;
use crate::proto::Sequence;

/// Counts since the last second, and those of the second before it, which a late packet still may take back.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    now: Counts,
    before: Counts,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    received: u64,
    /// Not those that are known to be dropped here.
    missing: u64,
    here: Reasons,
    reordered: u64,
    duplicated: u64,
}

impl Tally {
    /// A packet came.
    pub(super) fn note(&mut self, sequence: Option<Sequence>) {
        let Some(sequence) = sequence else {
            self.now.received += 1;
            return;
        };
        if sequence.duplicate {
            self.now.duplicated += 1;
            return;
        }
        self.now.received += 1;
        self.now.missing += u64::from(sequence.lost_before);
        if sequence.reordered {
            self.now.reordered += 1;
            // It was counted as missing: now, in the second before, or so long ago that it stays so.
            let missing = if self.now.missing > 0 { &mut self.now.missing } else { &mut self.before.missing };
            *missing = missing.saturating_sub(1);
        }
    }

    /// One of those that are missing was dropped here.
    pub(super) fn dropped_here(&mut self, reason: std::sync::Arc<str>) {
        self.now.missing = self.now.missing.saturating_sub(1);
        *self.now.here.entry(reason).or_default() += 1;
    }

    /// The second before the last is over: what is known of it now stays. What this host dropped
    /// and is known by number only is told apart by the caller.
    pub(super) fn next(&mut self) -> Loss {
        let Counts { received, missing, here, reordered, duplicated } = std::mem::take(&mut self.before);
        self.before = std::mem::take(&mut self.now);
        let lost_here = here.into_iter().map(|(reason, n)| (reason.to_string(), n)).collect();
        Loss { lost_here, lost_outside: missing, reordered, duplicated, received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_packet_is_not_missing_and_a_second_one_is_a_copy() {
        let mut tally = Tally::default();
        let lost = |n| Some(Sequence { lost_before: n, ..Sequence::default() });
        tally.note(lost(0));
        tally.note(lost(2));
        tally.next();
        tally.note(Some(Sequence { reordered: true, ..Sequence::default() }));
        tally.note(Some(Sequence { duplicate: true, ..Sequence::default() }));
        let first = tally.next();
        assert_eq!((first.received, first.lost_outside, first.reordered), (2, 1, 0));
        let second = tally.next();
        assert_eq!((second.received, second.lost_outside, second.reordered, second.duplicated), (1, 0, 1, 1));
    }
}
