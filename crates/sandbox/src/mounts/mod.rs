//! What a sandbox sees as its filesystem, built by pid 1 in the sandbox's own mount namespace.
//!
//! The image is hostile: any path of it may be a symbolic link to anywhere. So every path of the image is resolved with
//! the image as root, and everything is mounted on the directory that was resolved, never on a path.

mod files;
mod image;
mod overlay;
mod pseudo;

use std::os::fd::OwnedFd;

use lamina_system::{self as system, attribute};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::failure::{During, Failure, Kind};
use crate::tiny_root::{RESOURCES, STORE, clone_tree, clone_tree_at, memory_filesystem};
use crate::{Mount, SandboxSpec};
use image::Image;

/// A sandbox's filesystem after it was built.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Mount points that the image did not have; they are in the upper now.
    pub(crate) created: Vec<String>,
}

/// Mounts everything, makes the image the root and lets go of the store.
pub(crate) fn build(spec: &SandboxSpec) -> Result<Mounted, Failure> {
    chdir(STORE).during("enter", STORE)?;
    overlay::mount_image(&spec.layers, &spec.upper)?;
    let mut image = Image::open()?;
    pseudo::mount_proc(&mut image)?;
    pseudo::mount_dev(&mut image, spec.terminal.is_some())?;
    pseudo::mount_sys(&mut image, spec.network)?;
    image.ensure_directory("/tmp", 0o1777)?;
    files::inject(&mut image, spec)?;
    for mount in &spec.mounts {
        mount_extra(&mut image, mount)?;
    }
    fchdir(image.root()).during("enter", "the image")?;
    pivot_root(".", ".").during("change the root to", "the image")?;
    unmount(".", UnmountFlags::DETACH).during("let go of", "the store")?;
    chdir("/").during("enter", "/")?;
    Ok(Mounted { created: image.into_created() })
}

/// Makes one of the additional mounts.
fn mount_extra(image: &mut Image, mount: &Mount) -> Result<(), Failure> {
    match mount {
        Mount::Cache { lower, upper, work, target } => {
            let directory = image.ensure_directory(target, 0o755)?;
            overlay::mount_cache(lower, upper, work, &directory, target)
        }
        Mount::Bind { source, target, read_only } => {
            let tree = part_of(STORE, source.as_str(), false)?;
            attach_tree(image, &tree, target, *read_only)
        }
        Mount::Host { resource, path, target, read_only } => {
            let resource = format!("{RESOURCES}/{resource}");
            let tree = match path {
                Some(path) => part_of(&resource, path, true)?,
                None => clone_tree(&resource, true)?,
            };
            attach_tree(image, &tree, target, *read_only)
        }
        Mount::ReadOnly { target } => {
            let place = image.existing(target)?;
            let tree = clone_tree_at(&place, "", true).during("copy the mount of", target)?;
            system::set_mount_attributes(&tree, attribute::READ_ONLY, false).during("restrict the mount", target)?;
            image::attach_at(&tree, &place, target)
        }
        Mount::File(file) => files::mount(image, file),
        Mount::Tmpfs { target, mode, limit_bytes } => {
            let options = [("mode", &*format!("{mode:o}")), ("size", &*limit_bytes.to_string())];
            let tree = memory_filesystem(&options)?;
            let place = image.ensure_directory(target, 0o755)?;
            image::attach_at(&tree, &place, target)
        }
    }
}

/// Mounts a detached tree at a place of the image, which is made if it is missing.
fn attach_tree(image: &mut Image, tree: &OwnedFd, target: &str, read_only: bool) -> Result<(), Failure> {
    let status = rustix::fs::statat(tree, "", AtFlags::EMPTY_PATH).during("look at the mount", target)?;
    let attributes = match FileType::from_raw_mode(status.st_mode) {
        // The node must keep its mode, owner and times; reading and writing the device has nothing to do with the mount.
        FileType::CharacterDevice | FileType::BlockDevice => attribute::NO_SUID | attribute::READ_ONLY,
        _ if read_only => attribute::NO_SUID | attribute::NO_DEVICES | attribute::READ_ONLY,
        _ => attribute::NO_SUID | attribute::NO_DEVICES,
    };
    system::set_mount_attributes(tree, attributes, true).during("restrict the mount", target)?;
    let is_directory = FileType::from_raw_mode(status.st_mode).is_dir();
    let place = if is_directory { image.ensure_directory(target, 0o755)? } else { image.ensure_file(target)? };
    image::attach_at(tree, &place, target)
}

/// A detached copy of a part of the store or of a resource. Symbolic links there are content, never followed.
fn part_of(whole: &str, part: &str, recursive: bool) -> Result<OwnedFd, Failure> {
    let directory =
        rustix::fs::openat(CWD, whole, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", whole)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = openat2(&directory, part, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .during(&format!("find in `{}`", whole.trim_start_matches('/')), part)
        .map_err(|failure| {
            if failure.refusal.errno == Errno::NOENT.raw_os_error() { failure.of_kind(Kind::Gone) } else { failure }
        })?;
    clone_tree_at(&found, "", recursive).during("copy the mount of", part)
}
