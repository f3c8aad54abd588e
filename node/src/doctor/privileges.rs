//! This process's capabilities, as `/proc/self/status` tells them (capabilities(7)).

/// What loading and attaching takes, with the bit of each (`include/uapi/linux/capability.h`).
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// It includes the others.
const CAP_SYS_ADMIN: u32 = 21;

/// Effective capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    /// From the text of `/proc/PID/status`.
    pub(super) fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// Of those that are needed, the ones that are missing.
    pub(super) fn missing(self) -> Vec<&'static str> {
        let admin = self.has(CAP_SYS_ADMIN);
        NEEDED
            .into_iter()
            // CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON, not for CAP_NET_ADMIN.
            .filter(|(name, bit)| !(self.has(*bit) || admin && *name != "CAP_NET_ADMIN"))
            .map(|(name, _)| name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(mask: u64) -> Vec<&'static str> {
        Capabilities::parse(&format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{mask:016x}\nCapBnd:\t0\n"))
            .unwrap()
            .missing()
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0x1ff_fffe_ffff), Vec::<&str>::new());
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(1 << 12 | 1 << 39), ["CAP_PERFMON"]);
        assert_eq!(missing(1 << 21), ["CAP_NET_ADMIN"]);
        assert_eq!(Capabilities::parse("CapEff:\tzz\n"), None);
        assert_eq!(Capabilities::parse(""), None);
    }
}
