//! What a guest boots into: busybox, the node and chronyd with their libraries, the network card's modules, and an
//! `init` that runs them until the host hangs up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::desk;
use crate::lab::switch::Port;
use crate::rig::chrony::NTP_PORT;
use crate::rig::node;
use crate::setup::tools;
use crate::vmtest::console::MARK;
use crate::vmtest::cpio::Archive;
use crate::vmtest::machine::busybox;

/// What a network card of the virtio kind needs, below the `kernel` directory of the modules; each stands behind all
/// that it depends on. Which of them are built in differs from kernel to kernel.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

/// The archive for Debian's kernel `image`, in `boot` of its unpacked package.
pub(super) fn initramfs(image: &Path, node: &Path) -> Result<Vec<u8>> {
    let mut kit = Kit::default();
    for directory in ["dev", "proc", "sys", "tmp"] {
        kit.directory(Path::new(directory));
    }
    kit.archive.device("dev/console", 5, 1);
    kit.file("bin/busybox", &busybox()?)?;
    kit.program("bin/pikoscope", node)?;
    let chronyd = tools::locate("chronyd").context("no chronyd; `cargo xtask setup` gets it")?;
    kit.program("bin/chronyd", &chronyd)?;
    for (number, module) in modules(image)?.iter().enumerate() {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        kit.file(&format!("modules/{number}-{name}"), module)?;
    }
    // chronyd asks who it is.
    kit.text("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    kit.text("etc/group", "root:x:0:\n");
    kit.text("etc/chrony.conf", &chrony_conf());
    kit.text("init", &init());
    Ok(kit.archive.finish())
}

/// Follows the host's time server and leaves the guest's clock as wrong as it is.
fn chrony_conf() -> String {
    format!(
        "server {} port {NTP_PORT} offset LIE iburst minpoll -2 maxpoll 0\nport 0\nbindcmdaddress 127.0.0.1\n\
         bindcmdaddress /\npidfile /tmp/chronyd.pid\n",
        Port::HUB.v4()
    )
}

/// The first process. Who it is (`name`, `address`, `peer`, both others' MAC addresses, and the clock's `frequency`, and
/// what chronyd's server is to be taken to be off by)
/// comes from the kernel's command line, whose unknown words are the environment here. What happens is told by marks on
/// the serial line.
///
/// The node's stamps and its final report leave as one stream of JSON. Clocks and node end before, so that no
/// datagram is under way when the machine is switched off. They do not take leave of each other: both end at once.
fn init() -> String {
    let (hub, gossip) = (Port::HUB.v4(), node::gossip(Port::HUB.v4()).port());
    let (metrics, calls, deliveries) = (node::metrics_everywhere(), desk::CALLS, desk::DELIVERIES);
    format!(
        r#"#!/bin/busybox sh
set -e
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t bpf bpf /sys/fs/bpf
$b mount -t devtmpfs devtmpfs /dev
$b mount -t tmpfs tmpfs /tmp
$b dmesg -n 1
for module in /modules/*; do
    case $module in *.xz) $b unxz $module; module=${{module%.xz}};; esac
    $b insmod $module
done
$b sed -i s/LIE/$lie/ /etc/chrony.conf
$b adjtimex -q -f $frequency
$b ip link set lo up
$b ip addr add $address/24 dev eth0
$b ip link set eth0 up
$b arp -i eth0 -s $peer $peer_mac
$b arp -i eth0 -s {hub} $hub_mac
read -r release </proc/sys/kernel/osrelease
read -r clock </sys/devices/system/clocksource/clocksource0/current_clocksource
echo
echo "{MARK} release $release"
echo "{MARK} clocksource $clock"
chronyd -x -u root -d -f /etc/chrony.conf &
chronyd=$!
pikoscope run --node-id $name --bind $address:{gossip} --seed $peer:{gossip} --metrics-bind {metrics} \
    --leave-on-shutdown false --probe ebpf --control /tmp/control --record /tmp/record --final-report /tmp/report &
node=$!
{{ $b nc {hub} {calls} </dev/null && echo >/tmp/over && kill $node; }} &
status=0
wait $node || status=$?
if [ -e /tmp/over ]; then
    kill $chronyd
    wait $chronyd || true
    read -r clock </sys/devices/system/clocksource/clocksource0/current_clocksource
    echo "{MARK} clocksource $clock"
    $b cat /tmp/record /tmp/report | $b nc {hub} {deliveries} >/dev/null
fi
echo
echo "{MARK} exit $status"
$b poweroff -f
"#
    )
}

/// The modules that are files, in the order in which they have to be loaded.
fn modules(image: &Path) -> Result<Vec<PathBuf>> {
    let release = image.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"));
    let release = release.with_context(|| format!("{} is not a kernel's name", image.display()))?;
    let package = image.parent().and_then(Path::parent).context("a kernel outside its package")?;
    let tree = package.join("lib/modules").join(release);
    let list = tree.join("modules.builtin");
    let builtin = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let mut found = Vec::new();
    for module in MODULES {
        let file = |extension: &str| tree.join("kernel").join(format!("{module}.{extension}"));
        match [file("ko"), file("ko.xz")].into_iter().find(|path| path.is_file()) {
            Some(path) => found.push(path),
            None if builtin.lines().any(|line| line == format!("kernel/{module}.ko")) => {}
            None => bail!("kernel {release} has no module {module}: no way to give it a network card"),
        }
    }
    Ok(found)
}

/// An archive whose directories are made as they are needed.
#[derive(Default)]
struct Kit {
    archive: Archive,
    made: BTreeSet<PathBuf>,
}

impl Kit {
    fn directory(&mut self, path: &Path) {
        if path == Path::new("") || !self.made.insert(path.to_owned()) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.archive.directory(&path.to_string_lossy());
    }

    /// Adds a file that may be executed, once.
    fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.content(path, &content);
        Ok(())
    }

    fn text(&mut self, path: &str, content: &str) {
        self.content(path, content.as_bytes());
    }

    fn content(&mut self, path: &str, content: &[u8]) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(parent);
        }
        if self.made.insert(PathBuf::from(path)) {
            self.archive.program(path, content);
        }
    }

    /// Adds a program with the libraries that it is linked to, where it looks for them.
    fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.file(path, from)?;
        let output = Command::new("ldd").arg(from).output().context("cannot start ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("the libraries of {}", from.display()))?
        {
            let path = library.strip_prefix("/").unwrap_or(&library).to_string_lossy().into_owned();
            self.file(&path, &library)?;
        }
        Ok(())
    }
}

/// The files among the lines of `ldd`; a static program has none.
fn libraries(listed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listed.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "missing: {line}");
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        if place.starts_with('/') {
            found.push(PathBuf::from(place.split(" (").next().unwrap_or(place)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_taken_from_where_the_linker_finds_them() {
        let listed = "\tlinux-vdso.so.1 (0x00007fb5599c4000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fb55913e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007fb5599c6000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(listed).unwrap(), expected);
        assert!(libraries("\tnot a dynamic executable\n").unwrap().is_empty());
        assert!(libraries("\tlibgone.so.1 => not found\n").is_err());
    }

    #[test]
    fn modules_are_found_plain_packed_or_built_in_and_a_missing_one_is_told() {
        let package = tempfile::tempdir().unwrap();
        let tree = package.path().join("lib/modules/6.9.0");
        let image = package.path().join("boot/vmlinuz-6.9.0");
        for module in &MODULES[5..] {
            let path = tree.join("kernel").join(module);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let name = if module.contains("core") { "ko" } else { "ko.xz" };
            fs::write(path.with_extension(name), "").unwrap();
        }
        let builtin = |count: usize| {
            let lines = MODULES[..count].iter().map(|module| format!("kernel/{module}.ko\n"));
            fs::write(tree.join("modules.builtin"), lines.collect::<String>()).unwrap();
        };
        builtin(5);
        let found = modules(&image).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["failover.ko", "net_failover.ko.xz", "virtio_net.ko.xz"]);
        builtin(4);
        let error = format!("{:#}", modules(&image).unwrap_err());
        assert!(error.contains("drivers/virtio/virtio_pci"), "{error}");
    }

    #[test]
    fn a_directory_is_made_once_and_before_what_is_in_it() {
        let mut kit = Kit::default();
        kit.text("a/b/one", "1");
        kit.text("a/b/two", "2");
        let bytes = kit.archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/one\0"));
        assert_eq!(text.matches("a/b\0").count(), 1);
    }
}
