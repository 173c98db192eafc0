//! What a step left in its upper.

use std::path::Path;

use rustix::fs::{FileType, Stat};

use crate::CommitRules;
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
pub(super) fn scan(upper: &Path, rules: &CommitRules) -> Result<Vec<Found>> {
    let mut found = vec![Found { path: Vec::new(), stat: disk::stat(upper)? }];
    let mut directories = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        for (name, _) in disk::list(&join(upper, &directory))? {
            let path = if directory.is_empty() { name } else { [&directory[..], b"/", &name].concat() };
            let on_disk = join(upper, &path);
            let item = Found { stat: disk::stat(&on_disk)?, path };
            if item.file_type() == FileType::Directory {
                directories.push(item.path.clone());
            }
            if keep(&item, rules, &on_disk)? {
                found.push(item);
            }
        }
    }
    found.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    drop_empty(found, upper, rules)
}

/// Whether something belongs into the tree; removes from the disk what does not belong into the view.
fn keep(item: &Found, rules: &CommitRules, on_disk: &Path) -> Result<bool> {
    let is_scratch = || rules.exclude.covers(&item.path);
    match item.file_type() {
        FileType::Directory => Ok(true),
        // A socket means something only to the process that listened on it.
        FileType::Socket => disk::unlink(on_disk).map(|()| false),
        _ if is_scratch() => disk::unlink(on_disk).map(|()| false),
        FileType::CharacterDevice if item.is_whiteout() => Ok(true),
        // Devices are in trees only, so that none can be opened through a view.
        FileType::CharacterDevice | FileType::BlockDevice => disk::unlink(on_disk).map(|()| true),
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
