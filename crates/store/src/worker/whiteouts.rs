//! Deletions of views whose files lead to objects.
//!
//! An overlay shows none of its own deletions to the overlay above it, and those that are files with a mark keep the one above
//! from removing a directory that holds them ("Directory not empty"). So a view that an overlay of its own shows has none;
//! they are in a directory of their own, with nothing but the directories on the way, and the image's overlay has that as the
//! layer just below.

use std::path::{Path, PathBuf};

use lamina_image::Digest;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::WorkerContext;
use super::disk::{self, Result, join};
use super::removal::remove_all;
use super::xattrs::{self, Depth};
use crate::JobError;
use crate::tree::{Node, Tree, parent};

/// Where these directories are, below the content directory.
pub(super) const DIRECTORY: &str = "whiteouts";

/// The directory of a view's deletions.
pub(super) fn path(context: &WorkerContext, digest: &Digest) -> PathBuf {
    context.content().join(DIRECTORY).join(digest.hex())
}

/// Makes the directory of a view's deletions where it is needed, and marks the view at `root` so that it is mounted.
pub(super) fn publish(context: &WorkerContext, digest: &Digest, tree: &Tree, root: &Path) -> Result<()> {
    if context.placing.depth() == Depth::One || deletions(tree).next().is_none() {
        return Ok(());
    }
    xattrs::set_has_whiteouts(disk::open_directory(root)?, root)?;
    let path = path(context, digest);
    if is_whole(&path, tree)? {
        return Ok(());
    }
    let made = context.temporary_path();
    disk::make_directory(&made, 0o755)?;
    deletions(tree).try_for_each(|deletion| make(&made, deletion))?;
    disk::sync_filesystem(&made)?;
    if disk::try_stat(&path)?.is_some() {
        disk::rename(&path, &context.temporary_path())?;
    }
    if !disk::rename_directory(&made, &path)? {
        remove_all(&made)?;
    }
    disk::sync_directory(&context.content().join(DIRECTORY))
}

/// Whether the directory has every deletion of the tree.
pub(super) fn is_whole(path: &Path, tree: &Tree) -> Result<bool> {
    for deletion in deletions(tree) {
        if !is_deletion(&join(path, deletion))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether this is the device that stands for a deletion.
pub(super) fn is_deletion(path: &Path) -> Result<bool> {
    let stat = disk::try_stat(path)?;
    Ok(stat.is_some_and(|stat| disk::file_type(&stat) == FileType::CharacterDevice && stat.st_rdev == 0))
}

/// Makes the device 0/0, which needs no privilege.
pub(super) fn make_deletion(path: &Path) -> Result<()> {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).map_err(JobError::file("creating", path))
}

fn deletions(tree: &Tree) -> impl Iterator<Item = &[u8]> {
    tree.entries().iter().filter(|entry| matches!(entry.node, Node::Whiteout)).map(|entry| &entry.path[..])
}

fn make(root: &Path, deletion: &[u8]) -> Result<()> {
    let directory = parent(deletion);
    let ends = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([directory.len()]) {
        disk::make_directory(&join(root, &directory[..end]), 0o755)?;
    }
    make_deletion(&join(root, deletion))
}
