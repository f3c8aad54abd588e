//! Packets and bytes, by the nodes' own metrics, held against the kernel's counters of their namespace.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::rig::Namespace;
use crate::rig::metrics::{get, sample};

/// By how much nodes and kernel may differ: they are not read at the very same moment.
const TOLERANCE: f64 = 0.05;

/// First totals, then, of a time, rates.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Datagrams that the nodes say they sent.
    pub(super) packets: f64,
    /// Bytes in them, without headers.
    pub(super) bytes: f64,
    /// Datagrams that the kernel counted as sent, without those to a port that nobody listens on: each node asks
    /// a chronyd that is not there.
    pub(super) kernel_packets: f64,
    /// Bytes that went through the loopback interface, with all headers and those questions.
    pub(super) wire_bytes: f64,
}

impl Traffic {
    /// Totals of all nodes so far.
    pub(super) fn read(namespace: &Namespace, metrics: &[SocketAddr]) -> Result<Self> {
        namespace.within(|| {
            let mut all = Self::default();
            for address in metrics {
                let text = get(*address)?;
                all.packets += sample(&text, "pikoscope_packets_sent_total")?;
                all.bytes += sample(&text, "piko_gossip_packet_bytes_outbound_total")?;
            }
            let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
            all.kernel_packets = udp(&snmp, "OutDatagrams")? - udp(&snmp, "NoPorts")?;
            all.wire_bytes = loopback_bytes(&fs::read_to_string("/proc/thread-self/net/dev")?)?;
            Ok(all)
        })?
    }

    /// Rates a second and node since this was read, `elapsed` ago.
    pub(super) fn until_now(
        self,
        namespace: &Namespace,
        metrics: &[SocketAddr],
        elapsed: Duration,
    ) -> Result<Self> {
        let now = Self::read(namespace, metrics)?;
        let rate = |before: f64, now: f64| (now - before) / elapsed.as_secs_f64() / metrics.len() as f64;
        let rates = Self {
            packets: rate(self.packets, now.packets),
            bytes: rate(self.bytes, now.bytes),
            kernel_packets: rate(self.kernel_packets, now.kernel_packets),
            wire_bytes: rate(self.wire_bytes, now.wire_bytes),
        };
        ensure!(
            (rates.packets - rates.kernel_packets).abs() <= TOLERANCE * rates.kernel_packets,
            "the nodes say that they sent {:.2} packets a second, the kernel counted {:.2}",
            rates.packets,
            rates.kernel_packets
        );
        ensure!(rates.wire_bytes >= rates.bytes, "more bytes in packets than on the wire: {rates:?}");
        Ok(rates)
    }
}

/// A counter of the two lines `Udp:` of /proc/net/snmp: names, then values.
fn udp(snmp: &str, name: &str) -> Result<f64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().context("no Udp")?, lines.next().context("no Udp")?);
    let at = names.split_whitespace().position(|n| n == name).with_context(|| format!("no Udp {name}"))?;
    Ok(values.split_whitespace().nth(at).context("/proc/net/snmp is short")?.parse()?)
}

/// Bytes sent by `lo` in /proc/net/dev: the ninth number.
fn loopback_bytes(dev: &str) -> Result<f64> {
    let line = dev.lines().find_map(|line| line.trim_start().strip_prefix("lo:")).context("no lo")?;
    Ok(line.split_whitespace().nth(8).context("/proc/net/dev is short")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read_by_name() {
        let snmp =
            "Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts OutDatagrams\nUdp: 9 2 30\nUdpLite: X\nUdpLite: 5\n";
        assert_eq!(udp(snmp, "OutDatagrams").unwrap(), 30.0);
        assert_eq!(udp(snmp, "NoPorts").unwrap(), 2.0);
        assert!(udp(snmp, "Lost").is_err());
        let dev = "h\n    lo: 1 2 3 4 5 6 7 8 99 10 11\n  eth0: 1 2 3 4 5 6 7 8 9\n";
        assert_eq!(loopback_bytes(dev).unwrap(), 99.0);
    }
}
