//! What defaults depend on.

use std::path::{Path, PathBuf};

/// What the defaults and checks need to know about the host.
#[derive(Debug)]
pub struct Host {
    /// The host's name.
    pub name: std::io::Result<String>,
    /// Memory page size in bytes.
    pub page_bytes: u32,
    /// Default place of the control socket.
    pub control: Option<PathBuf>,
}

impl Host {
    /// This host.
    pub fn here() -> Self {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        Self {
            name: std::fs::read_to_string("/proc/sys/kernel/hostname").map(|s| s.trim().to_owned()),
            page_bytes: page.and_then(|p| u32::try_from(p).ok()).unwrap_or(4096),
            control: default_control(),
        }
    }
}

/// `/run/pikoscope/control.sock` for root, `$XDG_RUNTIME_DIR/pikoscope/control.sock` for others. There is no
/// fallback to a directory that everybody can write to.
pub fn default_control() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/pikoscope/control.sock"));
    }
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_absolute())?;
    Some(Path::new(&dir).join("pikoscope/control.sock"))
}
