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
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::failure::{During, Failure};
use crate::tiny_root::{STORE, clone_tree_at, memory_filesystem};
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
    pseudo::mount_sys(&mut image)?;
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
            let layers = [lower.clone()];
            let directory = image.ensure_directory(target, 0o755)?;
            overlay::mount_cache(&layers, upper, work, &directory, target)
        }
        Mount::Bind { source, target, read_only } => {
            let tree = store_tree(source)?;
            let is_directory = rustix::fs::statat(&tree, "", AtFlags::EMPTY_PATH)
                .is_ok_and(|status| FileType::from_raw_mode(status.st_mode).is_dir());
            let mut attributes = attribute::NO_SUID | attribute::NO_DEVICES;
            if *read_only {
                attributes |= attribute::READ_ONLY;
            }
            system::set_mount_attributes(&tree, attributes, false).during("restrict the mount", target)?;
            let place =
                if is_directory { image.ensure_directory(target, 0o755)? } else { image.ensure_file(target)? };
            image::attach_at(&tree, &place, target)
        }
        Mount::Tmpfs { target, mode, limit_bytes } => {
            let options = [("mode", &*format!("{mode:o}")), ("size", &*limit_bytes.to_string())];
            let tree = memory_filesystem(&options)?;
            let place = image.ensure_directory(target, 0o755)?;
            image::attach_at(&tree, &place, target)
        }
    }
}

/// A detached copy of a part of the store. Symbolic links in the store are content, never followed.
fn store_tree(source: &str) -> Result<OwnedFd, Failure> {
    let store = rustix::fs::openat(CWD, STORE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", STORE)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let part = openat2(&store, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .during("find in the store", source)?;
    clone_tree_at(&part, "", false).during("copy the mount of", source)
}
