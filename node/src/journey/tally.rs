//! What became of a peer's packets, second by second.

use probe_user::analysis::verdict::{Loss, LostByPort};

use super::drops::Reasons;
use crate::proto::{Sequence, place};

/// So many of the packets that are missing in one gap are told apart by their port, at most: a peer may claim any gap.
const BY_PORT_MOST: u32 = 1024;

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
    /// Of those, and of those that were dropped here, the ones that tell by their number which port they are from.
    by_port: LostByPort,
    here: Reasons,
    reordered: u64,
    duplicated: u64,
}

impl Tally {
    /// A packet with this counter came, from one of these ports.
    pub(super) fn note(&mut self, sequence: Option<Sequence>, counter: u32, ports: &[u16]) {
        self.now.by_port.of = self.now.by_port.of.max(ports.len() as u8);
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
        let port = |back: u32| ports.get(place(counter.wrapping_sub(back), ports.len()));
        if !ports.is_empty() {
            for port in (1..=sequence.lost_before.min(BY_PORT_MOST)).filter_map(port) {
                *self.now.by_port.lost.entry(*port).or_default() += 1;
            }
        }
        if sequence.reordered {
            self.now.reordered += 1;
            // It was counted as missing: now, in the second before, or so long ago that it stays so.
            let counts = if self.now.missing > 0 { &mut self.now } else { &mut self.before };
            counts.missing = counts.missing.saturating_sub(1);
            if let Some(lost) = port(0).and_then(|port| counts.by_port.lost.get_mut(port)) {
                *lost = lost.saturating_sub(1);
            }
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
        let Counts { received, missing, by_port, here, reordered, duplicated } =
            std::mem::take(&mut self.before);
        self.before = std::mem::take(&mut self.now);
        let lost_here = here.into_iter().map(|(reason, n)| (reason.to_string(), n)).collect();
        Loss { lost_here, lost_outside: missing, by_port, reordered, duplicated, received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_packet_is_not_missing_and_a_second_one_is_a_copy() {
        let mut tally = Tally::default();
        let lost = |n| Some(Sequence { lost_before: n, ..Sequence::default() });
        tally.note(lost(0), 1, &[]);
        tally.note(lost(2), 4, &[]);
        tally.next();
        tally.note(Some(Sequence { reordered: true, ..Sequence::default() }), 3, &[]);
        tally.note(Some(Sequence { duplicate: true, ..Sequence::default() }), 4, &[]);
        let first = tally.next();
        assert_eq!((first.received, first.lost_outside, first.reordered), (2, 1, 0));
        let second = tally.next();
        assert_eq!((second.received, second.lost_outside, second.reordered, second.duplicated), (1, 0, 1, 1));
        assert!(first.by_port.is_empty() && second.by_port.is_empty());
    }

    #[test]
    fn what_is_missing_is_laid_on_the_port_that_it_was_sent_from() {
        let (mut tally, ports) = (Tally::default(), [10, 20, 30, 40]);
        let dead = |counter| ports[place(counter, 4)] == 30;
        let mut before = 0;
        for counter in (1..=400).filter(|counter| !dead(*counter)) {
            let lost_before = counter - before - 1;
            tally.note(Some(Sequence { lost_before, ..Sequence::default() }), counter, &ports);
            before = counter;
        }
        let late = (1..=400).find(|counter| dead(*counter)).unwrap();
        tally.note(Some(Sequence { reordered: true, ..Sequence::default() }), late, &ports);
        tally.note(Some(Sequence { lost_before: u32::MAX / 2, ..Sequence::default() }), 9, &[]);
        tally.next();
        let loss = tally.next();
        assert_eq!(loss.by_port.of, 4);
        let missing = (1..before).filter(|counter| dead(*counter)).count() as u64 - 1;
        assert_eq!(loss.by_port.lost.into_iter().collect::<Vec<_>>(), [(30, missing)]);
    }
}
