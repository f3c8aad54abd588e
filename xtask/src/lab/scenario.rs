//! Scenarios: hosts, links, what happens to them and when, and what is expected of the nodes; in TOML.
//!
//! Everything is checked when a scenario is read: whoever holds a [`Scenario`] need not look again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::amount::Amount;
use super::switch::LinkSpec;

/// A scenario. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of its file.
    #[serde(skip)]
    pub name: String,
    /// What it is for, in one sentence.
    pub about: String,
    /// Hosts, named `a`, `b`, `c` and so on.
    #[serde(default = "three")]
    pub hosts: usize,
    /// How long it runs once all nodes know each other.
    pub seconds: f64,
    /// Gossip over IPv6 instead of IPv4.
    #[serde(default)]
    pub ipv6: bool,
    /// What links do from the start.
    #[serde(default, rename = "link")]
    pub links: Vec<LinkOrder>,
    /// How some nodes differ from the others, by host.
    #[serde(default, rename = "node")]
    pub nodes: BTreeMap<String, NodeOrder>,
    /// The changes of entries.
    #[serde(default)]
    pub load: Load,
    /// What happens on the way.
    #[serde(default, rename = "event")]
    pub events: Vec<Event>,
    /// What is expected.
    #[serde(default, rename = "expect")]
    pub expectations: Vec<Expectation>,
}

/// What some links do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkOrder {
    /// Sending host; every one if absent.
    pub from: Option<String>,
    /// Receiving host; every one if absent.
    pub to: Option<String>,
    /// Leave the way back alone.
    #[serde(default)]
    pub one_way: bool,
    /// What they do.
    pub is: LinkSpec,
}

/// How one node differs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeOrder {
    /// Time lost on every datagram.
    pub slow_handler_us: Option<u64>,
    /// Receive buffer asked for.
    pub rcvbuf_bytes: Option<u64>,
    /// Error of its wall clock; positive is fast.
    pub clock_error_ms: f64,
    /// What its wall clock gains; positive is ever faster.
    pub clock_drift_ppm: f64,
    /// What its chronyd says the clock lacks; the truth (minus the error) if absent.
    pub ntp_offset_ms: Option<f64>,
    /// What its chronyd says the clock gains; the truth (the drift) if absent.
    pub ntp_drift_ppm: Option<f64>,
}

impl NodeOrder {
    /// What its chronyd is told to report, in seconds; positive when the clock is slow.
    pub fn ntp_offset_s(&self) -> f64 {
        self.ntp_offset_ms.unwrap_or(-self.clock_error_ms) / 1e3
    }

    /// How its chronyd's server runs against this machine's clock, in ppm: as the host's clock drifts, the other way
    /// round.
    pub fn ntp_server_drift_ppm(&self) -> f64 {
        -self.ntp_drift_ppm.unwrap_or(self.clock_drift_ppm)
    }
}

/// Who changes how many entries.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// On these hosts; on all if absent.
    pub nodes: Option<Vec<String>>,
    /// Changes a second on each; 0 for an idle cluster.
    pub changes_per_s: f64,
    /// So many at once, then a pause that keeps the rate.
    pub burst: u32,
    /// Length of the values.
    pub value_bytes: usize,
    /// Keys changed in turn.
    pub keys: u32,
    /// Every so many changes a key is deleted and another one takes its place; 0 for never.
    pub churn: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { nodes: None, changes_per_s: 10.0, burst: 1, value_bytes: 8, keys: 10, churn: 0 }
    }
}

/// Something that happens, seconds after the start.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at_s: f64,
    /// For how long; to the end if absent.
    pub for_s: Option<f64>,
    /// What.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Links change; at the end they are as they were at the start.
    Link(LinkOrder),
    /// All links between two groups of hosts are cut.
    Partition {
        /// One side.
        one: Vec<String>,
        /// The other side.
        other: Vec<String>,
    },
    /// A node is stopped (SIGSTOP) again and again.
    Stop {
        /// Whose.
        node: String,
        /// For so long...
        pulse_ms: u64,
        /// ...so often.
        every_ms: u64,
    },
    /// A node is killed again and again, and started again in between.
    Churn {
        /// Whose.
        node: String,
        /// Time from one kill to the next.
        every_ms: u64,
        /// Time from a kill to the start.
        down_ms: u64,
        /// Under a new name each time.
        #[serde(default)]
        new_id: bool,
    },
    /// Busy processes compete with a node for its CPU.
    Starve {
        /// Whose.
        node: String,
        /// How many.
        hogs: u32,
        /// Their niceness, -20 (takes most) to 19.
        #[serde(default)]
        nice: i32,
    },
    /// The host's own link is slow (tbf) and shared with other traffic.
    Throttle {
        /// Whose.
        node: String,
        /// Rate of the link.
        kbit_per_s: u32,
        /// Room of its queue.
        queue_bytes: u32,
        /// UDP payload that another program sends meanwhile, to the hub.
        competing_kbit_per_s: u32,
    },
    /// The NTP server dies for good.
    KillNtp {},
    /// A host's chronyd says something else about the clock.
    NtpOffset {
        /// Whose.
        node: String,
        /// What it says that the clock lacks.
        ms: f64,
    },
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "segments as in the nodes' reports")]
pub enum Subject {
    SendQueue,
    EgressStack,
    Qdisc,
    Network,
    IngressStack,
    SocketQueue,
    Handling,
    /// Of entries, from the final reports.
    EntryTotal,
    EntryNetwork,
    EntryApplication,
    /// Share of packets whose network time is within its stated bound of the truth, in percent.
    CoveredPercent,
    /// Packets lost on the way as the receivers' gaps in ids tell; truth: what the switch dropped of them.
    Lost,
    /// Datagrams dropped at the socket; truth: the kernel's RcvbufErrors.
    RcvbufDropped,
    /// What a node says its clock is wrong by; truth: what was injected.
    ClockOffset,
    /// UDP packets that kernels sent and the switch knows nothing of; truth: none.
    Unaccounted,
    /// Datagrams at the probe that are in no place of the accounting; truth: none.
    AccountingGap,
    /// Datagrams at the probe that were unmatched or late, in percent.
    UnmatchedPercent,
    /// Live nodes that at the end do not know all live ones; truth: none.
    NotConverged,
    /// Time from nothing to nodes that know each other, and back.
    Up,
    Down,
    /// The busiest node, in percent of one CPU.
    CpuPercent,
    /// The largest node.
    RssBytes,
    /// Open files of the node with most of them.
    Fds,
    /// Who is to blame.
    Verdict,
}

/// Which value of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Stat {
    #[default]
    P50,
    P95,
    P99,
    Max,
}

impl Stat {
    /// Share of the values below.
    pub fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
            Self::Max => 1.0,
        }
    }
}

/// What is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// What is known from outside the nodes.
    Truth,
    /// The same in the `quiet` window.
    Quiet,
}

/// Something that is to hold. Over several paths or nodes it is to hold for each of them, and the worst is shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// In words.
    pub name: String,
    /// What is looked at.
    pub of: Subject,
    /// Which value of many.
    #[serde(default)]
    pub stat: Stat,
    /// On which paths: `a>b`, `*>c`, `a>*`; on all if absent.
    pub path: Option<String>,
    /// At which node; at all if absent.
    pub node: Option<String>,
    /// Packets sent in this window, in seconds; all if absent.
    pub during: Option<[f64; 2]>,
    /// What it is compared with.
    pub near: Option<Reference>,
    /// The window of [`Reference::Quiet`].
    pub quiet: Option<[f64; 2]>,
    /// Largest difference from the reference.
    pub within: Option<Amount>,
    /// Least value, itself fine.
    pub at_least: Option<Amount>,
    /// Greatest value, itself fine.
    pub at_most: Option<Amount>,
    /// What has to be built before this can be looked at: reported as not yet.
    pub needs: Option<String>,
}

/// A scenario that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No such file.
    #[error("no scenario `{0}`; `cargo xtask lab list` shows those there are")]
    Unknown(String),
    /// The file cannot be read.
    #[error("cannot read the scenario {}: {error}", file.display())]
    Unreadable {
        /// Its name.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No TOML, or a key or value that does not exist.
    #[error("scenario {name}: {error}")]
    Malformed {
        /// Its name.
        name: String,
        /// Where and what.
        error: toml::de::Error,
    },
    /// It reads well but makes no sense.
    #[error("scenario {name}: {what}")]
    Senseless {
        /// Its name.
        name: String,
        /// What.
        what: String,
    },
}

/// The most hosts: one letter each.
pub const MAX_HOSTS: usize = 26;

fn three() -> usize {
    3
}

/// Name of the host with this index: `a` for 0.
pub fn host_name(index: usize) -> String {
    char::from(b'a' + index as u8 % 26).to_string()
}

/// Index of the host with this name.
pub fn host_index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
        _ => None,
    }
}

impl Scenario {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong with it, with the place.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)
            .map_err(|error| ScenarioError::Malformed { name: name.to_owned(), error })?;
        let scenario = Self { name: name.to_owned(), ..scenario };
        match super::validate::check(&scenario) {
            Ok(()) => Ok(scenario),
            Err(what) => Err(ScenarioError::Senseless { name: name.to_owned(), what }),
        }
    }

    /// How the node of this host differs.
    pub fn node(&self, index: usize) -> NodeOrder {
        self.nodes.get(&host_name(index)).cloned().unwrap_or_default()
    }
}
