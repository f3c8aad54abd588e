//! `cargo xtask setup`: finds what the other commands need, installs what it may, names the rest.
//!
//! Every other command starts here, so the usual case, everything there, only looks at files. What can't be
//! installed (no root, no Debian) is collected and told at once, each with its purpose and the command to type;
//! only what the asked-for command can't do without makes it fail.

pub(crate) mod apt;
mod linker;
mod missing;
pub mod toolchain;
pub mod tools;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

pub use missing::Missing;
use toolchain::BpfToolchain;
use tools::Tools;

/// What a command is about to do, and so what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `setup` itself: everything.
    Everything,
    /// Building the eBPF object and the node.
    Build,
    /// The demo, over namespaces as root, over loopback otherwise.
    Demo,
    /// The tests.
    Test,
}

/// What was found or installed.
#[derive(Debug)]
pub struct Setup {
    /// Builds the eBPF object; absent only where the purpose can do without.
    pub bpf: Option<BpfToolchain>,
    /// Test tools.
    pub tools: Tools,
    /// What is not there, and is only missed.
    pub missing: Vec<Missing>,
}

/// Whether this process is root, as far as user ids tell.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether this runs in CI, where a missing privilege or tool is a failure and not a note.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Finds or installs what `purpose` needs; what is missing but can be done without is in the result.
pub fn ensure(purpose: Purpose) -> Result<Setup> {
    let mut missing = Vec::new();
    let bpf = match BpfToolchain::find_or_install() {
        Ok(toolchain) => Some(toolchain),
        Err(one) => {
            missing.push(one);
            None
        }
    };
    let tools = match purpose {
        Purpose::Build => Tools::default(),
        Purpose::Demo => Tools::for_demo(&mut missing),
        Purpose::Test | Purpose::Everything => Tools::all(&mut missing),
    };
    let fatal: Vec<&Missing> = missing.iter().filter(|one| is_fatal(purpose, one)).collect();
    if !fatal.is_empty() {
        let list: Vec<String> = fatal.iter().map(ToString::to_string).collect();
        bail!("missing, and could not be installed from here:\n{}", list.join("\n"));
    }
    Ok(Setup { bpf, tools, missing })
}

/// Whether `purpose` can't be served without it.
fn is_fatal(purpose: Purpose, one: &Missing) -> bool {
    match purpose {
        Purpose::Everything => true,
        Purpose::Build => one.is_bpf_toolchain(),
        // On loopback everything but the compiler that runs this is optional.
        Purpose::Demo => is_root() && one.is_needed_by_demo(),
        Purpose::Test => is_ci() || (is_root() && one.is_bpf_toolchain()),
    }
}

/// The command itself: everything, with a line on each thing that is there.
pub fn command() -> Result<()> {
    let setup = ensure(Purpose::Everything)?;
    if let Some(bpf) = &setup.bpf {
        println!("eBPF toolchain  {bpf}");
    }
    println!("test tools      {}", setup.tools);
    Ok(())
}
