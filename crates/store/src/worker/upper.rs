//! Placing objects into a step's upper.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use lamina_image::Digest;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::WorkerContext;
use super::context::is_empty;
use super::disk::{self, Result};
use super::place::{Bytes, Place};
use super::{repair, verify};
use crate::placing::Placing;
use crate::{JobError, Metadata, ObjectName};

/// A file that was placed in an upper: what is known of it without reading it.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) bytes: Bytes,
    pub(super) meta: Metadata,
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
    placed: Vec<(u64, Placed)>,
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
        Ok(UpperDirectory { context: self, work_id, path, handle, placed: Vec::new() })
    }
}

/// What is known of a file of an upper that leads to an object.
#[derive(Debug, Clone)]
pub struct PlacedFile(Placed);

impl WorkerContext {
    /// Whether files of views lead to objects, so that they can be made before these are.
    #[must_use]
    pub fn has_redirects(&self) -> bool {
        self.placing == Placing::Redirects
    }

    /// Where a store [has redirects](Self::has_redirects), makes a file that leads to an object which need not be there before the
    /// commit, in an open directory of the upper of a step in which nothing has that name; answers its inode.
    /// [`Self::note_placed_files`] is to be told of it. `path` is where it is in the image, without leading slash. No process may
    /// write to the upper afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn place_announced(
        &self,
        (digest, size): (Digest, u64),
        meta: &Metadata,
        directory: &OwnedFd,
        path: &Path,
    ) -> Result<(u64, PlacedFile)> {
        let bytes = Bytes { digest, size };
        let name = Path::new(path.file_name().ok_or_else(|| no_file(path))?);
        let inode = self.place(Placing::Redirects, bytes, meta, Place { directory, name, path })?;
        // Not every file system keeps all that it is told, such as times of the far future.
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(JobError::image_file("reading the status of", path))?;
        let meta = Metadata { xattrs: meta.xattrs.clone(), ..disk::meta(&stat) };
        Ok((inode, PlacedFile(Placed { bytes, meta })))
    }

    /// Tells the commit which files of the upper of a step lead to objects, by inode.
    pub fn note_placed_files(&self, work_id: &str, placed: impl IntoIterator<Item = (u64, PlacedFile)>) {
        self.note_placed(work_id, placed.into_iter().map(|(inode, PlacedFile(placed))| (inode, placed)));
    }

    /// Stores bytes with this digest as an object, in the place of one that is damaged.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_made(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let path = self.objects.path(digest);
        let existing = self.objects.find(digest, Some(bytes.len() as u64))?;
        if existing.is_some() && verify::is_sound(self, ObjectName::new(digest), &path)? {
            return Ok(());
        }
        if existing.is_some() {
            repair::set_aside(self, &path)?;
        }
        self.put_bytes(bytes).map(drop)
    }
}

impl UpperDirectory<'_> {
    /// Puts a file with the bytes of an object into the directory and remembers its digest, so that the commit need not
    /// read it. An existing file is replaced. No process may write to the upper afterwards.
    ///
    /// # Errors
    /// When the object is not in the store, or the name is none of a file.
    pub fn place_object(&mut self, digest: &Digest, meta: &Metadata, name: &str) -> Result<()> {
        let path = self.path.join(name);
        if name.contains('/') || path.file_name().is_none_or(|last| last != name) {
            return Err(no_file(&path));
        }
        let size = match self.context.objects.find(digest, None)? {
            _ if is_empty(digest) => 0,
            Some(stat) => disk::size(&stat),
            None => {
                return Err(JobError::new(JobError::STORE, format!("the object `{digest}` is not in the store")));
            }
        };
        let bytes = Bytes { digest: *digest, size };
        let place = Place { directory: &self.handle, name: Path::new(name), path: &path };
        let inode = self.context.place(self.context.placing, bytes, meta, place)?;
        self.placed.push((inode, Placed { bytes, meta: meta.clone() }));
        Ok(())
    }
}

impl Drop for UpperDirectory<'_> {
    fn drop(&mut self) {
        self.context.note_placed(self.work_id, self.placed.drain(..));
    }
}

/// Opens a directory below `upper` without following links, making what is missing.
fn open_directory(upper: &Path, relative: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, upper, flags, Mode::empty()).map_err(JobError::image_file("opening", upper))?;
    if relative.as_os_str().is_empty() {
        return Ok(top);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let full = upper.join(relative);
    match rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve) {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(JobError::image_file("opening", &full)(errno)),
    }
    let parent = open_directory(upper, relative.parent().unwrap_or(Path::new("")))?;
    let name = relative.file_name().ok_or_else(|| no_file(relative))?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(JobError::image_file("changing the mode of", &full))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(JobError::image_file("creating the directory", &full)(errno)),
    }
    rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve).map_err(JobError::image_file("opening", &full))
}

fn no_file(path: &Path) -> JobError {
    JobError::new(JobError::STORE, format!("`{}` names no file", path.display()))
}
