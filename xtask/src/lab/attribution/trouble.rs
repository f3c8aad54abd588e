//! What is done to hosts and links, and what a verdict may say of it: fixed before anything runs.

use probe_user::analysis::verdict::Cause;
use serde::{Deserialize, Serialize};

use crate::lab::scenario::host_name;
use crate::lab::switch::{LinkSpec, Loss, Rate};

/// One thing that is wrong. Hosts are indices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The way is longer.
    Delay {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// The way back too.
        both: bool,
        /// By how much.
        us: u32,
    },
    /// The way has a rate below what is sent now and then.
    SlowLink {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Rate.
        kbit_per_s: u32,
    },
    /// The way loses packets.
    Loss {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// So many of a thousand.
        permille: u32,
    },
    /// The host's own link is slow (tbf), and another program of the host fills its queue.
    Congest {
        /// Whose.
        host: usize,
        /// Rate of the link.
        kbit_per_s: u32,
        /// Room of its queue.
        queue_bytes: u32,
    },
    /// The node is stopped (SIGSTOP) again and again.
    Stop {
        /// Whose.
        host: usize,
        /// For so long...
        pulse_ms: u32,
        /// ...so often.
        every_ms: u32,
    },
    /// The node shares a CPU quota with a program that uses all of it.
    Starve {
        /// Whose.
        host: usize,
        /// Their part of one CPU's time, in percent of each tenth of a second.
        percent: u32,
    },
    /// The node loses time on every datagram.
    SlowHandler {
        /// Whose.
        host: usize,
        /// How much.
        us: u32,
    },
    /// The node's receive buffer has next to no room, and a program of the host sends to it in bursts.
    SmallBuffer {
        /// Whose.
        host: usize,
        /// Datagrams of a burst.
        burst: u32,
        /// Time between bursts.
        every_ms: u32,
    },
    /// The host's chronyd tells another offset than the clock has.
    ClockLie {
        /// Whose.
        host: usize,
        /// By how much.
        ms: i32,
    },
}

/// Room of a slow link's queue.
const SLOW_LINK_QUEUE: u64 = 20_000;

impl Trouble {
    /// What a verdict on the path must name; empty when the trouble is not of this path.
    pub fn blames(&self, from: usize, to: usize) -> &'static [Cause] {
        let path = (from, to);
        match *self {
            Self::Delay { from, to, both, .. } if path == (from, to) || both && path == (to, from) => {
                &[Cause::Network]
            }
            // What does not fit into its queue is lost.
            Self::SlowLink { from, to, .. } if path == (from, to) => &[Cause::Network, Cause::LossNetwork],
            Self::Loss { from, to, .. } if path == (from, to) => &[Cause::LossNetwork],
            Self::Congest { host, .. } if from == host => &[Cause::LocalQueue],
            Self::Stop { host, .. } | Self::Starve { host, .. } | Self::SlowHandler { host, .. }
                if to == host =>
            {
                &[Cause::ReceiverProcess]
            }
            Self::SmallBuffer { host, .. } if to == host => &[Cause::LossHere],
            Self::ClockLie { host, .. } if from == host || to == host => &[Cause::ClockUncertain],
            _ => &[],
        }
    }

    /// What else may be said of a path without being false: consequences of the trouble.
    pub fn excuses(&self, from: usize, to: usize) -> &'static [Cause] {
        match *self {
            Self::Delay { .. } | Self::SlowLink { .. } | Self::Loss { .. } | Self::ClockLie { .. } => &[],
            // The queue's overflow is lost outside of the host that misses it.
            Self::Congest { host, .. } if from == host => &[Cause::LossNetwork],
            // Who gets no CPU sends late, too; and what one thread handles late it also answers late.
            Self::Stop { host, .. } | Self::Starve { host, .. } | Self::SlowHandler { host, .. }
                if from == host =>
            {
                &[Cause::SenderProcess, Cause::SenderKernel]
            }
            Self::Stop { host, .. } | Self::Starve { host, .. } | Self::SlowHandler { host, .. }
                if to == host =>
            {
                &[Cause::LossHere]
            }
            Self::SmallBuffer { host, .. } if to == host => &[Cause::ReceiverProcess],
            _ => &[],
        }
    }

    /// Is it the host's CPU, so that `network_or_host_softirq` is half of an answer?
    pub fn is_crossing(&self) -> bool {
        matches!(self, Self::Delay { .. } | Self::SlowLink { .. } | Self::Starve { .. })
    }

    /// What the link does meanwhile, with its two ends and whether it is meant both ways.
    pub fn link(&self) -> Option<(usize, usize, bool, LinkSpec)> {
        match *self {
            Self::Delay { from, to, both, us } => {
                Some((from, to, both, LinkSpec::delay(probe_ebpf::time::Span::from_micros(us.into()))))
            }
            Self::SlowLink { from, to, kbit_per_s } => {
                let bits_per_second = u64::from(kbit_per_s) * 1_000;
                let rate = Some(Rate { bits_per_second, queue_bytes: SLOW_LINK_QUEUE });
                Some((from, to, false, LinkSpec { rate, ..LinkSpec::default() }))
            }
            Self::Loss { from, to, permille } => {
                let loss = Some(Loss::Random { share: f64::from(permille) / 1e3 });
                Some((from, to, false, LinkSpec { loss, ..LinkSpec::default() }))
            }
            _ => None,
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        let name = |host: usize| host_name(host);
        match *self {
            Self::Delay { from, to, both, us } => {
                let way = if both { "<>" } else { ">" };
                format!("{}{way}{} +{:.1} ms", name(from), name(to), f64::from(us) / 1e3)
            }
            Self::SlowLink { from, to, kbit_per_s } => {
                format!("{}>{} at {kbit_per_s} kbit/s", name(from), name(to))
            }
            Self::Loss { from, to, permille } => {
                format!("{}>{} loses {:.1} %", name(from), name(to), f64::from(permille) / 10.0)
            }
            Self::Congest { host, kbit_per_s, queue_bytes } => {
                format!("{}'s own link at {kbit_per_s} kbit/s, {queue_bytes} bytes queue", name(host))
            }
            Self::Stop { host, pulse_ms, every_ms } => {
                format!("{} stopped {pulse_ms} of {every_ms} ms", name(host))
            }
            Self::Starve { host, percent } => format!("{} with a hog in {percent} % of a CPU", name(host)),
            Self::SlowHandler { host, us } => {
                format!("{} takes {:.1} ms for each datagram", name(host), f64::from(us) / 1e3)
            }
            Self::SmallBuffer { host, burst, every_ms } => {
                format!("{}'s buffer is tiny, {burst} datagrams every {every_ms} ms", name(host))
            }
            Self::ClockLie { host, ms } => format!("{}'s NTP is wrong by {ms} ms", name(host)),
        }
    }
}
