//! What a host's kernel counted, and what its node used: truth from outside the node.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::rig::Namespace;

/// Counters of one network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// UDP datagrams sent, over IPv4 and IPv6.
    pub udp_sent: u64,
    /// UDP datagrams dropped because a socket's buffer was full.
    pub udp_rcvbuf_errors: u64,
    /// Packets on the loopback interface.
    pub loopback: u64,
    /// ICMP messages sent, over IPv4.
    pub icmp_sent: u64,
}

impl Counters {
    /// Those of `namespace` now.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        // `/proc/net` is the process' view; the thread in the namespace has its own.
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            fs::read_to_string(&path).with_context(|| path)
        };
        namespace.within(|| Self::parse(&read("snmp")?, &read("snmp6")?, &read("dev")?))?
    }

    fn parse(snmp: &str, snmp6: &str, dev: &str) -> Result<Self> {
        let v4 = |protocol: &str, name: &str| -> Result<u64> {
            let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(protocol));
            let (names, values) =
                lines.next().zip(lines.next()).with_context(|| format!("no {protocol} in snmp"))?;
            let mut both = names.split_whitespace().zip(values.split_whitespace());
            let value =
                both.find(|(found, _)| *found == name).with_context(|| format!("no {name} in snmp"))?.1;
            Ok(value.parse()?)
        };
        let v6 = |name: &str| -> Result<u64> {
            // Absent without IPv6.
            let value = snmp6.lines().find_map(|line| line.strip_prefix(name));
            Ok(value.map_or(Ok(0), |value| value.trim().parse())?)
        };
        let lo = dev.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no lo in dev")?;
        let sent = lo.split_whitespace().nth(9).context("no packets of lo")?;
        Ok(Self {
            udp_sent: v4("Udp: ", "OutDatagrams")? + v6("Udp6OutDatagrams ")?,
            udp_rcvbuf_errors: v4("Udp: ", "RcvbufErrors")? + v6("Udp6RcvbufErrors ")?,
            loopback: sent.parse()?,
            icmp_sent: v4("Icmp: ", "OutMsgs")?,
        })
    }

    /// UDP datagrams sent to other hosts. On the loopback interface there are only questions to the host's chronyd,
    /// their answers, and an ICMP message for each of the `refused` ones, to which nobody listened.
    pub fn udp_sent_out(&self, refused: u64) -> u64 {
        (self.udp_sent + refused).saturating_sub(self.loopback)
    }
}

/// What one process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time, user and system, in seconds.
    pub cpu_s: f64,
    /// Resident memory in bytes, the most it ever was.
    pub rss_bytes: u64,
    /// Open files.
    pub fds: u64,
}

impl Usage {
    /// That of a process until now; none if it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten()? as f64;
        let (ticks, rss_bytes) = (cpu_ticks(&stat)?, peak(&status)?);
        Some(Self { cpu_s: ticks as f64 / per_second, rss_bytes, fds })
    }
}

/// utime + stime of `/proc/PID/stat`; the name in parentheses may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// VmHWM of `/proc/PID/status`, in bytes.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let snmp =
            "Icmp: InMsgs OutMsgs\nIcmp: 1 2\nUdp: InDatagrams OutDatagrams RcvbufErrors\nUdp: 5 70 3\n";
        let snmp6 = "Udp6OutDatagrams                \t8\nUdp6RcvbufErrors                \t1\n";
        let dev = "Inter-| ...\n face | ...\n    lo: 1 2 0 0 0 0 0 0 9 12 0 0 0 0 0 0\n";
        let counters = Counters::parse(snmp, snmp6, dev).unwrap();
        assert_eq!(counters, Counters { udp_sent: 78, udp_rcvbuf_errors: 4, loopback: 12, icmp_sent: 2 });
        assert_eq!(counters.udp_sent_out(2), 68);
        assert_eq!(Counters::parse(snmp, "", dev).unwrap().udp_sent, 70);
        assert!(Counters::parse("", "", dev).is_err());
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 100 200 300";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t    12 kB\n"), Some(12 * 1024));
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.rss_bytes > 0 && own.fds > 0, "{own:?}");
    }
}
