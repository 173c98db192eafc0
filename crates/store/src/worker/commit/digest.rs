//! From what is on disk to the nodes of a tree.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;
use rustix::fs::{FileType, Stat};

use super::bytecode;
use super::scan::Found;
use crate::tree::Node;
use crate::worker::content;
use crate::worker::disk::{self, Result, join};
use crate::worker::upper::Placed;
use crate::worker::xattrs::{self, Depth};
use crate::{CommitRules, JobError, Metadata, Timestamp};

/// Everything that the nodes of one upper are made from.
pub(super) struct Upper<'a> {
    pub(super) root: &'a Path,
    pub(super) found: &'a [Found],
    /// Files that were placed from objects, by inode: their digests are known.
    pub(super) placed: &'a HashMap<u64, Placed>,
    pub(super) rules: &'a CommitRules,
    /// Whether nobody wants them any more.
    pub(super) abandoned: &'a AtomicBool,
}

impl Upper<'_> {
    /// The tree's node for every item. Files lose the overlay's marks on the way.
    pub(super) fn nodes(&self) -> Result<Vec<Node>> {
        let first_names = self.first_names();
        let node = |item: &Found| {
            content::check_abandoned(self.abandoned)?;
            let path = join(self.root, &item.path);
            match item.file_type() {
                FileType::Directory => self.directory(&path, item),
                FileType::Symlink => self.symlink(&path, item),
                FileType::Fifo => Ok(Node::Fifo { meta: self.meta(&item.stat) }),
                FileType::RegularFile => match first_names.get(&item.stat.st_ino) {
                    Some(first) if *first != item.path => Ok(Node::HardLink { target: first.to_vec() }),
                    _ => self.file(&path, item),
                },
                _ if item.is_whiteout() => Ok(Node::Whiteout),
                file_type => Ok(Node::Device {
                    meta: self.meta(&item.stat),
                    block: file_type == FileType::BlockDevice,
                    major: rustix::fs::major(item.stat.st_rdev),
                    minor: rustix::fs::minor(item.stat.st_rdev),
                }),
            }
        };
        self.found.par_iter().map(node).collect()
    }

    /// For every file with several names in the upper, the first of them. Of a file that was placed, one of the names that are
    /// counted may be its object's.
    fn first_names(&self) -> HashMap<u64, &[u8]> {
        let mut first = HashMap::new();
        for item in self.found {
            if item.file_type() == FileType::RegularFile && item.stat.st_nlink > 1 {
                first.entry(item.stat.st_ino).or_insert(&item.path[..]);
            }
        }
        first
    }

    /// Mode, owner and time. What package managers install has one time, so that equal packages make equal layers.
    fn meta(&self, stat: &Stat) -> Metadata {
        let meta = disk::meta(stat);
        if self.rules.package_times { Metadata { modified: Timestamp::PACKAGE, ..meta } } else { meta }
    }

    fn directory(&self, path: &Path, item: &Found) -> Result<Node> {
        let directory = disk::open_directory(path)?;
        let attributes = xattrs::read(&directory, Depth::One, path)?;
        xattrs::remove(&directory, &attributes.stale_marks, path)?;
        let meta = Metadata { xattrs: attributes.inside, ..self.meta(&item.stat) };
        Ok(Node::Directory { meta, opaque: attributes.opaque })
    }

    fn symlink(&self, path: &Path, item: &Found) -> Result<Node> {
        let target = rustix::fs::readlink(path, Vec::new()).map_err(JobError::file("reading the link", path))?;
        Ok(Node::Symlink { meta: Metadata { mode: 0o777, ..self.meta(&item.stat) }, target: target.into_bytes() })
    }

    fn file(&self, path: &Path, item: &Found) -> Result<Node> {
        if let Some(Placed { bytes, meta }) = self.placed.get(&item.stat.st_ino) {
            check_untouched(item, bytes.size, meta, path)?;
            return Ok(Node::File { meta: meta.clone(), size: bytes.size, digest: bytes.digest });
        }
        if self.rules.package_times {
            bytecode::normalise(&item.path, path, self.found)?;
        }
        let file = disk::open(path)?;
        let attributes = xattrs::read(&file, Depth::One, path)?;
        if attributes.is_redirected() {
            let text = format!("`{}` leads to bytes elsewhere, which nothing in a step may do", path.display());
            return Err(JobError::new(JobError::STORE, text));
        }
        let meta = Metadata { xattrs: attributes.inside, ..self.meta(&item.stat) };
        xattrs::remove(&file, &attributes.stale_marks, path)?;
        let (digest, size) = content::hash(&file, path, self.abandoned)?;
        Ok(Node::File { meta, size, digest })
    }
}

/// A process that wrote to an upper with placed files may have written to objects.
fn check_untouched(item: &Found, size: u64, meta: &Metadata, path: &Path) -> Result<()> {
    let found = Metadata { xattrs: meta.xattrs.clone(), ..disk::meta(&item.stat) };
    if disk::size(&item.stat) == size && found == *meta {
        return Ok(());
    }
    let text = format!("`{}` was written to although it is an object of the store", path.display());
    Err(JobError::new(JobError::STORE, text))
}
