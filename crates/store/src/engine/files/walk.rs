//! Walking local directories.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_events::CancelToken;
use lamina_image::{FileEntry, FileKind, FileSet};
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::filter::Filter;
use super::links::{self, LocalLink};
use super::record::Status;
use super::{LocalFile, beneath, display, image_path};
use crate::StoreError;

/// More files than this are a mistake.
const MAXIMUM_FILES: usize = 1_000_000;
/// Files that one thread looks at, at a time: below that, starting threads takes longer.
const SHARE: usize = 128;
/// Files that a directory is taken to hold before it was looked into.
const EXPECTED_FILES: usize = 8;

/// Finds the files of a set, and links in place of directories that it has already, in the order of their paths in the
/// image. Where several sources give the same path, the last one wins.
pub(super) fn walk(
    set: &FileSet,
    cancel: &CancelToken,
    warnings: &mut Vec<String>,
) -> Result<(Vec<LocalFile>, Vec<LocalLink>), StoreError> {
    let mut files: Vec<LocalFile> = Vec::new();
    let mut links: Vec<LocalLink> = Vec::new();
    for (index, entry) in set.entries.iter().enumerate() {
        let found = walk_entry(index, entry, cancel)?;
        if files.len() + found.files.len() > MAXIMUM_FILES {
            return Err(too_many(Path::new(&entry.source)));
        }
        files.extend(found.files);
        links.extend(found.links);
        warnings.extend(found.warnings);
    }
    files.sort_unstable_by(|left, right| (&left.target, right.entry).cmp(&(&right.target, left.entry)));
    files.dedup_by(|later, first| later.target == first.target);
    links.sort_unstable_by(|left, right| (&left.target, right.entry).cmp(&(&right.target, left.entry)));
    links.dedup_by(|later, first| later.target == first.target);
    Ok((files, links))
}

fn walk_entry(index: usize, entry: &FileEntry, cancel: &CancelToken) -> Result<Found, StoreError> {
    let source = Path::new(&entry.source);
    let target = image_path(&entry.target)?;
    let stat = rustix::fs::stat(source).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => StoreError::NotFound(source.to_owned()),
        errno => StoreError::local("reading the status of", source)(errno),
    })?;
    match (entry.kind, FileType::from_raw_mode(stat.st_mode)) {
        (FileKind::File, FileType::RegularFile) if target.is_empty() => {
            Err(StoreError::InvalidFileSet("a file cannot take the place of `/` in the image".to_owned()))
        }
        (FileKind::File, FileType::RegularFile) => {
            let below = target.len();
            let status = Status::new(&stat);
            let file = LocalFile { target, origin: source.into(), below, entry: index, status };
            Ok(Found { files: vec![file], ..Found::default() })
        }
        (FileKind::File, _) => Err(StoreError::NotAFile(source.to_owned())),
        (FileKind::Directory, FileType::Directory) => {
            let count = AtomicUsize::new(0);
            let (filter, cancel) = (Filter::new(entry)?, cancel.clone());
            let mut found = Walk { index, source: source.into(), target, filter, count, cancel }.start()?;
            if found.files.is_empty() {
                found.warnings.push(format!("nothing was added from `{}`: it has no files", display(source)));
            }
            Ok(found)
        }
        (FileKind::Directory, _) => Err(StoreError::NotADirectory(source.to_owned())),
    }
}

/// What a walk, or a part of it, has found.
#[derive(Default)]
struct Found {
    files: Vec<LocalFile>,
    /// Links to places that were visited.
    links: Vec<LocalLink>,
    /// Links to directories that nobody has followed yet.
    pending: Vec<Vec<u8>>,
    /// Directories that were visited, and their paths.
    visited: Vec<(Identity, Vec<u8>)>,
    warnings: Vec<String>,
}

impl Found {
    fn append(&mut self, mut other: Self) {
        self.files.append(&mut other.files);
        self.links.append(&mut other.links);
        self.pending.append(&mut other.pending);
        self.visited.append(&mut other.visited);
        self.warnings.append(&mut other.warnings);
    }
}

/// A walk through one source directory.
struct Walk {
    /// Which source of the set it is.
    index: usize,
    source: Arc<Path>,
    target: Vec<u8>,
    filter: Filter,
    /// How many files were found so far.
    count: AtomicUsize,
    cancel: CancelToken,
}

/// A real directory: its device and inode.
type Identity = (u64, u64);

/// Directories that were visited before, with their paths below the source.
type Visited = HashMap<Identity, Vec<u8>>;

/// A directory that is being walked.
struct Place<'a> {
    handle: OwnedFd,
    path: &'a [u8],
    visited: &'a Visited,
}

impl Walk {
    /// Visits every real place once: first what is reached without links to directories, then where those lead, in the
    /// order of their paths. A link to a place that was visited already stays a link to where that is in the image.
    fn start(&self) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let mut visited = Visited::new();
        let handle = self.open(CWD, self.source.as_os_str().as_bytes(), b"")?;
        self.directory(handle, b"", &visited, &mut found)?;
        while !found.pending.is_empty() {
            let mut pending = std::mem::take(&mut found.pending);
            pending.sort_unstable();
            for path in pending {
                visited.extend(found.visited.drain(..));
                match self.open(CWD, self.full(&path).as_os_str().as_bytes(), &path) {
                    Ok(handle) => self.directory(handle, &path, &visited, &mut found)?,
                    // Gone since the directory was read.
                    Err(StoreError::Local(error)) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        found.links = links::worthwhile(std::mem::take(&mut found.links), &found.files, &self.target, &self.filter);
        Ok(found)
    }

    fn directory(&self, handle: OwnedFd, path: &[u8], visited: &Visited, found: &mut Found) -> Result<(), StoreError> {
        self.cancel.check()?;
        let stat = rustix::fs::fstat(&handle).map_err(|errno| self.failed("reading the status of", path, errno))?;
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = visited.get(&identity) {
            found.links.push(LocalLink {
                target: beneath(&self.target, path),
                leads_to: beneath(&self.target, first),
                entry: self.index,
            });
            return Ok(());
        }
        found.visited.push((identity, path.to_vec()));
        let mut entries = Vec::new();
        for entry in Dir::read_from(&handle).map_err(|errno| self.failed("listing", path, errno))? {
            let entry = entry.map_err(|errno| self.failed("listing", path, errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), entry.file_type()));
            }
        }
        let place = Place { handle, path, visited };
        let walk = |entries: &[(Vec<u8>, FileType)], found: &mut Found| {
            entries.iter().try_for_each(|(name, file_type)| self.entry(&place, name, *file_type, found))
        };
        let directories = entries.iter().filter(|(_, file_type)| *file_type == FileType::Directory).count();
        let expected = entries.len() + directories * EXPECTED_FILES;
        if expected < SHARE {
            return walk(&entries, found);
        }
        // All processors: what counts is how long the kernel takes to find each file.
        let parts: Vec<Found> = entries
            .par_chunks((entries.len() * SHARE / expected).max(1))
            .map(|entries| {
                let mut part = Found::default();
                walk(entries, &mut part).map(|()| part)
            })
            .collect::<Result<_, _>>()?;
        for part in parts {
            found.append(part);
        }
        Ok(())
    }

    fn entry(&self, place: &Place<'_>, name: &[u8], file_type: FileType, found: &mut Found) -> Result<(), StoreError> {
        let path = &beneath(place.path, name);
        if file_type == FileType::Directory {
            return self.enter(place, name, path, found);
        }
        if file_type == FileType::RegularFile && !self.filter.takes_file(path) {
            return Ok(());
        }
        let flags = if file_type == FileType::RegularFile { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        let stat = match rustix::fs::statat(&place.handle, name, flags) {
            Ok(stat) => stat,
            // Gone since the directory was read, or a link to nowhere.
            Err(Errno::NOENT | Errno::LOOP) => {
                if file_type == FileType::Symlink && self.filter.takes_file(path) {
                    self.warn(path, "is a symbolic link to nothing", found);
                }
                return Ok(());
            }
            Err(errno) => return Err(self.failed("reading the status of", path, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if file_type == FileType::Symlink => {
                if self.filter.enters(path) {
                    found.pending.push(path.clone());
                }
                Ok(())
            }
            FileType::Directory => self.enter(place, name, path, found),
            _ if !self.filter.takes_file(path) => Ok(()),
            FileType::RegularFile => self.take(path, &stat, found),
            _ => {
                self.warn(path, "is a pipe, socket or device", found);
                Ok(())
            }
        }
    }

    fn enter(&self, place: &Place<'_>, name: &[u8], path: &[u8], found: &mut Found) -> Result<(), StoreError> {
        if !self.filter.enters(path) {
            return Ok(());
        }
        let handle = self.open(&place.handle, name, path)?;
        self.directory(handle, path, place.visited, found)
    }

    fn open(&self, parent: impl AsFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|errno| self.failed("opening the directory", path, errno))
    }

    fn take(&self, path: &[u8], stat: &Stat, found: &mut Found) -> Result<(), StoreError> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAXIMUM_FILES {
            return Err(too_many(&self.source));
        }
        let target = beneath(&self.target, path);
        let below = target.len() - path.len();
        let (origin, status) = (Arc::clone(&self.source), Status::new(stat));
        found.files.push(LocalFile { target, origin, below, entry: self.index, status });
        Ok(())
    }

    fn warn(&self, path: &[u8], why: &str, found: &mut Found) {
        let full = display(&self.full(path));
        found.warnings.push(format!("`{full}` was left out: it {why}"));
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.source.to_path_buf() } else { self.source.join(OsStr::from_bytes(path)) }
    }

    fn failed(&self, what: &'static str, path: &[u8], errno: Errno) -> StoreError {
        StoreError::local(what, &self.full(path))(errno)
    }
}

fn too_many(source: &Path) -> StoreError {
    let source = display(source);
    StoreError::InvalidFileSet(format!("`{source}` has more than {MAXIMUM_FILES} files: leave some out with `ignore`"))
}
