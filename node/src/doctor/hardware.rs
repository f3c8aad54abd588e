//! Which interfaces could stamp what they receive.

use probe_user::hardware::{self, HardwareError};

use super::{Check, State};

/// Interfaces without a clock that are named, at most: a host of containers has hundreds.
const NAMED: usize = 8;

/// An interface, and the number of its clock if its stamps can be used; else why not, unless it just has no clock.
pub(super) type Interface = (String, Result<u32, Option<String>>);

/// Asks all interfaces of this network namespace; changes nothing.
pub(super) fn survey() -> Result<Vec<Interface>, String> {
    let interfaces = nix::net::if_::if_nameindex().map_err(|e| format!("cannot list the interfaces: {e}"))?;
    let names = interfaces.iter().filter_map(|interface| interface.name().to_str().ok().map(str::to_owned));
    let examined = |name: String| {
        let found = hardware::examine(&name).map_err(|why| match why {
            HardwareError::NoClock { .. } => None,
            why => Some(why.to_string()),
        });
        (name, found)
    };
    Ok(names.filter(|name| name != "lo").map(examined).collect())
}

/// Never more than a remark: nobody needs them, and most virtual machines cannot have them.
pub(super) fn check(surveyed: &Result<Vec<Interface>, String>) -> Check {
    let found = match surveyed {
        Ok(interfaces) => found(interfaces),
        Err(why) => why.clone(),
    };
    Check { name: "hardware stamps", state: State::Ok, found, todo: None }
}

fn found(interfaces: &[Interface]) -> String {
    let able = interfaces.iter().filter_map(|(name, found)| Some((name, found.as_ref().ok()?)));
    let able: Vec<_> = able.map(|(name, phc)| format!("{name} (ptp{phc})")).collect();
    let mut parts: Vec<String> = Vec::new();
    if !able.is_empty() {
        parts.push(format!("{} could give them: --hardware-stamps", able.join(", ")));
    }
    parts.extend(interfaces.iter().filter_map(|(_, found)| found.clone().err().flatten()));
    let without: Vec<_> = interfaces.iter().filter(|(_, found)| *found == Err(None)).collect();
    let names: Vec<_> = without.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
    if !names.is_empty() && able.is_empty() {
        let more = without.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        parts.push(format!("not possible on {}{more}: no clock in the NIC (PHC)", names.join(", ")));
    }
    if parts.is_empty() {
        "not possible: there is no network interface but lo".into()
    } else {
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(interfaces: &[(&str, Result<u32, Option<&str>>)]) -> String {
        let owned = |(name, found): &(&str, Result<u32, Option<&str>>)| {
            ((*name).to_owned(), found.map_err(|why| why.map(str::to_owned)))
        };
        found(&interfaces.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_could_give_them_is_named_or_why_nothing_can() {
        let able =
            [("veth1", Err(None)), ("eth0", Ok(0)), ("eth1", Ok(2)), ("eth2", Err(Some("eth2 cannot")))];
        let could = "eth0 (ptp0), eth1 (ptp2) could give them: --hardware-stamps";
        assert_eq!(told(&able), format!("{could}; eth2 cannot"));
        assert_eq!(told(&able[..1]), "not possible on veth1: no clock in the NIC (PHC)");
        assert_eq!(told(&[]), "not possible: there is no network interface but lo");
        let many: Vec<_> =
            ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|name| (name, Err(None))).into();
        assert_eq!(
            told(&many),
            "not possible on a, b, c, d, e, f, g, h and 2 more: no clock in the NIC (PHC)"
        );
    }

    #[test]
    fn this_host_can_be_asked() {
        let check = check(&survey());
        assert_eq!((check.state, check.found.contains('\n')), (State::Ok, false), "{check:?}");
    }
}
