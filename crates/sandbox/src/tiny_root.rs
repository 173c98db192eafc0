//! The root directory of the helper processes: a tmpfs with mount points, the store, and what sandboxes are made from.

use std::os::fd::OwnedFd;

use lamina_system::{self as system, attribute};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::failure::{During, Failure};
use crate::resources;

/// The store's content directory.
pub(crate) const STORE: &str = "/store";
/// An empty, read-only directory.
pub(crate) const EMPTY: &str = "/empty";
/// Where a sandbox mounts its image before it becomes the root.
pub(crate) const IMAGE: &str = "/image";
/// Where a sandbox mounts memory for its changes.
pub(crate) const MEMORY: &str = "/memory";
/// Where a sandbox mounts the files that the engine gives it.
pub(crate) const FILES: &str = "/files";
/// Where the host's resources are, if there are any.
pub(crate) const RESOURCES: &str = "/resources";
/// The host's `/sys`, read-only.
pub(crate) const SYS: &str = "/sys";
/// The host's `/proc`: the kernel allows a new one only where a whole one is visible.
const PROC: &str = "/proc";
/// The device nodes of a sandbox.
pub(crate) const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Parts of `/sys` that show or change what is the host's business.
pub(crate) const MASKED_SYS: [&str; 4] = ["firmware", "fs/cgroup", "devices/virtual/powercap", "kernel/security"];

/// Builds the root, moves into it and lets go of the host's.
pub(crate) fn enter(content: &OwnedFd, resources: &[(String, OwnedFd)]) -> Result<(), Failure> {
    let root = memory_filesystem(&[("mode", "755"), ("size", "1m")])?;
    attach(&root, "/")?;
    fchdir(&root).during("enter", "the new root")?;
    for path in [STORE, EMPTY, IMAGE, MEMORY, FILES, SYS, PROC, "/dev"] {
        mkdirat(CWD, relative(path), Mode::from_raw_mode(0o755)).during("make", path)?;
    }
    attach(content, relative(STORE))?;
    resources::attach_all(resources)?;
    attach(&clone_tree(PROC, true)?, relative(PROC))?;
    for name in DEVICES {
        bind_device(name)?;
    }
    attach_sys()?;
    pivot_root(".", ".").during("change the root to", "the new root")?;
    unmount(".", UnmountFlags::DETACH).during("let go of", "the host's root")?;
    chdir("/").during("enter", "/")?;
    system::set_mount_attributes(&root, attribute::READ_ONLY, false).during("make read-only", "/")
}

/// Binds one of the host's device nodes, if it has it. Reading and writing the device has nothing to do with the mount;
/// what is read-only is the node, which must keep its mode, owner and times.
fn bind_device(name: &str) -> Result<(), Failure> {
    let Ok(device) = clone_tree(&format!("/dev/{name}"), false) else {
        return Ok(());
    };
    system::set_mount_attributes(&device, attribute::READ_ONLY, false).during("make read-only", name)?;
    let target = format!("dev/{name}");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(CWD, &target, flags, Mode::from_raw_mode(0o644)).during("make", &target)?;
    attach(&device, &target)
}

/// Binds the host's `/sys`, read-only and without the masked parts.
fn attach_sys() -> Result<(), Failure> {
    // Mounts below it cannot be left out: the kernel does not reveal what lies under a mount of the host.
    let Ok(tree) = clone_tree(SYS, true) else { return Ok(()) };
    attach(&tree, relative(SYS))?;
    for path in MASKED_SYS.map(|path| format!("sys/{path}")) {
        if rustix::fs::stat(&path).is_ok() {
            attach(&clone_tree("empty", false)?, &path)?;
        }
    }
    let attributes = attribute::READ_ONLY | attribute::NO_SUID | attribute::NO_DEVICES | attribute::NO_EXEC;
    system::set_mount_attributes(&tree, attributes, true).during("make read-only", SYS)
}

/// A path of this module relative to the root.
pub(crate) fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// A detached copy of what is mounted at `path`.
pub(crate) fn clone_tree(path: &str, recursive: bool) -> Result<OwnedFd, Failure> {
    clone_tree_at(CWD, path, recursive).during("copy the mount", path)
}

/// A detached copy of what is mounted at `path` below `directory`; an empty path means `directory` itself.
pub(crate) fn clone_tree_at(directory: impl std::os::fd::AsFd, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Mounts a detached mount at `path`.
pub(crate) fn attach(mount: &OwnedFd, path: &str) -> Result<(), Failure> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during("mount", path)
}

/// A new tmpfs, not yet mounted anywhere.
pub(crate) fn memory_filesystem(options: &[(&str, &str)]) -> Result<OwnedFd, Failure> {
    new_filesystem("tmpfs", options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// A new filesystem, not yet mounted anywhere.
pub(crate) fn new_filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).during("make the filesystem", kind)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).during("configure the filesystem", &format!("{kind} {key}"))?;
    }
    fsconfig_create(&context).during("make the filesystem", kind)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during("mount the filesystem", kind)
}
