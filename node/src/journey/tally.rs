//! What became of a peer's packets, second by second.

use probe_user::analysis::verdict::{Loss, LostByPort};

use super::drops::Reasons;
use crate::proto::{SOURCE_PORTS_MAX, Sequence, place};

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

impl Counts {
    /// Is a packet missing, of this port?
    fn holds(&self, port: Option<&u16>) -> bool {
        self.missing > 0 && port.is_none_or(|port| self.by_port.lost.contains_key(port))
    }

    /// It came.
    fn found(&mut self, port: Option<&u16>) {
        self.missing = self.missing.saturating_sub(1);
        if let Some(port) = port
            && let Some(lost) = self.by_port.lost.get_mut(port)
        {
            *lost = lost.saturating_sub(1);
            if *lost == 0 {
                self.by_port.lost.remove(port);
            }
        }
    }
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
        let place = |back: u32| place(counter.wrapping_sub(back), ports.len());
        if !ports.is_empty() && sequence.lost_before > 0 {
            let mut lost = [0; 1 + SOURCE_PORTS_MAX];
            for back in 1..=sequence.lost_before.min(BY_PORT_MOST) {
                lost[place(back)] += 1;
            }
            for (port, lost) in ports.iter().zip(lost).filter(|(_, lost)| *lost > 0) {
                *self.now.by_port.lost.entry(*port).or_default() += lost;
            }
        }
        if sequence.reordered {
            self.now.reordered += 1;
            // It was counted as missing: now, in the second before, or so long ago that it stays so.
            let port = ports.get(place(0));
            let mut counts = [&mut self.now, &mut self.before];
            if let Some(counts) = counts.iter_mut().find(|counts| counts.holds(port)) {
                counts.found(port);
            } else if let Some(counts) = counts.iter_mut().find(|counts| counts.missing > 0) {
                counts.found(None);
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
    fn a_late_packet_is_taken_off_its_own_port_s_losses_at_a_second_s_turn() {
        let (mut tally, ports) = (Tally::default(), [10, 20]);
        let of =
            |wanted: u16, from: u32| (from..).find(|counter| ports[place(*counter, 2)] == wanted).unwrap();
        let lost = Some(Sequence { lost_before: 1, ..Sequence::default() });
        let (late, other) = (of(10, 100), of(20, 200));
        tally.note(lost, late + 1, &ports);
        tally.next();
        tally.note(lost, other + 1, &ports);
        tally.note(Some(Sequence { reordered: true, ..Sequence::default() }), late, &ports);
        let (first, second) = (tally.next(), tally.next());
        assert_eq!((first.lost_outside, first.by_port.lost.len()), (0, 0));
        assert_eq!((second.lost_outside, second.by_port.lost), (1, [(20, 1)].into()));
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
