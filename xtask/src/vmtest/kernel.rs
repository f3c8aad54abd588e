//! The kernels: which there are, and where Debian's come from.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::paths;
use crate::setup::apt;

/// A kernel to run the tests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's for virtual machines, in one.
    Debian(Series),
    /// The one that this runs on.
    Host,
}

/// A line of kernel releases, such as 6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series(&'static str);

impl Kernel {
    /// The whole matrix.
    pub const ALL: [Self; 3] = [Self::Debian(Series("6.1")), Self::Debian(Series("6.12")), Self::Host];

    /// Whether a kernel that calls itself `release` is this one.
    pub fn is_release(self, release: &str) -> bool {
        match self {
            Self::Host => true,
            Self::Debian(series) => series.is_of(release),
        }
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(|kernel| kernel.to_string());
        let found = Self::ALL.into_iter().find(|kernel| kernel.to_string() == name);
        found.ok_or_else(|| format!("there is {}", names.join(", ")))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Debian(series) => series.0,
            Self::Host => "host",
        })
    }
}

impl Series {
    /// The kernel's image: the newest of the cache, else the newest that apt knows, which is then kept.
    pub(crate) fn fetch(self) -> Result<PathBuf> {
        let cache = paths::cache()?.join("kernels");
        if let Some(image) = self.cached(&cache) {
            return Ok(image);
        }
        let packages =
            apt::search(&format!(r"^linux-image-{}\..*-cloud-amd64$", self.0.replace('.', r"\.")))?;
        let package =
            self.newest(packages).with_context(|| format!("apt knows no cloud kernel {}", self.0))?;
        let release = package.strip_prefix(PREFIX).unwrap_or(&package);
        apt::unpack(&package, &cache.join(&package), &format!("boot/vmlinuz-{release}"))?;
        self.cached(&cache).with_context(|| format!("the package {package} has no boot/vmlinuz-{release}"))
    }

    fn cached(self, cache: &Path) -> Option<PathBuf> {
        let names = fs::read_dir(cache).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let package = self.newest(names)?;
        let image = cache.join(&package).join("boot").join(package.replace(PREFIX, "vmlinuz-"));
        image.is_file().then_some(image)
    }

    /// The newest signed cloud kernel of this series among package names.
    fn newest(self, packages: impl IntoIterator<Item = String>) -> Option<String> {
        packages
            .into_iter()
            .filter(|package| {
                package.ends_with("-cloud-amd64")
                    && package.strip_prefix(PREFIX).is_some_and(|release| self.is_of(release))
            })
            .max_by_key(|package| numbers(package))
    }

    fn is_of(self, release: &str) -> bool {
        release.strip_prefix(self.0).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// What Debian's names of kernel packages start with.
const PREFIX: &str = "linux-image-";

/// The numbers in a name, by which releases are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_of_the_series_is_taken() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ]
        .map(str::to_owned);
        let newest = |series| Series(series).newest(packages.clone());
        assert_eq!(newest("6.1").as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("6.6"), None);
    }

    #[test]
    fn a_kernel_of_another_series_is_noticed() {
        let old = Kernel::from_str("6.1").unwrap();
        assert!(old.is_release("6.1.0-56-cloud-amd64"));
        assert!(!old.is_release("6.12.117+deb12-cloud-amd64"));
        assert!(Kernel::from_str("host").unwrap().is_release("5.15.0"));
        assert!(Kernel::from_str("6.2").unwrap_err().contains("6.1, 6.12, host"));
    }
}
