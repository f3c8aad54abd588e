//! Real time servers and clients, `chronyd -x`: they never touch the system's clock.
//!
//! A client with an `offset` believes that its source is off by that much and so reports this host's clock as
//! wrong by it, which is how tests get an NTP reading of any value from a machine with one clock.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Namespace, Process, wait_on};
use crate::exec;
use crate::setup::tools::locate;

/// Port of NTP, and so of a server unless told otherwise.
pub const NTP_PORT: u16 = 123;
/// Port on which chronyd answers queries, and the node's default.
pub const COMMAND_PORT: u16 = 323;

/// How long a client may take until it is synchronised: usually half a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// An NTP server that serves the system's time as stratum 1.
#[derive(Debug)]
pub struct ChronyServer {
    process: Process,
    address: SocketAddr,
}

/// What a [`ChronyServer`] serves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// How fast the served time runs against the system clock, in ppm; negative is slower.
    pub drift_ppm: f64,
}

impl ChronyServer {
    /// Starts one on `address`, in `namespace` or here, with its files in `dir`.
    pub fn start(
        name: &str,
        namespace: Option<&Namespace>,
        address: SocketAddr,
        served: Served,
        dir: &Path,
    ) -> Result<Self> {
        let drift = dir.join(format!("{name}.drift"));
        // chronyd corrects a clock that is `ppm` fast: what it serves then runs that much slower.
        fs::write(&drift, format!("{} 0.1\n", -served.drift_ppm))?;
        let ip = address.ip();
        let conf = format!(
            "local stratum 1\ndriftfile {}\nport {}\nbindaddress {ip}\nallow all\ncmdport 0\nbindcmdaddress /\n",
            drift.display(),
            address.port(),
        );
        let process = start(name, namespace, &conf, dir)?;
        Ok(Self { process, address })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The daemon, to be paused or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A `chronyd -x` that follows a server and answers queries about it on the command port.
#[derive(Debug)]
pub struct ChronyClient {
    process: Process,
    query: Command,
    command: SocketAddr,
    offset: f64,
}

/// How a [`ChronyClient`] follows its server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Following {
    /// The server.
    pub server: SocketAddr,
    /// Correction of the source in seconds; positive makes this host's clock appear slow by it.
    pub offset: f64,
    /// Where it answers queries.
    pub command: SocketAddr,
}

impl Following {
    /// Follows `server` and answers where the node asks by default.
    pub fn server(server: SocketAddr) -> Self {
        let loopback: IpAddr = std::net::Ipv4Addr::LOCALHOST.into();
        Self { server, offset: 0.0, command: SocketAddr::new(loopback, COMMAND_PORT) }
    }

    /// The same with a correction.
    pub fn offset(self, seconds: f64) -> Self {
        Self { offset: seconds, ..self }
    }

    /// The same with another command address.
    pub fn command(self, command: SocketAddr) -> Self {
        Self { command, ..self }
    }
}

impl ChronyClient {
    /// Starts one in `namespace` or here. It is not synchronised yet: see
    /// [`wait_synchronised`](Self::wait_synchronised).
    pub fn start(
        name: &str,
        namespace: Option<&Namespace>,
        following: Following,
        dir: &Path,
    ) -> Result<Self> {
        let Following { server, offset, command } = following;
        let conf = format!(
            "server {} port {} offset {offset:.9} iburst minpoll -2 maxpoll 0\n\
             port 0\ncmdport {}\nbindcmdaddress {}\nbindcmdaddress /\n",
            server.ip(),
            server.port(),
            command.port(),
            command.ip(),
        );
        let process = start(name, namespace, &conf, dir)?;
        let mut query = Command::new(found("chronyc")?);
        query.args(["-n", "-c", "-h", &command.ip().to_string(), "-p", &command.port().to_string()]);
        query.arg("tracking");
        let query = inside(namespace, query);
        Ok(Self { process, query, command, offset })
    }

    /// Where it answers queries, for the node's `--chrony`.
    pub fn command(&self) -> SocketAddr {
        self.command
    }

    /// The daemon, to be paused or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it reports now.
    pub fn tracking(&mut self) -> Result<Tracking> {
        Tracking::parse(&exec::output(&mut self.query)?)
    }

    /// Waits until it follows its server and reports the offset that it was given, to a millisecond.
    pub fn wait_synchronised(&mut self) -> Result<Tracking> {
        let offset = self.offset;
        self.wait_reporting(|| offset)
    }

    /// Waits until it follows its server and reports what `correction` says then, in seconds, to a millisecond: for a
    /// server that drifts.
    pub fn wait_reporting(&mut self, correction: impl Fn() -> f64) -> Result<Tracking> {
        let what = format!("{} to be synchronised", self.process.name());
        let alive = |client: &mut Self| client.process.ensure_running();
        wait_on(self, &what, PATIENCE, alive, |client| {
            let tracking = client.tracking()?;
            ensure!(tracking.synchronised, "not synchronised yet");
            ensure!((tracking.correction - correction()).abs() < 1e-3, "reports {tracking:?}");
            Ok(Some(tracking))
        })
    }
}

/// A tracking report, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// What is to be added to the system clock to be right: positive when the clock is slow.
    pub correction: f64,
    /// Round trip to the primary source.
    pub root_delay: f64,
    /// Dispersion up to the primary source.
    pub root_dispersion: f64,
    /// Has a source, and its leap status is not "not synchronised".
    pub synchronised: bool,
}

impl Tracking {
    /// Reads the line of `chronyc -c tracking`: reference id, its name, stratum, reference time, correction, last
    /// offset, RMS offset, frequency, residual, skew, root delay, root dispersion, interval, leap status.
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.trim().split(',').collect();
        ensure!(fields.len() >= 14, "chronyc says `{}`", line.trim());
        let number = |index: usize| {
            fields[index].parse::<f64>().with_context(|| format!("field {index} of `{}`", line.trim()))
        };
        Ok(Self {
            correction: number(4)?,
            root_delay: number(10)?,
            root_dispersion: number(11)?,
            synchronised: fields[0] != "00000000" && fields[13] != "Not synchronised",
        })
    }
}

/// Whether chronyd and chronyc can be run.
pub fn is_available() -> bool {
    ["chronyd", "chronyc"].iter().all(|program| locate(program).is_some())
}

fn start(name: &str, namespace: Option<&Namespace>, conf: &str, dir: &Path) -> Result<Process> {
    let file = |extension: &str| -> PathBuf { dir.join(format!("{name}.{extension}")) };
    let conf_file = file("conf");
    fs::write(&conf_file, format!("{conf}pidfile {}\n", file("pid").display()))
        .with_context(|| format!("writing {}", conf_file.display()))?;
    let mut command = Command::new(found("chronyd")?);
    // -x: leave the clock alone; -U, -u: run as whoever this is, without the package's own user.
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?;
    command.args(["-x", "-U", "-u", &user.name, "-d", "-L", "0", "-f"]).arg(&conf_file);
    Process::spawn(name, inside(namespace, command), dir)
}

fn found(program: &str) -> Result<PathBuf> {
    locate(program).with_context(|| format!("no {program}; `cargo xtask setup` gets it"))
}

/// `command`, to be run in `namespace`, if there is one.
fn inside(namespace: Option<&Namespace>, command: Command) -> Command {
    match namespace {
        Some(namespace) => namespace.wrap(&command),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracking_line_is_read_by_its_fields() {
        let line = "7F000001,127.0.0.1,2,1795471163.164916679,0.049998622,-0.000000017,0.000000937,0.168,\
                    -0.002,0.411,0.000006794,0.000002558,0.3,Normal\n";
        let tracking = Tracking::parse(line).unwrap();
        assert_eq!(tracking.correction, 0.049_998_622);
        assert_eq!(tracking.root_delay, 0.000_006_794);
        assert_eq!(tracking.root_dispersion, 0.000_002_558);
        assert!(tracking.synchronised);
    }

    #[test]
    fn a_client_without_a_source_is_not_synchronised() {
        let line = "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,1.0,1.0,0.0,\
                    Not synchronised\n";
        assert!(!Tracking::parse(line).unwrap().synchronised);
        assert!(Tracking::parse("506 Cannot talk to daemon").is_err());
    }
}
