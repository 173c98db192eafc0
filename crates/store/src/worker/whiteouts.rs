//! Deletions of views whose files lead to objects.
//!
//! An overlay shows none of its own deletions to the overlay above it, and those that are files with a mark keep the one above
//! from removing a directory that holds them ("Directory not empty"). So a view that an overlay of its own shows has none;
//! they are in a directory of their own, with nothing but the directories on the way, and the image's overlay has that as the
//! layer just below.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::WorkerContext;
use super::disk::{self, Result, join};
use super::removal::remove_all;
use super::xattrs::{self, Depth};
use crate::JobError;
use crate::tree::{Tree, parent};

/// Where these directories are, below the content directory.
pub(super) const DIRECTORY: &str = "whiteouts";

/// The directory of a view's deletions.
pub(super) fn path(context: &WorkerContext, digest: &Digest) -> PathBuf {
    context.content().join(DIRECTORY).join(digest.hex())
}

/// Makes the directory of a view's deletions where it is needed, and marks the view at `root` so that it is mounted.
pub(super) fn publish(context: &WorkerContext, digest: &Digest, tree: &Tree, root: &Path) -> Result<()> {
    if context.placing_at(root).depth() == Depth::One || tree.deletions().next().is_none() {
        return Ok(());
    }
    xattrs::set_has_whiteouts(disk::open_directory(root)?, root)?;
    let path = path(context, digest);
    if has_exactly(&path, tree.deletions())? {
        return Ok(());
    }
    let made = context.temporary_path();
    disk::make_directory(&made, 0o755)?;
    tree.deletions().try_for_each(|deletion| make(&made, deletion))?;
    disk::sync_filesystem(&made)?;
    if disk::try_stat(&path)?.is_some() {
        disk::rename(&path, &context.temporary_path())?;
    }
    if !disk::rename_directory(&made, &path)? {
        remove_all(&made)?;
    }
    disk::sync_directory(&context.content().join(DIRECTORY))
}

/// Whether the view at `root` says that it has these deletions, and they are where it shows them. It costs nothing where
/// there are none.
pub(super) fn look_right(context: &WorkerContext, digest: &Digest, deletions: &[&[u8]], root: &Path) -> Result<bool> {
    if deletions.is_empty() || context.placing_at(root).depth() == Depth::One {
        return Ok(true);
    }
    Ok(xattrs::has_whiteouts(root) && has_exactly(&path(context, digest), deletions.iter().copied())?)
}

/// Whether a directory holds these deletions and the directories on the way, and nothing else.
pub(super) fn has_exactly<'a>(path: &Path, deletions: impl Iterator<Item = &'a [u8]>) -> Result<bool> {
    let mut expected: BTreeMap<&[u8], BTreeMap<&[u8], FileType>> = BTreeMap::new();
    for deletion in deletions {
        let (mut inside, mut kind) = (deletion, FileType::CharacterDevice);
        while !inside.is_empty() {
            let directory = parent(inside);
            let name = inside[directory.len()..].strip_prefix(b"/").unwrap_or(inside);
            expected.entry(directory).or_default().insert(name, kind);
            (inside, kind) = (directory, FileType::Directory);
        }
    }
    for (directory, names) in expected {
        let directory = join(path, directory);
        if disk::try_stat(&directory)?.is_none() {
            return Ok(false);
        }
        let found = disk::list(&directory)?;
        let is_expected = |(name, kind): &(Vec<u8>, FileType)| {
            names.get(&name[..]).is_some_and(|expected| kind == expected || *kind == FileType::Unknown)
        };
        if found.len() != names.len() || !found.iter().all(is_expected) {
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

fn make(root: &Path, deletion: &[u8]) -> Result<()> {
    let directory = parent(deletion);
    let ends = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([directory.len()]) {
        disk::make_directory(&join(root, &directory[..end]), 0o755)?;
    }
    make_deletion(&join(root, deletion))
}
