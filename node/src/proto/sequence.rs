//! What packet ids say about the packets that did not come.

/// How one packet stands to those before it on the same path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Packets missing between the newest one before and this one. A later [`reordered`](Self::reordered)
    /// packet takes one of them back.
    pub lost_before: u32,
    /// Came after a newer one: subtract one from the losses counted so far.
    pub reordered: bool,
    /// Came before already; it was not handled again.
    pub duplicate: bool,
}

/// Receive side of one path: the newest counter and which of the 64 before it came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracker {
    incarnation: u32,
    newest: u32,
    /// Bit i: `newest - i` came.
    seen: u64,
}

impl Tracker {
    /// Is it so old that it may be either late or a copy?
    pub(super) fn is_old(&self, incarnation: u32, counter: u32) -> bool {
        let behind = self.newest.wrapping_sub(counter);
        let tracked = counter != 0 && self.seen != 0 && self.incarnation == incarnation;
        tracked && (u64::BITS..=1 << 31).contains(&behind)
    }

    /// Is it from another run of the sender than those before it?
    pub(super) fn is_another_run(&self, incarnation: u32) -> bool {
        self.seen != 0 && self.incarnation != incarnation
    }

    /// Notes a packet. `None` for an uncounted one (counter 0), for the first of an incarnation (nothing to
    /// compare with) and for one so old that it may be either late or a copy.
    pub(super) fn note(&mut self, incarnation: u32, counter: u32) -> Option<Sequence> {
        if counter == 0 {
            return None;
        }
        if self.seen == 0 || self.incarnation != incarnation {
            *self = Self { incarnation, newest: counter, seen: 1 };
            return None;
        }
        // Counters wrap from the top to 1; treating the skipped 0 as one more loss is an error of one packet
        // in four thousand million.
        let ahead = counter.wrapping_sub(self.newest);
        if ahead == 0 || ahead > u32::MAX / 2 {
            let behind = self.newest.wrapping_sub(counter);
            let bit = 1u64.checked_shl(behind)?;
            let duplicate = self.seen & bit != 0;
            self.seen |= bit;
            return Some(Sequence { lost_before: 0, reordered: !duplicate, duplicate });
        }
        self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
        self.newest = counter;
        Some(Sequence { lost_before: ahead - 1, ..Sequence::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(n: u32) -> Option<Sequence> {
        Some(Sequence { lost_before: n, ..Sequence::default() })
    }

    #[test]
    fn gaps_late_packets_and_copies_are_told_apart() {
        let mut t = Tracker::default();
        assert_eq!(t.note(7, 1), None);
        assert_eq!(t.note(7, 2), lost(0));
        assert_eq!(t.note(7, 5), lost(2));
        assert_eq!(t.note(7, 4), Some(Sequence { reordered: true, ..Sequence::default() }));
        assert_eq!(t.note(7, 4), Some(Sequence { duplicate: true, ..Sequence::default() }));
        assert_eq!(t.note(7, 5), Some(Sequence { duplicate: true, ..Sequence::default() }));
        assert_eq!(t.note(7, 300), lost(294));
        assert_eq!(t.note(7, 200), None, "older than the window: late or a copy, nobody can tell");
        assert!(t.is_old(7, 200) && t.is_old(7, 236) && !t.is_old(7, 237) && !t.is_old(7, 301));
        assert!(!t.is_old(8, 200) && !t.is_old(7, 0));
    }

    #[test]
    fn a_new_incarnation_starts_afresh_and_uncounted_packets_change_nothing() {
        let mut t = Tracker::default();
        t.note(7, 9);
        assert_eq!(t.note(8, 1), None);
        assert_eq!(t.note(8, 0), None);
        assert_eq!(t.note(8, 2), lost(0));
    }

    #[test]
    fn counters_wrap() {
        let mut t = Tracker::default();
        t.note(1, u32::MAX - 1);
        assert_eq!(t.note(1, u32::MAX), lost(0));
        assert_eq!(t.note(1, 1), lost(1));
        assert_eq!(t.note(1, u32::MAX), Some(Sequence { duplicate: true, ..Sequence::default() }));
    }
}
