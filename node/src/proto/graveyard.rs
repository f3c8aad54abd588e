//! Nodes that are gone, remembered so that the word of others does not bring them back.
//!
//! A node that crashed or left lives on in the digests of nodes that have not forgotten it yet. Taking it in
//! again from there would let it wander through the cluster for ever, each node forgetting it at another time.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::time::{MonoNs, Span};

use crate::wire::v1::NodeRef;

/// The remembered dead.
#[derive(Debug)]
pub(crate) struct Graveyard {
    most: usize,
    keep: Span,
    graves: BTreeMap<NodeRef, Grave>,
    /// The same, oldest first.
    by_age: BTreeSet<(MonoNs, NodeRef)>,
    counters: GraveyardCounters,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grave {
    /// Its newest version that was known or claimed; whatever is at or below it is old.
    pub(crate) version: u64,
    /// What became of it.
    pub(crate) cause: Cause,
    /// Since when it lies here.
    pub(crate) at: MonoNs,
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It said goodbye.
    Left,
    /// It was unreachable for too long.
    Expired,
}

/// Somebody speaks of a node that is not a member here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its version there.
    pub(crate) version: u64,
    /// Who says so.
    pub(crate) source: Source,
}

/// Who speaks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The node itself: a packet from it.
    Itself,
    /// Another one, in a digest or delta.
    Relayed,
}

/// May a node be taken in?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Yes: nothing is known against it.
    New,
    /// Yes: it was gone and is back. Its grave is no more.
    Returned(Grave),
    /// No: that is old news.
    Refused,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GraveyardCounters {
    /// Nodes buried.
    pub(crate) buried: u64,
    /// Claims refused: at or below the buried version.
    pub(crate) refused: u64,
    /// Nodes that came back in person.
    pub(crate) returned_directly: u64,
    /// Nodes that came back by a version above the buried one.
    pub(crate) returned_newer: u64,
    /// Graves given up for lack of room.
    pub(crate) crowded_out: u64,
    /// Graves given up for their age.
    pub(crate) forgotten: u64,
}

impl GraveyardCounters {
    /// Every total with its name as a label.
    pub(crate) fn labelled(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("buried", self.buried),
            ("refused", self.refused),
            ("returned_directly", self.returned_directly),
            ("returned_newer", self.returned_newer),
            ("crowded_out", self.crowded_out),
            ("forgotten", self.forgotten),
        ]
        .into_iter()
    }
}

impl Graveyard {
    /// Graves kept by default.
    pub(crate) const MOST: usize = 4096;
    /// How long by default.
    pub(crate) const KEEP: Span = Span::from_secs(24 * 3600);

    /// An empty one that remembers at most `most` nodes (at least one), each for at most `keep`.
    pub(crate) fn new(most: usize, keep: Span) -> Self {
        Self {
            most: most.max(1),
            keep,
            graves: BTreeMap::new(),
            by_age: BTreeSet::new(),
            counters: GraveyardCounters::default(),
        }
    }

    /// Buries a node last known at `version`. Burying it again never renews its age.
    pub(crate) fn bury(&mut self, id: NodeRef, version: u64, cause: Cause, now: MonoNs) {
        self.forget(now);
        if let Some(grave) = self.graves.get_mut(&id) {
            grave.version = grave.version.max(version);
            return;
        }
        while self.graves.len() >= self.most {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.graves.remove(&oldest);
            self.counters.crowded_out += 1;
        }
        self.graves.insert(id, Grave { version, cause, at: now });
        self.by_age.insert((now, id));
        self.counters.buried += 1;
    }

    /// May a node that is not a member be taken in on this claim?
    ///
    /// In person, or with a version above the buried one, a node always comes back. Who is said to have left and is not
    /// known is not even asked about: see `legacy`.
    pub(crate) fn admit(&mut self, id: NodeRef, claim: Claim, now: MonoNs) -> Admission {
        self.forget(now);
        let Some(grave) = self.graves.get(&id).copied() else { return Admission::New };
        let returned = match claim.source {
            Source::Itself => &mut self.counters.returned_directly,
            Source::Relayed if claim.version > grave.version => &mut self.counters.returned_newer,
            Source::Relayed => {
                self.counters.refused += 1;
                return Admission::Refused;
            }
        };
        *returned += 1;
        self.graves.remove(&id);
        self.by_age.remove(&(grave.at, id));
        Admission::Returned(grave)
    }

    /// What is remembered of a node.
    pub(crate) fn get(&self, id: NodeRef) -> Option<Grave> {
        self.graves.get(&id).copied()
    }
    #[cfg(test)]
    fn len(&self) -> usize {
        self.graves.len()
    }
    /// Totals since start.
    pub(crate) fn counters(&self) -> &GraveyardCounters {
        &self.counters
    }

    fn forget(&mut self, now: MonoNs) {
        while let Some((at, _)) = self.by_age.first() {
            if now - *at <= self.keep {
                return;
            }
            if let Some((_, id)) = self.by_age.pop_first() {
                self.graves.remove(&id);
                self.counters.forgotten += 1;
            }
        }
    }
}

impl Default for Graveyard {
    fn default() -> Self {
        Self::new(Self::MOST, Self::KEEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeRef {
        NodeRef::of(name)
    }
    fn s(seconds: i64) -> MonoNs {
        MonoNs::from_nanos(seconds * 1_000_000_000)
    }
    fn relayed(version: u64) -> Claim {
        Claim { version, source: Source::Relayed }
    }
    fn itself(version: u64) -> Claim {
        Claim { version, source: Source::Itself }
    }

    /// What a node does with a claim about a non-member: members expire after 60 s, and go to the graveyard.
    fn told(yard: &mut Graveyard, members: &mut Option<u64>, claim: Claim, now: MonoNs) {
        if members.is_none() && yard.admit(id("x"), claim, now) != Admission::Refused {
            *members = Some(claim.version);
        }
    }

    #[test]
    fn trap_4_ghosts_do_not_wander_from_node_to_node() {
        let mut yards = [Graveyard::default(), Graveyard::default()];
        let mut members = [Some(7), Some(7)];
        for second in 0..600 {
            for i in [0, 1] {
                // Each expires it once, ten seconds apart, and hears of it from the other every second.
                if second % 60 == 10 * i as i64 && members[i].take().is_some() {
                    yards[i].bury(id("x"), 7, Cause::Expired, s(second));
                }
            }
            for (i, other) in [(0, 1), (1, 0)] {
                if let Some(version) = members[other] {
                    let mut member = members[i];
                    told(&mut yards[i], &mut member, relayed(version), s(second));
                    members[i] = member;
                }
            }
        }
        assert_eq!(members, [None, None]);
        assert_eq!(yards[0].counters().buried, 1);
        assert!(yards[0].counters().refused >= 9);
    }

    #[test]
    fn trap_4_what_died_later_than_known_here_comes_back_once_and_no_more() {
        let mut yard = Graveyard::default();
        yard.bury(id("x"), 50, Cause::Expired, s(0));
        assert_eq!(yard.admit(id("x"), relayed(50), s(1)), Admission::Refused);
        assert!(matches!(yard.admit(id("x"), relayed(52), s(2)), Admission::Returned(_)));
        yard.bury(id("x"), 52, Cause::Expired, s(62));
        assert_eq!(yard.admit(id("x"), relayed(52), s(63)), Admission::Refused);
        assert_eq!(yard.admit(id("x"), relayed(51), s(64)), Admission::Refused);
    }

    #[test]
    fn trap_6_one_falsely_given_up_is_back_with_its_first_packet_or_change() {
        let mut yard = Graveyard::default();
        yard.bury(id("x"), 50, Cause::Expired, s(0));
        let grave = Grave { version: 50, cause: Cause::Expired, at: s(0) };
        assert_eq!(yard.admit(id("x"), itself(50), s(1)), Admission::Returned(grave));
        assert_eq!(yard.admit(id("x"), relayed(50), s(2)), Admission::New);
        yard.bury(id("x"), 50, Cause::Expired, s(3));
        assert!(matches!(yard.admit(id("x"), relayed(51), s(4)), Admission::Returned(_)));
        assert_eq!(
            *yard.counters(),
            GraveyardCounters {
                buried: 2,
                returned_directly: 1,
                returned_newer: 1,
                ..GraveyardCounters::default()
            }
        );
    }

    #[test]
    fn a_restart_from_version_one_is_let_in_by_itself_only() {
        let mut yard = Graveyard::default();
        yard.bury(id("x"), 50, Cause::Expired, s(0));
        assert_eq!(yard.admit(id("x"), relayed(3), s(1)), Admission::Refused);
        assert!(matches!(yard.admit(id("x"), itself(3), s(2)), Admission::Returned(_)));
        assert_eq!(yard.admit(id("x"), relayed(3), s(3)), Admission::New);
    }

    #[test]
    fn memory_is_bounded_by_count_and_age_oldest_first() {
        let mut yard = Graveyard::new(3, Span::from_secs(100));
        for (at, name) in ["d", "c", "b", "a"].iter().enumerate() {
            yard.bury(id(name), 1, Cause::Expired, s(at as i64));
        }
        assert_eq!((yard.len(), yard.counters().crowded_out), (3, 1));
        assert_eq!(yard.get(id("d")), None);
        assert_eq!(yard.admit(id("c"), relayed(1), s(101)), Admission::Refused, "still 100 s");
        assert_eq!(yard.admit(id("c"), relayed(1), s(102)), Admission::New);
        assert_eq!((yard.len(), yard.counters().forgotten), (2, 1));
        assert_eq!(yard.admit(id("a"), relayed(1), s(500)), Admission::New);
        assert_eq!((yard.len(), yard.by_age.len()), (0, 0));
    }

    proptest::proptest! {
        #[test]
        fn both_indexes_agree_and_the_bound_holds(
            steps in proptest::collection::vec((0u8..4, 0u8..12, 0u64..8, 0i64..40), 0..200)
        ) {
            let mut yard = Graveyard::new(5, Span::from_secs(200));
            let mut now = s(0);
            for (what, name, version, pause) in steps {
                now = now + Span::from_secs(pause);
                let id = id(&name.to_string());
                let before = yard.get(id);
                match what {
                    0 => yard.bury(id, version, Cause::Expired, now),
                    1 => { yard.admit(id, itself(version), now); }
                    2 => yard.bury(id, version, Cause::Left, now),
                    _ => {
                        let young = before.filter(|grave| now - grave.at <= yard.keep);
                        let refused = young.is_some_and(|grave| version <= grave.version);
                        let got = yard.admit(id, relayed(version), now);
                        proptest::prop_assert_eq!(got == Admission::Refused, refused);
                    }
                }
                proptest::prop_assert!(yard.len() <= 5);
                let ages: BTreeSet<_> = yard.graves.iter().map(|(id, g)| (g.at, *id)).collect();
                proptest::prop_assert_eq!(&ages, &yard.by_age);
            }
        }
    }
}
