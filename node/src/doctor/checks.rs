//! Judges what was seen. No IO.

use probe_user::clock::ClockState;

use super::facts::Facts;
use super::{Check, Diagnosis, State, Tier, hardware};

/// First kernel with the BPF ring buffer.
const OLDEST: (u32, u32) = (5, 8);

/// The host's state, one line per thing, and whether it is ready.
pub fn examine(facts: &Facts) -> Diagnosis {
    let tier = match (&facts.tier_1, &facts.tier_0) {
        (Ok(_), _) => Some(1),
        (Err(_), Ok(())) => Some(0),
        (Err(_), Err(_)) => None,
    };
    let checks = [
        Some(kernel(facts)),
        Some(btf(facts)),
        Some(drops(facts)),
        Some(privileges(facts)),
        Some(lockdown(facts)),
        Some(time_namespace(facts)),
        Some(hardware::check(&facts.hardware)),
        Some(clock(facts)),
        node(facts),
    ];
    Diagnosis {
        ready: facts.tier_1.is_ok() && facts.clock.state == ClockState::Synchronised,
        tier,
        checks: checks.into_iter().flatten().collect(),
        tiers: tiers(facts),
    }
}

fn check(name: &'static str, state: State, found: impl Into<String>, todo: Option<&str>) -> Check {
    Check { name, state, found: found.into(), todo: todo.map(str::to_owned) }
}

/// Things that tier 1 needs fail only if tier 1 does; otherwise the attempt has shown that they do not matter.
fn needed_by_tier_1(facts: &Facts) -> State {
    if facts.tier_1.is_ok() { State::Warn } else { State::Fail }
}

fn kernel(facts: &Facts) -> Check {
    let mut numbers = facts.kernel.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    match version {
        Some(version) if version < OLDEST => check(
            "kernel",
            needed_by_tier_1(facts),
            format!(
                "{}: older than {}.{}, which brought the BPF ring buffer",
                facts.kernel, OLDEST.0, OLDEST.1
            ),
            Some("upgrade the kernel for tier 1; tier 0 works on this one"),
        ),
        _ => check("kernel", State::Ok, &facts.kernel, None),
    }
}

fn btf(facts: &Facts) -> Check {
    match &facts.btf {
        Ok(offset) => check("btf", State::Ok, format!("sk_buff.tstamp is at byte {offset}"), None),
        // Without it tier 1 takes the receive stamp from the datagram, as tier 0 does.
        Err(why) => {
            check("btf", State::Warn, why, Some("run a kernel with CONFIG_DEBUG_INFO_BTF=y and mount /sys"))
        }
    }
}

fn drops(facts: &Facts) -> Check {
    match &facts.drops {
        Ok((tracepoint, None)) => {
            check("drops", State::Ok, format!("by reason and datagram, from {tracepoint}"), None)
        }
        Ok((_, Some(lacking))) => {
            check("drops", State::Warn, lacking, Some("Linux 6.11 and newer tell the reason of every drop"))
        }
        Err(why) => check(
            "drops",
            State::Warn,
            format!("known by the socket's own count only: {why}"),
            Some("grant what tier 1 needs; without it drops are counted, but not their reasons"),
        ),
    }
}

fn privileges(facts: &Facts) -> Check {
    let unprivileged = match facts.unprivileged_bpf_disabled.as_deref() {
        Some("0") => "; unprivileged eBPF is allowed on this host, which is not enough for the probe",
        _ => "",
    };
    match facts.capabilities.map(super::privileges::Capabilities::missing) {
        None => check("privileges", State::Warn, "cannot read /proc/self/status", Some("mount /proc")),
        Some(missing) if missing.is_empty() => {
            check("privileges", State::Ok, "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there", None)
        }
        Some(missing) => check(
            "privileges",
            needed_by_tier_1(facts),
            format!("{} missing{unprivileged}", missing.join(", ")),
            Some("run as root, or: setcap cap_bpf,cap_net_admin,cap_perfmon+ep $(command -v pikoscope)"),
        ),
    }
}

fn lockdown(facts: &Facts) -> Check {
    // "none [integrity] confidentiality": the brackets mark the mode in force.
    let text = facts.lockdown.as_deref();
    let mode = text.and_then(|t| t.split('[').nth(1)?.split(']').next());
    match (text, mode) {
        (None, _) => check("lockdown", State::Ok, "not built into this kernel", None),
        (_, Some("confidentiality")) => check(
            "lockdown",
            State::Warn,
            "confidentiality: eBPF may not read kernel memory",
            Some(
                "the receive stamp is taken from the datagram instead; boot with lockdown=integrity to let the filter read it",
            ),
        ),
        (_, Some(mode)) => check("lockdown", State::Ok, mode, None),
        (Some(text), None) => check("lockdown", State::Warn, format!("not understood: {text:?}"), None),
    }
}

fn time_namespace(facts: &Facts) -> Check {
    let Some(text) = &facts.timens_offsets else {
        return check("time namespace", State::Ok, "not built into this kernel", None);
    };
    let shifted: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first() == Some(&"monotonic") && words.iter().skip(1).any(|n| *n != "0"))
        .map(|words| words.join(" "))
        .collect();
    if shifted.is_empty() {
        return check("time namespace", State::Ok, "clocks are not shifted", None);
    }
    check(
        "time namespace",
        State::Fail,
        format!("clocks are shifted ({}): eBPF stamps would be off by that much", shifted.join(", ")),
        Some("run the node outside this time namespace; tier 0 works inside"),
    )
}

fn clock(facts: &Facts) -> Check {
    let clock = &facts.clock;
    let state = match clock.state {
        ClockState::Synchronised => State::Ok,
        ClockState::FreeRunning | ClockState::Unsynchronised => State::Fail,
    };
    let todo = clock.note.clone().or_else(|| {
        (state != State::Ok).then(|| "run chronyd on this host, and see `chronyc tracking`".to_owned())
    });
    Check { name: "clock", state, found: clock.found.clone(), todo }
}

fn node(facts: &Facts) -> Option<Check> {
    let (path, answer) = facts.node.as_ref()?;
    Some(match answer {
        Ok(node) => {
            check("running node", State::Ok, format!("{node} (control socket {})", path.display()), None)
        }
        Err(why) => check("running node", State::Warn, why, None),
    })
}

fn tiers(facts: &Facts) -> Vec<Tier> {
    let limit = facts.tier_1.as_ref().ok().and_then(Clone::clone);
    vec![
        Tier {
            tier: 2,
            name: "eBPF hooks on the way out (--probe hooks)",
            available: facts.tier_2.is_ok(),
            reason: facts.tier_2.clone().err(),
            cost: "never taken unasked: the hooks run for every packet that the host sends, a fraction of a microsecond each; own packets are told by their socket, so on a pod's network, behind a veth, run it with the host's network",
        },
        Tier {
            tier: 1,
            name: "eBPF socket filter",
            available: facts.tier_1.is_ok(),
            reason: match &facts.tier_1 {
                Err(why) => Some(why.clone()),
                Ok(_) => limit.map(|why| format!("with T4 from the datagram, not from the filter: {why}")),
            },
            cost: "a fraction of a microsecond of kernel time per gossip datagram, no syscall more than tier 0; while a node runs the kernel stamps every packet the host receives",
        },
        Tier {
            tier: 0,
            name: "SO_TIMESTAMPING",
            available: facts.tier_0.is_ok(),
            reason: facts.tier_0.clone().err(),
            cost: "no privilege; ingress_stack and socket_queue are not told apart; while a node runs the kernel stamps every packet the host receives",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::facts::Clock;
    use super::super::privileges::Capabilities;
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.1.0-18-cloud-amd64".into(),
            btf: Ok(32),
            capabilities: Capabilities::parse("CapEff:\t000001ffffffffff"),
            unprivileged_bpf_disabled: Some("2".into()),
            lockdown: Some("[none] integrity confidentiality".into()),
            timens_offsets: Some("monotonic           0         0\nboottime            0         0".into()),
            tier_1: Ok(None),
            drops: Ok(("kfree_skb", None)),
            tier_2: Ok(()),
            tier_0: Ok(()),
            hardware: Ok(vec![("eth0".into(), Ok(0))]),
            clock: Clock { state: ClockState::Synchronised, found: "synchronised".into(), note: None },
            node: None,
        }
    }
    fn states(facts: &Facts) -> Vec<(&'static str, State)> {
        let found = examine(facts);
        found.checks.iter().filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    fn named<'a>(found: &'a Diagnosis, name: &str) -> &'a Check {
        found.checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn a_good_host_is_ready() {
        let found = examine(&good());
        assert!(found.ready && found.tier == Some(1), "{found:?}");
        assert!(found.checks.iter().all(|c| c.state == State::Ok && c.todo.is_none()), "{found:?}");
    }

    #[test]
    fn without_privileges_tier_0_is_left_and_the_remedy_named() {
        let facts = Facts {
            capabilities: Capabilities::parse("CapEff:\t0"),
            tier_1: Err("the kernel does not permit it".into()),
            ..good()
        };
        let found = examine(&facts);
        assert_eq!((found.ready, found.tier), (false, Some(0)));
        assert_eq!(states(&facts), [("privileges", State::Fail)]);
        let privileges = named(&found, "privileges");
        assert_eq!(privileges.found, "CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF missing");
        assert!(privileges.todo.as_ref().unwrap().contains("setcap"));
        assert_eq!(found.tiers[1].reason.as_deref(), Some("the kernel does not permit it"));
    }

    #[test]
    fn every_failing_line_says_what_to_do() {
        let facts = Facts {
            kernel: "5.4.0-1-amd64".into(),
            btf: Err("cannot read /sys/kernel/btf/vmlinux".into()),
            capabilities: Capabilities::parse("CapEff:\t0"),
            lockdown: Some("none integrity [confidentiality]".into()),
            timens_offsets: Some("monotonic  86400  0\nboottime  0  0".into()),
            tier_1: Err("no".into()),
            drops: Err("no".into()),
            tier_0: Err("no".into()),
            clock: Clock { state: ClockState::Unsynchronised, found: "not synchronised".into(), note: None },
            ..good()
        };
        let found = examine(&facts);
        assert_eq!((found.ready, found.tier), (false, None));
        assert_eq!(found.checks.len(), 8);
        // What nobody needs is no failure.
        for check in found.checks.iter().filter(|check| check.name != "hardware stamps") {
            assert!(check.state != State::Ok && check.todo.is_some(), "{check:?}");
        }
        assert!(named(&found, "time namespace").found.contains("monotonic 86400 0"));
    }

    #[test]
    fn what_tier_1_proved_unimportant_does_not_fail_the_host() {
        let facts = Facts { capabilities: Capabilities::parse("CapEff:\t0"), lockdown: None, ..good() };
        assert!(examine(&facts).ready);
        assert_eq!(states(&facts), [("privileges", State::Warn)]);
    }

    #[test]
    fn a_clock_that_is_not_synchronised_is_not_ready_and_its_reason_shown() {
        let mut facts = good();
        facts.clock.state = ClockState::FreeRunning;
        facts.clock.note = Some("chronyd lost its upstream".into());
        let found = examine(&facts);
        assert!(!found.ready && found.tier == Some(1));
        assert_eq!(named(&found, "clock").todo.as_deref(), Some("chronyd lost its upstream"));
    }
}
