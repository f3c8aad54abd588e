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
}
