//! What the stamps say. Pure.

use probe_ebpf::time::Span;

use super::{Differences, Findings, Packet, T3_LIMIT, TransmitFindings};
use crate::clock::mapping::STEP_SLACK;

pub(super) fn judge(packets: &[Packet], mapping_error: Span, no_hooks: Option<String>) -> Findings {
    let t4 = |packet: &Packet| (packet.event.and_then(|event| event.received()), packet.datagram);
    let pairs = packets.iter().map(t4);
    let slack = mapping_error + STEP_SLACK;
    let mut findings = Findings {
        packets: packets.len() as u32,
        mapping_error_ns: mapping_error.as_nanos(),
        t4: Differences::of(pairs.clone().filter_map(|(ours, theirs)| Some(ours? - theirs?))),
        t4_unequal: pairs.filter(|(ours, theirs)| ours.is_none() || ours != theirs).count() as u32,
        receive_order_broken: packets.iter().filter(|packet| !received_in_order(packet, slack)).count()
            as u32,
        tier_2: match no_hooks {
            Some(why) => Err(why),
            None => Ok(transmit(packets)),
        },
        failures: Vec::new(),
    };
    findings.failures = failures(&findings);
    findings
}

fn received_in_order(packet: &Packet, slack: Span) -> bool {
    let (Some(event), Some(t4), Some(t6)) = (packet.event, packet.t4, packet.read) else { return false };
    // The kernel's fast clock, which the filter reads, may be some nanoseconds off the one that userspace reads.
    t4 <= event.filtered() + slack && event.filtered() <= t6 + STEP_SLACK
}

fn transmit(packets: &[Packet]) -> TransmitFindings {
    let differences = |stage: usize| {
        let pair = move |packet: &Packet| {
            let hooks = packet.hooks?;
            let ours = [hooks.t2, hooks.t3][stage]?;
            Some(ours.at - packet.errqueue[stage]?)
        };
        Differences::of(packets.iter().filter_map(pair))
    };
    let in_order = |packet: &&Packet| {
        let Some((t2, t3)) = packet.hooks.and_then(|hooks| hooks.t2.zip(hooks.t3)) else { return false };
        let [before, after] = packet.sent;
        // On loopback the driver has it before `sendmsg` returns, unless the kernel was interrupted on the way.
        before <= t2.at + STEP_SLACK && t2.at <= t3.at && t2.at <= after + STEP_SLACK
    };
    TransmitFindings {
        t2: differences(0),
        t3: differences(1),
        order_broken: (packets.len() - packets.iter().filter(in_order).count()) as u32,
    }
}

fn failures(findings: &Findings) -> Vec<String> {
    let all = findings.packets;
    let mut failures = Vec::new();
    let mut fail = |is: bool, what: String| {
        if is {
            failures.push(what);
        }
    };
    fail(all == 0, "no packet was compared".into());
    fail(
        findings.t4_unequal > 0,
        format!("T4 of {} of {all} packets is not the datagram's own stamp", findings.t4_unequal),
    );
    fail(
        findings.receive_order_broken > 0,
        format!("T4, T5 and T6 of {} of {all} packets are out of order", findings.receive_order_broken),
    );
    if let Ok(transmit) = &findings.tier_2 {
        let (t3, limit) = (transmit.t3, T3_LIMIT.as_nanos());
        fail(t3.pairs < all, format!("{} of {all} packets have no T3 at both tiers", all - t3.pairs));
        fail(
            t3.p99_magnitude_ns > limit,
            format!(
                "T3 differs from the error queue's by {} ns at the 99th percentile; the limit is {limit} ns",
                t3.p99_magnitude_ns
            ),
        );
        fail(
            transmit.order_broken > 0,
            format!("T1, T2 and T3 of {} of {all} packets are out of order", transmit.order_broken),
        );
    }
    failures
}

#[cfg(test)]
mod tests {
    use probe_ebpf::event::PacketEvent;
    use probe_ebpf::time::{MonoNs, RealNs};

    use super::*;
    use crate::analysis::breakdown::Stamp;
    use crate::departures::Departure;

    const REAL: i64 = 1_700_000_000_000_000_000;

    fn at(us: i64) -> MonoNs {
        MonoNs::from_nanos(us * 1000)
    }
    fn good() -> Packet {
        let stamp = |us| Some(Stamp::exact(at(us)));
        let event = PacketEvent {
            tstamp: REAL as u64,
            filter_mono: at(25).as_nanos() as u64,
            ..PacketEvent::default()
        };
        Packet {
            sent: [at(10), at(30)],
            datagram: Some(RealNs::from_nanos(REAL)),
            event: Some(event),
            read: Some(at(40)),
            errqueue: [Some(at(13)), Some(at(16))],
            hooks: Some(Departure { cookie: 0, t1: at(10), t2: stamp(12), t3: stamp(15) }),
            t4: Some(at(20)),
        }
    }
    fn said(packets: &[Packet]) -> String {
        judge(packets, Span::from_nanos(40), None).failures.join("; ")
    }

    #[test]
    fn equal_stamps_pass() {
        let found = judge(&[good(); 3], Span::from_nanos(40), None);
        assert_eq!(found.failures, Vec::<String>::new());
        assert_eq!((found.t4.pairs, found.t4.max_magnitude_ns), (3, 0));
        let transmit = found.tier_2.expect("hooks");
        assert_eq!((transmit.t2.p50_ns, transmit.t3.p50_ns), (-1000, -1000));
        let found = judge(&[Packet { hooks: None, ..good() }], Span::ZERO, Some("no BTF".into()));
        assert_eq!((found.tier_2, found.failures.len()), (Err("no BTF".into()), 0));
    }

    #[test]
    fn one_nanosecond_in_one_packet_fails() {
        let wrong = Packet { datagram: Some(RealNs::from_nanos(REAL + 1)), ..good() };
        assert_eq!(said(&[good(), wrong]), "T4 of 1 of 2 packets is not the datagram's own stamp");
        let none = Packet { event: good().event.map(|e| PacketEvent { tstamp: 0, ..e }), ..good() };
        assert_eq!(said(&[none]), "T4 of 1 of 1 packets is not the datagram's own stamp");
    }

    #[test]
    fn what_is_late_missing_or_out_of_order_fails() {
        let slow = Packet { errqueue: [Some(at(13)), Some(at(36))], ..good() };
        assert!(said(&[slow]).contains("by 21000 ns at the 99th percentile"), "{}", said(&[slow]));
        let mut many = vec![good(); 199];
        many.push(slow);
        assert_eq!(said(&many), "", "one of 200 may be late");
        assert!(said(&[Packet { hooks: None, ..good() }]).contains("no T3 at both tiers"));
        let swapped = Packet { sent: [at(13), at(30)], ..good() };
        assert_eq!(said(&[swapped]), "T1, T2 and T3 of 1 of 1 packets are out of order");
        let before = Packet { t4: Some(at(26)), ..good() };
        assert_eq!(said(&[before]), "T4, T5 and T6 of 1 of 1 packets are out of order");
        assert_eq!(said(&[]), "no packet was compared");
    }
}
