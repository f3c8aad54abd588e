//! What the detector has to say.

use probe_ebpf::time::MonoNs;

/// What this node thinks of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reachability {
    /// Nothing speaks against it.
    #[default]
    Alive,
    /// It did not answer somebody; it may still show that it lives.
    Suspect,
    /// It did not answer for longer than a living node would.
    Unreachable,
}

/// A change of mind about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition<K> {
    /// About whom.
    pub(crate) peer: K,
    /// What it was.
    pub(crate) from: Reachability,
    /// What it is.
    pub(crate) to: Reachability,
    /// When.
    pub(crate) at: MonoNs,
}

/// What the caller has to do after a [`tick`](super::Detector::tick), in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding<K> {
    /// Send it a request now. It counts as [`asked`](super::Detector::asked) already.
    Probe(K),
    /// Tell the others that this node suspects it, at this version of its state; first of all itself.
    Accuse {
        /// The suspect.
        peer: K,
        /// Only a version above this one clears it.
        version: u64,
    },
    /// Tell whoever watches.
    Changed(Transition<K>),
}

/// What became of another node's suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rumour<K> {
    /// News: pass it on. With the change of mind, if it made one at once; with fresh evidence of the opposite
    /// it makes one later, unless more such evidence comes.
    Taken(Option<Transition<K>>),
    /// Repeated, or enough others say the same: do not pass it on.
    Known,
    /// About an earlier version than the known one: the suspect has shown since then that it lives.
    Stale,
    /// Its version is too far above the known one to be believed.
    Implausible,
    /// About a peer that is not known here, or by the suspect itself.
    Void,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Totals since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct DetectorCounters { $($(#[$doc])* pub(crate) $name: u64),* }

        impl DetectorCounters {
            /// Every total with its name as a label.
            pub(crate) fn labelled(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Requests without an answer in time.
    unanswered,
    /// Probes, beside the requests of the rounds.
    probes,
    /// Times that a probe had to wait for its turn.
    probes_deferred,
    /// Suspicions on this node's own evidence.
    accusations,
    /// Suspicions, for whatever reason.
    suspected,
    /// Suspicions ended by a packet of the suspect.
    refuted_directly,
    /// Suspicions ended by a later version of the suspect's state.
    refuted_by_version,
    /// Verdicts.
    unreachable,
    /// Peers that came back after a verdict.
    recovered,
    /// Rumours taken.
    rumours_taken,
    /// Rumours that added nothing.
    rumours_known,
    /// Rumours overtaken by a later version.
    rumours_stale,
    /// Rumours with a version too far above the known one.
    rumours_implausible,
    /// Rumours about an unknown peer, or by the suspect itself.
    rumours_void,
    /// Ticks that came late: the time lost is not held against peers.
    late_ticks,
    /// Times that nobody at all was heard from.
    silences,
}
