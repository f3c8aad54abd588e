//! Where in the cluster the trouble is, from all nodes' summaries.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Cause, Summary, Worst, short_name};

/// Lines of evidence.
const EVIDENCE: usize = 8;
/// A host whose paths are this many is named even when they are not most of all bad ones ...
const MANY: usize = 4;
/// ... if no other host has a third of as many.
const OUTSTANDING: usize = 3;

/// A place in the cluster. Hosts are named by their ids, or by [`short_name`] if they sent no summary themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "place", content = "hosts")]
pub enum Place {
    /// A host, in what it sends and in what it receives.
    OneHost(String),
    /// What a host receives.
    ReceiveSide(String),
    /// What a host sends.
    SendSide(String),
    /// From one host to another, and not back.
    Direction(String, String),
    /// Between two hosts, both ways.
    Link(String, String),
    /// Most hosts, and none more than others.
    Everybody,
    /// All is well.
    Nobody,
    /// The bad paths have no place in common, or there is nothing to judge by.
    Unclear,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Where.
    pub place: Place,
    /// What is found most there; `ok` for [`Place::Nobody`].
    pub cause: Cause,
    /// In one sentence.
    pub sentence: String,
    /// The worst paths that it rests on, one a line.
    pub evidence: Vec<String>,
    /// Bad paths named in all summaries, each once, and how many of them the place explains.
    pub paths: (usize, usize),
}

/// Which end of a path the cause itself is on, if it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Sender,
    Receiver,
    Way,
}

#[derive(Clone, Debug)]
struct Bad<'a> {
    from: &'a str,
    to: &'a str,
    cause: Cause,
    magnitude: u8,
    blame: Blame,
}

impl Bad<'_> {
    /// Does trouble of what `host` receives, or sends, explain it?
    fn receives(&self, host: &str) -> bool {
        self.to == host && self.blame != Blame::Sender
    }
    fn sends(&self, host: &str) -> bool {
        self.from == host && self.blame != Blame::Receiver
    }
    fn concerns(&self, host: &str) -> bool {
        self.receives(host) || self.sends(host)
    }
}

fn blame(worst: &Worst) -> Blame {
    match worst.cause {
        // Whichever end says so: what a kernel drops of a path's packets, the receiver's does.
        Cause::ReceiverProcess | Cause::ReceiverKernel | Cause::LossHere => Blame::Receiver,
        Cause::SenderProcess | Cause::SenderKernel | Cause::LocalQueue => Blame::Sender,
        _ => Blame::Way,
    }
}

/// The cluster as the summaries tell it.
struct Cluster<'a> {
    /// Each bad path once; sorted.
    bad: Vec<Bad<'a>>,
    /// Whole ids by short names.
    ids: BTreeMap<&'a str, &'a str>,
    /// Summaries by short names.
    of: BTreeMap<&'a str, &'a Summary>,
}

impl<'a> Cluster<'a> {
    fn new(names: &'a [String], summaries: &'a [Summary], which: fn(Cause) -> bool) -> Self {
        let mut bad: BTreeMap<(&str, &str), Bad<'a>> = BTreeMap::new();
        let named = || names.iter().map(String::as_str).zip(summaries);
        for (own, summary) in named() {
            for worst in summary.worst.iter().filter(|worst| which(worst.cause)) {
                let peer = worst.peer.as_str();
                let (from, to) = if worst.outgoing { (own, peer) } else { (peer, own) };
                let Worst { cause, magnitude, .. } = *worst;
                let new = Bad { from, to, cause, magnitude, blame: blame(worst) };
                // Of two ends' words on a path the worse one counts; of equal ones that which names an end.
                let rank = |bad: &Bad<'_>| (bad.magnitude, bad.blame != Blame::Way, bad.cause);
                bad.entry((from, to))
                    .and_modify(|known| {
                        if rank(&new) > rank(known) {
                            *known = new.clone();
                        }
                    })
                    .or_insert(new);
            }
        }
        Self {
            bad: bad.into_values().collect(),
            ids: named().map(|(name, summary)| (name, summary.host.as_str())).collect(),
            of: named().collect(),
        }
    }

    fn id(&self, name: &str) -> String {
        self.ids.get(name).map_or(name, |id| *id).to_owned()
    }

    /// The host that explains most bad paths, with their number, without those that `but` explains.
    fn most(&self, but: Option<&str>) -> Option<(&'a str, usize)> {
        let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
        for bad in self.bad.iter().filter(|bad| but.is_none_or(|host| !bad.concerns(host))) {
            for host in BTreeSet::from([bad.from, bad.to]) {
                *counts.entry(host).or_default() += usize::from(bad.concerns(host));
            }
        }
        counts.into_iter().max_by_key(|(host, count)| (*count, std::cmp::Reverse(*host)))
    }

    /// Are at least two thirds of the hosts in trouble on half of their paths, with none of them in the middle of it?
    fn is_everybody(&self, most: usize) -> bool {
        let judging = self.of.values().filter(|s| s.ok > 0 || s.bad > 0).count();
        let troubled = self.of.values().filter(|s| s.bad > 0 && s.bad >= s.ok).count();
        judging >= 3 && troubled * 3 >= judging * 2 && most * 5 < self.bad.len() * 4
    }

    /// Where around `host` the trouble is.
    fn around(&self, host: &'a str) -> Place {
        let mine: Vec<&Bad<'_>> = self.bad.iter().filter(|bad| bad.concerns(host)).collect();
        let received = mine.iter().filter(|bad| bad.receives(host)).count();
        let sent = mine.iter().filter(|bad| bad.sends(host)).count();
        let peers: BTreeSet<&str> =
            mine.iter().map(|bad| if bad.to == host { bad.from } else { bad.to }).collect();
        let on_the_way = mine.iter().all(|bad| bad.blame == Blame::Way);
        match mine.as_slice() {
            [bad] if on_the_way => return Place::Direction(self.id(bad.from), self.id(bad.to)),
            [bad, _, ..] if on_the_way && peers.len() == 1 => {
                let (from, to) = (self.id(bad.from), self.id(bad.to));
                return if from < to { Place::Link(from, to) } else { Place::Link(to, from) };
            }
            _ => {}
        }
        // Of the host's paths each way, half; more are not named in a summary.
        let each_way = self.of.get(host).map_or(0, |s| usize::from(s.ok) + usize::from(s.bad)) / 2;
        let most = |count: usize| count * 2 >= each_way;
        let id = self.id(host);
        // A few of the other kind are not a second side.
        let both = received.min(sent) * 4 >= received.max(sent);
        match (both, received > sent) {
            _ if on_the_way && !most(received.max(sent)) => Place::Unclear,
            (true, _) => Place::OneHost(id),
            (false, true) => Place::ReceiveSide(id),
            (false, false) => Place::SendSide(id),
        }
    }

    /// The bad paths that a place explains.
    fn explained(&self, place: &Place) -> Vec<&Bad<'a>> {
        let short = short_name;
        let fits = |bad: &&Bad<'a>| match place {
            Place::OneHost(h) => bad.concerns(&short(h)),
            Place::ReceiveSide(h) => bad.receives(&short(h)),
            Place::SendSide(h) => bad.sends(&short(h)),
            Place::Direction(a, b) => (bad.from, bad.to) == (short(a).as_str(), short(b).as_str()),
            Place::Link(a, b) => {
                let (a, b) = (short(a), short(b));
                [(a.as_str(), b.as_str()), (b.as_str(), a.as_str())].contains(&(bad.from, bad.to))
            }
            Place::Everybody | Place::Unclear => true,
            Place::Nobody => false,
        };
        let mut found: Vec<&Bad<'a>> = self.bad.iter().filter(fits).collect();
        found.sort_by_key(|bad| std::cmp::Reverse(bad.magnitude));
        found
    }

    fn place(&self) -> Place {
        let Some((host, most)) = self.most(None) else { return Place::Unclear };
        if self.is_everybody(most) {
            return Place::Everybody;
        }
        let next = self.most(Some(host)).map_or(0, |(_, count)| count);
        let outstanding = most >= MANY && most >= OUTSTANDING * next;
        if most * 2 > self.bad.len() || outstanding { self.around(host) } else { Place::Unclear }
    }
}

/// The cause found most often, the first by order of those found equally often.
fn commonest(bad: &[&Bad<'_>]) -> Cause {
    let mut counts: BTreeMap<Cause, usize> = BTreeMap::new();
    bad.iter().for_each(|bad| *counts.entry(bad.cause).or_default() += 1);
    let most = counts.into_iter().max_by_key(|(cause, count)| (*count, std::cmp::Reverse(*cause)));
    most.map_or(Cause::Unknown, |(cause, _)| cause)
}

/// Where the trouble is. Summaries of the same host twice count once, the last one.
pub fn diagnose(summaries: &[Summary]) -> Diagnosis {
    let names: Vec<String> = summaries.iter().map(|summary| short_name(&summary.host)).collect();
    let cluster = Cluster::new(&names, summaries, Cause::is_trouble);
    let ok: usize = summaries.iter().map(|summary| usize::from(summary.ok)).sum();
    let without =
        |place, cause, sentence| Diagnosis { place, cause, sentence, evidence: Vec::new(), paths: (0, 0) };
    if cluster.bad.is_empty() {
        let clocks = Cluster::new(&names, summaries, |cause| cause == Cause::ClockUncertain);
        return match clocks.most(None) {
            // The paths both ways of one peer do not tell which of the two it is.
            Some((host, most)) if most > 2 && most * 5 >= clocks.bad.len() * 4 => {
                let place = Place::OneHost(clocks.id(host));
                let explained = clocks.explained(&place);
                let sentence =
                    format!("{}'s clock cannot be trusted; nothing else is wrong", clocks.id(host));
                answer(&clocks, place, Cause::ClockUncertain, sentence, &explained)
            }
            Some(_) => {
                let sentence =
                    "clocks cannot be trusted, and no one host is in all of those paths".to_owned();
                let explained = clocks.explained(&Place::Unclear);
                answer(&clocks, Place::Unclear, Cause::ClockUncertain, sentence, &explained)
            }
            None if ok > 0 => {
                let sentence = format!("all is well: {ok} judgements of {} hosts, none bad", summaries.len());
                without(Place::Nobody, Cause::Ok, sentence)
            }
            None => {
                let sentence = format!("{} hosts have judged no path yet", summaries.len());
                without(Place::Unclear, Cause::Unknown, sentence)
            }
        };
    }
    let place = cluster.place();
    let explained = cluster.explained(&place);
    let cause = commonest(&explained);
    let what = cause.name();
    let (n, all) = (explained.len(), cluster.bad.len());
    let sentence = match &place {
        Place::OneHost(h) => {
            format!("it is {h}: {what}, in what it sends and receives ({n} of {all} bad paths)")
        }
        Place::ReceiveSide(h) => format!("it is {h}'s receive side: {what} ({n} of {all} bad paths)"),
        Place::SendSide(h) => format!("it is {h}'s send side: {what} ({n} of {all} bad paths)"),
        Place::Direction(a, b) => format!("it is the way from {a} to {b}: {what} ({n} of {all} bad paths)"),
        Place::Link(a, b) => format!("it is between {a} and {b}, both ways: {what} ({n} of {all} bad paths)"),
        Place::Everybody => {
            format!("it is everybody: {what} mostly, {all} bad paths, no host in most of them")
        }
        Place::Nobody | Place::Unclear => {
            format!("{all} bad paths, {what} mostly, have no one place in common")
        }
    };
    answer(&cluster, place, cause, sentence, &explained)
}

fn answer(
    cluster: &Cluster<'_>,
    place: Place,
    cause: Cause,
    sentence: String,
    explained: &[&Bad<'_>],
) -> Diagnosis {
    let line = |bad: &&Bad<'_>| {
        let (from, to) = (cluster.id(bad.from), cluster.id(bad.to));
        format!("{from} to {to}: {} (magnitude {})", bad.cause.name(), bad.magnitude)
    };
    let evidence = explained.iter().take(EVIDENCE).map(line).collect();
    Diagnosis { place, cause, sentence, evidence, paths: (cluster.bad.len(), explained.len()) }
}
