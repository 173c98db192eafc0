//! What a step left in its upper.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;
use rustix::fs::{FileType, Stat};

use crate::CommitRules;
use crate::worker::content::check_abandoned;
use crate::worker::disk::{self, Result, join};

/// Something in an upper.
pub(super) struct Found {
    /// Path relative to the upper, empty for itself.
    pub(super) path: Vec<u8>,
    /// Its status before anything is changed.
    pub(super) stat: Stat,
}

impl Found {
    pub(super) fn file_type(&self) -> FileType {
        disk::file_type(&self.stat)
    }

    /// Whether this is the overlay's mark for something deleted.
    pub(super) fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }
}

/// Lists an upper in the byte order of paths, and removes from it what does not belong into a view.
pub(super) fn scan(upper: &Path, rules: &CommitRules, abandoned: &AtomicBool) -> Result<Vec<Found>> {
    let mut found = vec![Found { path: Vec::new(), stat: disk::stat(upper)? }];
    let mut directories = vec![Vec::new()];
    while !directories.is_empty() {
        let list = |directory: &Vec<u8>| {
            check_abandoned(abandoned)?;
            list(upper, directory, rules)
        };
        let listed: Vec<Vec<Found>> = directories.par_iter().map(list).collect::<Result<_>>()?;
        let first = found.len();
        found.extend(listed.into_iter().flatten());
        let below = found[first..].iter().filter(|item| item.file_type() == FileType::Directory);
        directories = below.map(|item| item.path.clone()).collect();
    }
    found.par_sort_unstable_by(|left, right| left.path.cmp(&right.path));
    drop_empty(found, upper, rules)
}

/// What belongs into the tree of one directory.
fn list(upper: &Path, directory: &[u8], rules: &CommitRules) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, stat) in disk::list_with_status(&join(upper, directory))? {
        let path = if directory.is_empty() { name } else { [directory, b"/", &name].concat() };
        let item = Found { path, stat };
        if keep(&item, rules, upper)? {
            found.push(item);
        }
    }
    Ok(found)
}

/// Whether something belongs into the tree; removes from the disk what does not belong into the view.
fn keep(item: &Found, rules: &CommitRules, upper: &Path) -> Result<bool> {
    let remove = || disk::unlink(&join(upper, &item.path));
    let is_scratch = || rules.exclude.covers(&item.path);
    match item.file_type() {
        FileType::Directory => Ok(true),
        // A socket means something only to the process that listened on it.
        FileType::Socket => remove().map(|()| false),
        _ if is_scratch() => remove().map(|()| false),
        FileType::CharacterDevice if item.is_whiteout() => Ok(true),
        // Devices are in trees only, so that none can be opened through a view.
        FileType::CharacterDevice | FileType::BlockDevice => remove().map(|()| true),
        _ => Ok(true),
    }
}

/// Leaves out mount points that the sandbox made, while there is nothing in them.
fn drop_empty(mut found: Vec<Found>, upper: &Path, rules: &CommitRules) -> Result<Vec<Found>> {
    let mut mount_points: Vec<&[u8]> =
        rules.drop_empty.iter().map(|path| path.trim_matches('/').as_bytes()).filter(|path| !path.is_empty()).collect();
    // Children before parents, so that a directory made for a mount point goes with it.
    mount_points.sort_unstable_by(|left, right| right.cmp(left));
    for mount_point in mount_points {
        let Ok(index) = found.binary_search_by(|item| item.path[..].cmp(mount_point)) else {
            continue;
        };
        let item = &found[index];
        let is_empty = match item.file_type() {
            FileType::RegularFile => item.stat.st_size == 0,
            FileType::Directory => !found.iter().any(|other| is_below(&other.path, mount_point)),
            _ => false,
        };
        if is_empty {
            let on_disk = join(upper, mount_point);
            crate::worker::removal::remove_all(&on_disk)?;
            found.remove(index);
        }
    }
    Ok(found)
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}
