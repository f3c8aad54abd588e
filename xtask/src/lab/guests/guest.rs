//! One emulated machine on a port of the switch.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::switch::Port;
use crate::rig::{Host, Process};
use crate::vmtest::console::{MARK, Transcript};
use crate::vmtest::machine::qemu;

/// The device by which a guest is plugged into its host's namespace.
pub(super) const DEVICE: &str = "guest0";
/// How long the machine may take to switch itself off.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Guest {
    port: Port,
    name: String,
    process: Process,
}

/// Which guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) name: &'static str,
    pub(super) port: Port,
    pub(super) peer: Port,
    /// By how much its kernel is told to run its clocks faster than it would.
    pub(super) fast_ppm: i32,
    /// Error of what its chronyd is told.
    pub(super) lie_ms: f64,
}

/// What all guests of a trial boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot<'a> {
    pub(super) image: &'a Path,
    pub(super) initrd: &'a Path,
}

/// Bridges `eth0`, which leads to the switch, with a new device for a guest.
///
/// The guest has the port's addresses, so `eth0` loses them: frames for a bridge port's own address go no further.
pub(super) fn plug(host: &Host, port: Port) -> Result<()> {
    let own = |device: u8| format!("02:78:00:00:{device:02x}:{:02x}", port.number());
    host.namespace()
        .batch(&format!(
            "addr flush dev eth0\n\
             link set eth0 address {}\n\
             link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 addrgenmode none\n\
             tuntap add dev {DEVICE} mode tap\n\
             link set {DEVICE} address {} addrgenmode none\n\
             link set eth0 master br0\n\
             link set {DEVICE} master br0 up\n\
             link set br0 up\n",
            own(1),
            own(2),
        ))
        .with_context(|| format!("making {DEVICE}, the guest's TAP device"))
}

impl Guest {
    /// Boots a machine on a plugged host; its log and console are in `dir`.
    pub(super) fn boot(host: &Host, who: Who, boot: Boot<'_>, dir: &Path) -> Result<Self> {
        let Who { name, port, peer, fast_ppm, lie_ms } = who;
        let mac = |port: Port| port.mac().map(|byte| format!("{byte:02x}")).join(":");
        // On a busy machine an emulated timer may not tick within the kernel's test of it, which would be a panic.
        let mut words = String::from("console=ttyS0 quiet panic=-1 oops=panic no_timer_check");
        for (word, value) in [
            ("name", name.to_owned()),
            ("address", port.v4().to_string()),
            ("peer", peer.v4().to_string()),
            ("peer_mac", mac(peer)),
            ("hub_mac", mac(Port::HUB)),
            ("lie", format!("{:.6}", lie_ms / 1e3)),
            // As adjtimex counts: 2^-16 ppm.
            ("frequency", (fast_ppm * 65_536).to_string()),
        ] {
            write!(words, " {word}={value}")?;
        }
        let mut command = host.namespace().command(qemu()?);
        // Without checksums left to the card: what enters the switch is then, byte for byte, what leaves the guest.
        let card = format!("virtio-net-pci,netdev=link,mac={},csum=off,guest_csum=off,romfile=", mac(port));
        command
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512", "-no-reboot", "-nodefaults"])
            .args(["-display", "none", "-serial", "stdio", "-netdev"])
            .arg(format!("tap,id=link,ifname={DEVICE},script=no,downscript=no"))
            .args(["-device", &card, "-append", &words, "-kernel"])
            .arg(boot.image)
            .arg("-initrd")
            .arg(boot.initrd);
        let process = Process::spawn(&format!("guest-{name}"), command, dir)?;
        Ok(Self { port, name: name.to_owned(), process })
    }

    pub(super) fn port(&self) -> Port {
        self.port
    }

    /// The machine.
    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// An error with the end of the console if the machine or its node has ended, or its kernel has given up.
    pub(super) fn ensure_well(&mut self) -> Result<()> {
        let said = Transcript::read(&self.process.log());
        if let Some(fatal) = said.fatal {
            // What follows is a dump of registers.
            let log = self.process.log();
            let before: Vec<&str> = log.lines().take_while(|line| line.trim_end() != fatal).collect();
            let before = before[before.len().saturating_sub(10)..].join("\n    ");
            bail!("the kernel of guest {} gave up: {fatal}; before that:\n    {before}", self.name);
        }
        match said.status {
            // On its way out, or out.
            Some(0) => Ok(()),
            Some(status) => {
                bail!("guest {}'s node ended with {status}; {}", self.name, self.process.log_tail(20))
            }
            None => self.process.ensure_running(),
        }
    }

    /// Waits until the machine has switched itself off, its node having ended well.
    pub(super) fn wait_off(&mut self) -> Result<()> {
        self.process.wait(PATIENCE)?;
        let status = Transcript::read(&self.process.log()).status;
        ensure!(
            status == Some(0),
            "guest {}'s node ended with {status:?}; {}",
            self.name,
            self.process.log_tail(20)
        );
        Ok(())
    }

    /// The release of its kernel, and by which hardware it kept its time at the start and at the end.
    pub(super) fn facts(&self) -> (Option<String>, Vec<String>) {
        let log = self.process.log();
        let word = format!("{MARK} clocksource ");
        let clocks = log.lines().filter_map(|line| Some(line.trim_end().strip_prefix(&word)?.to_owned()));
        (Transcript::read(&log).release, clocks.collect())
    }
}
