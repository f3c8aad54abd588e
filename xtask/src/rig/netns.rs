//! Hosts as network namespaces around a switch, which is a bridge in a namespace of its own.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use super::process::wrap;
use crate::exec;

/// A named network namespace. Dropping it deletes the name; the namespace goes with its last process.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates one with the loopback interface up. `label` is made unique with this process' pid.
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ps{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        exec::output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.batch("link set lo up\n")?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command to be run inside. The program replaces `nsenter`, so its pid is the child's pid.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.wrap(&Command::new(program))
    }

    /// `command`, to be run inside.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.path());
        wrap(Command::new("nsenter").arg(net).arg("--"), command)
    }

    /// Calls `inside` on a thread of its own that is in the namespace: sockets made there stay in it.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("opening namespace {}", self.name))?;
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
                Ok(inside())
            });
            entered.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs `ip` subcommands inside, one a line.
    pub fn batch(&self, lines: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        exec::output_with_input(ip.args(["-netns", &self.name, "-batch", "-"]), lines)
            .with_context(|| format!("in namespace {}", self.name))
            .map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // When this fails the sandbox still takes it along.
        let _ = exec::output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// One host: a namespace with `eth0` on the switch.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    number: u8,
}

impl Host {
    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its IPv4 address, 10.77.0.1 for the first host.
    pub fn v4(&self) -> Ipv4Addr {
        v4(self.number)
    }

    /// Its IPv6 address, fd77::1 for the first host.
    pub fn v6(&self) -> Ipv6Addr {
        v6(self.number)
    }
}

/// Hosts on one switch, all of them able to reach each other and the switch.
#[derive(Debug)]
pub struct Hosts {
    // Dropped before the switch, in this order.
    hosts: Vec<Host>,
    switch: Namespace,
}

/// The most hosts on one switch: its /24 without the switch's own address.
pub const MAX_HOSTS: usize = 250;

/// Last byte of the switch's addresses.
const SWITCH: u8 = 254;

impl Hosts {
    /// Creates `count` hosts on a bridge. Needs root.
    pub fn new(count: usize) -> Result<Self> {
        let hosts = Self::unlinked(count)?;
        hosts.switch.batch(&format!(
            "link add br0 type bridge stp_state 0 mcast_snooping 0\n\
             link set br0 up\n\
             addr add {}/24 dev br0\n\
             addr add {}/64 dev br0 nodad\n",
            v4(SWITCH),
            v6(SWITCH)
        ))?;
        for Host { namespace, number } in hosts.iter() {
            namespace.batch(&format!(
                "link add eth0 address 02:77:00:00:00:{number:02x} type veth peer name p{number} netns {}\n\
                 addr add {}/24 dev eth0\n\
                 addr add {}/64 dev eth0 nodad\n\
                 link set eth0 up\n",
                hosts.switch.name(),
                v4(*number),
                v6(*number)
            ))?;
            hosts.switch.batch(&format!("link set p{number} master br0 up\n"))?;
        }
        Ok(hosts)
    }

    /// Creates `count` hosts and a switch with nothing between them: no bridge and no `eth0`, which is for
    /// something else to make, as the lab's switch does. Needs root.
    pub fn unlinked(count: usize) -> Result<Self> {
        ensure!((1..=MAX_HOSTS).contains(&count), "{count} hosts; 1 to {MAX_HOSTS} fit on a switch");
        let switch = Namespace::new("switch").context("creating the switch")?;
        let hosts = (1..=u8::try_from(count).context("hosts")?)
            .map(|number| {
                let namespace = Namespace::new(&format!("h{number}"))
                    .with_context(|| format!("creating host {number}"))?;
                Ok(Host { namespace, number })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { hosts, switch })
    }

    /// The hosts, in the order of their addresses.
    pub fn iter(&self) -> std::slice::Iter<'_, Host> {
        self.hosts.iter()
    }

    /// The host with this index, from 0.
    pub fn get(&self, index: usize) -> Option<&Host> {
        self.hosts.get(index)
    }

    /// The switch's namespace, which reaches every host.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// The switch's IPv4 address.
    pub fn switch_v4(&self) -> Ipv4Addr {
        v4(SWITCH)
    }

    /// The switch's IPv6 address.
    pub fn switch_v6(&self) -> Ipv6Addr {
        v6(SWITCH)
    }
}

impl std::ops::Index<usize> for Hosts {
    type Output = Host;

    fn index(&self, index: usize) -> &Host {
        &self.hosts[index]
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number))
}
