//! Looks at the host. Changes nothing: the probe is attached to a socket that is closed again at once.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use probe_user::btf::Btf;
use probe_user::clock::ClockState;
use probe_user::clock::mapping::mono_now;
use probe_user::clock::reader::ClockReader;
use probe_user::clock::spec::SourceSpec;
use probe_user::drops::{self, Drops};
use probe_user::hooks::Hooks;
use probe_user::load::{Options, Probe};
use probe_user::timestamping::enable_receive_stamps;

use super::hardware;
use super::privileges::Capabilities;
use crate::control::client;
use crate::report::sentence;

/// What was seen of the host.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub(super) kernel: String,
    /// Byte offset of `sk_buff.tstamp` in the kernel's BTF, or why it is not known.
    pub(super) btf: Result<u32, String>,
    pub(super) capabilities: Option<Capabilities>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub(super) unprivileged_bpf_disabled: Option<String>,
    /// Text of the kernel's `lockdown` file; `None` when there is no such file.
    pub(super) lockdown: Option<String>,
    /// Text of `/proc/self/timens_offsets`; `None` when there is no such file.
    pub(super) timens_offsets: Option<String>,
    /// Outcome of loading the probe and attaching it to a socket: whether the filter can read T4 itself, with
    /// the reason if not.
    pub(super) tier_1: Result<Option<String>, String>,
    /// Outcome of asking the kernel for the drops at a socket: by which tracepoint, and what that lacks.
    pub(super) drops: Result<(&'static str, Option<String>), String>,
    /// Outcome of attaching the hooks of tier 2 for a socket that sends nothing.
    pub(super) tier_2: Result<(), String>,
    /// Outcome of asking a socket for receive stamps.
    pub(super) tier_0: Result<(), String>,
    /// Whose NICs' clocks could stamp what is received, or why they cannot be asked.
    pub(super) hardware: Result<Vec<hardware::Interface>, String>,
    pub(super) clock: Clock,
    /// A node running on this host: its socket, and its id or why it can't be asked. `None`: no such socket.
    pub(super) node: Option<(PathBuf, Result<String, String>)>,
}

/// What the clock's sources say.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) state: ClockState,
    /// In words.
    pub(super) found: String,
    pub(super) note: Option<String>,
}

impl Facts {
    /// Looks. Takes as long as the clock's sources take to answer, a fraction of a second each at most.
    pub fn gather(sources: &[SourceSpec], control: Option<PathBuf>) -> Self {
        Self {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            btf: Btf::from_kernel()
                .and_then(|btf| btf.offset_of("sk_buff", "tstamp", size_of::<u64>() as u32))
                .map_err(|e| e.to_string()),
            capabilities: read("/proc/self/status").and_then(|s| Capabilities::parse(&s)),
            unprivileged_bpf_disabled: read("/proc/sys/kernel/unprivileged_bpf_disabled"),
            lockdown: read("/sys/kernel/security/lockdown"),
            timens_offsets: read("/proc/self/timens_offsets"),
            tier_1: try_tier_1(),
            drops: try_drops(),
            tier_2: try_tier_2(),
            hardware: hardware::survey(),
            tier_0: scratch_socket().and_then(enable_receive_stamps).map_err(|e| e.to_string()),
            clock: ask_clock(sources),
            node: control.and_then(ask_node),
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn scratch_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
}

fn try_tier_1() -> Result<Option<String>, String> {
    let socket = scratch_socket().map_err(|e| format!("cannot open a UDP socket: {e}"))?;
    let mut probe = Probe::load(&Options::default()).map_err(|e| e.to_string())?;
    probe.attach(&socket).map_err(|e| e.to_string())?;
    Ok(probe.no_tstamp().map(ToString::to_string))
}

fn try_drops() -> Result<(&'static str, Option<String>), String> {
    let socket = scratch_socket().map_err(|e| format!("cannot open a UDP socket: {e}"))?;
    let drops = Drops::attach(&socket, &drops::Options::default()).map_err(|e| e.to_string())?;
    Ok((drops.hook().tracepoint(), drops.lacking().map(str::to_owned)))
}

fn try_tier_2() -> Result<(), String> {
    let socket = scratch_socket().map_err(|e| format!("cannot open a UDP socket: {e}"))?;
    Hooks::attach(&socket, &Options::default().btf).map(drop).map_err(|e| e.to_string())
}

fn ask_clock(sources: &[SourceSpec]) -> Clock {
    let reading = ClockReader::of(sources).read();
    let found = sentence::of_offset(&reading.offset, mono_now());
    Clock { state: reading.offset.state, found, note: reading.note }
}

fn ask_node(control: PathBuf) -> Option<(PathBuf, Result<String, String>)> {
    match client::status(&control) {
        Err(client::ClientError::NotRunning(_)) => None,
        Err(error) => Some((control, Err(error.to_string()))),
        Ok(report) => {
            let tier = report.tier.map_or("no kernel stamps".to_owned(), |t| format!("tier {t}"));
            let told = format!(
                "{} at {}, {tier}, with its clock {}",
                report.id,
                report.address,
                report.clock.sentence()
            );
            Some((control, Ok(told)))
        }
    }
}
