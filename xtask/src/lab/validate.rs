//! What a scenario must fulfil beyond being well-formed.

use super::expectation::{Expectation, Reference, Subject};
use super::scenario::{Action, Event, LinkOrder, MAX_HOSTS, NodeOrder, Scenario, host_index};

/// What chronyd follows without trouble, and far more than real clocks do.
const MOST_DRIFT_PPM: f64 = 200.0;

/// The first thing that makes no sense.
pub(super) fn check(scenario: &Scenario) -> Result<(), String> {
    let Scenario { about, hosts, seconds, ntp, links, nodes, load, events, expectations, .. } = scenario;
    if about.trim().is_empty() {
        return Err("it does not say what it is about".into());
    }
    if !(2..=MAX_HOSTS).contains(hosts) {
        return Err(format!("{hosts} hosts; 2 to {MAX_HOSTS} are possible"));
    }
    if !(1.0..=3600.0).contains(seconds) {
        return Err(format!("{seconds} seconds; 1 to 3600 are possible"));
    }
    let known = |name: &String| match host_index(name).filter(|index| index < hosts) {
        Some(_) => Ok(()),
        None => Err(format!("there is no host `{name}`")),
    };
    links.iter().try_for_each(|order| link(order, &known))?;
    nodes.keys().try_for_each(known)?;
    for host in 0..*hosts {
        let delays = scenario.ntp_delay_ms(host);
        if !delays.iter().all(|ms| (0.0..=1_000.0).contains(ms)) {
            return Err(format!("{delays:?} ms to a time server and back; 0 to 1000 each are possible"));
        }
    }
    for (name, node) in nodes {
        check_times(name, node, *seconds)?;
        for ppm in [Some(node.clock_drift_ppm), node.ntp_drift_ppm].into_iter().flatten() {
            if !(-MOST_DRIFT_PPM..=MOST_DRIFT_PPM).contains(&ppm) {
                return Err(format!(
                    "`{name}` drifts by {ppm} ppm; {MOST_DRIFT_PPM} either way are possible"
                ));
            }
        }
    }
    load.nodes.iter().flatten().try_for_each(known)?;
    if !(0.0..=10_000.0).contains(&load.changes_per_s) || load.burst == 0 || load.keys == 0 {
        return Err(
            "the load needs a rate of 0 to 10000 a second, and bursts and keys of at least one".into()
        );
    }
    for event in events {
        if !ntp && matches!(event.action, Action::KillNtp {} | Action::NtpOffset { .. }) {
            return Err("an event is about NTP, and `ntp` is false".into());
        }
        check_event(event, *seconds, &known).map_err(|what| format!("event at {} s: {what}", event.at_s))?;
    }
    for expectation in expectations {
        check_expectation(expectation, scenario)
            .map_err(|what| format!("expectation `{}`: {what}", expectation.name))?;
    }
    Ok(())
}

fn link(order: &LinkOrder, known: &impl Fn(&String) -> Result<(), String>) -> Result<(), String> {
    order.from.iter().chain(&order.to).try_for_each(known)?;
    if order.from.is_some() && order.from == order.to {
        return Err(format!("a link from `{0}` to `{0}`", order.from.as_deref().unwrap_or_default()));
    }
    order.is.checked().map(drop).map_err(|error| error.to_string())
}

fn check_event(
    event: &Event,
    seconds: f64,
    known: &impl Fn(&String) -> Result<(), String>,
) -> Result<(), String> {
    let end = event.at_s + event.for_s.unwrap_or(0.0);
    if !(event.at_s >= 0.0 && event.for_s.is_none_or(|time| time > 0.0) && end <= seconds) {
        return Err(format!("it does not lie within the {seconds} s"));
    }
    match &event.action {
        Action::Link(order) => link(order, known),
        Action::Partition { one, other } => {
            one.iter().chain(other).try_for_each(known)?;
            if one.is_empty() || other.is_empty() || one.iter().any(|host| other.contains(host)) {
                return Err("a partition has two sides without common hosts".into());
            }
            Ok(())
        }
        Action::Stop { node, pulse_ms: short, every_ms: long }
        | Action::Churn { node, down_ms: short, every_ms: long, new_id: _ } => {
            known(node)?;
            if *short == 0 || short >= long {
                return Err(format!("{short} ms out of {long} ms"));
            }
            Ok(())
        }
        Action::Starve { node, hogs, nice } => {
            known(node)?;
            if !(1..=64).contains(hogs) || !(-20..=19).contains(nice) {
                return Err("1 to 64 hogs of niceness -20 to 19".into());
            }
            Ok(())
        }
        Action::Throttle { node, kbit_per_s, queue_bytes, competing_kbit_per_s: _ } => {
            known(node)?;
            // tbf keeps one packet of the largest size besides.
            if *kbit_per_s == 0 || *queue_bytes < 1_600 {
                return Err("a rate, and a queue of at least 1600 bytes".into());
            }
            Ok(())
        }
        Action::KillNtp {} => Ok(()),
        Action::NtpOffset { node, ms: _ } => known(node),
    }
}

fn check_times(name: &str, node: &NodeOrder, seconds: f64) -> Result<(), String> {
    let NodeOrder { clock_step_ms, clock_step_at_s, ntp_from_s, .. } = node;
    if let Some(from) = ntp_from_s.filter(|from| !(0.0..seconds).contains(from)) {
        return Err(format!("`{name}`'s chronyd starts after {from} s, not within the {seconds} s"));
    }
    if !(-60_000.0..=60_000.0).contains(clock_step_ms) || !(0.0..seconds).contains(clock_step_at_s) {
        return Err(format!(
            "`{name}`'s clock is stepped by {clock_step_ms} ms after {clock_step_at_s} s; a minute either way within \
             the {seconds} s is possible"
        ));
    }
    Ok(())
}

fn check_expectation(expectation: &Expectation, scenario: &Scenario) -> Result<(), String> {
    let Expectation { of, path, node, during, near, quiet, within, at_least, at_most, causes, says, .. } =
        expectation;
    let Scenario { seconds, hosts, nodes, events, .. } = scenario;
    let (seconds, hosts) = (*seconds, *hosts);
    for [from, to] in during.iter().chain(quiet) {
        if !(0.0 <= *from && from < to && *to <= seconds) {
            return Err(format!("the window {from} to {to} s is not within the {seconds} s"));
        }
    }
    if let Some(path) = path {
        let side = |side: &str| side == "*" || host_index(side).is_some_and(|index| index < hosts);
        if !path
            .split_once('>')
            .is_some_and(|(from, to)| side(from) && side(to) && (from == "*" || from != to))
        {
            return Err(format!("`{path}` is no path; write `a>b` or `*>c`"));
        }
    }
    if let Some(node) = node
        && host_index(node).is_none_or(|index| index >= hosts)
    {
        return Err(format!("there is no host `{node}`"));
    }
    if (*of == Subject::Verdict) == causes.is_empty() || *of != Subject::Verdict && says.is_some() {
        return Err("`causes` says what is to be blamed, `says` what the evidence is: with `verdict`, and with nothing else".into());
    }
    let about_liars = matches!(of, Subject::LieNamed | Subject::WronglyNamed);
    if !about_liars && !expectation.liars.is_empty()
        || *of == Subject::LieNamed && expectation.liars.is_empty()
    {
        return Err("`liars` says who is to be named: with `lie_named` and `wrongly_named` only".into());
    }
    if let Some(name) =
        expectation.liars.iter().find(|name| host_index(name).is_none_or(|index| index >= hosts))
    {
        return Err(format!("there is no host `{name}`"));
    }
    if *of == Subject::LieNamed
        && !events.iter().any(|event| matches!(event.action, Action::NtpOffset { .. }))
        && nodes.values().all(|node| node.ntp_offset_ms.is_none())
    {
        return Err("nobody lies: there is neither an event nor a node with `ntp_offset`".into());
    }
    if *of == Subject::CorrectedPercent && expectation.correction.is_none() {
        return Err("say which `correction` is meant".into());
    }
    if *of == Subject::StepSeen && !nodes.values().any(|node| node.clock_step_ms != 0.0) {
        return Err("no node's clock is stepped".into());
    }
    if near.is_some() != within.is_some() {
        return Err(
            "`near` says what to compare with and `within` how far it may be off: both or none".into()
        );
    }
    if (*near == Some(Reference::Quiet)) != quiet.is_some() {
        return Err("`near = \"quiet\"` and the window `quiet` belong together".into());
    }
    if near.is_none() && at_least.is_none() && at_most.is_none() {
        return Err("nothing is expected: give `near` with `within`, `at_least` or `at_most`".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let text = format!("about = 'x'\nseconds = 10\n{text}");
        Scenario::parse("test", &text).expect_err(&text).to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (text, said) in [
            ("hosts = 1", "1 hosts"),
            ("colour = 'red'", "unknown field `colour`"),
            ("[[link]]\nfrom = 'd'\nis = {}", "no host `d`"),
            ("[node.b]\nclock_drift_ppm = 201", "`b` drifts by 201 ppm"),
            ("[node.b]\nntp_drift_ppm = nan", "`b` drifts by NaN ppm"),
            ("[[link]]\nfrom = 'a'\nto = 'a'\nis = {}", "from `a` to `a`"),
            ("[[link]]\nis = { duplicate = 2 }", "duplicate is 2"),
            ("[[event]]\nat_s = 8\nfor_s = 3\ndo.kill_ntp = {}", "within the 10 s"),
            ("[[event]]\nat_s = 1\ndo.stop = { node = 'a', pulse_ms = 5, every_ms = 5 }", "5 ms out of 5 ms"),
            ("[[event]]\nat_s = 1\ndo.explode = {}", "unknown variant"),
            ("[[event]]\nat_s = 1\ndo.partition = { one = ['a'], other = ['a'] }", "two sides"),
            ("[node.b]\nclock_step_ms = 5\nclock_step_at_s = 10", "stepped by 5 ms after 10 s"),
            ("[node.b]\nntp_from_s = 10", "starts after 10 s"),
            ("[node.b]\nntp_delay_ms = [1, -1]", "[1.0, -1.0] ms to a time server"),
            ("ntp = false\n[[event]]\nat_s = 1\ndo.kill_ntp = {}", "`ntp` is false"),
            ("[[expect]]\nname = 'n'\nof = 'lie_named'\nat_most = '1s'", "`liars` says who"),
            ("[[expect]]\nname = 'n'\nof = 'lie_named'\nliars = ['b']\nat_most = '1s'", "nobody lies"),
            ("[[expect]]\nname = 'n'\nof = 'wrongly_named'\nliars = ['d']\nat_most = 0", "no host `d`"),
            ("[[expect]]\nname = 'n'\nof = 'corrected_percent'\nat_least = 1", "which `correction`"),
            ("[[expect]]\nname = 'n'\nof = 'step_seen'\nat_most = '1s'", "no node's clock is stepped"),
            ("[[expect]]\nname = 'n'\nof = 'network'", "nothing is expected"),
            ("[[expect]]\nname = 'n'\nof = 'verdict'\nat_least = 50", "what is to be blamed"),
            (
                "[[expect]]\nname = 'n'\nof = 'qdisc'\ncauses = ['network']\nat_most = '1ms'",
                "with nothing else",
            ),
            (
                "[[expect]]\nname = 'n'\nof = 'verdict'\ncauses = ['gremlins']\nat_least = 50",
                "unknown variant",
            ),
            ("[[expect]]\nname = 'n'\nof = 'network'\nnear = 'truth'", "both or none"),
            ("[[expect]]\nname = 'n'\nof = 'network'\npath = 'a-b'\nat_most = 1", "no path"),
            ("[[expect]]\nname = 'n'\nof = 'network'\nat_most = '1 minute'", "1 minute"),
        ] {
            let error = refused(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
