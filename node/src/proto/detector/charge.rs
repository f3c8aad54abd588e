//! Who suspects a peer.

/// Accusers kept, this node not counted: more make no difference.
const OTHERS: usize = 4;

/// The accusers of a peer and the version of its state that they accuse. Empty: nobody does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge<K> {
    /// The newest version known to an accuser: only a later one shows that the peer lived on.
    version: u64,
    /// This node is among them.
    own: bool,
    others: [Option<K>; OTHERS],
}

impl<K: Copy + Eq> Charge<K> {
    pub(super) const NONE: Self = Self { version: 0, own: false, others: [None; OTHERS] };

    pub(super) fn version(&self) -> u64 {
        self.version
    }
    pub(super) fn is_own(&self) -> bool {
        self.own
    }
    /// Accusers, this node included.
    pub(super) fn count(&self) -> usize {
        usize::from(self.own) + self.others.iter().flatten().count()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// This node accuses.
    pub(super) fn accuse(&mut self, version: u64) {
        self.version = self.version.max(version);
        self.own = true;
    }

    /// Another node accuses. Later versions void what was said of earlier ones.
    pub(super) fn note(&mut self, by: K, version: u64) -> Noted {
        if self.is_empty() || version > self.version {
            let renewed = !self.is_empty();
            *self = Self { version, ..Self::NONE };
            self.others[0] = Some(by);
            return if renewed { Noted::Renewed } else { Noted::New };
        }
        if version < self.version {
            return Noted::Old;
        }
        for place in &mut self.others {
            match place {
                Some(known) if *known == by => return Noted::Known,
                Some(_) => {}
                None => {
                    *place = Some(by);
                    return Noted::New;
                }
            }
        }
        Noted::Known
    }
}

/// What an accusation added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// An accuser.
    New,
    /// The first accuser of a later version: what was said before is void.
    Renewed,
    /// Nothing: this accuser, or enough others, are known.
    Known,
    /// Nothing: it is about an earlier version.
    Old,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accusers_count_once_each_and_only_for_the_latest_version() {
        let mut charge = Charge::<u32>::NONE;
        assert!(charge.is_empty());
        assert_eq!(charge.note(1, 10), Noted::New);
        assert_eq!(charge.note(1, 10), Noted::Known);
        assert_eq!(charge.note(2, 9), Noted::Old);
        assert_eq!(charge.note(2, 10), Noted::New);
        charge.accuse(10);
        charge.accuse(9);
        assert_eq!((charge.count(), charge.version(), charge.is_own()), (3, 10, true));
        assert_eq!(charge.note(3, 11), Noted::Renewed);
        assert_eq!((charge.count(), charge.is_own()), (1, false));
        for by in 4..10 {
            charge.note(by, 11);
        }
        assert_eq!(charge.count(), 4);
    }
}
