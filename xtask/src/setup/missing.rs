//! What is not there: which thing, what for, how to get it.

use std::fmt;

/// One thing that is missing and could not be installed from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub what: String,
    /// What can't be done without it.
    pub needed_for: &'static str,
    /// Why it could not be installed, if that was tried.
    pub reason: Option<String>,
    /// What to type.
    pub remedy: String,
}

/// Name of the eBPF toolchain in a [`Missing`].
pub(super) const BPF_TOOLCHAIN: &str = "eBPF toolchain";

impl Missing {
    pub(super) fn is_bpf_toolchain(&self) -> bool {
        self.what == BPF_TOOLCHAIN
    }

    /// The demo with namespaces needs these; without chronyd it only has no NTP reading to show.
    pub(super) fn is_needed_by_demo(&self) -> bool {
        self.is_bpf_toolchain() || matches!(self.what.as_str(), "ip" | "nsenter")
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}, needed for {}\n      do: {}", self.what, self.needed_for, self.remedy)?;
        match &self.reason {
            Some(reason) => write!(f, "\n      ({})", reason.replace('\n', "\n       ")),
            None => Ok(()),
        }
    }
}
