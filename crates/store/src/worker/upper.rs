//! Placing objects into a step's upper.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::WorkerContext;
use super::context::is_empty;
use super::disk::{self, Result};
use crate::{JobError, ObjectMeta, ObjectName};

/// A file in an upper whose digest is known.
#[derive(Debug, Clone)]
pub(super) struct Linked {
    pub(super) digest: Digest,
    pub(super) meta: ObjectMeta,
    size: u64,
    modified: (i64, u64),
}

impl Linked {
    /// Whether the file still is the object it was linked from.
    pub(super) fn is_untouched(&self, stat: &Stat, meta: &ObjectMeta) -> bool {
        disk::size(stat) == self.size
            && *meta == self.meta
            && (disk::has_layer_time(stat) || (stat.st_mtime, stat.st_mtime_nsec) == self.modified)
    }
}

/// A directory of a step's upper, open for placing objects. The commit learns of them when it is dropped.
#[derive(Debug)]
pub struct UpperDirectory<'context> {
    context: &'context WorkerContext,
    work_id: &'context str,
    /// Where it is in the image, without leading slash.
    path: PathBuf,
    handle: OwnedFd,
    /// What was placed, by inode.
    linked: Vec<(u64, Linked)>,
}

impl WorkerContext {
    /// Opens a directory of the upper of a step by its path in the image. What is missing of it is made, with mode 0755.
    ///
    /// # Errors
    /// When a part of it is a symbolic link or no directory.
    pub fn upper_directory<'context>(
        &'context self,
        work_id: &'context str,
        path: &Path,
    ) -> Result<UpperDirectory<'context>> {
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        let handle = open_directory(&self.upper(work_id), &path)?;
        Ok(UpperDirectory { context: self, work_id, path, handle, linked: Vec::new() })
    }
}

impl UpperDirectory<'_> {
    /// Puts an object into the directory and remembers its digest, so that the commit need not hash it again. An
    /// existing file is replaced. No process may write to the upper afterwards: it would write to the object.
    ///
    /// # Errors
    /// When the object is not in the store, or the name is none of a file.
    pub fn link_object(&mut self, digest: &Digest, meta: &ObjectMeta, name: &str) -> Result<()> {
        let path = self.path.join(name);
        if name.contains('/') || path.file_name().is_none_or(|last| last != name) {
            return Err(no_file(&path));
        }
        let object = ObjectName::new(*digest, meta);
        let size = match self.context.objects.find(&object, meta, None)? {
            _ if is_empty(digest) => 0,
            Some(stat) => disk::size(&stat),
            None => {
                return Err(JobError::new(JobError::STORE, format!("the object `{object}` is not in the store")));
            }
        };
        self.context.place(&object, meta, &path, size, &|from| link_into(&self.handle, from, Path::new(name)))?;
        let stat = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(JobError::file("reading the status of", &path))?;
        let modified = (stat.st_mtime, stat.st_mtime_nsec);
        self.linked.push((stat.st_ino, Linked { digest: *digest, meta: meta.clone(), size, modified }));
        Ok(())
    }
}

impl Drop for UpperDirectory<'_> {
    fn drop(&mut self) {
        self.context.note_links(self.work_id, self.linked.drain(..));
    }
}

/// Opens a directory below `upper` without following links, making what is missing.
fn open_directory(upper: &Path, relative: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, upper, flags, Mode::empty()).map_err(JobError::file("opening", upper))?;
    if relative.as_os_str().is_empty() {
        return Ok(top);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let full = upper.join(relative);
    match rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve) {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(JobError::file("opening", &full)(errno)),
    }
    let parent = open_directory(upper, relative.parent().unwrap_or(Path::new("")))?;
    let name = relative.file_name().ok_or_else(|| no_file(relative))?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(JobError::file("changing the mode of", &full))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(JobError::file("creating the directory", &full)(errno)),
    }
    rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve).map_err(JobError::file("opening", &full))
}

/// Links `from` into an open directory in the place of whatever file is there.
fn link_into(directory: &OwnedFd, from: &Path, name: &Path) -> std::result::Result<(), Errno> {
    let link = || rustix::fs::linkat(CWD, from, directory, name, AtFlags::empty());
    match link() {
        Err(Errno::EXIST) => rustix::fs::unlinkat(directory, name, AtFlags::empty()).and_then(|()| link()),
        other => other,
    }
}

fn no_file(path: &Path) -> JobError {
    JobError::new(JobError::STORE, format!("`{}` names no file", path.display()))
}
