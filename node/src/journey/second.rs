//! What is done once a second, and at last: journeys end, losses settle, paths and clocks are judged.

use std::collections::BTreeMap;

use probe_ebpf::time::MonoNs;
use probe_user::analysis::verdict::{Circumstances, HostEvidence, Loss};
use probe_user::clock::honesty::{Evidence, Transition};
use probe_user::clock::{ClockView, DRIFT_PPB};

use super::judges::Context;
use super::{CHANGES, Journeys, READING_MAX_AGE, Way, concerns, own_theta, trusted};
use crate::proto::NodeId;

impl Journeys {
    /// Ends all journeys as they are: nothing comes any more.
    pub fn finish(&mut self, now: MonoNs) {
        // What is counted now, and the second before it.
        for _ in 0..2 {
            self.settle(now);
        }
        let over = &mut self.over;
        self.paths.each(|peer, path| {
            if let Ok(peer) = NodeId::new(peer) {
                over.extend(path.arrivals.drain().map(|journey| (peer.clone(), Way::Incoming, journey)));
            }
        });
    }

    /// Once a second: ends the journeys that waited for too long for the sender's part.
    pub fn expire(&mut self, now: MonoNs) {
        let over = &mut self.over;
        self.paths.each(|peer, path| {
            while let Some(journey) = path.arrivals.expire(now) {
                over.extend(NodeId::new(peer).ok().map(|peer| (peer, Way::Incoming, journey)));
            }
        });
        over.sort_by(|(a, _, one), (b, _, other)| (a, one.at).cmp(&(b, other.at)));
    }

    /// Once a second: judges the paths to and from the ring neighbours, which are these.
    pub fn evaluate<'a>(&mut self, ring: impl Iterator<Item = &'a NodeId>, clock: &ClockView, now: MonoNs) {
        self.judges.ring(ring, now);
        // In a large cluster the random peers would fill the table before a neighbour came.
        for peer in self.judges.neighbours() {
            self.paths.admit(peer.as_str(), now, |id| self.judges.is_neighbour(id));
        }
        let mut losses = self.settle(now);
        let lies = self.honesty.verdict().clone();
        let neighbours: Vec<NodeId> = self.judges.neighbours().cloned().collect();
        for peer in neighbours {
            let Some(path) = self.paths.find(peer.as_str()) else { continue };
            let lost_out = path.told.take();
            let drift = path.latest_delta(clock, now).and_then(|delta| delta.drift);
            let aged = |of: Option<(HostEvidence, MonoNs)>| {
                of.map(|(evidence, at)| HostEvidence { age: evidence.age + (now - at), ..evidence })
            };
            let circumstances = Circumstances {
                sender: aged(path.host),
                receiver: aged(self.host),
                clock_uncertain: concerns(&lies, &peer),
                drift_ppb: drift
                    .map_or(2 * DRIFT_PPB, |d| u32::try_from(d.uncertainty_ppb).unwrap_or(u32::MAX)),
                opposite: None,
                last_step: path.stepped,
            };
            let losses = [losses.remove(&peer).unwrap_or_default(), lost_out];
            self.judges.evaluate(&peer, &Context { circumstances, losses }, now);
        }
    }

    /// What was lost in the second before the last, by peer: from now on it stays so.
    fn settle(&mut self, now: MonoNs) -> BTreeMap<NodeId, Loss> {
        let mut losses: BTreeMap<NodeId, Loss> = BTreeMap::new();
        self.paths.each(|peer, path| {
            let loss = path.tally.next();
            losses.extend(NodeId::new(peer).ok().map(|peer| (peer, loss)));
        });
        self.drops.share(&mut losses);
        self.drops.expire(now);
        for (peer, loss) in &losses {
            self.lost.add(loss);
            if let Some(path) = self.paths.find(peer.as_str()) {
                path.lost.add(loss);
                path.told.settled(loss, self.judges.is_neighbour(peer.as_str()), now);
            }
        }
        losses
    }

    /// Once a second: compares all clocks. Gives the change of the verdict, if it changed.
    pub fn judge(&mut self, clock: &ClockView, now: MonoNs) -> Option<Transition<NodeId>> {
        let mut evidence = BTreeMap::new();
        for (peer, path) in self.paths.sorted() {
            let (Some((reading, at)), Some(delta), Ok(peer)) =
                (path.reading, path.latest_delta(clock, now), NodeId::new(peer))
            else {
                continue;
            };
            if now - at <= READING_MAX_AGE
                && let Some(claimed) = trusted(reading.state, reading.at(now - at))
            {
                evidence.insert(peer, Evidence { claimed, delta: delta.interval });
            }
        }
        let own = trusted(clock.offset.state, own_theta(clock, now));
        let (finding, transition) = self.honesty.evaluate(own, &evidence, now);
        self.finding = Some(finding);
        if let Some(transition) = &transition {
            if self.changes.len() == CHANGES {
                self.changes.pop_front();
            }
            self.changes.push_back(transition.clone());
        }
        transition
    }
}
