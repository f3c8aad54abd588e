//! The verdicts on the paths between this node and its ring neighbours, in both directions.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};
use probe_user::analysis::journey::Journey;
use probe_user::analysis::verdict::record::{JourneyRecord, PathName, ReplayLine, VerdictRecord};
use probe_user::analysis::verdict::{Cause, Circumstances, Loss, PathJudge, Summary, Verdict};

use crate::proto::NodeId;

/// A path is judged for so long after its peer ceased to be a neighbour: rings change for a moment when nodes come.
const AFTER: Span = Span::from_secs(60);

/// Which of the two paths between this node and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// From the peer to here.
    Incoming,
    /// From here to the peer.
    Outgoing,
}

/// What there is to say of a path besides its journeys.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// The clocks, and the two hosts: `sender` the peer's, `receiver` this one's, as for the incoming path.
    pub(super) circumstances: Circumstances,
    /// On the way from the peer to here, and on the way to it by its word, since the last evaluation.
    pub(super) losses: [Loss; 2],
}

#[derive(Debug)]
struct Judged {
    judge: PathJudge,
    verdict: Option<Verdict>,
}

/// The judges.
#[derive(Debug)]
pub struct Judges {
    own: NodeId,
    paths: BTreeMap<(NodeId, Way), Judged>,
    neighbours: BTreeMap<NodeId, MonoNs>,
    /// What the judges are told and say, when it is to be recorded.
    lines: Option<Vec<ReplayLine>>,
}

impl Judges {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, paths: BTreeMap::new(), neighbours: BTreeMap::new(), lines: None }
    }

    /// From now on all is kept until [`recorded`](Self::recorded) takes it.
    pub fn record(&mut self) {
        let host = self.own.to_string();
        let version = probe_user::analysis::verdict::record::VERSION;
        self.lines = Some(vec![ReplayLine::Head { version, host }]);
    }

    /// What was told and said since the last call.
    pub fn recorded(&mut self) -> impl Iterator<Item = ReplayLine> + '_ {
        self.lines.iter_mut().flat_map(|lines| lines.drain(..))
    }

    /// The node at one end of all paths.
    pub fn own(&self) -> &NodeId {
        &self.own
    }

    fn name(&self, peer: &NodeId, way: Way) -> PathName {
        let (own, peer) = (self.own.to_string(), peer.to_string());
        match way {
            Way::Incoming => PathName { from: peer, to: own },
            Way::Outgoing => PathName { from: own, to: peer },
        }
    }

    /// These are the ring neighbours now.
    pub(super) fn ring<'a>(&mut self, ring: impl Iterator<Item = &'a NodeId>, now: MonoNs) {
        for peer in ring {
            if self.neighbours.insert(peer.clone(), now).is_none() {
                for way in [Way::Incoming, Way::Outgoing] {
                    let PathName { from, to } = self.name(peer, way);
                    let judged = Judged { judge: PathJudge::new(from, to), verdict: None };
                    self.paths.insert((peer.clone(), way), judged);
                }
            }
        }
        let gone = |last: &MonoNs| now - *last > AFTER;
        let gone: Vec<NodeId> =
            self.neighbours.iter().filter(|(_, last)| gone(last)).map(|(peer, _)| peer.clone()).collect();
        for peer in gone {
            self.neighbours.remove(&peer);
            for way in [Way::Incoming, Way::Outgoing] {
                self.paths.remove(&(peer.clone(), way));
                let path = self.name(&peer, way);
                self.lines
                    .iter_mut()
                    .for_each(|lines| lines.push(ReplayLine::Forgotten { path: path.clone() }));
            }
        }
    }

    /// A journey is over.
    pub(super) fn observe(&mut self, peer: &NodeId, way: Way, journey: &Journey) {
        let Some(judged) = self.paths.get_mut(&(peer.clone(), way)) else { return };
        judged.judge.observe(journey);
        if self.lines.is_some() {
            let path = self.name(peer, way);
            let line = ReplayLine::Journey { path, journey: JourneyRecord::from(journey) };
            self.lines.iter_mut().for_each(|lines| lines.push(line.clone()));
        }
    }

    /// Those who are judged.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = &NodeId> {
        self.neighbours.keys()
    }

    /// Is this one of them?
    pub(super) fn is_neighbour(&self, peer: &str) -> bool {
        self.neighbours.contains_key(peer)
    }

    /// Is it one of them, or is none known yet?
    pub(super) fn may_be_neighbour(&self, peer: &str) -> bool {
        self.neighbours.is_empty() || self.is_neighbour(peer)
    }

    /// Judges both paths between here and a neighbour.
    pub(super) fn evaluate(&mut self, peer: &NodeId, context: &Context, now: MonoNs) {
        let incoming = context.circumstances;
        let swapped = Circumstances { sender: incoming.receiver, receiver: incoming.sender, ..incoming };
        // Before either evaluates, since evaluating learns.
        let change = |judges: &Self, way| {
            let judged = judges.paths.get(&(peer.clone(), way))?;
            judged.judge.recent_change(now, incoming.drift_ppb)
        };
        let changes = [change(self, Way::Outgoing), change(self, Way::Incoming)];
        let both = [(Way::Incoming, incoming), (Way::Outgoing, swapped)];
        for ((way, circumstances), opposite) in both.into_iter().zip(changes) {
            let circumstances = Circumstances { opposite, ..circumstances };
            let name = self.name(peer, way);
            let Some(judged) = self.paths.get_mut(&(peer.clone(), way)) else { continue };
            let loss = &context.losses[usize::from(way == Way::Outgoing)];
            if *loss != Loss::default() {
                judged.judge.observe_loss(now, loss);
                if let Some(lines) = &mut self.lines {
                    lines.push(ReplayLine::Loss { path: name.clone(), at: now, loss: loss.clone() });
                }
            }
            let verdict = judged.judge.evaluate(now, &circumstances);
            if let Some(lines) = &mut self.lines {
                let verdict = VerdictRecord::from(&verdict);
                lines.push(ReplayLine::Evaluation { path: name, now, circumstances, verdict });
            }
            judged.verdict = Some(verdict);
        }
    }

    /// The verdicts, by peer and way.
    pub fn verdicts(&self) -> impl Iterator<Item = (&NodeId, Way, &Verdict)> {
        self.paths.iter().filter_map(|((peer, way), judged)| Some((peer, *way, judged.verdict.as_ref()?)))
    }

    /// The worst of them: the one with the largest effect among those that are of trouble, else what most say.
    pub fn worst(&self) -> Option<&Verdict> {
        let all = || self.verdicts().map(|(_, _, verdict)| verdict);
        let trouble = all()
            .filter(|verdict| verdict.cause.is_trouble())
            .max_by_key(|verdict| (verdict.effect, verdict.confidence));
        let is = |cause: Cause| all().find(|verdict| verdict.cause == cause);
        trouble.or_else(|| is(Cause::ClockUncertain)).or_else(|| is(Cause::Ok)).or_else(|| is(Cause::Unknown))
    }

    /// What the cluster is told of them.
    pub fn summary(&self) -> Summary {
        let paths =
            self.verdicts().map(|(peer, way, verdict)| (peer.as_str(), way == Way::Outgoing, verdict));
        Summary::of(self.own.as_str(), paths)
    }
}
