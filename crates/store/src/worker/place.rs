//! Placing the files of layers into views: every path is a file of its own, while bytes are stored once.
//!
//! There are three ways, of which a store uses the best that its file system and kernel allow:
//!
//! - *redirects*: a view's file is empty but for its metadata, and two marks name the object that has the bytes. An overlay
//!   shows them as one file, if the objects are given to it as a data-only layer (Linux 6.16 for `userxattr`). Without
//!   privileges the kernel follows only marks of the lowest layer; so each further view has an overlay of its own, and the
//!   image's lies over these. That costs every start of a container some time; so *small* views hold copies, which
//!   they say at their roots.
//! - *clones*: a view's file is a copy that shares its blocks with the object (`FICLONE`: btrfs, xfs, bcachefs).
//! - *links*: an object is linked into the one view that asks first, and copied for all others, so that no two paths ever
//!   are one inode. What is linked says that it has two names; files whose readers mind that are always copied.
//!
//! Views of redirects are in `views/`, of the other kinds in `copies/`. All are derived from trees and objects.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use lamina_image::Digest;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::disk::{self, Result};
use super::objects::SEAL;
use super::xattrs::{self, Depth};
use super::{WorkerContext, content, objects};
use crate::placing::Placing;
use crate::tree::{Node, Tree};
use crate::{JobError, Metadata, ObjectName};

impl Placing {
    /// How many overlays show a view.
    pub(super) fn depth(self) -> Depth {
        match self {
            Self::Redirects => Depth::Two,
            Self::Copies | Self::Clones | Self::Links => Depth::One,
        }
    }
}

/// Whether copies of a view's files take little space, in whole blocks of a usual file system.
fn is_small(tree: &Tree) -> bool {
    let sizes = tree.entries().iter().map(|entry| match &entry.node {
        Node::File { size, .. } => size.next_multiple_of(BLOCK),
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add) <= MOST_COPIED
}

/// What the files of a view may take up as copies, in bytes.
pub(super) const MOST_COPIED: u64 = 1 << 20;
/// The block of a usual file system, in bytes.
const BLOCK: u64 = 4096;

/// Bytes of a file: what is in the store under a digest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A name in an open directory, for a file that is to be placed.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a OwnedFd,
    pub(super) name: &'a Path,
    /// Its path in the image, without leading slash.
    pub(super) path: &'a Path,
}

impl WorkerContext {
    /// The way to make the view of a tree.
    pub(super) fn placing_of(&self, tree: &Tree) -> Placing {
        match self.placing {
            Placing::Redirects if self.may_copy && is_small(tree) => Placing::Copies,
            other => other,
        }
    }

    /// The way in which the view at `root` was made.
    pub(super) fn placing_at(&self, root: &Path) -> Placing {
        match self.placing {
            Placing::Redirects if xattrs::has_copies(root) => Placing::Copies,
            other => other,
        }
    }

    /// Puts a file where `place` says, in the place of whatever file is there; answers its inode.
    pub(super) fn place(&self, placing: Placing, bytes: Bytes, meta: &Metadata, place: Place<'_>) -> Result<u64> {
        let mut is_object = false;
        let file = match placing {
            _ if bytes.size == 0 => create(place, meta.mode)?,
            Placing::Redirects => redirected(bytes, meta.mode, place)?,
            Placing::Links if !wants_own_inode(place.path) => match self.link(&bytes.digest, place)? {
                Some(file) => {
                    is_object = true;
                    file
                }
                None => self.copy(&bytes.digest, meta.mode, place)?,
            },
            Placing::Links | Placing::Clones | Placing::Copies => self.copy(&bytes.digest, meta.mode, place)?,
        };
        let inode = set_metadata(&file, placing.depth(), meta, place.path)?;
        if is_object {
            objects::renew_seal(&file, &bytes.digest, place.path)?;
        }
        Ok(inode)
    }

    /// Links an object that no view has; `None` where one has.
    fn link(&self, digest: &Digest, place: Place<'_>) -> Result<Option<File>> {
        let object = self.objects.path(digest);
        if disk::links(&disk::stat(&object)?) > 1 {
            return Ok(None);
        }
        let link = || rustix::fs::linkat(CWD, &object, place.directory, place.name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => unlink(place).and_then(|()| link()),
            other => other,
        };
        linked.map_err(JobError::file("linking to", place.path))?;
        let file = File::from(open(place)?);
        let stat = rustix::fs::fstat(&file).map_err(JobError::file("reading the status of", place.path))?;
        if disk::links(&stat) > 2 {
            // Another process had the same idea; neither keeps it.
            return Ok(None);
        }
        // What an earlier view had there is not what this one has.
        let left = xattrs::read(&file, Depth::One, place.path)?;
        let stale = left
            .stale_marks
            .into_iter()
            .filter(|name| name != SEAL.as_bytes())
            .chain(left.inside.into_keys().map(|name| Depth::One.name(name)));
        xattrs::remove(&file, &stale.collect::<Vec<_>>(), place.path)?;
        Ok(Some(file))
    }

    /// A copy of the object, with shared blocks where the file system has them.
    fn copy(&self, digest: &Digest, mode: u32, place: Place<'_>) -> Result<File> {
        let object = disk::open(&self.objects.path(digest))?;
        let mut file = create(place, mode)?;
        if rustix::fs::ioctl_ficlone(&file, &object).is_err() {
            content::copy(&object, &mut file, place.path)?;
        }
        Ok(file)
    }
}

/// Gives a file owner, mode, attributes and time; answers its inode. The order matters: a change of owner takes set-id bits
/// and capabilities away, and every other change is younger than the time.
pub(super) fn set_metadata(file: &File, depth: Depth, meta: &Metadata, path: &Path) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(JobError::file("reading the status of", path))?;
    let has_owner = (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid);
    if !has_owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .map_err(JobError::file("changing the owner of", path))?;
    }
    if !has_owner || stat.st_mode & 0o7777 != meta.mode & 0o7777 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode))
            .map_err(JobError::file("changing the mode of", path))?;
    }
    xattrs::write(file, depth, &meta.xattrs, path)?;
    disk::set_file_time(file, meta.modified, path)?;
    Ok(stat.st_ino)
}

/// Whether a file of a view leads to the object with this digest.
pub(super) fn leads_to(path: &Path, digest: &Digest) -> Result<bool> {
    Ok(xattrs::redirect(path)?.is_some_and(|object| object == redirect_to(digest)))
}

/// A file that leads to the object.
fn redirected(bytes: Bytes, mode: u32, place: Place<'_>) -> Result<File> {
    let file = create(place, mode)?;
    rustix::fs::ftruncate(&file, bytes.size).map_err(JobError::file("giving a size to", place.path))?;
    mark_redirected(&file, &bytes.digest, place.path)?;
    Ok(file)
}

/// The mark of a file that leads to an object: the object's path in the data-only layer. With 24 bytes both marks fit into
/// an inode; longer ones would take a block for every file.
fn redirect_to(digest: &Digest) -> String {
    format!("/{}", ObjectName::new(digest).relative())
}

/// Gives an empty file the marks that lead to an object.
pub(super) fn mark_redirected(file: &File, digest: &Digest, path: &Path) -> Result<()> {
    let target = redirect_to(digest);
    for (mark, value) in [(xattrs::METACOPY, &b""[..]), (xattrs::REDIRECT, target.as_bytes())] {
        rustix::fs::fsetxattr(file, mark, value, XattrFlags::CREATE)
            .map_err(JobError::file("setting an attribute of", path))?;
    }
    Ok(())
}

/// Whether a file below this path is never a link: `/etc` is read by daemons that refuse files with several names (cron,
/// logrotate), and so are users' tables.
pub(super) fn wants_own_inode(path: &Path) -> bool {
    ["etc", "var/spool/cron"].iter().any(|directory| path.starts_with(directory))
}

/// Makes an empty file, with the permission bits of `mode` if the process's mask allows: one call less for each file.
fn create(place: Place<'_>, mode: u32) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || rustix::fs::openat(place.directory, place.name, flags, Mode::from_raw_mode(mode & 0o777));
    let created = match create() {
        Err(Errno::EXIST) => unlink(place).and_then(|()| create()),
        other => other,
    };
    created.map(File::from).map_err(JobError::file("creating", place.path))
}

fn open(place: Place<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(place.directory, place.name, flags, Mode::empty()).map_err(JobError::file("opening", place.path))
}

fn unlink(place: Place<'_>) -> std::result::Result<(), Errno> {
    rustix::fs::unlinkat(place.directory.as_fd(), place.name, AtFlags::empty())
}
