//! `/proc`, `/dev` and `/sys` of a sandbox.

use std::os::fd::OwnedFd;

use lamina_system::{self as system, attribute};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, openat, statat, symlinkat};
use rustix::mount::MountAttrFlags;

use super::image::{Image, attach_at, attach_below};
use crate::failure::{During, Failure};
use crate::spec::Network;
use crate::tiny_root::{DEVICES, EMPTY, MASKED_SYS, SYS, clone_tree, clone_tree_at, memory_filesystem, new_filesystem};

/// A mount that shows something and does nothing.
const UNCHANGEABLE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Parts of `/sys` that show the interfaces of the network.
const INTERFACES: [&str; 2] = ["class/net", "devices/virtual/net"];

/// Parts of `/proc` that show what is the host's business.
const MASKED: [&str; 13] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];

/// Parts of `/proc` that change the host, as far as the kernel lets anybody.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Links of `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Mounts the `/proc` of the sandbox's own process ids.
pub(super) fn mount_proc(image: &mut Image) -> Result<(), Failure> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = new_filesystem("proc", &[], attributes)?;
    attach_at(&proc, &image.plain_directory("/proc")?, "/proc")?;
    for name in MASKED {
        if let Ok(status) = statat(&proc, name, AtFlags::SYMLINK_NOFOLLOW) {
            let is_directory = FileType::from_raw_mode(status.st_mode).is_dir();
            let mask = clone_tree(if is_directory { EMPTY } else { "/dev/null" }, false)?;
            attach_below(&mask, &proc, name)?;
        }
    }
    for name in READ_ONLY {
        if let Ok(tree) = clone_tree_at(&proc, name, true) {
            system::set_mount_attributes(&tree, attribute::READ_ONLY, true).during("make read-only", name)?;
            attach_below(&tree, &proc, name)?;
        }
    }
    Ok(())
}

/// Mounts a minimal `/dev`.
pub(super) fn mount_dev(image: &mut Image, console: bool) -> Result<(), Failure> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = new_filesystem("tmpfs", &[("mode", "755"), ("size", "64m")], attributes)?;
    attach_at(&dev, &image.plain_directory("/dev")?, "/dev")?;
    for name in DEVICES {
        if let Ok(node) = clone_tree(&format!("/dev/{name}"), false) {
            make_file(&dev, name)?;
            attach_below(&node, &dev, name)?;
        }
    }
    for (name, target) in DEVICE_LINKS {
        symlinkat(target, &dev, name).during("make the link", name)?;
    }
    make_directory(&dev, "pts")?;
    attach_below(&terminals()?, &dev, "pts")?;
    make_directory(&dev, "shm")?;
    attach_below(&memory_filesystem(&[("mode", "1777")])?, &dev, "shm")?;
    if console {
        make_file(&dev, "console")?;
    }
    Ok(())
}

/// A `devpts` of the sandbox's own.
fn terminals() -> Result<OwnedFd, Failure> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("ptmxmode", "0666"), ("mode", "0620")];
    // Group 5 is `tty` everywhere, but a store with a single id has no such group.
    let with_group: Vec<_> = options.into_iter().chain([("gid", "5")]).collect();
    new_filesystem("devpts", &with_group, attributes).or_else(|_| new_filesystem("devpts", &options, attributes))
}

/// Mounts the host's `/sys`, which the tiny root has read-only. A network of the sandbox's own has its interfaces in a new
/// one; where the kernel allows that not, because parts of the host's are hidden, those of the host are hidden, too.
pub(super) fn mount_sys(image: &mut Image, network: Network) -> Result<(), Failure> {
    let target = image.plain_directory("/sys")?;
    let new = if network == Network::Host { None } else { new_filesystem("sysfs", &[], UNCHANGEABLE).ok() };
    let (sys, masked) = match (new, network) {
        (Some(new), _) => (new, &MASKED_SYS[..]),
        (None, Network::Host) => (clone_tree(SYS, true)?, &[][..]),
        (None, Network::Isolated) => (clone_tree(SYS, true)?, &INTERFACES[..]),
    };
    attach_at(&sys, &target, "/sys")?;
    for path in masked {
        if statat(&sys, *path, AtFlags::empty()).is_ok() {
            attach_below(&clone_tree(EMPTY, false)?, &sys, path)?;
        }
    }
    Ok(())
}

fn make_file(directory: &OwnedFd, name: &str) -> Result<(), Failure> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop).during("make", name)
}

fn make_directory(directory: &OwnedFd, name: &str) -> Result<(), Failure> {
    mkdirat(directory, name, Mode::from_raw_mode(0o755)).during("make", name)
}
