//! Ring neighbours: peers with whom packets are exchanged at least once a second, whatever the cluster's size, so that
//! some paths are always known well (DESIGN section 1).
//!
//! The ring is the living v1 members by id. A node asks the half of its neighbours that follow it; the other half asks
//! it. Rounds serve them first, so that this costs no packets of its own.

use std::cmp::Reverse;

use probe_ebpf::time::{MonoNs, Span};

use super::NodeId;
use super::core::Core;
use super::outbox::Outbox;
use super::peer::Protocol;
use super::state::SELF;
use crate::wire::v1::NodeRef;

/// A neighbour is due again after this: a round or two before the second is over.
const DUE: Span = Span::from_millis(800);
/// The ring is looked at anew this often.
const REFRESH: Span = Span::from_secs(1);
/// With rounds rarer than this, neighbours are asked besides the random peers and not instead.
const RARE: Span = Span::from_millis(200);

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    index: usize,
    name: NodeRef,
    asked: Option<MonoNs>,
}

/// This node's place in the ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Those who follow, the next first: asked from here.
    next: Vec<Neighbour>,
    /// Those who precede, the nearest first: they ask.
    before: Vec<Neighbour>,
    refresh_at: Option<MonoNs>,
    /// The roster that it was made from: as long as nobody comes or goes it stays.
    roster: Option<u64>,
}

impl Core {
    /// The ring neighbours that are known now, those asked from here first.
    pub fn ring(&self) -> impl Iterator<Item = &NodeId> {
        let alive = |neighbour: &Neighbour| {
            let node = self.state.at(neighbour.index)?;
            (node.name == neighbour.name && node.is_alive()).then_some(&node.id)
        };
        self.ring.next.iter().chain(&self.ring.before).filter_map(alive)
    }

    /// Asks the neighbours that are due; should random peers be asked too?
    pub(super) fn ask_ring(&mut self, now: MonoNs, out: &mut Outbox) -> bool {
        if self.config.ring_neighbours == 0 {
            return true;
        }
        let roster = Some(self.state.roster());
        if self.ring.roster != roster && self.ring.refresh_at.is_none_or(|at| now >= at) {
            self.refresh_ring();
            self.ring.roster = roster;
            self.ring.refresh_at = Some(now + REFRESH);
        }
        let rare = self.config.interval > RARE;
        let mut asked = 0;
        for place in 0..self.ring.next.len() {
            let Neighbour { index, name, asked: last } = self.ring.next[place];
            let there = self.state.at(index).is_some_and(|node| node.name == name && node.is_alive());
            if !there || last.is_some_and(|at| now - at < DUE) {
                continue;
            }
            self.ring.next[place].asked = Some(now);
            self.ask(index, now, out);
            asked += 1;
            if !rare && asked >= self.config.fanout {
                return false;
            }
        }
        true
    }

    /// The nearest on both sides, in one look at everybody.
    fn refresh_ring(&mut self) {
        let each = self.config.ring_neighbours.div_ceil(2);
        let own = &self.state[SELF].id;
        let (mut next, mut before) = (Vec::with_capacity(each + 1), Vec::with_capacity(each + 1));
        for (index, node) in self.state.iter().skip(1) {
            let here = node.addr == self.config.advertise;
            if here || !node.is_alive() || node.peer.protocol != Protocol::V1 {
                continue;
            }
            // Whoever has a smaller id comes round the end of the ring.
            let place = (node.id < *own, &node.id);
            keep_first(&mut next, (place, index), each);
            keep_first(&mut before, (Reverse(place), index), each);
        }
        let next: Vec<usize> = next.into_iter().map(|(_, index)| index).collect();
        let mut before: Vec<usize> = before.into_iter().map(|(_, index)| index).collect();
        before.retain(|index| !next.contains(index));
        let known = std::mem::take(&mut self.ring.next);
        let neighbour = |index: usize| {
            let name = self.state[index].name;
            let asked = known.iter().find(|known| known.name == name).and_then(|known| known.asked);
            Neighbour { index, name, asked }
        };
        let (next, before) =
            (next.into_iter().map(neighbour).collect(), before.into_iter().map(neighbour).collect());
        (self.ring.next, self.ring.before) = (next, before);
    }
}

/// Adds to a sorted list that holds the first `most`. As a rule one comparison tells that it is none of them.
fn keep_first<T: Ord>(list: &mut Vec<T>, new: T, most: usize) {
    if list.len() >= most && list.last().is_none_or(|last| new >= *last) {
        return;
    }
    list.insert(list.partition_point(|other| *other < new), new);
    list.truncate(most);
}
