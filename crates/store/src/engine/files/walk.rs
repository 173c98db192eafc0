//! Walking local directories.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_image::patterns::PatternMatcher;
use lamina_image::{FileEntry, FileKind, FileSet, Ignore};
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::record::Status;
use super::{LocalFile, beneath, display, image_path};
use crate::StoreError;

/// More files than this are a mistake, or links that lead to one another.
const MAXIMUM_FILES: usize = 1_000_000;
/// Entries of a directory that one thread takes at a time.
const SHARE: usize = 32;

/// Finds the files of a set, in the order of their paths in the image. Where several sources give the same path, the
/// last one wins.
pub(super) fn walk(set: &FileSet, warnings: &mut Vec<String>) -> Result<Vec<LocalFile>, StoreError> {
    let mut files: Vec<LocalFile> = Vec::new();
    for (index, entry) in set.entries.iter().enumerate() {
        let found = walk_entry(index, entry)?;
        if files.len() + found.files.len() > MAXIMUM_FILES {
            return Err(too_many(Path::new(&entry.source)));
        }
        files.extend(found.files);
        warnings.extend(found.warnings);
    }
    files.sort_unstable_by(|left, right| (&left.target, right.entry).cmp(&(&right.target, left.entry)));
    files.dedup_by(|later, first| later.target == first.target);
    Ok(files)
}

fn walk_entry(index: usize, entry: &FileEntry) -> Result<Found, StoreError> {
    let source = Path::new(&entry.source);
    let target = image_path(&entry.target)?;
    let stat = rustix::fs::stat(source).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => StoreError::NotFound(source.to_owned()),
        errno => StoreError::file("reading the status of", source)(errno),
    })?;
    match (entry.kind, FileType::from_raw_mode(stat.st_mode)) {
        (FileKind::File, FileType::RegularFile) if target.is_empty() => {
            Err(StoreError::InvalidFileSet("a file cannot take the place of `/` in the image".to_owned()))
        }
        (FileKind::File, FileType::RegularFile) => {
            let below = target.len();
            let status = Status::new(&stat);
            let file = LocalFile { target, origin: source.into(), below, entry: index, status };
            Ok(Found { files: vec![file], warnings: Vec::new() })
        }
        (FileKind::File, _) => Err(StoreError::NotAFile(source.to_owned())),
        (FileKind::Directory, FileType::Directory) => {
            let count = AtomicUsize::new(0);
            let mut found =
                Walk { index, source: source.into(), target, filter: Filter::new(entry)?, count }.start()?;
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
    warnings: Vec<String>,
}

impl Found {
    fn append(&mut self, mut other: Self) {
        self.files.append(&mut other.files);
        self.warnings.append(&mut other.warnings);
    }
}

/// Which files of a directory are taken.
enum Filter {
    All,
    Patterns { matcher: PatternMatcher, inverted: bool },
    Only(HashSet<Vec<u8>>),
}

impl Filter {
    fn new(entry: &FileEntry) -> Result<Self, StoreError> {
        Ok(match &entry.ignore {
            None => Self::All,
            Some(Ignore::Patterns { patterns, invert: false }) if patterns.is_empty() => Self::All,
            Some(Ignore::Patterns { patterns, invert }) => Self::Patterns {
                matcher: PatternMatcher::new(patterns)
                    .map_err(|error| StoreError::InvalidFileSet(error.to_string()))?,
                inverted: *invert,
            },
            Some(Ignore::Only { only }) => {
                let clean = |path: &String| path.trim_start_matches("./").as_bytes().to_vec();
                Self::Only(only.iter().map(clean).collect())
            }
        })
    }

    fn takes_file(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Patterns { matcher, inverted } => matcher.matches(&String::from_utf8_lossy(path)) == *inverted,
            Self::Only(paths) => paths.contains(path),
        }
    }

    /// Whether something below a directory may be taken.
    fn enters(&self, path: &[u8]) -> bool {
        match self {
            Self::Patterns { matcher, inverted: false } => {
                !matcher.prunes() || !matcher.matches(&String::from_utf8_lossy(path))
            }
            _ => true,
        }
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
}

/// A directory that leads to the present one: a link to one of them is a loop.
struct Ancestor<'a> {
    device: u64,
    inode: u64,
    parent: Option<&'a Self>,
}

impl Ancestor<'_> {
    fn leads_through(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
            || self.parent.is_some_and(|parent| parent.leads_through(stat))
    }
}

/// A directory that is being walked.
struct Place<'a> {
    handle: OwnedFd,
    path: &'a [u8],
    ancestor: Ancestor<'a>,
}

impl Walk {
    fn start(&self) -> Result<Found, StoreError> {
        let mut found = Found::default();
        if let Filter::Only(paths) = &self.filter {
            let mut paths: Vec<&Vec<u8>> = paths.iter().collect();
            paths.sort_unstable();
            paths.into_iter().try_for_each(|path| self.take_listed(path, &mut found))?;
            return Ok(found);
        }
        let handle = self.open(CWD, self.source.as_os_str().as_bytes(), b"")?;
        self.directory(handle, b"", None, &mut found)?;
        Ok(found)
    }

    /// Takes a file that was asked for by name.
    fn take_listed(&self, path: &[u8], found: &mut Found) -> Result<(), StoreError> {
        let full = self.full(path);
        match rustix::fs::stat(&full) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => self.take(path, &stat, found),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => Err(StoreError::NotFound(full)),
            Err(errno) => Err(StoreError::file("reading the status of", &full)(errno)),
        }
    }

    fn directory(
        &self,
        handle: OwnedFd,
        path: &[u8],
        parent: Option<&Ancestor<'_>>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let stat = rustix::fs::fstat(&handle).map_err(|errno| self.failed("reading the status of", path, errno))?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&handle).map_err(|errno| self.failed("listing", path, errno))? {
            let entry = entry.map_err(|errno| self.failed("listing", path, errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), entry.file_type()));
            }
        }
        let ancestor = Ancestor { device: stat.st_dev, inode: stat.st_ino, parent };
        let place = Place { handle, path, ancestor };
        let walk = |entries: &[(Vec<u8>, FileType)], found: &mut Found| {
            entries.iter().try_for_each(|(name, file_type)| self.entry(&place, name, *file_type, found))
        };
        if entries.len() < SHARE {
            return walk(&entries, found);
        }
        // All processors: what counts is how long the kernel takes to find each file.
        let parts: Vec<Found> = entries
            .par_chunks(SHARE)
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
            return self.enter(place, name, path, false, found);
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
            FileType::Directory => self.enter(place, name, path, file_type == FileType::Symlink, found),
            _ if !self.filter.takes_file(path) => Ok(()),
            FileType::RegularFile => self.take(path, &stat, found),
            _ => {
                self.warn(path, "is a pipe, socket or device", found);
                Ok(())
            }
        }
    }

    fn enter(
        &self,
        place: &Place<'_>,
        name: &[u8],
        path: &[u8],
        is_link: bool,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        if !self.filter.enters(path) {
            return Ok(());
        }
        let handle = self.open(&place.handle, name, path)?;
        if is_link {
            let stat = rustix::fs::fstat(&handle).map_err(|errno| self.failed("reading the status of", path, errno))?;
            if place.ancestor.leads_through(&stat) {
                self.warn(path, "is a symbolic link to a directory that it is in", found);
                return Ok(());
            }
        }
        self.directory(handle, path, Some(&place.ancestor), found)
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
        StoreError::file(what, &self.full(path))(errno)
    }
}

fn too_many(source: &Path) -> StoreError {
    let source = display(source);
    StoreError::InvalidFileSet(format!("`{source}` has more than {MAXIMUM_FILES} files: leave some out with `ignore`"))
}
