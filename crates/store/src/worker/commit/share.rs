//! Sharing bytes between an upper that becomes a view and the objects.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::scan::Found;
use crate::tree::{Entry, Node, Tree, is_copied};
use crate::worker::WorkerContext;
use crate::worker::disk::{self, Result, join};
use crate::worker::objects::MAXIMUM_LINKS;
use crate::{JobError, ObjectMeta, ObjectName};

/// The files of one commit on their way into the objects.
pub(super) struct Sharing<'a> {
    context: &'a WorkerContext,
    upper: &'a Path,
    found: &'a [Found],
    tree: &'a Tree,
    /// Files that the store does not have.
    fresh: Vec<Fresh<'a>>,
    /// Where they are in the list.
    fresh_names: HashMap<ObjectName, usize>,
    bytes_new: u64,
}

/// A file that becomes an object.
struct Fresh<'a> {
    path: PathBuf,
    name: ObjectName,
    meta: &'a ObjectMeta,
    size: u64,
}

impl<'a> Sharing<'a> {
    /// The files of `found`, which `tree` describes in the same order.
    pub(super) fn new(context: &'a WorkerContext, upper: &'a Path, found: &'a [Found], tree: &'a Tree) -> Self {
        Self { context, upper, found, tree, fresh: Vec::new(), fresh_names: HashMap::new(), bytes_new: 0 }
    }

    /// Bytes that the store did not have.
    pub(super) fn bytes_new(&self) -> u64 {
        self.bytes_new
    }

    /// Replaces files that the store has by links to their objects and notes the others; sets the times of directories,
    /// links and pipes, which nothing touches afterwards.
    pub(super) fn share(&mut self) -> Result<()> {
        let mut replaced: HashSet<&[u8]> = HashSet::new();
        let are_objects = self.are_objects()?;
        for ((found, entry), is_object) in self.found.iter().zip(self.tree.entries()).zip(are_objects) {
            let path = join(self.upper, &entry.path);
            match &entry.node {
                Node::File { meta, size, .. } => {
                    let Some(name) = entry.node.object() else { continue };
                    if is_object {
                        // It was linked from the object, and examined when it got its digest.
                        self.bytes_new += if self.context.objects.claim(&name) { *size } else { 0 };
                    } else if self.share_file(found, &path, Fresh { path: path.clone(), name, meta, size: *size })? {
                        replaced.insert(&entry.path);
                    }
                }
                Node::HardLink { target } if replaced.contains(&target[..]) => {
                    self.replace(&join(self.upper, target), &path)?;
                }
                _ => {}
            }
        }
        // Children first: replacing them changes their directories' times.
        for item in self.found.iter().rev() {
            if matches!(item.file_type(), FileType::Directory | FileType::Symlink | FileType::Fifo) {
                disk::set_layer_time(&join(self.upper, &item.path))?;
            }
        }
        Ok(())
    }

    /// For every item, whether it is another name of its object already.
    fn are_objects(&self) -> Result<Vec<bool>> {
        let objects = &self.context.objects;
        let is_object = |(found, entry): (&Found, &Entry)| {
            let Some(name) = entry.node.object().filter(|_| found.stat.st_nlink > 1) else { return Ok(false) };
            let object = disk::try_stat(&objects.path(&name))?;
            Ok(object.is_some_and(|object| object.st_ino == found.stat.st_ino))
        };
        self.found.par_iter().zip(self.tree.entries()).map(is_object).collect()
    }

    /// True when the file was replaced by a link to its object.
    fn share_file(&mut self, found: &Found, path: &Path, file: Fresh<'a>) -> Result<bool> {
        let objects = &self.context.objects;
        let existing = objects.find(&file.name, file.meta, Some(file.size))?;
        match existing {
            None if is_copied(&found.path, file.size) => {
                let temporary = self.context.temporary_path();
                let (stored, size) = objects.put(&mut disk::open(path)?, file.meta, &temporary)?;
                self.bytes_new += if stored.is_new { size } else { 0 };
                Ok(false)
            }
            None => {
                if let Some(first) = self.fresh_names.get(&file.name) {
                    return self.replace(&self.fresh[*first].path, path);
                }
                self.fresh_names.insert(file.name, self.fresh.len());
                self.fresh.push(file);
                Ok(false)
            }
            Some(object) => {
                self.bytes_new += if objects.claim(&file.name) { file.size } else { 0 };
                let stays = is_copied(&found.path, file.size)
                    || disk::links(&object) + disk::links(&found.stat) > MAXIMUM_LINKS;
                if stays { Ok(false) } else { self.replace(&objects.path(&file.name), path) }
            }
        }
    }

    /// Replaces `path` by another name of `target`. A target that has as many names as it can have leaves `path` as it
    /// is, which costs space and nothing else.
    fn replace(&self, target: &Path, path: &Path) -> Result<bool> {
        let temporary = self.context.temporary_path();
        match disk::hard_link(target, &temporary) {
            Ok(()) => disk::rename(&temporary, path).map(|()| true),
            Err(Errno::MLINK) => Ok(false),
            Err(errno) => Err(JobError::file("linking to", &temporary)(errno)),
        }
    }

    /// Links the new files, whose bytes have to be on the disk by now, into the objects.
    pub(super) fn publish_objects(&mut self) -> Result<()> {
        for file in &self.fresh {
            // A file that came from an object which has vanished since lacks the time that says that it is on the disk.
            disk::set_layer_time(&file.path)?;
            let spare = self.context.temporary_path();
            if self.context.objects.publish(&file.name, file.meta, file.size, &file.path, &spare)? {
                self.bytes_new += file.size;
            }
        }
        Ok(())
    }
}
