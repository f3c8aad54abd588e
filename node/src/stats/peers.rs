//! A bounded table by peer id. Peers' ids come from the network, so their number must be bounded, and what
//! does not fit is counted.

use std::collections::HashMap;

use probe_ebpf::time::{MonoNs, Span};

/// At most so many peers; a new one takes the place of the one silent for longest, if that has been silent
/// for [`Peers::SILENT`]. Otherwise the new one is left out: a flood of names pushes out nobody who is alive.
#[derive(Debug)]
pub struct Peers<T> {
    known: HashMap<String, Peer<T>>,
    most: usize,
    left_out: u64,
}

#[derive(Debug)]
struct Peer<T> {
    last: MonoNs,
    value: T,
}

impl<T: Default> Peers<T> {
    /// How long a peer must have been silent to be forgotten for another.
    pub const SILENT: Span = Span::from_secs(60);

    /// An empty table for at most `most` peers.
    pub fn new(most: usize) -> Self {
        Self { known: HashMap::new(), most, left_out: 0 }
    }

    /// The peer's value, new if need be; `None` (counted) when there is no room for it.
    pub fn get(&mut self, id: &str, now: MonoNs) -> Option<&mut T> {
        if !self.known.contains_key(id) {
            if self.known.len() >= self.most && !self.forget_silent(now) {
                self.left_out += 1;
                return None;
            }
            self.known.insert(id.to_owned(), Peer { last: now, value: T::default() });
        }
        self.known.get_mut(id).map(|peer| {
            peer.last = now;
            &mut peer.value
        })
    }

    /// Makes sure of room for a peer that must not be left out: the one silent for longest of those that need not be
    /// `kept` makes room, however short that is.
    pub fn admit(&mut self, id: &str, now: MonoNs, kept: impl Fn(&str) -> bool) {
        if self.known.contains_key(id) {
            return;
        }
        if self.known.len() >= self.most {
            let others = self.known.iter().filter(|(id, _)| !kept(id));
            let Some(id) = others.min_by_key(|(_, peer)| peer.last).map(|(id, _)| id.clone()) else { return };
            self.known.remove(&id);
            self.left_out += 1;
        }
        self.known.insert(id.to_owned(), Peer { last: now, value: T::default() });
    }

    /// The peer's value, if it is known; it does not count as heard of.
    pub fn find(&mut self, id: &str) -> Option<&mut T> {
        self.known.get_mut(id).map(|peer| &mut peer.value)
    }

    /// The same, to look at.
    pub fn peek(&self, id: &str) -> Option<&T> {
        self.known.get(id).map(|peer| &peer.value)
    }

    /// Every peer, in no particular order.
    pub fn each(&mut self, mut each: impl FnMut(&str, &mut T)) {
        self.known.iter_mut().for_each(|(id, peer)| each(id, &mut peer.value));
    }

    /// All peers by id.
    pub fn sorted(&self) -> Vec<(&str, &T)> {
        let mut all: Vec<_> = self.known.iter().map(|(id, peer)| (id.as_str(), &peer.value)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Values for which there was no room, and peers forgotten to make room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn forget_silent(&mut self, now: MonoNs) -> bool {
        let Some((id, last)) = self.known.iter().map(|(id, p)| (id, p.last)).min_by_key(|(_, last)| *last)
        else {
            return false;
        };
        if now - last < Self::SILENT {
            return false;
        }
        let id = id.clone();
        self.known.remove(&id);
        self.left_out += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> MonoNs {
        MonoNs::from_nanos(0) + Span::from_secs(s)
    }

    #[test]
    fn the_living_stay_and_the_silent_make_room() {
        let mut peers = Peers::<u32>::new(2);
        *peers.get("a", at(0)).unwrap() = 1;
        *peers.get("b", at(50)).unwrap() = 2;
        assert!(peers.get("c", at(59)).is_none());
        assert_eq!(peers.left_out(), 1);
        *peers.get("c", at(60)).unwrap() = 3;
        assert_eq!(peers.sorted(), [("b", &2), ("c", &3)]);
        assert_eq!(peers.left_out(), 2);
        assert_eq!(peers.get("b", at(61)), Some(&mut 2));
    }

    #[test]
    fn one_that_must_be_there_takes_the_place_of_one_that_need_not() {
        let mut peers = Peers::<u32>::new(2);
        *peers.get("neighbour", at(0)).unwrap() = 1;
        *peers.get("other", at(1)).unwrap() = 2;
        let kept = |id: &str| id == "neighbour";
        peers.admit("next", at(2), kept);
        assert_eq!(peers.sorted(), [("neighbour", &1), ("next", &0)]);
        peers.admit("neighbour", at(3), kept);
        assert_eq!((peers.peek("neighbour"), peers.left_out()), (Some(&1), 1));
        peers.admit("third", at(4), |_| true);
        assert_eq!(peers.sorted().len(), 2, "never more than there is room for");
    }
}
