//! Scenarios: hosts, links, what happens to them and when, and what is expected of the nodes; in TOML.
//!
//! Everything is checked when a scenario is read: whoever holds a [`Scenario`] need not look again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::expectation::Expectation;
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
    /// Whether the hosts have a chronyd each.
    #[serde(default = "yes")]
    pub ntp: bool,
    /// What packets take from a host to its time server, and back.
    #[serde(default)]
    pub ntp_delay_ms: [f64; 2],
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
    /// Ports that its node sends from besides the gossip port.
    #[serde(default)]
    pub source_ports: Vec<u16>,
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
    /// By how much its wall clock is stepped; positive is forward. What chronyd says of it does not change by itself.
    pub clock_step_ms: f64,
    /// When, in seconds after the start.
    pub clock_step_at_s: f64,
    /// When its chronyd is started, in seconds after the start; before its node if absent.
    pub ntp_from_s: Option<f64>,
    /// What packets take to its time server, and back; as all others' if absent.
    pub ntp_delay_ms: Option<[f64; 2]>,
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

fn yes() -> bool {
    true
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

    /// What packets take from a host to its time server, and back, in milliseconds.
    pub fn ntp_delay_ms(&self, index: usize) -> [f64; 2] {
        self.node(index).ntp_delay_ms.unwrap_or(self.ntp_delay_ms)
    }

    /// Does one and the same node run on this host all the time?
    pub fn is_steady(&self, index: usize) -> bool {
        let churned = |event: &Event| matches!(&event.action, Action::Churn { node, .. } if host_index(node) == Some(index));
        !self.events.iter().any(churned)
    }

    /// How the node of this host differs.
    pub fn node(&self, index: usize) -> NodeOrder {
        self.nodes.get(&host_name(index)).cloned().unwrap_or_default()
    }
}
