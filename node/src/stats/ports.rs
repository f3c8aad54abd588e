//! Network times of one path by the port that its packets were sent from.

use probe_user::analysis::journey::{Journey, Leg};

use super::Distribution;
use crate::proto::SourcePorts;
use crate::report::SourcePortReport;

/// One distribution for each port of a sender that has several.
#[derive(Clone, Debug, Default)]
pub struct PortStats {
    ports: SourcePorts,
    network: Vec<Distribution>,
}

impl PortStats {
    /// The sender's ports are these. What is known of others is forgotten.
    pub fn set(&mut self, ports: &[u16]) {
        if *self.ports != *ports {
            self.ports = ports.into();
            self.network = vec![Distribution::default(); ports.len()];
        }
    }
    /// A journey from there is over.
    pub fn journey(&mut self, journey: &Journey) {
        let (Some(source), Some(network)) = (journey.source, journey.leg(Leg::Network)) else { return };
        let place = self.ports.iter().position(|port| *port == source.port);
        if let Some(of) = place.and_then(|place| self.network.get_mut(place)) {
            of.record(network);
        }
    }
    /// By port, the advertised one first; nothing is known of losses.
    pub fn reports(&self) -> Vec<SourcePortReport> {
        let report = |(port, of): (&u16, &Distribution)| SourcePortReport {
            port: *port,
            lost: 0,
            network: of.quantiles(),
        };
        self.ports.iter().zip(&self.network).map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{place, source_port};
    use probe_ebpf::time::{Bounded, MonoNs, Span};

    #[test]
    fn a_longer_path_shows_at_its_port_and_new_ports_begin_anew() {
        let mut stats = PortStats::default();
        let ports = [7, 8, 9];
        stats.set(&ports);
        for counter in 1..=300 {
            stats.set(&ports);
            let source = source_port(&ports, place(counter, 3));
            let slow = source.unwrap().port == 8;
            let mut legs = [None; 7];
            legs[Leg::Network.index()] = Some(Bounded::exact(Span::from_millis(if slow { 6 } else { 1 })));
            stats.journey(&Journey { legs, source, ..Journey::unknown(counter, MonoNs::from_nanos(0)) });
        }
        let ms: Vec<_> =
            stats.reports().iter().map(|p| (p.port, (p.network.p50_ns + 500_000) / 1_000_000)).collect();
        assert_eq!(ms, [(7, 1), (8, 6), (9, 1)]);
        assert_eq!(stats.reports().iter().map(|p| p.network.count).sum::<u64>(), 300);
        stats.set(&[7, 8]);
        assert!(stats.reports().iter().all(|p| p.network.count == 0));
        stats.set(&[]);
        assert!(stats.reports().is_empty());
    }
}
