//! Sharing bytes between an upper that becomes a view and the objects.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::FileType;

use super::held;
use super::scan::Found;
use crate::placing::Placing;
use crate::tree::{Entry, Node, Tree, parent};
use crate::worker::disk::{self, Result, join};
use crate::worker::place::{Bytes, Place, wants_own_inode};
use crate::worker::upper::Placed;
use crate::worker::xattrs::{self, Depth};
use crate::worker::{WorkerContext, content, repair, verify, view};
use crate::{JobError, Metadata, ObjectName};

/// The files of one commit on their way into the objects.
pub(super) struct Sharing<'a> {
    pub(super) context: &'a WorkerContext,
    pub(super) upper: &'a Path,
    pub(super) found: &'a [Found],
    /// Describes the same in the same order.
    pub(super) tree: &'a Tree,
    /// Files that were placed from objects, by inode.
    pub(super) placed: &'a std::collections::HashMap<u64, Placed>,
    /// The way in which the files of this view are placed.
    pub(super) placing: Placing,
    /// Whether nobody wants the view any more.
    pub(super) abandoned: &'a AtomicBool,
}

impl Sharing<'_> {
    /// Makes objects of files whose bytes the store does not have, and has every file of the upper placed as files of views
    /// are; sets the times of everything. Answers the bytes that the store did not have.
    pub(super) fn share(&self) -> Result<u64> {
        let bytes_new = AtomicU64::new(0);
        let both = || self.found.par_iter().zip(self.tree.entries());
        let is_replaced: Vec<bool> = both()
            .map(|(found, entry)| match &entry.node {
                Node::File { meta, size, digest } if *size > 0 => {
                    let bytes = Bytes { digest: *digest, size: *size };
                    let (new, is_replaced) = self.share_file(found, entry, bytes, meta)?;
                    bytes_new.fetch_add(if new { held(found, self.placed) } else { 0 }, Ordering::Relaxed);
                    Ok(is_replaced)
                }
                _ => Ok(false),
            })
            .collect::<Result<_>>()?;
        self.renew_links(&is_replaced)?;
        if self.placing.depth() == Depth::Two {
            self.tree.entries().par_iter().zip(&is_replaced).try_for_each(|(entry, done)| self.mark(entry, *done))?;
        }
        both().try_for_each(|(found, entry)| self.set_time(found, entry))?;
        view::say_how_placed(self.context, self.placing, self.upper)?;
        view::set_times_of_directories(self.tree.entries(), self.upper)?;
        Ok(bytes_new.into_inner())
    }

    /// Whether the bytes are new to the store, and whether the file was replaced by another one.
    fn share_file(&self, found: &Found, entry: &Entry, bytes: Bytes, meta: &Metadata) -> Result<(bool, bool)> {
        content::check_abandoned(self.abandoned)?;
        let objects = &self.context.objects;
        if self.placed.contains_key(&found.stat.st_ino) {
            // It was placed before anybody knew how much there would be.
            let is_replaced = self.placing != self.context.placing;
            if is_replaced {
                self.place(entry, bytes, meta)?;
            }
            return Ok((objects.claim(&ObjectName::new(&bytes.digest)), is_replaced));
        }
        let path = join(self.upper, &entry.path);
        let mut existing = objects.find(&bytes.digest, Some(bytes.size))?;
        let (name, object) = (ObjectName::new(&bytes.digest), objects.path(&bytes.digest));
        if existing.is_some() && !verify::is_sound(self.context, name, &object)? {
            // The step has just made the right bytes: they take the place of the wrong ones.
            repair::set_aside(self.context, &object)?;
            existing = None;
        }
        let is_claimed = existing.is_some() && objects.claim(&ObjectName::new(&bytes.digest));
        match (self.placing, existing) {
            (Placing::Redirects, None) => {
                let stored = objects.adopt(&bytes.digest, bytes.size, &path)?;
                self.place(entry, bytes, meta)?;
                Ok((stored.is_new, true))
            }
            (Placing::Links, Some(object))
                if found.stat.st_nlink > 1
                    || disk::links(&object) > 1
                    || wants_own_inode(disk::as_path(&entry.path)) =>
            {
                Ok((is_claimed, false))
            }
            (Placing::Copies, Some(_)) => Ok((is_claimed, false)),
            (_, Some(_)) => self.place(entry, bytes, meta).map(|()| (is_claimed, true)),
            (Placing::Links, None) if found.stat.st_nlink == 1 && !wants_own_inode(disk::as_path(&entry.path)) => {
                Ok((objects.add_name(&bytes.digest, bytes.size, &path, &self.context.temporary_path())?, false))
            }
            (Placing::Links | Placing::Clones | Placing::Copies, None) => Ok((self.store_copy(&path, bytes)?, false)),
        }
    }

    /// Makes an object of a file that stays as it is.
    fn store_copy(&self, path: &Path, bytes: Bytes) -> Result<bool> {
        let temporary = self.context.temporary_path();
        let (source, mut copy) = (disk::open(path)?, disk::create(&temporary)?);
        if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
            content::copy(&source, &mut copy, &temporary)?;
        }
        Ok(self.context.objects.adopt(&bytes.digest, bytes.size, &temporary)?.is_new)
    }

    fn place(&self, entry: &Entry, bytes: Bytes, meta: &Metadata) -> Result<()> {
        let (directory, path) = (parent(&entry.path), disk::as_path(&entry.path));
        let place = Place {
            directory: &disk::open_directory(&join(self.upper, directory))?.into(),
            name: Path::new(path.file_name().unwrap_or_default()),
            path,
        };
        self.context.place(self.placing, bytes, meta, place).map(drop)
    }

    /// Makes further names of replaced files names of what has replaced them.
    fn renew_links(&self, is_replaced: &[bool]) -> Result<()> {
        let entries = self.tree.entries();
        for entry in entries {
            let Node::HardLink { target } = &entry.node else { continue };
            let first = entries.binary_search_by(|entry| entry.path.cmp(target));
            if first.is_ok_and(|index| is_replaced[index]) {
                content::check_abandoned(self.abandoned)?;
                let temporary = self.context.temporary_path();
                disk::hard_link(&join(self.upper, target), &temporary)
                    .map_err(JobError::file("linking to", &temporary))?;
                disk::rename(&temporary, &join(self.upper, &entry.path))?;
            }
        }
        Ok(())
    }

    /// Turns the marks of the overlay that filled the upper into those that an overlay below another one has.
    fn mark(&self, entry: &Entry, is_replaced: bool) -> Result<()> {
        content::check_abandoned(self.abandoned)?;
        let path = join(self.upper, &entry.path);
        let file = match &entry.node {
            // Deletions are beside the view then.
            Node::Whiteout => return disk::unlink(&path),
            Node::Directory { meta, opaque } if *opaque || !meta.xattrs.is_empty() => disk::open_directory(&path)?,
            Node::File { meta, .. } if !is_replaced && !meta.xattrs.is_empty() => disk::open(&path)?,
            _ => return Ok(()),
        };
        let attributes = xattrs::read(&file, Depth::One, &path)?;
        if attributes.depends_on_depth() && !attributes.is_redirected() {
            xattrs::move_to_depth(file, Depth::One, Depth::Two, &attributes, &path)?;
        }
        Ok(())
    }

    /// Gives everything but directories the time that the tree says, where it has another one.
    fn set_time(&self, found: &Found, entry: &Entry) -> Result<()> {
        let (Node::File { meta, .. } | Node::Symlink { meta, .. } | Node::Fifo { meta }) = &entry.node else {
            return Ok(());
        };
        let is_placed = found.file_type() == FileType::RegularFile && self.placed.contains_key(&found.stat.st_ino);
        if is_placed || disk::meta(&found.stat).modified == meta.modified {
            return Ok(());
        }
        content::check_abandoned(self.abandoned)?;
        disk::set_time(&join(self.upper, &entry.path), meta.modified)
    }
}
